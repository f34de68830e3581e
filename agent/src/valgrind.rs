//! Whether the process is emulated by valgrind. Its tools translate code into
//! code of their own and serialize threads: text that is changed under them
//! goes unnoticed or stops the program for good.

/// Asks in valgrind's way: a sequence that changes nothing on a processor, and
/// that valgrind takes for a request, whose answer is the depth of emulation.
pub fn is_around() -> bool {
    const RUNNING_ON_VALGRIND: u64 = 0x1001;
    let request = [RUNNING_ON_VALGRIND, 0, 0, 0, 0, 0];
    let mut depth = 0u64;
    // SAFETY: the rotations of rdi add up to 128 bits, and rbx is exchanged
    // with itself; valgrind reads `request` and writes rdx.
    unsafe {
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") request.as_ptr(),
            inout("rdx") depth,
            options(nostack, readonly),
        );
    }
    depth != 0
}
