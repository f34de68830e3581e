//! Instructions: lengths, ends of code, padding, and moving one elsewhere.

use std::ops::Range;

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, Decoder, DecoderOptions, FlowControl, Instruction,
    InstructionBlock, Mnemonic, OpKind, Register, RflagsBits,
};

use super::emit::Emitter;
use super::flow::ends;
use crate::error::Refusal;

/// `mov rax, 15; syscall`: rt_sigreturn, known to unwinders by its bytes.
const SIGNAL_RETURN: &[u8] = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05";

/// A frame larger than this is probed page by page, or should be.
const MOST_LOWERED: i32 = 1 << 16;

/// A first instruction that may run elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    instruction: Instruction,
    /// The jump to the trampoline is the call itself, led elsewhere.
    is_called: bool,
}

impl First {
    /// Decodes the instruction at `addr`, of which `bytes` are the original
    /// bytes from there on.
    pub(crate) fn decode(bytes: &[u8], addr: u64) -> Result<First, Refusal> {
        if bytes.starts_with(SIGNAL_RETURN) {
            return Err(Refusal::SignalReturn);
        }
        let instruction = Decoder::with_ip(64, bytes, addr, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            return Err(Refusal::Undecodable);
        }
        let cannot_move = matches!(
            instruction.flow_control(),
            FlowControl::XbeginXabortXend | FlowControl::Interrupt | FlowControl::Exception
        );
        if cannot_move
            || matches!(
                instruction.code(),
                Code::Sysenter | Code::Sysexitq | Code::Sysretq
            )
        {
            return Err(Refusal::Immovable);
        }
        Ok(First {
            instruction,
            is_called: false,
        })
    }

    /// A direct call whose trampoline is called in place of what it calls.
    pub(crate) fn called(&self) -> Option<First> {
        (self.instruction.code() == Code::Call_rel32_64 && self.len() == 5).then_some(First {
            is_called: true,
            ..*self
        })
    }

    /// Bytes that are on the stack already when the trampoline is reached.
    pub(crate) fn pushed(&self) -> i32 {
        if self.is_called { 8 } else { 0 }
    }

    /// Whether the next instruction runs after this one, and no other.
    pub(crate) fn falls_through(&self) -> bool {
        self.instruction.flow_control() == FlowControl::Next
    }

    /// Bytes of the instruction.
    pub(crate) fn len(&self) -> usize {
        self.instruction.len()
    }

    /// Bytes by which the instruction moves the stack pointer down, if that is
    /// all that running it twice, with the stack pointer moved back in between,
    /// could show: a register's push, a `sub rsp`, an endbr64.
    pub(crate) fn undone_by(&self) -> Option<i32> {
        let operand = self.instruction.op0_register();
        match self.instruction.code() {
            Code::Push_r64 if operand != Register::RSP => Some(8),
            Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 if operand == Register::RSP => {
                i32::try_from(self.instruction.immediate(1))
                    .ok()
                    .filter(|bytes| *bytes < MOST_LOWERED)
            }
            Code::Endbr64 => Some(0),
            _ => None,
        }
    }

    /// Address of the instruction behind it.
    pub(crate) fn next(&self) -> u64 {
        self.instruction.next_ip()
    }

    /// The code that does at `at` what the instruction does at its address.
    pub(crate) fn relocate(&self, at: u64) -> Result<Vec<u8>, Refusal> {
        let instruction = &self.instruction;
        let mut code = Emitter::new(at);
        match instruction.flow_control() {
            // iced counts `syscall` among the calls.
            FlowControl::Call if instruction.code() != Code::Syscall => {
                if instruction.op0_kind() != OpKind::NearBranch64 {
                    return Err(Refusal::Immovable);
                }
                // A return address in a trampoline could not be unwound: push
                // the one that the original would push.
                code.push_imm64(instruction.next_ip());
                code.jump(instruction.near_branch64());
                return Ok(code.into_bytes());
            }
            FlowControl::IndirectCall => {
                let jump = indirect_jump(instruction).ok_or(Refusal::Immovable)?;
                code.push_imm64(instruction.next_ip());
                let moved = encode(jump, code.here()).ok_or(Refusal::Immovable)?;
                code.bytes(&moved);
                return Ok(code.into_bytes());
            }
            _ => {}
        }
        let moved = encode(*instruction, at).ok_or(Refusal::Immovable)?;
        code.bytes(&moved);
        Ok(code.into_bytes())
    }
}

