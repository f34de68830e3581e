//! The proof that a function keeps vector registers and DF, does without an
//! aligned stack, and so may be called where nobody has saved those: all its
//! instructions are looked at, as the compiler has made them, with those of all
//! functions that it calls. It knows no function.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};

use super::sys;

/// Most instructions that are looked at for one function.
const MOST: usize = 4096;
const WORD: u64 = 8;
/// Longest instruction.
const LONGEST: usize = 15;

/// Whether the function at `entry` is such a one. What is at `aside` is taken
/// for one without a look; where the function itself (not what it calls) calls
/// by a register, it calls `leads_to`.
#[must_use]
pub fn is_quiet(entry: usize, leads_to: Option<usize>, aside: usize) -> bool {
    let mut walk = Walk {
        words: BTreeMap::new(),
        seen: BTreeSet::from([aside as u64]),
        left: MOST,
    };
    walk.function(entry as u64, leads_to.map(|to| to as u64))
        .is_some()
}

struct Walk {
    /// Words that were read; `None` for what cannot be.
    words: BTreeMap<u64, Option<u64>>,
    /// Functions and instructions that were looked at, or are.
    seen: BTreeSet<u64>,
    left: usize,
}

impl Walk {
    /// `None` if one instruction is not as it has to be.
    fn function(&mut self, entry: u64, leads_to: Option<u64>) -> Option<()> {
        let mut todo = vec![entry];
        while let Some(at) = todo.pop() {
            if !self.seen.insert(at) {
                continue;
            }
            self.left = self.left.checked_sub(1)?;
            let instruction = self.decode(at)?;
            if !is_plain(&instruction) {
                return None;
            }
            match instruction.flow_control() {
                FlowControl::Next => todo.push(instruction.next_ip()),
                FlowControl::Call if instruction.mnemonic() == Mnemonic::Syscall => {
                    todo.push(instruction.next_ip());
                }
                FlowControl::Call | FlowControl::IndirectCall => {
                    let callee = self.callee(&instruction).or(leads_to)?;
                    self.function(callee, None)?;
                    todo.push(instruction.next_ip());
                }
                FlowControl::UnconditionalBranch => todo.push(instruction.near_branch_target()),
                // The last call of a function.
                FlowControl::IndirectBranch => {
                    let callee = self.callee(&instruction)?;
                    self.function(callee, None)?;
                }
                FlowControl::ConditionalBranch => {
                    todo.extend([instruction.next_ip(), instruction.near_branch_target()]);
                }
                FlowControl::Return if instruction.op_count() == 0 => {}
                // `ud2`: nothing runs after it.
                FlowControl::Exception => {}
                _ => return None,
            }
        }
        Some(())
    }

    /// What a call leads to that says so itself, or by a word of its library,
    /// which the loader has written for good.
    fn callee(&mut self, call: &Instruction) -> Option<u64> {
        match call.op0_kind() {
            OpKind::NearBranch64 => Some(call.near_branch_target()),
            OpKind::Memory if call.is_ip_rel_memory_operand() => {
                let word = self.bytes(call.ip_rel_memory_address(), 8)?;
                Some(u64::from_le_bytes(word.try_into().ok()?))
            }
            _ => None,
        }
    }

