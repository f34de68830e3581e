//! Proves that a program is safe to run before anything runs it. It knows no
//! map store, no helper's code and no machine code: maps and prototypes reach
//! it through [`Env`].

//! Reading order: `tnum` and `range` (what is known of a number), `alu` and
//! `branch` (what instructions do to that), `state` (registers and stack),
//! `cfg`, `opcode` and `layout` (the text), `walk` (all paths),
//! `step`, `pointer`, `mem`, `ctx`, `packet`, `socket`, `stack`, `fields`, `compat` (one instruction),
//! `call`, `argument`, `kfunc`, `dynptr`, `iter` (calls),
//! `global` (functions by their prototype), `callback`, `lock`,
//! `checkpoint`, `precision`, `progress` and `prune` (when paths meet),
//! `depth`, `log`.
//!
//! It follows the kernel's verifier (Linux 6.18) for a privileged loader:
//! pointers may be stored and printed, uninitialised stack may be read.

mod alu;
mod argument;
mod branch;
mod call;
mod callback;
mod cfg;
mod checkpoint;
mod compat;
mod ctx;
mod depth;
mod dynptr;
mod fields;
mod global;
mod iter;
mod kfunc;
mod layout;
mod lock;
mod log;
mod mem;
mod object;
mod opcode;
mod packet;
mod pointer;
mod precision;
mod progress;
mod prune;
mod range;
mod socket;
mod stack;
mod state;
mod step;
mod tnum;
mod walk;

use uapi::Errno;

use crate::helper::{self, Proto};
use crate::program::{ProgramSpec, VerifiedProgram};

use cfg::Cfg;
use log::Trace;
use walk::Walk;

pub use fields::{FieldKind, MapField, MapFields};
pub use log::{Keep, Log};
pub use object::{KernelField, KernelTypes};

/// What the verifier must know of a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapInfo {
    /// Object id, as `ld_imm64` carries it.
    pub id: u32,
    /// `BPF_MAP_TYPE_*`.
    pub map_type: u32,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes, of one CPU.
    pub value_size: u32,
    /// Number of entries (bytes for a ring buffer).
    pub max_entries: u32,
    /// `BPF_F_*` of `BPF_MAP_CREATE`.
    pub map_flags: u32,
    /// Contents of a frozen `BPF_F_RDONLY_PROG` array that nobody can change
    /// any more: loads from it are folded to constants.
    pub rodata: Option<Vec<u8>>,
    /// What the maps in an array or hash of maps are like.
    pub inner: Option<Box<MapInfo>>,
    /// Parts of a value that are more than bytes.
    pub fields: MapFields,
}

/// What surrounds a program: the maps and helpers it may name.
pub trait Env {
    /// The map with this object id.
    fn map(&self, id: u32) -> Option<MapInfo>;
    /// The prototype of a helper, if programs here may call it.
    fn helper(&self, id: u32) -> Option<&Proto>;

    /// The kernel's structures, where programs are judged for the kernel.
    fn kernel_types(&self) -> Option<&dyn KernelTypes> {
        None
    }

    /// Whether to accept what RFC 9669 defines and the kernel refuses, though
    /// it is harmless: division by a constant 0, shifts by a constant of the
    /// register's width or more, code that nothing reaches.
    fn accepts_all_of_rfc9669(&self) -> bool {
        false
    }
}

/// Why a program was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (instruction {insn})")]
pub struct VerifyError {
    /// The instruction that could not be proven.
    pub insn: usize,
    /// What `BPF_PROG_LOAD` returns: EINVAL, EACCES, EPERM, E2BIG.
    pub errno: Errno,
    /// The reason, in the kernel's words where tools look for them.
    pub message: String,
}

/// Proves `spec` safe in `env`, or says which instruction could not be proven.
///
/// The log receives what `BPF_PROG_LOAD` would put into `log_buf` at `log.level`.
///
/// # Errors
/// The first instruction that is malformed or cannot be proven safe.
pub fn verify(
    spec: ProgramSpec,
    env: &dyn Env,
    log: Option<&mut Log>,
) -> Result<VerifiedProgram, VerifyError> {
    verify_paths(spec, env, log, None)
}

