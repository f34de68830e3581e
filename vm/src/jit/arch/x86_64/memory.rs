//! Memory that holds machine code: written first, executable afterwards,
//! never both. System calls go to the kernel directly, since the library
//! this is linked into may intercept libc's. Knows no instruction.

use std::arch::asm;
use std::ptr::NonNull;

use crate::jit::{HelperCall, MachineCode};
use crate::link::LinkError;

const SYS_MMAP: usize = 9;
const SYS_MPROTECT: usize = 10;
const SYS_MUNMAP: usize = 11;
const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const PROT_EXEC: usize = 4;
const MAP_PRIVATE: usize = 2;
const MAP_ANONYMOUS: usize = 0x20;

const PAGE: u64 = 4096;

/// How far below a helper to ask for memory if the kernel's own choice is out
/// of reach, as it is for helpers in an executable.
const HINTS: [u64; 3] = [64 << 20, 256 << 20, 1 << 30];

/// Pages with machine code, unmapped on drop.
pub(in crate::jit) struct ExecutableMemory {
    start: NonNull<u8>,
    /// Bytes of code.
    len: usize,
    /// Bytes mapped, in pages.
    mapped: usize,
}

// SAFETY: nothing writes to the pages once `new` has returned.
unsafe impl Send for ExecutableMemory {}
// SAFETY: as above.
unsafe impl Sync for ExecutableMemory {}

/// `mov r11, address; jmp r11`.
const STUB: usize = 13;

impl ExecutableMemory {
    /// Puts `code`, which must not be empty, into new pages and makes its
    /// calls of helpers lead there, by a stub where a helper is far away.
    pub(in crate::jit) fn new(code: MachineCode) -> Result<ExecutableMemory, LinkError> {
        let MachineCode {
            mut bytes, calls, ..
        } = code;
        let near = calls.first().map(|call| call.address);
        let memory = ExecutableMemory::map(bytes.len() + calls.len() * STUB, near)?;
        let start = memory.start.as_ptr() as u64;
        for HelperCall { at, address } in calls {
            let mut distance = distance(start + at as u64 + 4, address);
            if distance.is_none() {
                distance = i32::try_from(bytes.len() - at - 4).ok();
                bytes.extend_from_slice(&[0x49, 0xbb]);
                bytes.extend_from_slice(&address.to_le_bytes());
                bytes.extend_from_slice(&[0x41, 0xff, 0xe3]);
            }
            let distance = distance.ok_or(LinkError::TooLarge)?;
            bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        memory.fill(&bytes)
    }

    /// New pages, within reach of a call of `near` if that can be had.
    fn map(len: usize, near: Option<u64>) -> Result<ExecutableMemory, LinkError> {
        let memory = ExecutableMemory::map_at(0, len)?;
        let Some(near) = near else { return Ok(memory) };
        if memory.reaches(near) {
            return Ok(memory);
        }
        for distance in HINTS {
            let hint = (near & !(PAGE - 1)).saturating_sub(distance);
            let memory = ExecutableMemory::map_at(hint as usize, len)?;
            if memory.reaches(near) {
                return Ok(memory);
            }
        }
        Ok(memory)
    }

    /// New pages, at `hint` if nobody is there.
    fn map_at(hint: usize, len: usize) -> Result<ExecutableMemory, LinkError> {
        let (access, flags) = (PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
        // SAFETY: a new private mapping where nothing is touches no memory
        // that anyone has.
        let address = unsafe { syscall([SYS_MMAP, hint, len, access, flags, usize::MAX, 0]) }?;
        Ok(ExecutableMemory {
            start: NonNull::new(address as *mut u8).ok_or(LinkError::Memory(0))?,
            len: 0,
            mapped: len,
        })
    }

    /// Whether code anywhere in the pages can call `address`.
    fn reaches(&self, address: u64) -> bool {
        let start = self.start.as_ptr() as u64;
        let end = start + self.mapped as u64;
        distance(start, address).is_some() && distance(end, address).is_some()
    }

    /// Writes the code and makes the pages executable.
    fn fill(mut self, code: &[u8]) -> Result<ExecutableMemory, LinkError> {
        assert!(code.len() <= self.mapped, "room for all stubs");
        let start = self.start.as_ptr();
        // SAFETY: the mapping is new, writable, and at least as long as `code`.
        unsafe { start.copy_from_nonoverlapping(code.as_ptr(), code.len()) };
        self.len = code.len();
        let access = PROT_READ | PROT_EXEC;
        // SAFETY: the pages are ours, and no reference to them exists yet.
        unsafe { syscall([SYS_MPROTECT, start as usize, self.mapped, access, 0, 0, 0]) }?;
        Ok(self)
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
                self.mapped,
                0,
                0,
                0,
                0,
            ])
        };
        debug_assert!(result.is_ok(), "munmap of our own mapping: {result:?}");
    }
}

/// The displacement of a call that ends at `from`, if it fits.
fn distance(from: u64, to: u64) -> Option<i32> {
    i32::try_from(to.wrapping_sub(from) as i64).ok()
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