    fn decode(&mut self, at: u64) -> Option<Instruction> {
        // The last of a mapping may be shorter.
        let bytes = (1..=LONGEST).rev().find_map(|len| self.bytes(at, len))?;
        let instruction = Decoder::with_ip(64, &bytes, at, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    fn bytes(&mut self, at: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        for at in at..at.checked_add(len as u64)? {
            let word = at / WORD * WORD;
            let read = || sys::read_word(word);
            let word = (*self.words.entry(word).or_insert_with(read))?;
            bytes.push(*word.to_le_bytes().get((at % WORD) as usize)?);
        }
        Some(bytes)
    }
}

/// Whether an instruction is one of those that compilers make of numbers: it
/// touches general registers, status flags and memory only.
fn is_plain(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let is_general =
        |register: Register| register == Register::None || register.is_gpr() || register.is_ip();
    let operands = (0..instruction.op_count()).all(|operand| {
        instruction.op_kind(operand) != OpKind::Register
            || is_general(instruction.op_register(operand))
    });
    let memory = is_general(instruction.memory_base()) && is_general(instruction.memory_index());
    let is_known = matches!(
        instruction.mnemonic(),
        Mov | Movzx
            | Movsx
            | Movsxd
            | Movbe
            | Lea
            | Add
            | Adc
            | Sub
            | Sbb
            | And
            | Andn
            | Or
            | Xor
            | Not
            | Neg
            | Cmp
            | Test
            | Inc
            | Dec
            | Imul
            | Mul
            | Mulx
            | Shl
            | Shr
            | Sar
            | Rol
            | Ror
            | Shld
            | Shrd
            | Shlx
            | Shrx
            | Sarx
            | Rorx
            | Bswap
            | Bt
            | Bts
            | Btr
            | Bsf
            | Bsr
            | Tzcnt
            | Lzcnt
            | Popcnt
            | Cwde
            | Cdqe
            | Cdq
            | Cqo
            | Push
            | Pop
            | Xchg
            | Xadd
            | Cmpxchg
            | Jmp
            | Call
            | Ret
            | Nop
            | Endbr64
            | Pause
            | Lfence
            | Mfence
            | Sfence
            | Rdtsc
            | Rdtscp
            | Rdpid
            | Lsl
            | Syscall
            | Ud2
    );
    // Jumps, moves and bytes by a condition.
    let is_conditional = instruction.condition_code() != ConditionCode::None;
    operands && memory && !instruction.is_string_instruction() && (is_known || is_conditional)
}

#[cfg(test)]
mod tests {
    use super::is_quiet;
    use core::arch::global_asm;

    unsafe extern "C" {
        fn quiet_tests_quiet();
        fn quiet_tests_vectors();
        fn quiet_tests_deep();
        fn quiet_tests_strings();
        fn quiet_tests_flags();
        fn quiet_tests_register();
        fn quiet_tests_aside();
        fn quiet_tests_x87();
        fn quiet_tests_popfq();
        fn quiet_tests_table();
        fn quiet_tests_words();
        fn quiet_tests_last();
    }

    global_asm!(
        r#"
        .pushsection .text.quiet_tests,"ax",@progbits
        .irp name, quiet, vectors, deep, strings, flags, register, aside, x87, popfq, table, words, last
        .globl quiet_tests_\name
        .hidden quiet_tests_\name
        .endr
    quiet_tests_quiet:
        push rbx
        mov rax, fs:[0]
        lock cmpxchg [rdi], rcx
        jne 2f
        cmovb rax, rdx
    2:  setne al
        rdtscp
        syscall
        pop rbx
        ret
    quiet_tests_vectors:
        test rdi, rdi
        jz 3f
        ret
    3:  pxor xmm3, xmm3
        ret
    quiet_tests_deep:
        call quiet_tests_quiet
        call quiet_tests_vectors
        ret
    quiet_tests_strings:
        rep movsb
        ret
    quiet_tests_flags:
        cld
        ret
    quiet_tests_register:
        call rax
        ret
    quiet_tests_aside:
        call quiet_tests_strings
        ret
    quiet_tests_x87:
        fninit
        ret
    quiet_tests_popfq:
        push rax
        popfq
        ret
    quiet_tests_table:
        jmp rax
    quiet_tests_words:
        call quiet_tests_quiet@gotpcrel[rip]
        jmp quiet_tests_quiet@gotpcrel[rip]
    quiet_tests_last:
        jmp quiet_tests_vectors@gotpcrel[rip]
        .popsection
    "#
    );

    #[test]
    fn what_touches_vectors_anywhere_is_not_quiet() {
        let at = |function: unsafe extern "C" fn()| function as *const () as usize;
        let quiet = at(quiet_tests_quiet);
        assert!(is_quiet(quiet, None, 0));
        assert!(is_quiet(at(quiet_tests_words), None, 0));
        for other in [
            quiet_tests_vectors,
            quiet_tests_deep,
            quiet_tests_strings,
            quiet_tests_flags,
            quiet_tests_register,
            quiet_tests_aside,
            quiet_tests_x87,
            quiet_tests_popfq,
            quiet_tests_table,
            quiet_tests_last,
        ] {
            assert!(!is_quiet(at(other), None, 0));
        }
        assert!(is_quiet(
            at(quiet_tests_aside),
            None,
            at(quiet_tests_strings)
        ));
        assert!(is_quiet(at(quiet_tests_register), Some(quiet), 0));
        let vectors = Some(at(quiet_tests_vectors));
        assert!(!is_quiet(at(quiet_tests_register), vectors, 0));
        assert!(!is_quiet(at(quiet_tests_table), Some(quiet), 0));
        assert!(!is_quiet(1, None, 0));
    }
}
