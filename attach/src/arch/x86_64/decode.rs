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

/// Whether the kernel puts no uprobe on such an instruction (ENOTSUPP; see
/// arch/x86/kernel/uprobes.c, 6.18): with a `lock` or an old segment prefix,
/// traps, and what only the kernel may execute.
pub(crate) fn is_refused_by_kernel(bytes: &[u8]) -> bool {
    let is_prefix = |byte: &&u8| matches!(**byte, 0x64..=0x67 | 0xf2 | 0xf3);
    let refused_prefix = |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0);
    let mut rest = bytes.iter().skip_while(is_prefix).copied();
    let mut opcode = rest.next().unwrap_or_default();
    if refused_prefix(opcode) {
        return true;
    }
    if matches!(opcode, 0x40..=0x4f) {
        opcode = rest.next().unwrap_or_default();
    }
    matches!(
        opcode,
        // Traps and returns from them.
        0xcc..=0xcf | 0xf1
        // Ports, `hlt`, `cli`, `sti`.
        | 0x6c..=0x6f | 0xe4..=0xe7 | 0xec..=0xef | 0xf4 | 0xfa | 0xfb
        // None in 64-bit code.
        | 0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f | 0x27 | 0x2f | 0x37 | 0x3f
        | 0x60 | 0x61 | 0x82 | 0x9a | 0xd4..=0xd6 | 0xea
    )
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
        written |=
            instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
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
