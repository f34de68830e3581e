//! Code that may run anywhere in place of a callback, and the proof that it may.
//! It knows no hook; where such code runs is said in `block`.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    Register, RflagsBits,
};

/// Most bytes of code that are put into a block.
const MOST_CODE: usize = 128;
/// rdi and rsi, where functions find their first arguments.
const FIRST: u16 = 1 << 7;
const SECOND: u16 = 1 << 6;
const RSP: usize = 4;

/// A callback's work as code that may stand anywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inline {
    pub(super) code: Vec<u8>,
    pub(super) around: Around,
    /// The general registers that all of it writes, by number.
    pub(super) changed: u16,
}

/// What is done before and after a function's code, with no proof but the
/// word of who made it. Both find two words of their own at [`Around::OWN`]
/// above the stack pointer.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Around {
    /// Leaves rcx alone, and gives rsi a value, the function's second argument.
    pub before: Vec<u8>,
    /// Where in `before` are the last four bytes of jumps that give up: the
    /// callback is called in place of all that is here.
    pub gives_up: Vec<usize>,
    /// Runs at the end.
    pub after: Vec<u8>,
    /// The general registers that both write, by number.
    pub changed: u16,
}

impl Around {
    /// See there.
    pub const OWN: u8 = 32;
}

impl Inline {
    /// The work of a function, given as all of its machine code from its entry
    /// on. `None` if that is long, looks at its two arguments, calls anything,
    /// touches anything but general registers, status flags and memory that it
    /// names by address or by the stack pointer, or has another end than its
    /// last byte.
    #[must_use]
    pub fn of(function: &[u8]) -> Option<Inline> {
        Inline::prove(function, FIRST | SECOND, Around::default())
    }

    /// The same of a function that may look at its second argument.
    #[must_use]
    pub fn within(function: &[u8], around: Around) -> Option<Inline> {
        Inline::prove(function, FIRST, around)
    }

    fn prove(function: &[u8], unknown: u16, around: Around) -> Option<Inline> {
        let (last, code) = function.split_last()?;
        if *last != 0xc3 || code.len() > MOST_CODE {
            return None;
        }
        let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
        let instructions: Vec<Instruction> = decoder.iter().collect();
        let end = code.len() as u64;
        if instructions.last().map_or(0, Instruction::next_ip) != end {
            return None;
        }
        let is_start = |at: u64| at == end || instructions.iter().any(|i| i.ip() == at);
        let mut factory = InstructionInfoFactory::new();
        let mut changed = around.changed;
        // Registers that were written on every way here.
        let mut written = 0;
        let mut is_straight = true;
        for instruction in &instructions {
            let stays = match instruction.flow_control() {
                FlowControl::Next => true,
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    is_start(instruction.near_branch_target())
                }
                _ => false,
            };
            let flags = instruction.rflags_read() | instruction.rflags_modified();
            let is_odd = instruction.is_invalid()
                || instruction.is_ip_rel_memory_operand()
                || flags & !STATUS != 0;
            if !stays || is_odd {
                return None;
            }
            let (reads, writes) = registers(&mut factory, instruction)?;
            if reads & unknown & !written != 0 {
                return None;
            }
            changed |= writes;
            is_straight &= instruction.flow_control() == FlowControl::Next;
            if is_straight {
                written |= writes;
            }
        }
        Some(Inline {
            code: code.to_vec(),
            around,
            changed,
        })
    }
}

const STATUS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// The general registers that an instruction reads and writes; `None` if it
/// touches others, or the stack pointer but to push and pop.
fn registers(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
) -> Option<(u16, u16)> {
    let is_stack = match instruction.code() {
        Code::Push_r64 => true,
        Code::Pop_r64 => instruction.op0_register() != Register::RSP,
        _ => false,
    };
    let (mut read, mut written) = (0, 0);
    for used in factory.info(instruction).used_registers() {
        if !used.register().is_gpr() {
            return None;
        }
        let number = used.register().full_register().number();
        let is_written = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        // The rest of a register stays when a part of it is written.
        if used.access() != OpAccess::Write || used.register().size() < 4 {
            read |= 1 << number;
        }
        match number {
            RSP if is_written && !is_stack => return None,
            RSP => {}
            _ if is_written => written |= 1 << number,
            _ => {}
        }
    }
    Some((read, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_stand_anywhere_is_taken() {
        let changed = |code: &[u8]| Inline::of(code).map(|inline| inline.changed);
        assert_eq!(changed(b"\x31\xc0\xc3"), Some(1), "xor eax, eax; ret");
        assert_eq!(changed(b"\xc3"), Some(0));
        let counts = b"\x48\xb8\x11\x22\x33\x44\x55\x66\x77\x00\xf0\x48\xff\x00\x31\xc0\xc3";
        assert_eq!(changed(counts), Some(1), "mov rax, imm64; lock inc [rax]");
        assert_eq!(
            changed(b"\x53\x41\x54\x41\x5c\x5b\xc3"),
            Some(1 << 3 | 1 << 12)
        );
        assert_eq!(changed(b"\x74\x02\x31\xd2\x31\xc0\xc3"), Some(1 | 1 << 2));
        assert_eq!(changed(b"\x31\xff\x48\x89\xf8\xc3"), Some(1 | 1 << 7));
        for (code, why) in [
            (&b"\x31\xc0"[..], "no return"),
            (b"\xc3\xc3", "two returns"),
            (b"\xe8\0\0\0\0\xc3", "a call"),
            (b"\xff\xe0\xc3", "a jump who knows where"),
            (b"\x74\x7f\xc3", "a jump out"),
            (b"\x74\x01\x31\xc0\xc3", "a jump into an instruction"),
            (b"\x48\x8b\x05\0\0\0\0\xc3", "its place matters"),
            (b"\x48\x83\xec\x08\xc3", "the stack pointer"),
            (b"\x5c\xc3", "pop rsp"),
            (b"\x0f\x57\xc0\xc3", "a vector register"),
            (b"\xd9\xe8\xc3", "x87"),
            (b"\xfd\xc3", "std"),
            (b"\x9c\x58\xc3", "pushfq"),
            (b"\x0f\x05\xc3", "a system call"),
            (b"\x64\x48\x8b\x00\xc3", "another thread's memory"),
            (b"\x0f\x0b\xc3", "ud2"),
            (b"\x48\x89\xf8\xc3", "mov rax, rdi"),
            (
                b"\x74\x02\x31\xff\x48\x89\xf8\xc3",
                "the same, after it was perhaps written",
            ),
            (
                b"\x40\xb7\x01\x48\x89\xf8\xc3",
                "the same, after a part of it was",
            ),
        ] {
            assert_eq!(Inline::of(code), None, "{why}");
        }
        assert_eq!(
            Inline::of(&[&[0x90; MOST_CODE + 1][..], &[0xc3]].concat()),
            None
        );
    }
}
