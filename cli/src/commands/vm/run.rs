//! `bpftime vm run`: raw bytecode through verifier and engine. It is the
//! plugin protocol of the public bpf_conformance suite.
//!
//! The program is proven safe before it runs, as every other: its memory is
//! to the verifier the value of an array map.

use std::io::Read;

use uapi::Insn;
use uapi::insn::*;
use uapi::map::BPF_MAP_TYPE_ARRAY;
use uapi::prog::BPF_PROG_TYPE_KPROBE;
use vm::helper::Proto;
use vm::interp::Interpreter;
use vm::jit::CompiledProgram;
use vm::link::{HelperFn, TailCallFn};
use vm::op::{DecodeError, Op};
use vm::verifier::{Env, MapInfo, verify};
use vm::{Linker, ProgramSpec, Run, VerifiedProgram};

use super::helpers;
use crate::commands::print;
use crate::problem::Problem;

/// Run bytecode from standard input and print r0 in hexadecimal
///
/// The program is bytes in hexadecimal, with or without spaces. In r1 it finds
/// the address of MEMORY, in r2 its length. It is verified first. This is what
/// the bpf_conformance suite asks of a plugin.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The bytes that r1 points to, in hexadecimal
    #[arg(value_name = "MEMORY")]
    memory: Option<String>,
    /// What runs it
    #[arg(long, value_enum, default_value_t = Engine::Jit)]
    engine: Engine,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Engine {
    /// The compiler to machine code
    Jit,
    /// The interpreter
    Interp,
}

const EXAMPLES: &str = "\
Examples:
  echo b7 00 00 00 2a 00 00 00  95 00 00 00 00 00 00 00 | bpftime vm run
  echo 61100000 00000000 95000000 00000000 | bpftime vm run '11 22 33 44' --engine interp";

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), Problem> {
    let memory = bytes(args.memory.as_deref().unwrap_or_default())
        .map_err(|error| Problem::new("memory", error, BYTES))?;
    let mut text = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut text);
    read.map_err(|error| Problem::new("standard input", error, "redirect it from a file"))?;
    let program = std::str::from_utf8(&text).map_err(|_| "is not text".to_owned());
    let program = program
        .and_then(bytes)
        .and_then(|bytes| slots(&bytes))
        .map_err(|error| Problem::new("program", error, BYTES))?;
    let r0 = well_formed(&program)
        .and_then(|()| execute(&program, memory, args.engine))
        .map_err(|error| Problem::new("program", error, "nothing was run"))?;
    print(&format!("{r0:#x}\n"))
}

const BYTES: &str = "give pairs of hexadecimal digits, eight bytes for each instruction";

/// Bytes from pairs of hexadecimal digits.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut digits = Vec::new();
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        let digit = c.to_digit(16);
        digits.push(digit.ok_or_else(|| format!("{c:?} is no hexadecimal digit"))? as u8);
    }
    if !digits.len().is_multiple_of(2) {
        return Err("odd number of hexadecimal digits".to_owned());
    }
    Ok(digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

/// Slots from bytes.
fn slots(bytes: &[u8]) -> Result<Vec<Insn>, String> {
    let slots = bytes.chunks_exact(8);
    if bytes.is_empty() || !slots.remainder().is_empty() {
        return Err(format!("{} bytes are no instructions", bytes.len()));
    }
    let insn = |slot: &[u8]| Insn::from_bytes(slot.try_into().expect("eight bytes"));
    Ok(slots.map(insn).collect())
}

/// Checks each instruction by itself, where it jumps and whom it calls.
fn well_formed(insns: &[Insn]) -> Result<(), String> {
    let mut at = 0;
    while at < insns.len() {
        let op = Op::decode(insns[at], insns.get(at + 1).copied());
        let op =
            op.map_err(|error| format!("instruction {at}: {}", undecoded(insns[at], error)))?;
        let rel = match op {
            Op::Jump { rel, .. } | Op::CallSub { rel } => rel.into(),
            Op::Branch { rel, .. } | Op::MayGoto { rel } => i64::from(rel),
            _ => 0,
        };
        let to = at as i64 + 1 + rel;
        if rel != 0 && !(0..insns.len() as i64).contains(&to) {
            return Err(format!(
                "instruction {at}: leads to instruction {to}, out of the program"
            ));
        }
        if let Op::CallHelper { id } = op
            && helpers::lookup(id).is_none()
        {
            return Err(format!("instruction {at}: no helper {id}"));
        }
        at += op.slots();
    }
    Ok(())
}

/// Why these bytes are no instruction; the two groups of RFC 9669 and its
/// drafts that we do not claim by name.
fn undecoded(insn: Insn, error: DecodeError) -> String {
    let packet = matches!(insn.code & 0xe0, BPF_ABS | BPF_IND);
    match insn.code {
        CALLX => format!("{error}: calls through a register (callx) are not supported"),
        code if code & 7 == BPF_LD && packet => {
            format!("{error}: legacy packet access (BPF_ABS, BPF_IND) is not supported")
        }
        _ => error.to_string(),
    }
}

/// A call through a register, as some compilers encode it.
const CALLX: u8 = BPF_JMP | BPF_CALL | BPF_X;

/// A text of the verifier with `insn N` as the user counts them.
fn renumbered(message: &str, prologue: usize) -> String {
    const WORD: &str = "insn ";
    let mut parts = message.split(WORD);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit());
        let (digits, rest) = part.split_at(end.unwrap_or(part.len()));
        out.push_str(WORD);
        match digits.parse::<usize>() {
            Ok(number) => out.push_str(&number.saturating_sub(prologue).to_string()),
            Err(_) => out.push_str(digits),
        }
        out.push_str(rest);
    }
    out
}

