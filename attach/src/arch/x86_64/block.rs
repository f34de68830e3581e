//! What runs where the target runs itself: *blocks* of code that a trampoline
//! begins with, or jumps to, in place of calling a thunk. A block keeps to what thunks do
//! (guard, count, registers, flags, red zone), for one short program whose code
//! is part of it, or for the entry of functions that only have return probes.
//! It changes no text.
//!
//! A block stays for ever, as a trampoline does. Whether it may still run is
//! said by the site's `armed` word, which it compares with its own number
//! after it has set the guard, as thunks look at lists: so what a program uses
//! can be freed as `guard` tells. In every other case it goes on to the
//! trampoline's call.

use core::arch::asm;

use super::decode::First;
use super::emit::{self, Emitter, JUMP_LEN, TRAMPOLINE_BYTES, TRAMPOLINE_ENTRY, near_jump};
use super::entry;
use super::inline::{Around, Inline};
use super::stub;
use crate::error::Refusal;
use crate::guard::MARK;
use crate::shadow::offsets as thread;
use crate::site::offsets as site;

/// Where a block is entered: behind the way back to the trampoline.
const ENTRY: usize = 64;
/// Bytes of that way back, where nobody needs the flags.
const BACK: usize = 26 + JUMP_LEN;
/// `mov eax, [rsp + 24]; add al, 127; sahf`
const RESTORE_FLAGS: [u8; 7] = [0x8b, 0x44, 0x24, 24, 0x04, 127, 0x9e];
/// `lahf; seto al; mov [rsp + 24], eax`
const SAVE_FLAGS: [u8; 8] = [0x9f, 0x0f, 0x90, 0xc0, 0x89, 0x44, 0x24, 24];
/// `lea rsp, [rsp + imm32]`, without the number.
const LEA_RSP: &[u8; 4] = &[0x48, 0x8d, 0xa4, 0x24];
/// In a trampoline, its call, and the code that it has displaced.
const CALL: u64 = TRAMPOLINE_ENTRY + 8;
const DISPLACED: u64 = CALL + 6 + entry::DISPLACED_AFTER_RETURN as u64;
/// Bytes of a trampoline before that.
const GENERAL: usize = DISPLACED as usize;
/// A frame begins with the mark, rcx, rax, flags, and two words of the code's
/// own; other registers follow.
const SAVED: i32 = Around::OWN as i32 + 16;
const RED_ZONE: i32 = 128;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;

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

/// What a block does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// Counts a hit where threads' blocks count, and runs a program.
    Program(Inline, usize),
    /// Sees to the return.
    Return,
}

impl Work {
    /// The general registers that are written, but rax and rcx.
    fn saved(&self) -> Vec<usize> {
        let changed = match self {
            Work::Program(inline, _) => inline.changed,
            Work::Return => 1 << RDX | 1 << RSI,
        };
        (0..16)
            .filter(|n| ![RAX, RCX].contains(n) && changed >> n & 1 == 1)
            .collect()
    }
}

/// What a block belongs to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) trampoline: u64,
    /// What the trampoline's first instruction adds to the stack pointer.
    pub(crate) lowered: i32,
    /// Nobody needs the status flags.
    pub(crate) flags_dead: bool,
    /// The address of the site.
    pub(crate) site: u64,
    /// What its `armed` word is when the block may run.
    pub(crate) number: u32,
}

/// Where in a block it is entered.
pub(crate) const ENTERED: u64 = ENTRY as u64;

/// A block that will stand at `at`; `None` if something is out of reach.
pub(crate) fn emit(at: u64, place: &Place, work: &Work) -> Option<Vec<u8>> {
    let mut block = Block::new(Emitter::new(at), place, work);
    block
        .code
        .bytes(&[0xcc; ENTRY][back_len(place.flags_dead)..]);
    let guarded = block.enter()?;
    match work {
        Work::Program(inline, hits) => {
            block.program(inline, *hits)?;
            block.code.jump(place.trampoline + DISPLACED);
        }
        Work::Return => block.hijack()?,
    }
    let end = block.position();
    block.give_up(guarded)?;
    block.finish(end)
}

