//! From stored bytecode to code that runs: verify against a session's maps
//! and the helpers, link to their addresses here, compile. It knows no hook.

use std::ptr;
use std::sync::Arc;

use uapi::Errno;
use uapi::helper::*;
use uapi::insn::{BPF_CALL, BPF_JMP, BPF_PSEUDO_KFUNC_CALL};
use uapi::map as types;
use vm::helper::{self, Proto};
use vm::jit::CompiledProgram;
use vm::link::{ArrayLayout, Direct, Entry, HelperFn, LinkError, Linker, TailCallFn};
use vm::verifier::{self, Env, KernelTypes, Log, MapInfo, VerifyError};
use vm::{Facts, ProgramSpec, VerifiedProgram};

use crate::clock;
use crate::helpers::{self, Helper};
use crate::kernel_types::KernelStructures;
use crate::maps::kernel::end_run;
use crate::maps::{Map, MapSpec};
use crate::run::RunState;
use crate::session::{Session, SessionView};

/// Where programs and the maps they name come from.
pub trait Objects {
    /// A map by object id; the same one each time.
    fn map(&self, id: u32) -> Option<Arc<Map>>;
    /// A program by object id.
    fn program(&self, id: u32) -> Option<ProgramSpec>;
}

impl Objects for Session {
    fn map(&self, id: u32) -> Option<Arc<Map>> {
        Session::map(self, id)
    }

    fn program(&self, id: u32) -> Option<ProgramSpec> {
        Session::program(self, id)
    }
}

impl Objects for SessionView {
    fn map(&self, id: u32) -> Option<Arc<Map>> {
        SessionView::map(self, id)
    }

    fn program(&self, id: u32) -> Option<ProgramSpec> {
        SessionView::program(self, id)
    }
}

/// Why a program cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The session has no such program (any more).
    #[error("no such program")]
    Missing,
    /// It was not proven safe.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// It walks a map that lives in the kernel.
    #[error("it walks the elements of a map that went to the kernel")]
    Walks,
    /// It could not be compiled.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Proves a program safe with the maps of `objects` and the helpers that
/// programs here may call. `log` receives what `BPF_PROG_LOAD` logs.
///
/// # Errors
/// The first instruction that could not be proven.
pub fn verify(
    objects: &dyn Objects,
    spec: ProgramSpec,
    log: Option<&mut Log>,
) -> Result<VerifiedProgram, VerifyError> {
    verifier::verify(spec, &Names::new(objects), log)
}

/// As [`verify`], for a program that will not run: it may call whatever
/// helpers the kernel has and read its structures.
///
/// # Errors
/// As [`verify`].
pub fn verify_only(
    objects: &dyn Objects,
    types: &KernelStructures,
    spec: ProgramSpec,
    log: Option<&mut Log>,
) -> Result<VerifiedProgram, VerifyError> {
    let catalogue = Catalogue {
        names: Names::new(objects),
        prog_type: spec.prog_type,
        types,
    };
    verifier::verify(spec, &catalogue, log)
}

/// How programs meet the maps of `objects` and the helpers of this process,
/// for engines that [`LoadedProgram`] does not drive. The addresses are valid
/// as long as the maps.
pub fn linker(objects: &dyn Objects) -> impl Linker + '_ {
    Names::new(objects)
}

/// What verifier and linker ask, answered from a session.
struct Names<'a> {
    objects: &'a dyn Objects,
    /// The helpers that programs call.
    lookup: fn(u32) -> Option<&'static Helper>,
}

impl<'a> Names<'a> {
    fn new(objects: &'a dyn Objects) -> Names<'a> {
        Names {
            objects,
            lookup: helpers::lookup,
        }
    }
}

impl Names<'_> {
    fn info(id: u32, spec: &MapSpec, rodata: Option<Vec<u8>>) -> Option<MapInfo> {
        Some(MapInfo {
            id,
            map_type: spec.map_type,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            map_flags: spec.map_flags,
            rodata,
            inner: None,
            fields: spec.fields()?,
        })
    }
}