/// Verifies and runs a program.
fn execute(program: &[Insn], memory: Vec<u8>, engine: Engine) -> Result<u64, String> {
    let world = World::new(memory);
    let prologue = world.prologue();
    let spec = ProgramSpec {
        prog_type: BPF_PROG_TYPE_KPROBE,
        gpl: true,
        insns: [&prologue, program].concat(),
        ..ProgramSpec::default()
    };
    let verified = verify(spec, &world, None).map_err(|error| {
        let insn = error.insn.saturating_sub(prologue.len());
        let message = renumbered(&error.message, prologue.len());
        format!("instruction {insn}: {message}")
    })?;
    run_verified(&verified, &world, engine).map_err(|error| error.to_string())
}

fn run_verified(
    program: &VerifiedProgram,
    world: &World,
    engine: Engine,
) -> Result<u64, vm::link::LinkError> {
    let (ctx, run) = (std::ptr::null_mut(), std::ptr::null_mut());
    match engine {
        Engine::Jit => {
            let compiled = CompiledProgram::compile(program, world)?;
            // SAFETY: the program was verified for this world and reads no
            // ctx, which its first instruction overwrites; its helpers use no
            // run context.
            Ok(unsafe { compiled.run(ctx, run) })
        }
        Engine::Interp => {
            let interpreter = Interpreter::new(program, world)?;
            // SAFETY: as above.
            Ok(unsafe { interpreter.run(ctx, run) })
        }
    }
}

/// The object id of the map whose value is the program's memory.
const MEMORY: u32 = 1;

/// What surrounds the program: its memory and the helpers.
struct World {
    /// Words, so that the memory is aligned as a map's.
    words: Box<[std::cell::Cell<u64>]>,
    len: u32,
}

impl World {
    fn new(memory: Vec<u8>) -> World {
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            std::cell::Cell::new(u64::from_ne_bytes(word))
        };
        World {
            words: memory.chunks(8).map(word).collect(),
            len: memory.len() as u32,
        }
    }

    /// `r1 = the memory or NULL; r2 = its length`.
    fn prologue(&self) -> Vec<Insn> {
        let source = if self.len == 0 {
            0
        } else {
            BPF_PSEUDO_MAP_VALUE
        };
        let id = if self.len == 0 { 0 } else { MEMORY };
        vec![
            Insn::new(BPF_LD | BPF_IMM | BPF_DW, 1, source, 0, id as i32),
            Insn::new(0, 0, 0, 0, 0),
            Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, self.len as i32),
        ]
    }
}

impl Env for World {
    fn map(&self, id: u32) -> Option<MapInfo> {
        (id == MEMORY && self.len > 0).then(|| MapInfo {
            id,
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: self.len,
            max_entries: 1,
            map_flags: 0,
            rodata: None,
            inner: None,
            fields: vm::verifier::MapFields::default(),
        })
    }

    fn helper(&self, id: u32) -> Option<&Proto> {
        helpers::lookup(id).map(|(proto, _)| proto)
    }

    fn accepts_all_of_rfc9669(&self) -> bool {
        true
    }
}

impl Linker for World {
    fn map(&self, _: u32) -> Option<u64> {
        None
    }

    fn map_value(&self, id: u32, offset: u32) -> Option<u64> {
        let address = self.words.as_ptr() as u64 + u64::from(offset);
        (id == MEMORY && offset < self.len).then_some(address)
    }

    fn helper(&self, id: u32) -> Option<HelperFn> {
        helpers::lookup(id).map(|&(_, function)| function)
    }

    fn kfunc(&self, _: u32) -> Option<HelperFn> {
        None
    }

    fn tail_call(&self) -> TailCallFn {
        no_target
    }
}

unsafe extern "C" fn no_target(_: u64, _: u64, _: *mut Run) -> *const u8 {
    std::ptr::null()
}