/// `jmp` to where `call r/m64` calls, after the return address was pushed.
fn indirect_jump(call: &Instruction) -> Option<Instruction> {
    if call.code() != Code::Call_rm64 {
        return None;
    }
    let mut jump = *call;
    jump.set_code(Code::Jmp_rm64);
    match call.op0_kind() {
        OpKind::Register if call.op0_register() != Register::RSP => {}
        OpKind::Memory if call.memory_base() == Register::RSP => {
            let displacement = call.memory_displacement64().wrapping_add(8);
            jump.set_memory_displacement64(displacement);
            jump.set_memory_displ_size(4);
        }
        OpKind::Memory => {}
        _ => return None,
    }
    Some(jump)
}

fn encode(instruction: Instruction, at: u64) -> Option<Vec<u8>> {
    let one = [instruction];
    let block = InstructionBlock::new(&one, at);
    let result = BlockEncoder::encode(64, block, BlockEncoderOptions::NONE).ok()?;
    Some(result.code_buffer)
}

/// Whether code overwrites all status flags before anything reads them.
pub(crate) fn overwrites_flags(code: &[u8], addr: u64) -> bool {
    const STATUS: u32 = RflagsBits::OF
        | RflagsBits::SF
        | RflagsBits::ZF
        | RflagsBits::AF
        | RflagsBits::CF
        | RflagsBits::PF;
    let mut written = 0;
    for instruction in Decoder::with_ip(64, code, addr, DecoderOptions::NONE).iter() {
        let reads = instruction.rflags_read() & STATUS & !written != 0
            || matches!(instruction.mnemonic(), Mnemonic::Pushf | Mnemonic::Pushfq);
        if reads || instruction.is_invalid() || instruction.flow_control() != FlowControl::Next {
            return false;
        }
        // A shift or a repetition by 0 leaves flags as they were.
        let may_leave = [instruction.op1_register(), instruction.op2_register()]
            .contains(&Register::CL)
            || instruction.has_rep_prefix()
            || instruction.has_repne_prefix();
        if may_leave {
            continue;
        }
        written |=
            instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
        // Logical instructions leave it undefined: nobody can rely on it.
        written |= instruction.rflags_undefined() & RflagsBits::AF;
        if written & STATUS == STATUS {
            return true;
        }
    }
    false
}

/// Whether code of a function jumps to one of its addresses in `range`, or may:
/// by an address from a table, or by bytes that do not decode.
pub(crate) fn may_jump_into(function: &[u8], addr: u64, range: &Range<u64>) -> bool {
    let mut decoder = Decoder::with_ip(64, function, addr, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let may = match instruction.flow_control() {
            FlowControl::Next | FlowControl::Return => instruction.is_invalid(),
            // Through the global offset table it leaves the function.
            FlowControl::IndirectBranch => !instruction.is_ip_rel_memory_operand(),
            FlowControl::Exception => instruction.is_invalid(),
            _ => range.contains(&instruction.near_branch_target()),
        };
        if may {
            return true;
        }
    }
    false
}

/// Whether straight decoding of a whole function ends, exactly at its end,
/// with an instruction after which nothing runs on.
pub(crate) fn ends_for_good(function: &[u8]) -> bool {
    let mut decoder = Decoder::new(64, function, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return false;
        }
    }
    ends(&instruction)
}

