//! The code that a borrowed thread runs, and what it is told. It needs nobody:
//! wherever the tracer dies, the thread does the rest and goes on as it was.
//!
//! A copy lies where no code of the target is, after its [`Orders`]. They are
//! constants for it: whatever the thread had in its registers is in them, so
//! the way back needs no memory that could be gone, and not the thread's stack.

mod code;
mod mapping;

use std::mem::offset_of;

use super::{Interruptible, Registers};
use code::code;
pub use code::{Place, offset, size};
pub use mapping::{ANSWERS, Answers, HANDED, LENGTH, MESSAGE, Message, STRING, strings};

/// Value of [`Orders::mark`] in a copy that a thread may be in; its low half
/// is the thread's id.
const MARK: u64 = 0xb9f7_13e0 << 32;

/// What a copy of the code is told.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Orders {
    mark: u64,
    /// The mapping, for those who ask where the thread is.
    mapping: u64,
    length: u64,
    mxcsr: u64,
    /// What the thread blocks meanwhile, and what it blocked before.
    pub blocks: u64,
    pub blocked: u64,
    pub errno_location: u64,
    pub dlopen: u64,
    pub dlopen_flags: u64,
    pub dlerror: u64,
    /// The agent's function, from its load address.
    pub start: u64,
    /// Which signals end the system call that is to be made again: see
    /// [`super::Interruptible`].
    interruptible: u64,
    interrupted_rip: u64,
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rbp: u64,
    rsp: u64,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    flags: u64,
    rip: u64,
}

/// Where in a copy the mapping is noted.
pub const MAPPING: u64 = offset_of!(Orders, mapping) as u64;

/// Trap flag.
const TRAP: u64 = 1 << 8;
/// What the x87 and SSE control words are when a program starts.
const MXCSR: u64 = 0x1f80;
/// Bytes of the instruction that enters the kernel.
const SYSCALL: u64 = super::SYSCALL.len() as u64;

impl Orders {
    /// Orders for the thread `tid` to come back to `before`, and there make the
    /// system call `again` that it was about to make. Everything else that is
    /// public is still to be filled in.
    pub fn back_to(tid: i32, before: &Registers, again: Option<Interruptible>) -> Self {
        let (rax, rip, interruptible) = match again {
            Some(rule) => (before.orig_rax, before.rip - SYSCALL, rule),
            None => (before.rax, before.rip, Interruptible::Never),
        };
        Self {
            mark: MARK | u64::from(tid.cast_unsigned()),
            length: LENGTH,
            mxcsr: MXCSR,
            interruptible: interruptible as u64,
            interrupted_rip: before.rip,
            rax,
            rip,
            rbx: before.rbx,
            rcx: before.rcx,
            rdx: before.rdx,
            rsi: before.rsi,
            rdi: before.rdi,
            rbp: before.rbp,
            rsp: before.rsp,
            r8: before.r8,
            r9: before.r9,
            r10: before.r10,
            r11: before.r11,
            r12: before.r12,
            r13: before.r13,
            r14: before.r14,
            r15: before.r15,
            flags: before.eflags & !TRAP,
            ..Self::default()
        }
    }

    /// The thread that this copy belongs to, if it is one, and its mapping.
    pub fn owner(copy: &[u8]) -> Option<(i32, u64)> {
        let word = |at: usize| Some(u64::from_le_bytes(copy.get(at..at + 8)?.try_into().ok()?));
        let mark = word(offset_of!(Self, mark))?;
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let tid = mark as i32;
        (mark & !0xffff_ffff == MARK).then_some((tid, word(offset_of!(Self, mapping))?))
    }

    /// Orders and code, as they lie in the target.
    pub fn copy(&self) -> Vec<u8> {
        let mut copy = code().to_vec();
        // SAFETY: all fields are u64, so there is no padding; the size is that of the type.
        let orders = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(self).cast::<u8>(), size_of::<Self>())
        };
        copy[..orders.len()].copy_from_slice(orders);
        copy
    }
}

/// Registers that send a thread from its own code to the copy at `at`.
pub fn set_out(before: &Registers, at: u64) -> Registers {
    let mut registers = *before;
    registers.rip = at + offset(Place::Start);
    registers
}

/// Registers that send a thread to the copy at `at` from the start of a system
/// call: in place of that the kernel blocks its signals, before any of its code
/// runs again.
pub fn set_out_from_call(before: &Registers, at: u64) -> Registers {
    let mut registers = *before;
    registers.rip = at + offset(Place::Blocked);
    registers.orig_rax = libc::SYS_rt_sigprocmask.cast_unsigned();
    registers.rdi = libc::SIG_SETMASK as u64;
    registers.rsi = at + offset_of!(Orders, blocks) as u64;
    registers.rdx = 0;
    registers.r10 = size_of::<u64>() as u64;
    registers
}

/// Registers for receiving fds, when the mapping is there.
pub fn receive(before: &Registers, at: u64, mapping: u64) -> Registers {
    let mut registers = work(before, at, mapping);
    registers.rip = at + offset(Place::Receive);
    registers
}

/// Registers for the work, when the mapping is there.
pub fn work(before: &Registers, at: u64, mapping: u64) -> Registers {
    let mut registers = *before;
    registers.rip = at + offset(Place::Work);
    registers.rbx = mapping;
    registers.orig_rax = u64::MAX;
    registers
}
