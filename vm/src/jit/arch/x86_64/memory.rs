//! Memory that holds machine code: written first, executable afterwards,
//! never both. System calls go to the kernel directly, since the library
//! this is linked into may intercept libc's. Knows no instruction.

use std::arch::asm;
use std::ptr::NonNull;

use crate::link::LinkError;

const SYS_MMAP: usize = 9;
const SYS_MPROTECT: usize = 10;
const SYS_MUNMAP: usize = 11;
const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const PROT_EXEC: usize = 4;
const MAP_PRIVATE: usize = 2;
const MAP_ANONYMOUS: usize = 0x20;

/// Pages with machine code, unmapped on drop.
pub(in crate::jit) struct ExecutableMemory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: nothing writes to the pages once `new` has returned.
unsafe impl Send for ExecutableMemory {}
// SAFETY: as above.
unsafe impl Sync for ExecutableMemory {}

impl ExecutableMemory {
    /// Copies `code`, which must not be empty, to new pages.
    pub(in crate::jit) fn new(code: &[u8]) -> Result<ExecutableMemory, LinkError> {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        // SAFETY: a new private mapping at an address of the kernel's choice
        // touches no memory that anyone has.
        let address = unsafe {
            syscall([
                SYS_MMAP,
                0,
                code.len(),
                PROT_READ | PROT_WRITE,
                flags,
                usize::MAX,
                0,
            ])
        }?;
        let start = NonNull::new(address as *mut u8).ok_or(LinkError::Memory(0))?;
        let memory = ExecutableMemory {
            start,
            len: code.len(),
        };
        // SAFETY: the mapping is new, writable, and at least as long as `code`.
        unsafe {
            start
                .as_ptr()
                .copy_from_nonoverlapping(code.as_ptr(), code.len())
        };
        // SAFETY: the pages are ours, and no reference to them exists yet.
        unsafe {
            syscall([
                SYS_MPROTECT,
                address,
                code.len(),
                PROT_READ | PROT_EXEC,
                0,
                0,
                0,
            ])
        }?;
        Ok(memory)
    }

    /// The code.
    pub(in crate::jit) fn bytes(&self) -> &[u8] {
        // SAFETY: the pages are mapped until drop, and written by nobody.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for ExecutableMemory {
    fn drop(&mut self) {
        // SAFETY: the pages are ours; whoever took an entry promised not to
        // use it any more.
        let result = unsafe {
            syscall([
                SYS_MUNMAP,
                self.start.as_ptr() as usize,
                self.len,
                0,
                0,
                0,
                0,
            ])
        };
        debug_assert!(result.is_ok(), "munmap of our own mapping: {result:?}");
    }
}

/// Number and six arguments; the result, or the errno as an error.
///
/// # Safety
/// That of the system call.
unsafe fn syscall(args: [usize; 7]) -> Result<usize, LinkError> {
    let result: isize;
    // SAFETY: the system call convention; its effects are the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") args[0] => result,
            in("rdi") args[1],
            in("rsi") args[2],
            in("rdx") args[3],
            in("r10") args[4],
            in("r8") args[5],
            in("r9") args[6],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    match usize::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(LinkError::Memory(-result as i32)),
    }
}