/// As [`verify`], without ever ending a path because a like state was proven
/// before: a slow second opinion for tests.
///
/// # Errors
/// As [`verify`]; E2BIG where the paths have more than `most` instructions.
#[cfg(feature = "testing")]
pub fn verify_every_path(
    spec: ProgramSpec,
    env: &dyn Env,
    most: u32,
) -> Result<VerifiedProgram, VerifyError> {
    verify_paths(spec, env, None, Some(most))
}

/// With `every`, walks each path to its end, so many instructions at most.
fn verify_paths(
    spec: ProgramSpec,
    env: &dyn Env,
    log: Option<&mut Log>,
    every: Option<u32>,
) -> Result<VerifiedProgram, VerifyError> {
    let mut trace = Trace::new(log);
    if let Err(refusal) = check_type(spec.prog_type) {
        return Err(refuse(&spec, &mut trace, 0, refusal, None));
    }
    let cfg = match Cfg::build(&spec.insns, env) {
        Ok(cfg) => cfg,
        Err((at, refusal)) => return Err(refuse(&spec, &mut trace, at, refusal, None)),
    };
    let layout = layout::check(&spec.info, &cfg, &spec.insns);
    let checked = layout
        .and_then(|()| lock::check_maps(spec.prog_type, cfg.named()))
        .and_then(|()| compat::check_sleepable(spec.prog_flags, cfg.named()));
    if let Err(refusal) = checked {
        return Err(refuse(&spec, &mut trace, 0, refusal, None));
    }
    let mut walk = Walk::new(&spec, env, &cfg, trace);
    if let Some(most) = every {
        (walk.prunes, walk.limit) = (false, most);
    }
    walk.trace_start();
    let result = match walk.run_all().and_then(|()| walk.check_callbacks()) {
        Ok(()) => {
            walk.trace_depths();
            walk.check_depth()
        }
        Err(refusal) => Err(refusal),
    };
    match result {
        Ok(stack_bytes) => {
            let facts = walk.facts(stack_bytes);
            walk.trace_end();
            Ok(VerifiedProgram { spec, facts })
        }
        Err(refusal) => {
            let (at, found) = (walk.at, walk.registers_in_use());
            let error = refuse(&spec, &mut walk.trace, at, refusal, Some(&found));
            walk.trace_end();
            Err(error)
        }
    }
}

/// Logs a refusal and ties it to its instruction. `found` are the registers
/// that a walk found there.
fn refuse(
    spec: &ProgramSpec,
    trace: &mut Trace<'_>,
    at: usize,
    fail: Fail,
    found: Option<&str>,
) -> VerifyError {
    trace.refused(spec, at, &fail, found);
    let mut message = fail.text;
    if let Some(hint) = fail.hint {
        message.push_str(": ");
        message.push_str(hint);
    }
    VerifyError {
        insn: at,
        errno: fail.errno,
        message,
    }
}

/// Program types whose context we know.
fn check_type(prog_type: u32) -> Result<(), Fail> {
    if helper::kernel::ProgTypes::ALL.contains(prog_type) {
        return Ok(());
    }
    let text = format!("program type {prog_type} cannot be verified here");
    Err(Fail::einval(text).hint(
        "kprobe (uprobe), tracepoint, raw_tracepoint, perf_event, socket_filter, \
         traffic control and XDP programs can",
    ))
}

/// A refusal before it is tied to an instruction.
#[derive(Debug)]
struct Fail {
    errno: Errno,
    text: String,
    /// What would make the program pass.
    hint: Option<&'static str>,
}

impl Fail {
    fn new(errno: Errno, text: impl Into<String>) -> Fail {
        Fail {
            errno,
            text: text.into(),
            hint: None,
        }
    }

    fn einval(text: impl Into<String>) -> Fail {
        Fail::new(Errno::EINVAL, text)
    }

    fn eacces(text: impl Into<String>) -> Fail {
        Fail::new(Errno::EACCES, text)
    }

    fn hint(mut self, hint: &'static str) -> Fail {
        self.hint = Some(hint);
        self
    }
}