/// Whether the bytes are whole padding instructions.
pub(crate) fn is_padding(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if !matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 4] = [
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "/bin/bash",
    ];
    /// Where a file's text would be, and how far away its trampolines.
    const BIAS: u64 = 0x7f12_3400_0000;
    const FAR: [u64; 2] = [BIAS - 0x6000_0000, BIAS + 0x6000_0000];

    fn decoded(code: &[u8], at: u64) -> Vec<Instruction> {
        let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
        let mut all = Vec::new();
        while decoder.can_decode() {
            all.push(decoder.decode());
        }
        all
    }

    /// Where relocated code leads if its first instruction branches, or if not.
    fn ways(code: &[Instruction], behind: u64) -> (u64, u64) {
        let at = |ip: u64| {
            let next = code.iter().find(|instruction| instruction.ip() == ip);
            match next {
                Some(jump) => {
                    assert!(
                        jump.is_jmp_short_or_near() || jump.is_jmp_near_indirect(),
                        "{jump:?}"
                    );
                    jump.near_branch_target()
                }
                None => ip,
            }
        };
        let end = code.last().map_or(0, Instruction::next_ip);
        let way = |ip: u64| if at(ip) == end { behind } else { at(ip) };
        (way(code[0].near_branch_target()), way(code[0].next_ip()))
    }

    fn check(original: &Instruction, code: &[Instruction]) {
        let shown = || format!("{:x} {original:?} became {code:?}", original.ip());
        match original.flow_control() {
            FlowControl::Call if original.code() != Code::Syscall => {
                let [push, store, jump] = code else {
                    panic!("{}", shown())
                };
                check_pushed(original, push, store);
                assert_eq!(jump.near_branch_target(), original.near_branch_target());
            }
            FlowControl::IndirectCall => {
                let [push, store, jump] = code else {
                    panic!("{}", shown())
                };
                check_pushed(original, push, store);
                assert_eq!(jump.code(), Code::Jmp_rm64, "{}", shown());
                assert_eq!(jump.op0_kind(), original.op0_kind(), "{}", shown());
                let pushed = if original.memory_base() == Register::RSP {
                    8
                } else {
                    0
                };
                let displacement = original.memory_displacement64().wrapping_add(pushed);
                assert_eq!(jump.memory_displacement64(), displacement, "{}", shown());
                let registers = |i: &Instruction| {
                    (
                        i.op0_register(),
                        i.memory_base(),
                        i.memory_index(),
                        i.memory_index_scale(),
                    )
                };
                assert_eq!(registers(jump), registers(original), "{}", shown());
            }
            FlowControl::ConditionalBranch => {
                let same = code[0].mnemonic() == original.mnemonic();
                assert!(same, "{}", shown());
                let expected = (original.near_branch_target(), original.next_ip());
                assert_eq!(ways(code, original.next_ip()), expected, "{}", shown());
            }
            FlowControl::UnconditionalBranch => {
                let target = original.near_branch_target();
                assert_eq!(code[0].near_branch_target(), target, "{}", shown());
                assert!(code.len() == 1 && code[0].is_jmp_short_or_near());
            }
            // What iced holds equal has the same operands, addresses resolved.
            _ => assert!(code.len() == 1 && code[0] == *original, "{}", shown()),
        }
    }

    /// `push` and `store` put the original's return address on the stack.
    fn check_pushed(original: &Instruction, push: &Instruction, store: &Instruction) {
        assert_eq!(push.code(), Code::Pushq_imm32);
        assert_eq!(store.code(), Code::Mov_rm32_imm32);
        let address = (store.memory_base(), store.memory_displacement64());
        assert_eq!(address, (Register::RSP, 4));
        let pushed = push.immediate(0) & 0xffff_ffff | store.immediate(1) << 32;
        assert_eq!(pushed, original.next_ip());
    }

    #[test]
    fn relocated_instructions_do_what_the_original_does() {
        let mut checked = 0;
        let mut immovable = 0;
        for file in FILES {
            let bytes = std::fs::read(file).expect("the file");
            let elf = object::ElfFile::parse(&bytes).expect("an ELF file");
            for segment in elf.segments().filter(|segment| segment.executable) {
                let text = elf.file_bytes(segment.file);
                for function in elf.functions().iter() {
                    let start = function.range.start;
                    let from = start.wrapping_sub(segment.vaddr) as usize;
                    let len = (function.range.end - start).min(4096) as usize;
                    let Some(code) = text.get(from..(from + len).min(text.len())) else {
                        continue;
                    };
                    // The entry, and some of the rest.
                    let instructions = decoded(code, BIAS + start).into_iter();
                    for (n, original) in instructions.enumerate() {
                        if n != 0 && !(n as u64 + start / 16).is_multiple_of(64) {
                            continue;
                        }
                        let at = (original.ip() - BIAS - start) as usize;
                        let Ok(first) = First::decode(&code[at..], original.ip()) else {
                            continue;
                        };
                        for far in FAR {
                            match first.relocate(far + start) {
                                Ok(moved) => check(&original, &decoded(&moved, far + start)),
                                Err(_) => immovable += 1,
                            }
                            checked += 1;
                        }
                    }
                }
            }
        }
        assert!(checked > 50_000, "{checked}");
        assert!(immovable * 10_000 < checked, "{immovable} of {checked}");
    }
}