impl Env for Names<'_> {
    fn map(&self, id: u32) -> Option<MapInfo> {
        let map = self.objects.map(id)?;
        let mut info = Names::info(id, map.spec(), map.rodata())?;
        if let Some(template) = map.spec().template() {
            info.inner = Some(Box::new(Names::info(0, &template, None)?));
        }
        Some(info)
    }

    fn helper(&self, id: u32) -> Option<&Proto> {
        helpers::lookup(id).map(|helper| &helper.proto)
    }
}

/// What the verifier asks of a program that will not run: helpers are the
/// kernel's for its type.
struct Catalogue<'a> {
    names: Names<'a>,
    prog_type: u32,
    types: &'a KernelStructures,
}

impl Env for Catalogue<'_> {
    fn map(&self, id: u32) -> Option<MapInfo> {
        Env::map(&self.names, id)
    }

    fn helper(&self, id: u32) -> Option<&Proto> {
        let helper = helper::kernel::find(id, self.prog_type)?;
        let callable = helper.types.contains(self.prog_type);
        callable.then_some(&helper.proto)
    }

    fn kernel_types(&self) -> Option<&dyn KernelTypes> {
        self.types.get()
    }
}

impl Linker for Names<'_> {
    fn map(&self, id: u32) -> Option<u64> {
        // `LoadedProgram` keeps the map, so the address stays its.
        self.objects.map(id).map(|map| Arc::as_ptr(&map) as u64)
    }

    fn array(&self, id: u32) -> Option<ArrayLayout> {
        self.objects.map(id)?.layout()
    }

    fn direct(&self, id: u32, helper: u32) -> Option<Direct> {
        // Where programs run for something else, helpers may do, too.
        let (here, plain) = ((self.lookup)(helper), helpers::lookup(helper));
        let is_plain = ptr::eq(here?, plain?);
        self.objects.map(id).filter(|_| is_plain)?.direct(helper)
    }

    fn map_value(&self, id: u32, offset: u32) -> Option<u64> {
        let value = self.objects.map(id)?.direct_value(offset).ok()?;
        Some(value as u64)
    }

    fn helper(&self, id: u32) -> Option<HelperFn> {
        (self.lookup)(id).map(|helper| helper.call)
    }

    fn kfunc(&self, number: u32) -> Option<HelperFn> {
        helpers::kfunc_function(number)
    }

    fn tail_call(&self) -> TailCallFn {
        helpers::tail_call_target
    }
}

/// A program that runs in this process.
pub struct LoadedProgram {
    compiled: CompiledProgram,
    calls_kfuncs: bool,
    facts: Facts,
    needs_vcpu: bool,
    ends_runs: bool,
    /// Their addresses are in the code.
    maps: Vec<Arc<Map>>,
}

impl LoadedProgram {
    /// Verifies and compiles the program `id`.
    ///
    /// # Errors
    /// When it is gone, not proven safe, or cannot be compiled.
    pub fn load(objects: &dyn Objects, id: u32) -> Result<LoadedProgram, LoadError> {
        LoadedProgram::load_as(&Names::new(objects), id)
    }

    /// The same for a program whose every run is for a
    /// [`Sample`](crate::sample::Sample).
    ///
    /// # Errors
    /// As [`LoadedProgram::load`].
    pub fn load_sampled(objects: &dyn Objects, id: u32) -> Result<LoadedProgram, LoadError> {
        let names = Names {
            objects,
            lookup: helpers::lookup_sampled,
        };
        LoadedProgram::load_as(&names, id)
    }

    fn load_as(names: &Names<'_>, id: u32) -> Result<LoadedProgram, LoadError> {
        let objects = names.objects;
        let spec = objects.program(id).ok_or(LoadError::Missing)?;
        let verified = verify(objects, spec, None)?;
        let facts = verified.facts();
        let mut maps = facts.maps.iter().filter_map(|&id| objects.map(id));
        if facts.helpers.contains(&BPF_FUNC_FOR_EACH_MAP_ELEM) && maps.any(|map| map.is_relayed()) {
            return Err(LoadError::Walks);
        }
        Ok(LoadedProgram::compile_as(names, &verified)?)
    }