/// Where a trampoline is entered that begins with a program's block.
pub(crate) fn entry_with(work: &Work, flags_dead: bool) -> u64 {
    let way_out = 16 * work.saved().len() + JUMP_LEN;
    let before = GENERAL + JUMP_LEN + way_out + back_len(flags_dead);
    before.next_multiple_of(ENTRY) as u64
}

/// Room for such a trampoline.
pub(crate) fn room_with(work: &Work, flags_dead: bool) -> Option<u64> {
    let place = Place {
        flags_dead,
        ..Place::default()
    };
    let block = emit(0, &place, work)?.len() - ENTRY;
    let displaced = TRAMPOLINE_BYTES as usize - GENERAL;
    Some(entry_with(work, flags_dead) + (block + displaced).next_multiple_of(ENTRY) as u64)
}

/// A trampoline at `at`, with the block of a program in it that goes on in what
/// is displaced, without a jump. Its own words and call are where others have
/// them, its last jump, too.
pub(crate) fn trampoline(
    at: u64,
    displaced: &[First],
    (site, flags_dead): (u64, bool),
    (inline, hits): (&Inline, usize),
) -> Result<Vec<u8>, Refusal> {
    let plain = emit::trampoline(at, site, displaced)?;
    let general = plain.get(..GENERAL).ok_or(Refusal::Immovable)?;
    let own: Option<&[u8; HEAD]> = general[TRAMPOLINE_ENTRY as usize..].first_chunk();
    let place = Place {
        trampoline: at,
        lowered: own.and_then(lowered).ok_or(Refusal::Immovable)?,
        flags_dead,
        site,
        number: 1,
    };
    let work = Work::Program(inline.clone(), hits);
    let entry = entry_with(&work, flags_dead) as usize;
    let back = entry - back_len(flags_dead);
    let mut block = Block::new(Emitter::new(at), &place, &work);
    block.code.bytes(general);
    block.code.bytes(&[0xcc; JUMP_LEN]);
    let end = block.position();
    block.give_up(at + back as u64).ok_or(Refusal::Immovable)?;
    block.code.bytes(&vec![0xcc; back - block.position()]);
    block.enter().ok_or(Refusal::Immovable)?;
    block.program(inline, hits).ok_or(Refusal::Immovable)?;
    let go_on = block.code.here();
    emit::displace(&mut block.code, displaced)?;
    let jump = near_jump(at + GENERAL as u64, go_on).ok_or(Refusal::Immovable)?;
    let mut code = block.finish(end).ok_or(Refusal::Immovable)?;
    code[GENERAL..GENERAL + JUMP_LEN].copy_from_slice(&jump);
    let room = room_with(&work, flags_dead);
    match room.is_some_and(|room| code.len() as u64 <= room) {
        true => Ok(code),
        false => Err(Refusal::Immovable),
    }
}

/// Bytes of the way back, before the entry.
fn back_len(flags_dead: bool) -> usize {
    match flags_dead {
        true => BACK,
        false => BACK + RESTORE_FLAGS.len(),
    }
}

const _: () = assert!(thread::GUARD < 128 && thread::TOP < 128 && thread::END < 128);
const _: () = assert!(site::ARMED < 128 && site::EXIT < 128 && site::NEWEST < 128);
const _: () = assert!(MARK < 1 << 31 && thread::ENTRY == 32);

struct Block<'a> {
    code: Emitter,
    /// How far below the stack pointer at the probe the frame is.
    lowered: i32,
    saved: Vec<usize>,
    place: &'a Place,
    /// Where in the code are the distances of jumps that give up.
    gives_up: Vec<usize>,
}

