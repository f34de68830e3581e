//! Short programs put where the target runs them itself: a *block* of code
//! that a trampoline jumps to in place of calling a thunk. It keeps to what
//! thunks do (guard, count, registers, flags, red zone), for one program whose
//! code is part of it. It changes no text.
//!
//! A block stays for ever, as a trampoline does. Whether its program may still
//! run is said by the site's `armed` word, which the block compares with its
//! own number after it has set the guard, as thunks look at lists: so what a
//! program uses can be freed as `guard` tells. In every other case it goes on
//! to the trampoline's call.

use core::arch::asm;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    Register, RflagsBits,
};

use super::emit::{Emitter, JUMP_LEN, TRAMPOLINE_ENTRY, near_jump};
use super::entry;
use crate::guard::MARK;
use crate::shadow::offsets as block;

/// Most bytes of code that are put into a block.
const MOST_CODE: usize = 96;
/// Where a block is entered: behind the way back to the trampoline.
const ENTRY: usize = 64;
/// In a trampoline, its call, and the code that it has displaced.
const CALL: u64 = 24;
const DISPLACED: u64 = CALL + 6 + entry::DISPLACED_AFTER_RETURN as u64;
/// Bytes of that way back, where nobody needs the flags.
const BACK: usize = 26 + JUMP_LEN;
/// `mov eax, [rsp + 24]; add al, 127; sahf`
const RESTORE_FLAGS: [u8; 7] = [0x8b, 0x44, 0x24, 24, 0x04, 127, 0x9e];
/// Bytes of a frame that are always there: the mark, rcx, rax, flags.
const FRAME: i32 = 32;
const RED_ZONE: i32 = 128;

const RAX: usize = 0;
const RCX: usize = 1;
const RSP: usize = 4;
/// rdi and rsi, where functions find their first arguments.
const ARGUMENTS: u16 = 1 << 7 | 1 << 6;

/// A callback's work as code that may stand anywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inline {
    code: Vec<u8>,
    /// The general registers that it writes, by number.
    changed: u16,
}

impl Inline {
    /// The work of a function, given as all of its machine code from its entry
    /// on. `None` if that is long, looks at its two arguments, calls anything,
    /// touches anything but general registers, status flags and memory that it
    /// names by address or by the stack pointer, or has another end than its
    /// last byte.
    #[must_use]
    pub fn of(function: &[u8]) -> Option<Inline> {
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
        let mut changed = 0;
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
            if reads & ARGUMENTS & !written != 0 {
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

/// Bytes at a trampoline's entry that lead to a block or not: an aligned word,
/// and a whole instruction.
pub(crate) const HEAD: usize = 8;

/// Where the head of a trampoline is.
pub(crate) fn head_of(trampoline: u64) -> u64 {
    trampoline + TRAMPOLINE_ENTRY
}

/// A head that leads to `block`, in place of `own`.
pub(crate) fn head_to(at: u64, block: u64, own: [u8; HEAD]) -> Option<[u8; HEAD]> {
    let jump = near_jump(at, block)?;
    let mut head = own;
    head.iter_mut().zip(jump).for_each(|(to, from)| *to = from);
    Some(head)
}

/// What a trampoline's own head adds to the stack pointer.
pub(crate) fn lowered(own: &[u8; HEAD]) -> Option<i32> {
    let (code, by) = own.split_at(LEA_RSP.len());
    let by = by.first_chunk().map(|by| i32::from_le_bytes(*by));
    by.filter(|_| code == LEA_RSP)
}

/// `lea rsp, [rsp + imm32]`, without the number.
const LEA_RSP: &[u8; 4] = &[0x48, 0x8d, 0xa4, 0x24];

/// What a block belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) trampoline: u64,
    /// What the trampoline's first instruction adds to the stack pointer.
    pub(crate) lowered: i32,
    /// Nobody needs the status flags.
    pub(crate) flags_dead: bool,
    /// The site's word that says which block may run.
    pub(crate) armed: u64,
    /// What it is then.
    pub(crate) number: u32,
    /// Where in a thread's block hits are counted.
    pub(crate) hits: usize,
}

/// A block that will stand at `at`, and where it is entered; `None` if
/// something is out of reach.
pub(crate) fn emit(at: u64, place: &Place, inline: &Inline) -> Option<(Vec<u8>, u64)> {
    let saved: Vec<usize> = (0..16)
        .filter(|n| ![RAX, RCX].contains(n) && inline.changed >> n & 1 == 1)
        .collect();
    let frame = FRAME + 8 * saved.len() as i32;
    let lowered = RED_ZONE + frame;
    let slot = |index: usize| FRAME + 8 * index as i32;

    let mut code = Emitter::new(at);
    let back = if place.flags_dead {
        BACK
    } else {
        BACK + RESTORE_FLAGS.len()
    };
    code.bytes(&[0xcc; ENTRY][back..]);
    let guarded = code.here();
    // The ways back to the trampoline's call: with the guard set, and without.
    clear_guard(&mut code);
    let unguarded = code.here();
    give_back(&mut code, place.flags_dead);
    move_stack(&mut code, lowered - entry::SKIPPED);
    code.bytes(&near_jump(code.here(), place.trampoline + CALL)?);

    let entered = code.here();
    debug_assert_eq!(entered - at, ENTRY as u64);
    // The trampoline's own first instruction goes down to `SKIPPED`, less what
    // its displaced code has pushed.
    move_stack(&mut code, place.lowered + entry::SKIPPED - lowered);
    store(&mut code, RCX, 8);
    store(&mut code, RAX, 16);
    if !place.flags_dead {
        code.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x89, 0x44, 0x24, 24]); // lahf; seto al; mov [], eax
    }
    load_block(&mut code)?;
    code.bytes(&[0x48, 0x85, 0xc9]); // test rcx, rcx
    jump_if(&mut code, 0x74, unguarded)?;
    code.bytes(&[0x48, 0x83, 0x79, block::GUARD as u8, 0]); // cmp qword ptr [guard], 0
    jump_if(&mut code, 0x75, unguarded)?;
    code.bytes(&[0x48, 0xb8]); // mov rax, armed
    code.bytes(&place.armed.to_le_bytes());
    code.bytes(&[0x48, 0xc7, 0x04, 0x24]); // mov qword ptr [rsp], MARK
    code.bytes(&(MARK as u32).to_le_bytes());
    code.bytes(&[0x48, 0x89, 0x61, block::GUARD as u8]); // mov [guard], rsp
    code.bytes(&[0x81, 0x38]); // cmp dword ptr [rax], number
    code.bytes(&place.number.to_le_bytes());
    jump_if(&mut code, 0x75, guarded)?;
    code.bytes(&[0x48, 0xff, 0x81]); // inc qword ptr [rcx + hits]
    code.bytes(&u32::try_from(place.hits).ok()?.to_le_bytes());
    for (index, register) in saved.iter().enumerate() {
        store(&mut code, *register, slot(index));
    }
    code.bytes(&inline.code);
    if inline.changed >> RCX & 1 == 1 {
        load_block(&mut code)?;
    }
    clear_guard(&mut code);
    for (index, register) in saved.iter().enumerate() {
        load(&mut code, *register, slot(index));
    }
    give_back(&mut code, place.flags_dead);
    move_stack(&mut code, lowered);
    code.jump(place.trampoline + DISPLACED);
    Some((code.into_bytes(), entered))
}