    /// Compiles a program that was verified against the same `objects`.
    ///
    /// # Errors
    /// When a map went away meanwhile, or memory is short.
    pub fn compile(
        objects: &dyn Objects,
        verified: &VerifiedProgram,
    ) -> Result<LoadedProgram, LinkError> {
        LoadedProgram::compile_as(&Names::new(objects), verified)
    }

    fn compile_as(
        names: &Names<'_>,
        verified: &VerifiedProgram,
    ) -> Result<LoadedProgram, LinkError> {
        let objects = names.objects;
        let facts = verified.facts().clone();
        if facts.helpers.iter().any(|id| READS_CLOCKS.contains(id)) {
            clock::init();
        }
        // First hold the maps, then let their addresses be taken.
        let maps: Vec<Arc<Map>> = facts
            .maps
            .iter()
            .filter_map(|&id| objects.map(id))
            .collect();
        let compiled = CompiledProgram::compile(verified, names)?;
        let is_kfunc_call = |insn: &uapi::Insn| {
            insn.code == BPF_JMP | BPF_CALL && insn.src() == BPF_PSEUDO_KFUNC_CALL
        };
        Ok(LoadedProgram {
            compiled,
            calls_kfuncs: verified.insns().iter().any(is_kfunc_call),
            needs_vcpu: needs_vcpu(&facts, &maps),
            ends_runs: ends_runs(&facts, &maps),
            facts,
            maps,
        })
    }

    /// The function to call with the target's registers and a
    /// [`RunState`]; valid while this lives.
    pub fn entry(&self) -> Entry {
        self.compiled.entry()
    }

    /// What a tail call into the program jumps to; valid while this lives.
    pub fn tail_target(&self) -> *const u8 {
        self.compiled.tail_target()
    }

    /// The maps that it was compiled with, and their ids.
    pub fn maps(&self) -> impl Iterator<Item = (u32, &Arc<Map>)> {
        self.facts.maps.iter().copied().zip(&self.maps)
    }

    /// The machine code.
    pub fn code_bytes(&self) -> &[u8] {
        self.compiled.code_bytes()
    }

    /// What the verifier learnt.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether a run must hold a vCPU: the program, or one it may tail-call,
    /// uses values or rings that have one writer per CPU.
    pub fn needs_vcpu(&self) -> bool {
        self.needs_vcpu
    }

    /// Whether a run must end with [`end_run`]: the program, or one it may
    /// tail-call, may have copies of a kernel map's elements.
    pub fn ends_runs(&self) -> bool {
        self.ends_runs
    }

    /// Whether the program's code calls helpers or other programs
    /// ([`CompiledProgram::calls`]).
    pub fn calls(&self) -> bool {
        self.compiled.calls()
    }

    /// Whether a run changes no vector register, takes DF as it is, needs no
    /// aligned stack and no vCPU, and only reads its [`RunState`], if `quiet`
    /// are the addresses of those of `helpers::quiet` for which this is so.
    pub fn is_quiet(&self, quiet: &[u64]) -> bool {
        let called = self.compiled.called();
        let calls_quiet = called.is_some_and(|called| called.iter().all(|at| quiet.contains(at)));
        calls_quiet && !self.needs_vcpu && !self.ends_runs
    }

    /// The words of `pt_regs` that a run may read, by their bits: the
    /// program itself, or what it calls.
    pub fn registers_read(&self) -> u64 {
        let blind = !self.calls_kfuncs && self.facts.helpers.iter().all(|id| BLIND.contains(id));
        if blind { self.facts.ctx_words_read } else { !0 }
    }

    /// Whether all that a run may see of the target's registers is in a record
    /// of a system call: it looks at no word of its ctx that leads to them, and
    /// neither does what it calls. `leads` tells that its ctx's first word does.
    pub fn needs_record_only(&self, leads: bool) -> bool {
        let looks = |id: &u32| LOOKS_AT_RUNS.contains(id);
        let reads_memory = !self.facts.helpers.iter().all(|id| BLIND.contains(id));
        let first_word = self.facts.ctx_words_read & 1 != 0;
        !self.calls_kfuncs
            && !self.facts.helpers.iter().any(looks)
            && !(leads && (first_word || reads_memory))
    }

