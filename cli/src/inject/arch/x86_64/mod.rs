//! x86-64: what registers tell of a stopped thread, and the code that a
//! borrowed one runs ([`errand`]).

pub mod errand;

use libc::user_regs_struct;

/// General registers of a stopped thread.
pub type Registers = user_regs_struct;

/// The set of vector registers in PTRACE_GETREGSET: NT_X86_XSTATE of
/// linux/elf.h.
pub const VECTOR_STATE: libc::c_long = 0x202;
/// Enough bytes for AVX-512 and AMX state.
pub const VECTOR_STATE_MAX: usize = 16 * 1024;

/// Machine code of the instruction that enters the kernel.
pub const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// `mov $__NR_rt_sigreturn, %rax; syscall`: where every signal handler
/// returns to. The kernel fixes these bytes for unwinders.
pub const SIGNAL_RETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05];

/// The address of the next instruction.
pub fn instruction(registers: &Registers) -> u64 {
    registers.rip
}

/// The stack pointer.
pub fn stack(registers: &Registers) -> u64 {
    registers.rsp
}

/// The system call that this thread is in or just left, if any.
pub fn syscall_number(registers: &Registers) -> Option<i64> {
    let number = registers.orig_rax.cast_signed();
    (number >= 0).then_some(number)
}

/// What a signal handler on the stack interrupted, if `frame` starts with the
/// frame that the kernel made for it (struct rt_sigframe) at address `at`.
/// The bytes are [`SIGNAL_FRAME`] long.
pub fn interrupted(frame: &[u8], at: u64) -> Option<u64> {
    // Return address, then ucontext: 40 bytes, then sigcontext's registers.
    const REGISTERS: usize = 8 + 40;
    const RSP: usize = REGISTERS + 15 * 8;
    const RIP: usize = REGISTERS + 16 * 8;
    const CS: usize = REGISTERS + 18 * 8;
    let word = |offset: usize| {
        Some(u64::from_le_bytes(
            frame.get(offset..offset + 8)?.try_into().ok()?,
        ))
    };
    /// Code segment of 64-bit programs (`__USER_CS`).
    const USER_CS: u64 = 0x33;
    let plausible = word(CS)? & 0xffff == USER_CS && word(RSP)? > at;
    if plausible { word(RIP) } else { None }
}

/// Bytes of a signal frame that [`interrupted`] looks at.
pub const SIGNAL_FRAME: usize = 8 + 40 + 19 * 8;

/// Second argument of that system call.
pub fn syscall_second_argument(registers: &Registers) -> u64 {
    registers.rsi
}

/// Result of a system call that is over.
pub fn syscall_result(registers: &Registers) -> u64 {
    registers.rax
}

// What the kernel leaves in rax of a thread stopped in an interrupted system
// call (include/linux/errno.h), until it is let go.
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

/// A system call's own rule for signals that come while it waits (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Interruptible {
    Never = 0,
    /// By a handler without SA_RESTART.
    Unless = 1,
    /// By every handler.
    Always = 2,
}

/// The rule of the system call in which a thread with these registers was
/// interrupted, if the kernel will have it made again.
pub fn rule(registers: &Registers) -> Option<Interruptible> {
    syscall_number(registers)?;
    match registers.rax.cast_signed() {
        ERESTARTSYS => Some(Interruptible::Unless),
        ERESTARTNOINTR => Some(Interruptible::Never),
        ERESTARTNOHAND | ERESTART_RESTARTBLOCK => Some(Interruptible::Always),
        _ => None,
    }
}

/// Registers for which [`rule`] is this, from those at the start of the call.
pub fn interrupt(before: &Registers, rule: Interruptible) -> Registers {
    let mut registers = *before;
    let result = match rule {
        Interruptible::Never => ERESTARTNOINTR,
        Interruptible::Unless => ERESTARTSYS,
        Interruptible::Always => ERESTARTNOHAND,
    };
    registers.rax = result.cast_unsigned();
    registers
}

/// Makes a system call that ended with EINTR be made again, unless a handler
/// runs first. For calls that have done nothing when they end so.
pub fn make_again(registers: &mut Registers) -> bool {
    let interrupted = registers.rax.cast_signed() == -i64::from(libc::EINTR);
    if interrupted {
        *registers = interrupt(registers, Interruptible::Always);
    }
    interrupted
}
