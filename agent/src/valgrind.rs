//! Whether the process is emulated by valgrind. Its tools translate code into
//! code of their own and serialize threads: text that is changed under them
//! goes unnoticed or stops the program for good.

use crate::arch;

/// Whether it says so; it answers with the depth of emulation.
pub fn is_around() -> bool {
    const RUNNING_ON_VALGRIND: u64 = 0x1001;
    arch::valgrind_request(RUNNING_ON_VALGRIND) != 0
}