    /// Runs the program once; returns r0.
    ///
    /// # Safety
    /// `ctx` is what the program type promises (168 bytes of `pt_regs` for
    /// kprobe programs), `run.env` is live, and `run.vcpu` is held when
    /// [`LoadedProgram::needs_vcpu`].
    pub unsafe fn run(&self, ctx: *mut u8, run: &mut RunState) -> u64 {
        // SAFETY: the caller's contract; maps and code live as long as `self`.
        let result = unsafe { self.entry()(ctx, run.as_run()) };
        if self.ends_runs {
            end_run();
        }
        result
    }
}

/// Helpers that read clocks.
const READS_CLOCKS: [u32; 5] = [
    BPF_FUNC_KTIME_GET_NS,
    BPF_FUNC_KTIME_GET_BOOT_NS,
    BPF_FUNC_KTIME_GET_COARSE_NS,
    BPF_FUNC_KTIME_GET_TAI_NS,
    BPF_FUNC_GET_PRANDOM_U32,
];

/// Helpers that look at the registers of a run or run another program, or change
/// what the run gives.
const LOOKS_AT_RUNS: [u32; 4] = [
    BPF_FUNC_GET_STACK,
    BPF_FUNC_GET_STACKID,
    BPF_FUNC_TAIL_CALL,
    BPF_FUNC_OVERRIDE_RETURN,
];

/// Helpers that never look at the target's registers: neither by themselves
/// nor through a pointer into the ctx.
const BLIND: [u32; 20] = [
    BPF_FUNC_MAP_LOOKUP_ELEM,
    BPF_FUNC_MAP_UPDATE_ELEM,
    BPF_FUNC_MAP_DELETE_ELEM,
    BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM,
    BPF_FUNC_RINGBUF_OUTPUT,
    BPF_FUNC_RINGBUF_RESERVE,
    BPF_FUNC_RINGBUF_SUBMIT,
    BPF_FUNC_RINGBUF_DISCARD,
    BPF_FUNC_RINGBUF_QUERY,
    BPF_FUNC_KTIME_GET_NS,
    BPF_FUNC_KTIME_GET_BOOT_NS,
    BPF_FUNC_KTIME_GET_COARSE_NS,
    BPF_FUNC_KTIME_GET_TAI_NS,
    BPF_FUNC_GET_CURRENT_PID_TGID,
    BPF_FUNC_GET_CURRENT_UID_GID,
    BPF_FUNC_GET_CURRENT_COMM,
    BPF_FUNC_GET_SMP_PROCESSOR_ID,
    BPF_FUNC_GET_PRANDOM_U32,
    BPF_FUNC_GET_FUNC_IP,
    BPF_FUNC_GET_ATTACH_COOKIE,
];

fn ends_runs(facts: &Facts, maps: &[Arc<Map>]) -> bool {
    maps.iter().any(|map| map.is_relayed()) || facts.helpers.contains(&BPF_FUNC_TAIL_CALL)
}

fn needs_vcpu(facts: &Facts, maps: &[Arc<Map>]) -> bool {
    let per_cpu = [
        types::BPF_MAP_TYPE_PERCPU_ARRAY,
        types::BPF_MAP_TYPE_PERCPU_HASH,
        types::BPF_MAP_TYPE_LRU_PERCPU_HASH,
    ];
    let helpers = [BPF_FUNC_PERF_EVENT_OUTPUT, BPF_FUNC_TAIL_CALL];
    let is_per_cpu = |map: &Arc<Map>| {
        let spec = map.spec();
        per_cpu.contains(&spec.map_type) || per_cpu.contains(&spec.inner.map_type)
    };
    let is_relayed = |map: &Arc<Map>| map.is_relayed();
    maps.iter().any(is_per_cpu)
        || maps.iter().any(is_relayed)
        || facts.helpers.iter().any(|id| helpers.contains(id))
}

impl From<&LoadError> for Errno {
    fn from(error: &LoadError) -> Errno {
        match error {
            LoadError::Missing => Errno::ENOENT,
            LoadError::Walks => Errno::ENOTSUPP,
            LoadError::Verify(error) => error.errno,
            LoadError::Link(_) => Errno::ENOMEM,
        }
    }
}
