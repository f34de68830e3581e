//! x86-64: how a stopped thread is made to call a function or the kernel.

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

/// "Not in a system call": the kernel then restarts none when the registers
/// come from us.
const NO_SYSCALL: u64 = u64::MAX;
/// Direction and trap flag: the calling convention wants the first clear, the
/// second would raise SIGTRAP.
const DIRECTION_OR_TRAP: u64 = (1 << 10) | (1 << 8);

/// The address of the next instruction.
pub fn instruction(registers: &Registers) -> u64 {
    registers.rip
}

/// Whether the instruction with this code may be executed as a single step:
/// it does not see the trap flag that a step sets.
pub fn may_step(code: [u8; 2]) -> bool {
    const PUSHF: u8 = 0x9c;
    const POPF: u8 = 0x9d;
    !matches!(code, [PUSHF | POPF, _] | [0x66, PUSHF | POPF])
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

/// Registers for the call `function(arguments)` that finds its return address
/// at `stack`, which is 8 below a multiple of 16.
pub fn call(before: &Registers, function: u64, arguments: [u64; 2], stack: u64) -> Registers {
    let mut registers = *before;
    registers.rip = function;
    registers.rsp = stack;
    registers.rbp = 0;
    registers.rax = 0;
    registers.orig_rax = NO_SYSCALL;
    registers.eflags &= !DIRECTION_OR_TRAP;
    [registers.rdi, registers.rsi] = arguments;
    registers
}

/// Registers for a system call by the instruction at `at`.
pub fn enter_kernel(before: &Registers, at: u64, number: i64, arguments: [u64; 6]) -> Registers {
    let mut registers = *before;
    registers.rip = at;
    registers.rax = number.cast_unsigned();
    registers.orig_rax = NO_SYSCALL;
    registers.eflags &= !DIRECTION_OR_TRAP;
    [
        registers.rdi,
        registers.rsi,
        registers.rdx,
        registers.r10,
        registers.r8,
        registers.r9,
    ] = arguments;
    registers
}

/// The function's result, if this stop at a system call is its return: it
/// returned to the instruction at `at` with the result as the call's number.
pub fn returned(registers: &Registers, at: u64, stack: u64) -> Option<u64> {
    let here = registers.rip == at + SYSCALL.len() as u64 && registers.rsp == stack + 8;
    here.then_some(registers.orig_rax)
}

/// Replaces the system call that is about to happen by a harmless one.
pub fn replace_syscall(registers: &mut Registers) {
    registers.orig_rax = libc::SYS_getpid.cast_unsigned();
}
