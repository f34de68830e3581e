//! `bpftime prog dump`: a program's bytecode, its machine code, or what the
//! verifier proved of it.

use std::fmt::Write;
use std::ops::Range;

use clap::ValueEnum;
use iced_x86::{
    Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, SymbolResolver, SymbolResult,
};
use runtime::helpers;
use runtime::maps::helper_at;
use runtime::program::{self, LoadedProgram};
use runtime::session::{Dirs, SessionView, list};
use uapi::insn::{BPF_DW, BPF_IMM, BPF_LD};
use vm::listing::Listed;
use vm::{Facts, ProgramSpec};

use crate::problem::Problem;

/// Print a program of a running tool
///
/// xlated is the bytecode as it was verified, in the kernel's notation; jited is the machine code that this
/// processor runs; facts is what the verifier proved and trampolines rely on.
/// A map's number is its id in bpftime status.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to print
    #[arg(value_name = "WHAT")]
    what: What,
    /// Id or name of the program; all programs if left out
    #[arg(value_name = "PROGRAM")]
    program: Option<String>,
    /// Only programs of the tool with this process id
    #[arg(long, value_name = "PID")]
    session: Option<i32>,
}

const EXAMPLES: &str = "\
Examples:
  bpftime prog dump xlated
  bpftime prog dump jited on_malloc
  bpftime prog dump facts 3 --session 1234";

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Xlated,
    Jited,
    Facts,
}

/// Prints every program that was asked for.
pub fn run(args: &Args) -> Result<(), Problem> {
    let mut text = String::new();
    let mut sessions = 0;
    for path in list(&Dirs::for_cli()) {
        // One that ends meanwhile is as good as ended before.
        let Ok(view) = SessionView::open(&path) else {
            continue;
        };
        if args.session.is_some_and(|pid| view.owner().pid != pid) {
            continue;
        }
        sessions += 1;
        for (id, head) in view.programs() {
            if !wanted(args.program.as_deref(), id, &head) {
                continue;
            }
            let Some(spec) = view.program(id) else {
                continue;
            };
            let name = if spec.name.is_empty() {
                "-"
            } else {
                &spec.name
            };
            let tool = format!("{} of {} ({})", name, view.command(), view.owner().pid);
            let _ = writeln!(text, "program {id}: {tool}");
            dump(&mut text, args.what, &view, id, spec)?;
        }
    }
    if !text.is_empty() {
        return super::super::print(&text);
    }
    let who = args.program.as_deref().unwrap_or("programs");
    Err(if sessions == 0 {
        Problem::new(who, "no tool runs", "start one with bpftime load")
    } else {
        Problem::new(who, "no such program", "bpftime status lists programs")
    })
}

pub(super) fn wanted(asked: Option<&str>, id: u32, spec: &ProgramSpec) -> bool {
    asked.is_none_or(|asked| asked == spec.name || asked.parse() == Ok(id))
}

fn dump(
    text: &mut String,
    what: What,
    view: &SessionView,
    id: u32,
    spec: ProgramSpec,
) -> Result<(), Problem> {
    let refused = |error: &dyn std::fmt::Display| {
        Problem::new(
            id,
            error,
            "report this as a bug: it was accepted when it was loaded",
        )
    };
    match what {
        What::Xlated => xlated(text, &spec),
        What::Jited => {
            let loaded = LoadedProgram::load(view, id).map_err(|error| refused(&error))?;
            jited(text, loaded.code_bytes());
        }
        What::Facts => {
            let verified = program::verify(view, spec, None).map_err(|error| refused(&error))?;
            facts(text, verified.facts());
        }
    }
    Ok(())
}

fn xlated(text: &mut String, spec: &ProgramSpec) {
    let mut at = 0;
    while let Some(&insn) = spec.insns.get(at) {
        if let Some(function) = spec.info.function_at(at as u32) {
            let _ = writeln!(text, "{}:", function.name);
        }
        let next = spec.insns.get(at + 1).copied();
        let _ = writeln!(text, "{at:4}: {}", Listed { insn, next });
        let wide = insn.code == BPF_LD | BPF_IMM | BPF_DW;
        at += if wide { 2 } else { 1 };
    }
}

/// Names of what machine code calls and jumps to.
struct Targets {
    code: Range<u64>,
}

impl SymbolResolver for Targets {
    fn symbol(
        &mut self,
        _: &Instruction,
        _: u32,
        _: Option<u32>,
        address: u64,
        _: u32,
    ) -> Option<SymbolResult<'_>> {
        let name = if self.code.contains(&address) {
            format!("{:#x}", address - self.code.start)
        } else {
            let mut all = helpers::all();
            let helper = all
                .find(|helper| helper.call as usize as u64 == address)
                .or_else(|| helpers::lookup(helper_at(address)?))?;
            format!("bpf_{}", helper.proto.name)
        };
        Some(SymbolResult::with_string(address, name))
    }
}

fn jited(text: &mut String, code: &[u8]) {
    let base = code.as_ptr() as u64;
    let targets = Targets {
        code: base..base + code.len() as u64,
    };
    let mut formatter = IntelFormatter::with_options(Some(Box::new(targets)), None);
    let mut decoder = Decoder::with_ip(64, code, base, DecoderOptions::NONE);
    let mut insn = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut insn);
        let start = (insn.ip() - base) as usize;
        let bytes: String = code[start..start + insn.len()]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut words = String::new();
        formatter.format(&insn, &mut words);
        let _ = writeln!(text, "{start:5x}: {bytes:<22} {words}");
    }
}

fn facts(text: &mut String, facts: &Facts) {
    let names: Vec<&str> = facts
        .helpers
        .iter()
        .filter_map(|&id| helpers::lookup(id))
        .map(|helper| helper.proto.name)
        .collect();
    let words: Vec<String> = (0..64)
        .filter(|bit| facts.ctx_words_read & (1 << bit) != 0)
        .map(|bit| (bit * 8).to_string())
        .collect();
    let rows = [
        ("instructions processed", facts.insns_processed.to_string()),
        (
            "stack of the deepest chain",
            format!("{} bytes", facts.stack_bytes),
        ),
        ("functions begin at", list_of(&facts.subprograms)),
        ("their stacks", list_of(&facts.frame_bytes)),
        ("context bytes read", facts.ctx_bytes.to_string()),
        ("context words read at", or_none(words.join(" "))),
        ("helpers", or_none(names.join(" "))),
        ("maps", list_of(&facts.maps)),
        ("never reached", list_of(&facts.unreachable)),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<27} {value}");
    }
}

fn list_of(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    or_none(numbers.join(" "))
}

fn or_none(text: String) -> String {
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}
