//! Which bytes of a module are `syscall` instructions, and what leads to each.
//! It reads original bytes only and changes nothing.
//!
//! A `0f 05` counts when decoding its function from the start arrives at it:
//! the same bytes inside another instruction, or in data, are left alone.
//! Outside of all functions that the file tells of there may be data that
//! decodes, so there it must follow `mov eax, number`.

use std::collections::BTreeSet;

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind,
    Register,
};

use crate::module::Module;

/// The instruction's bytes.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `mov rax, 15` before it: rt_sigreturn(2). Its unwind entry begins a byte
/// earlier, in another instruction, so decoding from there is of no use, and
/// unwinders may know the bytes.
const SIGNAL_RETURN: &[u8] = b"\x48\xc7\xc0\x0f\x00\x00\x00";
/// Most instructions before a system call that are looked at.
const MOST_BEFORE: usize = 8;

/// One `syscall` instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Its address.
    pub(crate) addr: u64,
    /// The number in eax, where straight code before it says so.
    pub(crate) nr: Option<u32>,
    /// The instructions from which straight code leads to it, nearest first.
    pub(crate) before: Vec<u64>,
    /// `mov eax, number` comes right before it: hardly data.
    is_certain: bool,
}

impl Found {
    /// One that was found before.
    pub(crate) fn new(addr: u64, nr: Option<u32>, before: Vec<u64>) -> Found {
        Found {
            addr,
            nr,
            before,
            is_certain: true,
        }
    }
}

/// Whether bytes that no file tells of hold a `syscall` instruction that
/// [`find`] would take for one; quick, and wrong only towards "yes".
pub(crate) fn may_hold(code: &[u8]) -> bool {
    positions(code).any(|at| {
        let before = code.get(..at).unwrap_or_default();
        let moves = before
            .len()
            .checked_sub(5)
            .and_then(|from| before.get(from));
        moves == Some(&0xb8) || before.ends_with(SIGNAL_RETURN)
    })
}

/// Whether bytes hold any system call instruction, wherever it begins.
pub(crate) fn may_hold_any(code: &[u8]) -> bool {
    code.windows(2).any(is_call)
}

/// `syscall`, `sysenter` and `int 0x80`.
fn is_call(two: &[u8]) -> bool {
    matches!(two, [0x0f, 0x05 | 0x34] | [0xcd, 0x80])
}

/// How many places of a module may be system call instructions and are not
/// among those of [`find`]: outside of functions, in functions that do not
/// decode, or of the kinds that are not hooked.
pub(crate) fn doubts(module: &Module, found: &[u64]) -> usize {
    let known: BTreeSet<u64> = found.iter().copied().collect();
    let places = module.pieces().flat_map(|(start, bytes)| {
        let calls = bytes.windows(2).enumerate().filter(|(_, two)| is_call(two));
        calls.map(move |(at, _)| start + at as u64)
    });
    places
        .filter(|addr| !known.contains(addr) && !super::pool::holds(*addr))
        .filter(|addr| !is_inside_instruction(module, *addr))
        .count()
}

/// How many instructions of a module's functions make system calls in other
/// ways, which are not hooked: `int 0x80` and `sysenter`.
pub(crate) fn others(module: &Module) -> usize {
    let places = module.pieces().flat_map(|(start, bytes)| {
        let calls = bytes.windows(2).enumerate();
        let calls = calls.filter(|(_, two)| is_call(two) && *two != SYSCALL);
        calls.map(move |(at, _)| start + at as u64)
    });
    places
        .filter(|addr| module.is_in_function(*addr) && decodes_to(module, *addr))
        .count()
}

/// Whether straight decoding of the function around `addr` arrives there.
fn decodes_to(module: &Module, addr: u64) -> bool {
    let code = module.code_around(addr);
    let bytes = code.and_then(|code| {
        let len = (addr + 2).checked_sub(code.start)?;
        Some((code.start, module.original(code.start, len as usize)?))
    });
    let Some((start, bytes)) = bytes else {
        return false;
    };
    let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.ip() < addr && decoder.can_decode() {
        decoder.decode_out(&mut instruction);
    }
    decoder.ip() == addr
}

