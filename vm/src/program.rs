//! A program before and after it was proven safe.

use uapi::prog::{BPF_PROG_TYPE_KPROBE, BPF_TRACE_KPROBE_SESSION, BPF_TRACE_UPROBE_SESSION};
use uapi::{Errno, Insn};

/// A program as a tool hands it over. Maps are named by object id: an
/// `ld_imm64` with `BPF_PSEUDO_MAP_FD` or `BPF_PSEUDO_MAP_VALUE` carries the
/// id where the kernel's form carries an fd.
#[derive(Clone, Debug, Default)]
pub struct ProgramSpec {
    /// Name given by the loader; may be empty.
    pub name: String,
    /// `BPF_PROG_TYPE_*`.
    pub prog_type: u32,
    /// `expected_attach_type` of `BPF_PROG_LOAD`.
    pub expected_attach_type: u32,
    /// `BPF_F_*` of `BPF_PROG_LOAD`.
    pub prog_flags: u32,
    /// Whether the licence lets it use GPL-only helpers.
    pub gpl: bool,
    /// The instructions, `ld_imm64` as two slots.
    pub insns: Vec<Insn>,
    /// What its BTF says of functions and lines.
    pub info: ProgramInfo,
}

/// What a program's BTF says of its functions and lines; empty without BTF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramInfo {
    /// One per subprogram, ascending by instruction; none without BTF.
    pub functions: Vec<FunctionInfo>,
    /// Source lines, ascending by instruction.
    pub lines: Vec<LineInfo>,
    /// Names of called kernel functions that have no number here
    /// ([`crate::helper::kfunc::UNKNOWN`]), by instruction, ascending: what a
    /// refusal names. Not known any more to who reads a stored program.
    pub unknown_kfuncs: Vec<(u32, String)>,
}

impl ProgramSpec {
    /// Whether it runs at entry and return of a call (`is_kprobe_session`,
    /// `is_uprobe_session`).
    pub fn is_session(&self) -> bool {
        let sessions = [BPF_TRACE_KPROBE_SESSION, BPF_TRACE_UPROBE_SESSION];
        self.prog_type == BPF_PROG_TYPE_KPROBE && sessions.contains(&self.expected_attach_type)
    }
}

impl ProgramInfo {
    /// The function that starts at an instruction.
    pub fn function_at(&self, insn: u32) -> Option<&FunctionInfo> {
        let at = self.functions.binary_search_by_key(&insn, |f| f.insn);
        at.ok().map(|at| &self.functions[at])
    }
}

/// A function: a subprogram with a name and a prototype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Its first instruction.
    pub insn: u32,
    /// Its name.
    pub name: String,
    /// Global functions are verified by their prototype, once.
    pub linkage: Linkage,
    /// Parameters r1…
    pub args: Vec<FuncArg>,
    /// What it returns in r0.
    pub ret: FuncRet,
    /// Whether `bpf_throw` ends here (`exception_callback` tag).
    pub exception_cb: bool,
}

/// Who may call a function (BTF: `vlen` of `BTF_KIND_FUNC`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linkage {
    /// Only this program: verified where it is called.
    #[default]
    Static,
    /// Others too: verified by its prototype.
    Global,
}

/// A parameter of a function, as far as a global function's verification
/// needs it (kernel: `btf_prepare_func_args`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FuncArg {
    /// Any number.
    Scalar,
    /// The program's ctx.
    Ctx,
    /// Memory of this many bytes.
    Mem {
        /// Bytes behind the pointer.
        size: u32,
        /// Whether the caller may pass NULL.
        or_null: bool,
    },
    /// A dynptr on the caller's stack, for reading.
    DynPtr,
    /// Nothing that a global function may take.
    Unsupported {
        /// What loading the program returns.
        errno: Errno,
        /// The kernel's words for it.
        text: String,
    },
}

/// What a function returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FuncRet {
    /// A number.
    #[default]
    Scalar,
    /// Nothing.
    Void,
    /// A structure or pointer: only static functions may.
    Other,
}

/// A line of source that instructions were compiled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineInfo {
    /// The first instruction of the line.
    pub insn: u32,
    /// Path of the source file as the compiler saw it.
    pub file: String,
    /// Line number, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// The line itself.
    pub text: String,
}

/// A program that passed the verifier. Cannot be stored or sent: a process
/// that reads bytecode from a segment verifies it again.
#[derive(Debug)]
pub struct VerifiedProgram {
    pub(crate) spec: ProgramSpec,
    pub(crate) facts: Facts,
}

impl VerifiedProgram {
    /// Takes a program's safety on trust, so that engines can be tested
    /// without the verifier. Not compiled into anything that runs probes.
    #[cfg(any(test, feature = "testing"))]
    pub fn assume_verified(spec: ProgramSpec, facts: Facts) -> VerifiedProgram {
        VerifiedProgram { spec, facts }
    }

    /// The program that was verified.
    pub fn spec(&self) -> &ProgramSpec {
        &self.spec
    }

    /// The instructions.
    pub fn insns(&self) -> &[Insn] {
        &self.spec.insns
    }

    /// What the verifier learnt.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// What the verifier proves about a program, for the JIT and for trampolines.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Bit n is set when the ctx bytes `8n..8n+8` may be read.
    /// Words from 63 on share the last bit.
    pub ctx_words_read: u64,
    /// End of the last ctx byte that may be read directly.
    pub ctx_bytes: u32,
    /// Ids of the helpers that may be called, ascending, without repetition.
    pub helpers: Vec<u32>,
    /// Ids of the maps that are referred to, ascending, without repetition.
    pub maps: Vec<u32>,
    /// Deepest stack over all call chains, in bytes.
    pub stack_bytes: u32,
    /// Stack of each subprogram in bytes, a multiple of 16, in the order of
    /// `subprograms`. A chain's frames add up to at most `stack_bytes`.
    pub frame_bytes: Vec<u32>,
    /// First instruction of each subprogram, ascending; the first is 0.
    pub subprograms: Vec<u32>,
    /// Instructions that no path reaches; an engine may compile them to a trap.
    pub unreachable: Vec<u32>,
    /// Instructions the verifier walked through.
    pub insns_processed: u32,
}
