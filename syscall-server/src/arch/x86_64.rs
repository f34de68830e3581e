//! Variadic functions of x86-64 (psABI 3.2.3, 3.5.7): the first words are in
//! registers, the others on the stack.

use std::arch::naked_asm;
use std::ffi::c_int;

use crate::exports::exec::{execl_words, execle_words, execlp_words};

/// Words in registers behind the first argument.
const IN_REGISTERS: usize = 5;

/// The words behind the first argument of a variadic function.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    registers: *const usize,
    stack: *const usize,
}

impl Words {
    /// The words that a shim below has found.
    pub(crate) fn new(registers: *const usize, stack: *const usize) -> Words {
        Words { registers, stack }
    }

    /// The word of this number.
    ///
    /// # Safety
    /// The function was called with it.
    pub(crate) unsafe fn get(&self, index: usize) -> usize {
        let at = match index.checked_sub(IN_REGISTERS) {
            None => self.registers.wrapping_add(index),
            Some(index) => self.stack.wrapping_add(index),
        };
        // SAFETY: where a caller of the function puts that word.
        unsafe { *at }
    }
}

/// Defines an exported variadic function, which calls `$words` with the first
/// argument and where the others are.
macro_rules! variadic {
    ($(#[$doc:meta])* $name:ident, $words:ident) => {
        $(#[$doc])*
        // SAFETY: no other object linked into this library defines it.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() -> c_int {
            // 40 bytes for five words and 16 that align the stack: the words on
            // the caller's stack are behind those and the return address.
            naked_asm!(
                "sub rsp, 56",
                "mov [rsp], rsi",
                "mov [rsp + 8], rdx",
                "mov [rsp + 16], rcx",
                "mov [rsp + 24], r8",
                "mov [rsp + 32], r9",
                "mov rsi, rsp",
                "lea rdx, [rsp + 64]",
                "call {words}",
                "add rsp, 56",
                "ret",
                words = sym $words,
            )
        }
    };
}

variadic! {
    /// execl(3).
    execl, execl_words
}
variadic! {
    /// execlp(3).
    execlp, execlp_words
}
variadic! {
    /// execle(3).
    execle, execle_words
}
