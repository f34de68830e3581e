//! The system call instruction of x86-64.

use core::arch::asm;

/// Enters the kernel; the result is the kernel's, `-errno` included.
///
/// # Safety
/// The arguments must be what system call `nr` demands.
#[inline(always)]
pub(crate) unsafe fn syscall6(nr: usize, args: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the caller vouches for number and arguments; the instruction
    // changes rax, rcx, r11 and what the call itself changes.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => ret,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    ret
}