impl Block<'_> {
    fn new<'a>(code: Emitter, place: &'a Place, work: &Work) -> Block<'a> {
        let saved = work.saved();
        Block {
            code,
            lowered: RED_ZONE + SAVED + 8 * saved.len() as i32,
            saved,
            place,
            gives_up: Vec::new(),
        }
    }

    /// The end that gives up: the registers as they were, and back.
    fn give_up(&mut self, guarded: u64) -> Option<()> {
        self.load_saved();
        let jump = near_jump(self.code.here(), guarded)?;
        self.code.bytes(&jump);
        Some(())
    }

    /// All of it, with the end that gives up at `end`.
    fn finish(self, end: usize) -> Option<Vec<u8>> {
        let mut code = self.code.into_bytes();
        for jump in self.gives_up {
            let distance = i32::try_from(end as i64 - (jump as i64 + 4)).ok()?;
            let place = code.get_mut(jump..)?.first_chunk_mut()?;
            *place = distance.to_le_bytes();
        }
        Some(code)
    }

    /// The way back, then the entry: with the thread's block in rcx, the site in
    /// rax, the guard set, and all of `saved` saved. Gives the way back of then.
    fn enter(&mut self) -> Option<u64> {
        let place = self.place;
        let guarded = self.code.here();
        self.clear_guard();
        let unguarded = self.code.here();
        self.give_back();
        self.move_stack(self.lowered - entry::SKIPPED);
        let call = near_jump(self.code.here(), place.trampoline + CALL)?;
        self.code.bytes(&call);

        // The trampoline's own first instruction goes down to `SKIPPED`, less
        // what its displaced code has pushed.
        self.move_stack(place.lowered + entry::SKIPPED - self.lowered);
        self.store(RCX, 8);
        self.store(RAX, 16);
        if !place.flags_dead {
            self.code.bytes(&SAVE_FLAGS);
        }
        self.load_block()?;
        self.code.bytes(&[0x48, 0x85, 0xc9]); // test rcx, rcx
        self.jump_if(0x74, unguarded)?;
        self.code.bytes(&[0x48, 0x83, 0x79, thread::GUARD as u8, 0]); // cmp qword ptr [guard], 0
        self.jump_if(0x75, unguarded)?;
        self.constant(place.site);
        self.code.bytes(&[0x48, 0xc7, 0x04, 0x24]); // mov qword ptr [rsp], MARK
        self.code.bytes(&(MARK as u32).to_le_bytes());
        self.code.bytes(&[0x48, 0x89, 0x61, thread::GUARD as u8]); // mov [guard], rsp
        self.code.bytes(&[0x81, 0x78, site::ARMED as u8]); // cmp dword ptr [armed], number
        self.code.bytes(&place.number.to_le_bytes());
        self.jump_if(0x75, guarded)?;
        for (index, register) in self.saved.clone().into_iter().enumerate() {
            self.store(register, SAVED + 8 * index as i32);
        }
        Some(guarded)
    }

    fn program(&mut self, inline: &Inline, hits: usize) -> Option<()> {
        let start = self.position();
        self.code.bytes(&inline.around.before);
        let gives_up = inline.around.gives_up.iter().map(|at| start + at);
        self.gives_up.extend(gives_up);
        self.code.bytes(&[0x48, 0xff, 0x81]); // inc qword ptr [rcx + hits]
        self.code.bytes(&u32::try_from(hits).ok()?.to_le_bytes());
        self.code.bytes(&inline.code);
        self.code.bytes(&inline.around.after);
        if inline.changed >> RCX & 1 == 1 {
            self.load_block()?;
        }
        self.leave();
        self.move_stack(self.lowered);
        Some(())
    }

    /// As `bpftime_attach_direct_return`: the return address goes to a new entry
    /// of the thread, and the return stub calls the displaced code.
    fn hijack(&mut self) -> Option<()> {
        let key = (self.lowered + 8).to_le_bytes();
        let slot = self.lowered.to_le_bytes();
        let below = (self.lowered - 8).to_le_bytes();
        self.code.bytes(&[0x48, 0x8b, 0x51, thread::TOP as u8]); // mov rdx, [top]
        self.code.bytes(&[0x48, 0x8d, 0xb4, 0x24]); // lea rsi, [key]
        self.code.bytes(&key);
        self.code.bytes(&[0x48, 0x39, 0x72, 0xe0]); // cmp [rdx - 32], rsi
        self.give_up_if(0x86); // jbe
        self.code.bytes(&[0x48, 0x3b, 0x51, thread::END as u8]); // cmp rdx, [end]
        self.give_up_if(0x83); // jae
        self.code.bytes(&[0x48, 0x89, 0x42, thread::SITE as u8]); // mov [rdx + site], rax
        self.code.bytes(&[0x48, 0x8b, 0x40, site::EXIT as u8]); // mov rax, [rax + exit]
        self.code.bytes(&[0x48, 0x8b, 0x40, site::NEWEST as u8]); // mov rax, [rax + newest]
        self.code.bytes(&[0x48, 0x89, 0x42, thread::NEWEST as u8]); // mov [rdx + newest], rax
        self.code.bytes(&[0x48, 0x8b, 0x84, 0x24]); // mov rax, [slot]
        self.code.bytes(&slot);
        self.code
            .bytes(&[0x48, 0x89, 0x42, thread::RETURN_ADDRESS as u8]); // mov [rdx + ra], rax
        self.code.bytes(&[0x48, 0x89, 0x32]); // mov [rdx], rsi
        self.code.bytes(&[0x48, 0x8d, 0x52, thread::ENTRY as u8]); // lea rdx, [rdx + entry]
        self.code.bytes(&[0x48, 0x89, 0x51, thread::TOP as u8]); // mov [top], rdx
        self.constant(stub::label());
        self.code.bytes(&[0x48, 0x89, 0x84, 0x24]); // mov [slot], rax
        self.code.bytes(&slot);
        self.constant(self.place.trampoline + DISPLACED);
        self.code.bytes(&[0x48, 0x89, 0x84, 0x24]); // mov [slot - 8], rax
        self.code.bytes(&below);
        self.leave();
        self.move_stack(self.lowered - entry::SKIPPED);
        self.code.jump(stub::call());
        Some(())
    }

    /// The guard goes, and registers and flags come back.
    fn leave(&mut self) {
        self.clear_guard();
        self.load_saved();
        self.give_back();
    }

    fn load_saved(&mut self) {
        for (index, register) in self.saved.clone().into_iter().enumerate() {
            self.load(register, SAVED + 8 * index as i32);
        }
    }

    /// Flags, rax and rcx as they were found.
    fn give_back(&mut self) {
        if !self.place.flags_dead {
            self.code.bytes(&RESTORE_FLAGS);
        }
        self.load(RAX, 16);
        self.load(RCX, 8);
    }

    /// `mov rcx, fs:[the thread's block]`.
    fn load_block(&mut self) -> Option<()> {
        self.code.bytes(&[0x64, 0x48, 0x8b, 0x0c, 0x25]);
        let word = i32::try_from(block_word()).ok()?;
        self.code.bytes(&word.to_le_bytes());
        Some(())
    }

    /// `mov qword ptr [guard], 0`.
    fn clear_guard(&mut self) {
        let guard = thread::GUARD as u8;
        self.code.bytes(&[0x48, 0xc7, 0x41, guard, 0, 0, 0, 0]);
    }

    /// `mov rax, value`.
    fn constant(&mut self, value: u64) {
        self.code.bytes(&[0x48, 0xb8]);
        self.code.bytes(&value.to_le_bytes());
    }

    /// `lea rsp, [rsp + by]`.
    fn move_stack(&mut self, by: i32) {
        self.code.bytes(LEA_RSP);
        self.code.bytes(&by.to_le_bytes());
    }

    /// `mov [rsp + at], register`.
    fn store(&mut self, register: usize, at: i32) {
        self.access(0x89, register, at);
    }

    /// `mov register, [rsp + at]`.
    fn load(&mut self, register: usize, at: i32) {
        self.access(0x8b, register, at);
    }

    fn access(&mut self, opcode: u8, register: usize, at: i32) {
        let (high, low) = ((register >> 3) as u8, (register & 7) as u8);
        let rex = 0x48 | high << 2;
        match i8::try_from(at) {
            Ok(at) => {
                let code = [rex, opcode, 0x44 | low << 3, 0x24, at as u8];
                self.code.bytes(&code);
            }
            Err(_) => {
                self.code.bytes(&[rex, opcode, 0x84 | low << 3, 0x24]);
                self.code.bytes(&at.to_le_bytes());
            }
        }
    }

    /// A conditional jump of two bytes, backwards.
    fn jump_if(&mut self, opcode: u8, target: u64) -> Option<()> {
        let distance = target.wrapping_sub(self.code.here() + 2) as i64;
        let [distance] = i8::try_from(distance).ok()?.to_le_bytes();
        self.code.bytes(&[opcode, distance]);
        Some(())
    }

    /// A conditional jump to the end that gives up.
    fn give_up_if(&mut self, condition: u8) {
        self.code.bytes(&[0x0f, condition]);
        self.gives_up.push(self.position());
        self.code.bytes(&[0; 4]);
    }

    fn position(&self) -> usize {
        self.code.len()
    }
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