/// Whether the bytes at `addr` are the inside of an instruction, in a function
/// that decodes to its end.
fn is_inside_instruction(module: &Module, addr: u64) -> bool {
    if !module.is_in_function(addr) {
        return false;
    }
    let Some(code) = module.code_around(addr) else {
        return false;
    };
    let len = (addr + 2).saturating_sub(code.start) as usize;
    let Some(bytes) = module.original(code.start, len) else {
        return false;
    };
    let mut decoder = Decoder::with_ip(64, bytes, code.start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.ip() <= addr {
        if decoder.ip() == addr || !decoder.can_decode() {
            return false;
        }
        decoder.decode_out(&mut instruction);
        // Cut off by the window it is inside of: long instructions end later.
        if instruction.is_invalid() {
            return decoder.ip() > addr && decoder.last_error() == DecoderError::NoMoreBytes;
        }
    }
    true
}

/// All `syscall` instructions of a module, by address.
pub(crate) fn find(module: &Module) -> Vec<Found> {
    let mut found = Vec::new();
    for (start, bytes) in module.pieces() {
        let mut decoded_to = start;
        for at in positions(bytes) {
            let addr = start + at as u64;
            if addr < decoded_to || super::pool::holds(addr) {
                continue;
            }
            let code = module
                .code_around(addr)
                .unwrap_or(start..start + bytes.len() as u64);
            let from = code.start.max(start);
            let to = code.end.clamp(addr + 2, start + bytes.len() as u64);
            if let Some(code) = bytes.get((from - start) as usize..(to - start) as usize) {
                let new = find_in(code, from).into_iter();
                found.extend(new.filter(|found| {
                    found.addr >= decoded_to
                        && (module.is_in_function(found.addr) || found.is_certain)
                }));
                decoded_to = to;
            }
        }
    }
    found
}

fn positions(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes
        .windows(SYSCALL.len())
        .enumerate()
        .filter(|(_, two)| *two == SYSCALL)
        .map(|(at, _)| at)
}

/// The `syscall` instructions of one function, or of code of unknown structure.
fn find_in(code: &[u8], addr: u64) -> Vec<Found> {
    let mut all: Vec<Instruction> = Vec::new();
    let mut targets = BTreeSet::new();
    let mut decoder = Decoder::with_ip(64, code, addr, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
        ) {
            targets.insert(instruction.near_branch_target());
        }
        all.push(instruction);
    }
    let is_syscall = |(_, instruction): &(usize, &Instruction)| instruction.code() == Code::Syscall;
    let found = all.iter().enumerate().filter(is_syscall);
    found
        .map(|(index, instruction)| {
            let inside = (instruction.ip() - addr) as usize;
            if code
                .get(..inside)
                .is_some_and(|code| code.ends_with(SIGNAL_RETURN))
            {
                return Found {
                    addr: instruction.ip(),
                    nr: Some(libc::SYS_rt_sigreturn as u32),
                    before: Vec::new(),
                    is_certain: true,
                };
            }
            let before = straight_before(&all[..index], instruction.ip(), &targets);
            Found {
                addr: instruction.ip(),
                nr: before.iter().find_map(|i| writes_number(i)).flatten(),
                is_certain: before
                    .first()
                    .is_some_and(|i| i.code() == Code::Mov_r32_imm32 && writes_number(i).is_some()),
                before: before.iter().map(|i| i.ip()).collect(),
            }
        })
        .collect()
}

/// The instructions that run one after the other right before `next`, nearest
/// first.
fn straight_before<'a>(
    code: &'a [Instruction],
    mut next: u64,
    targets: &BTreeSet<u64>,
) -> Vec<&'a Instruction> {
    let mut before = Vec::new();
    for instruction in code.iter().rev().take(MOST_BEFORE) {
        let runs_on = instruction.flow_control() == FlowControl::Next
            && !instruction.is_invalid()
            && instruction.next_ip() == next;
        if !runs_on || targets.contains(&next) {
            break;
        }
        before.push(instruction);
        next = instruction.ip();
    }
    before
}

/// What an instruction leaves in eax: `None` when it does not touch it, inside
/// that `None` when it is not a number.
#[expect(
    clippy::option_option,
    reason = "two questions, asked of one instruction after the other"
)]
fn writes_number(instruction: &Instruction) -> Option<Option<u32>> {
    let is_rax = |register: Register| register.full_register() == Register::RAX;
    match instruction.code() {
        Code::Mov_r32_imm32 | Code::Mov_rm32_imm32 | Code::Mov_rm64_imm32
            if is_rax(instruction.op0_register()) =>
        {
            return Some(Some(instruction.immediate(1) as u32));
        }
        Code::Xor_r32_rm32 | Code::Xor_rm32_r32
            if is_rax(instruction.op0_register()) && is_rax(instruction.op1_register()) =>
        {
            return Some(Some(0));
        }
        _ => {}
    }
    // Of the others, those that are known to write their first operand only.
    let known = matches!(
        instruction.mnemonic(),
        Mnemonic::Mov
            | Mnemonic::Lea
            | Mnemonic::Xor
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Add
            | Mnemonic::Sub
            | Mnemonic::Movzx
            | Mnemonic::Movsxd
            | Mnemonic::Movsx
            | Mnemonic::Push
            | Mnemonic::Cmp
            | Mnemonic::Test
            | Mnemonic::Nop
            | Mnemonic::Endbr64
            | Mnemonic::Movups
            | Mnemonic::Movaps
            | Mnemonic::Movq
            | Mnemonic::Movd
    );
    let untouched = known
        && (instruction.op0_kind() != OpKind::Register || !is_rax(instruction.op0_register()));
    (!untouched).then_some(None)
}