/// Most bytes that [`emit`] gives.
pub(crate) fn room(inline: &Inline) -> u64 {
    let saved = u64::from(inline.changed.count_ones()) * 16;
    (ENTRY as u64 + 160 + saved + inline.code.len() as u64).next_multiple_of(64)
}

const _: () = assert!(block::GUARD < 128);
const _: () = assert!(MARK < 1 << 31);

/// `mov rcx, fs:[the thread's block]`.
fn load_block(code: &mut Emitter) -> Option<()> {
    code.bytes(&[0x64, 0x48, 0x8b, 0x0c, 0x25]);
    code.bytes(&i32::try_from(block_word()).ok()?.to_le_bytes());
    Some(())
}

/// `mov qword ptr [rcx + guard], 0`.
fn clear_guard(code: &mut Emitter) {
    code.bytes(&[0x48, 0xc7, 0x41, block::GUARD as u8, 0, 0, 0, 0]);
}

/// Flags, rax and rcx as they were found.
fn give_back(code: &mut Emitter, flags_dead: bool) {
    if !flags_dead {
        code.bytes(&RESTORE_FLAGS);
    }
    load(code, RAX, 16);
    load(code, RCX, 8);
}

/// `lea rsp, [rsp + by]`.
fn move_stack(code: &mut Emitter, by: i32) {
    code.bytes(LEA_RSP);
    code.bytes(&by.to_le_bytes());
}

/// `mov [rsp + at], register`.
fn store(code: &mut Emitter, register: usize, at: i32) {
    access(code, 0x89, register, at);
}

/// `mov register, [rsp + at]`.
fn load(code: &mut Emitter, register: usize, at: i32) {
    access(code, 0x8b, register, at);
}

fn access(code: &mut Emitter, opcode: u8, register: usize, at: i32) {
    let (high, low) = ((register >> 3) as u8, (register & 7) as u8);
    match i8::try_from(at) {
        Ok(at) => code.bytes(&[0x48 | high << 2, opcode, 0x44 | low << 3, 0x24, at as u8]),
        Err(_) => {
            code.bytes(&[0x48 | high << 2, opcode, 0x84 | low << 3, 0x24]);
            code.bytes(&at.to_le_bytes());
        }
    }
}

/// A conditional jump of two bytes.
fn jump_if(code: &mut Emitter, opcode: u8, target: u64) -> Option<()> {
    let distance = target.wrapping_sub(code.here() + 2) as i64;
    let [distance] = i8::try_from(distance).ok()?.to_le_bytes();
    code.bytes(&[opcode, distance]);
    Some(())
}

/// How far from the thread pointer each thread has the word that leads to its
/// block.
fn block_word() -> i64 {
    let distance: i64;
    // SAFETY: reads the GOT entry of a defined TLS symbol.
    unsafe {
        asm!(
            "mov {distance}, bpftime_attach_thread@gottpoff[rip]",
            distance = out(reg) distance,
            options(nostack, pure, readonly),
        );
    }
    distance
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
