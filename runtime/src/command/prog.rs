//! `BPF_PROG_LOAD` and `BPF_PROG_BIND_MAP`, and the program as an object. It
//! knows no engine and no hook.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uapi::helper::*;
use uapi::insn::{
    BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_IDX, BPF_PSEUDO_MAP_IDX_VALUE,
    BPF_PSEUDO_MAP_VALUE,
};
use uapi::prog::{
    BPF_F_XDP_HAS_FRAGS, BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_PERF_EVENT,
    BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_TRACEPOINT, type_name,
};
use uapi::{Errno, Insn};
use vm::ProgramSpec;
use vm::verifier::Log;

use super::foreign::Foreign;
use super::kfunc::{self, KernelFunctions};
use super::object::{Home, check_name, locked};
use super::trace::PRINTS;
use super::{Bpf, BtfObject, Extra, MapObject};
use crate::maps::Map;
use crate::program::{self, Objects};
use crate::session::Session;
use crate::session::link::ProgramFacts;
use crate::tasks::TaskFields;
use crate::types::{self, Records};

/// Program types that are loaded, fewer than can be verified. All but
/// socket_filter, which serves the feature probes of loaders, can be attached.
const PROG_TYPES: [u32; 5] = [
    BPF_PROG_TYPE_SOCKET_FILTER,
    BPF_PROG_TYPE_KPROBE,
    BPF_PROG_TYPE_TRACEPOINT,
    BPF_PROG_TYPE_PERF_EVENT,
    BPF_PROG_TYPE_RAW_TRACEPOINT,
];

const NEEDED: &str = "which takes CAP_BPF and CAP_PERFMON, as root has";
const RUNNABLE: &str =
    "user space hosts kprobe (uprobe), tracepoint, raw_tracepoint and perf_event programs";

/// Flags of `BPF_PROG_LOAD` that change nothing here or are honoured:
/// strict and any alignment, the two kinds of test runs of the verifier's
/// own state, sleepable, register invariants.
const PROG_FLAGS: u32 = 0b1001_1111;

/// Helpers that give tasks, and those that read them.
const TASKS: [u32; 2] = [BPF_FUNC_GET_CURRENT_TASK, BPF_FUNC_GET_CURRENT_TASK_BTF];
const READS: [u32; 4] = [
    BPF_FUNC_PROBE_READ,
    BPF_FUNC_PROBE_READ_STR,
    BPF_FUNC_PROBE_READ_KERNEL,
    BPF_FUNC_PROBE_READ_KERNEL_STR,
];

/// `BPF_LD | BPF_IMM | BPF_DW`.
const LD_IMM64: u8 = BPF_LD | BPF_IMM | BPF_DW;

/// A program that an fd, a link or a map refers to.
pub struct ProgObject {
    id: u32,
    spec: ProgramSpec,
    home: Arc<Home>,
    /// The maps it names and those that were bound to it, by id.
    maps: Mutex<BTreeMap<u32, Arc<MapObject>>>,
    btf: Option<ProgBtf>,
    /// Time since boot at which it was loaded.
    load_time: Duration,
    verified_insns: u32,
    ctx_bytes: u32,
    samples: AtomicBool,
    foreign: Option<Foreign>,
    /// What the caller keeps with it.
    pub extra: Extra,
}

impl ProgObject {
    /// A program of another session, to be looked at.
    pub(super) fn of_other(
        home: &Arc<Home>,
        id: u32,
        spec: ProgramSpec,
        facts: &ProgramFacts,
        (maps, btf): (Vec<Arc<MapObject>>, Option<Arc<BtfObject>>),
        foreign: Foreign,
    ) -> ProgObject {
        ProgObject {
            id,
            spec,
            home: Arc::clone(home),
            maps: Mutex::new(maps.into_iter().map(|map| (map.id(), map)).collect()),
            btf: btf.map(|object| ProgBtf {
                object,
                functions: facts.functions.clone(),
                lines: facts.lines.clone(),
            }),
            load_time: Duration::from_nanos(facts.load_time),
            verified_insns: facts.verified_insns,
            ctx_bytes: facts.ctx_bytes,
            samples: AtomicBool::new(false),
            foreign: Some(foreign),
            extra: Extra::default(),
        }
    }

    pub(super) fn foreign(&self) -> Option<&Foreign> {
        self.foreign.as_ref()
    }

    /// The object id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The program, with map ids in place of fds.
    pub fn spec(&self) -> &ProgramSpec {
        &self.spec
    }

    /// Its types, when the loader described them.
    pub fn btf(&self) -> Option<&ProgBtf> {
        self.btf.as_ref()
    }

    /// Ids of the maps it uses, ascending.
    pub fn map_ids(&self) -> Vec<u32> {
        locked(&self.maps).keys().copied().collect()
    }

    /// The maps it names and those that were bound to it.
    pub fn maps(&self) -> Vec<Arc<MapObject>> {
        locked(&self.maps).values().cloned().collect()
    }

    /// Time since boot at which it was loaded.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Instructions the verifier walked through.
    pub fn verified_insns(&self) -> u32 {
        self.verified_insns
    }

    /// End of the last byte of its context that it may read.
    pub fn ctx_bytes(&self) -> u32 {
        self.ctx_bytes
    }

    /// It was put on an event that samples.
    pub(super) fn note_sampling(&self) {
        self.samples.store(true, Ordering::Release);
    }

    /// Whether it was.
    pub(super) fn samples(&self) -> bool {
        self.samples.load(Ordering::Acquire)
    }

    pub(super) fn home(&self) -> &Arc<Home> {
        &self.home
    }
}

impl Drop for ProgObject {
    fn drop(&mut self) {
        if self.foreign.is_none() {
            self.home.remove(self.id);
        }
    }
}

/// The maps that a load names, by id.
struct Named<'a>(&'a [Arc<MapObject>]);

impl Objects for Named<'_> {
    fn map(&self, id: u32) -> Option<Arc<Map>> {
        let named = self.0.iter().find(|map| map.id() == id)?;
        Some(Arc::clone(named.map()))
    }

    fn program(&self, _: u32) -> Option<ProgramSpec> {
        None
    }
}

/// What `BPF_PROG_LOAD` asks, with objects in place of fds.
pub struct ProgLoad {
    /// The program; `ld_imm64` of maps carry ids ([`name_maps`] does that),
    /// calls of kernel functions the running kernel's BTF ids.
    pub spec: ProgramSpec,
    /// The maps that the instructions name.
    pub maps: Vec<Arc<MapObject>>,
    /// Its types.
    pub btf: Option<ProgBtf>,
}

/// Types of a program.
pub struct ProgBtf {
    /// The description.
    pub object: Arc<BtfObject>,
    /// `func_info`: which functions are where.
    pub functions: Records,
    /// `line_info`: which source lines are where.
    pub lines: Records,
}

impl Bpf {
    /// `BPF_PROG_LOAD`: verifies and stores. The log receives what the kernel's
    /// verifier would say, also when the load succeeds.
    ///
    /// # Errors
    /// The kernel's: EINVAL for a type or flag that cannot run here, EACCES
    /// or EINVAL when the verifier refuses, ENOMEM without room.
    pub fn prog_load(
        &self,
        mut load: ProgLoad,
        mut log: Option<&mut Log>,
    ) -> Result<Arc<ProgObject>, Errno> {
        let spec = &load.spec;
        let hosted = self.session().is_ok();
        // What packets look like matters to who runs programs on them.
        let known = PROG_FLAGS | if hosted { 0 } else { BPF_F_XDP_HAS_FRAGS };
        if spec.prog_flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        if hosted && !can_host(spec.prog_type) {
            if let Some(log) = log {
                say_whose(log, &spec.name, spec.prog_type);
            }
            return Err(Errno::EINVAL);
        }
        if let Some(ProgBtf {
            object,
            functions,
            lines,
        }) = &load.btf
        {
            let info = types::program_info(object.types()?, spec.prog_type, functions, lines);
            load.spec.info = info.map_err(|error| {
                if let Some(log) = log.as_deref_mut().filter(|_| !error.text.is_empty()) {
                    log.line(&error.text);
                }
                error.errno
            })?;
        }
        if kfunc::any(&load.spec.insns) {
            let functions = self.kernel_functions.get_or_init(KernelFunctions::read);
            kfunc::settle_addresses(&mut load.spec.insns, functions);
            load.spec.info.unknown_kfuncs = kfunc::number(&mut load.spec.insns, functions);
        }
        let (name, prog_type) = (load.spec.name.clone(), load.spec.prog_type);
        let stored = self.store(load.spec, load.maps, load.btf, log.as_deref_mut());
        // Loaders try things out by trivial ones, but real ones are for packets.
        if let (Err(_), Some(log)) = (&stored, log)
            && hosted
            && prog_type == BPF_PROG_TYPE_SOCKET_FILTER
        {
            say_whose(log, &name, prog_type);
        }
        stored
    }

    /// Verifies a program whose instructions are as sessions have them, and
    /// enters it.
    pub(super) fn store(
        &self,
        spec: ProgramSpec,
        maps: Vec<Arc<MapObject>>,
        btf: Option<ProgBtf>,
        log: Option<&mut Log>,
    ) -> Result<Arc<ProgObject>, Errno> {
        let load_time = since_boot();
        let (verified, id) = match self.session() {
            Ok(session) => {
                let verified = program::verify(session, spec, log).map_err(|e| e.errno)?;
                let calls =
                    |ids: &[u32]| verified.facts().helpers.iter().any(|id| ids.contains(id));
                if calls(&TASKS) && calls(&READS) {
                    self.note_tasks(session);
                }
                if calls(&PRINTS) {
                    self.make_trace_ring(session)?;
                }
                let mut facts = ProgramFacts {
                    ctx_bytes: verified.facts().ctx_bytes,
                    verified_insns: verified.facts().insns_processed,
                    load_time: load_time.as_nanos() as u64,
                    ..ProgramFacts::default()
                };
                if let Some(btf) = &btf {
                    facts.btf = btf.object.share();
                    facts.functions = btf.functions.clone();
                    facts.lines = btf.lines.clone();
                }
                let id = session.create_program_with(verified.spec(), &facts)?;
                (verified, id)
            }
            Err(_) => {
                let maps = Named(&maps);
                let types = &self.kernel_structures;
                let verified = program::verify_only(&maps, types, spec, log);
                let verified = verified.map_err(|e| e.errno)?;
                (verified, self.home.tables().progs.next_free_id())
            }
        };
        let prog = Arc::new(ProgObject {
            id,
            verified_insns: verified.facts().insns_processed,
            ctx_bytes: verified.facts().ctx_bytes,
            samples: AtomicBool::new(false),
            spec: verified.spec().clone(),
            home: Arc::clone(&self.home),
            maps: Mutex::new(maps.into_iter().map(|map| (map.id(), map)).collect()),
            btf,
            load_time,
            foreign: None,
            extra: Extra::default(),
        });
        self.home.tables().progs.insert(id, &prog);
        Ok(prog)
    }

    /// Lets programs of the session find the fields of tasks.
    fn note_tasks(&self, session: &Session) {
        let types = self.kernel_structures.types();
        let note = self.tasks.get_or_init(|| types.map(TaskFields::of_kernel));
        if let Some(note) = note {
            session.note_tasks(note);
        }
    }

    /// `BPF_PROG_BIND_MAP`: the map lives as long as the program.
    ///
    /// # Errors
    /// None today; the kernel's ENOMEM cannot happen here.
    pub fn prog_bind_map(&self, prog: &ProgObject, map: &Arc<MapObject>) -> Result<(), Errno> {
        locked(&prog.maps).insert(map.id(), Arc::clone(map));
        Ok(())
    }
}

/// Whether user space can host programs of this type.
pub fn can_host(prog_type: u32) -> bool {
    PROG_TYPES.contains(&prog_type)
}

/// Tells a loader that only the kernel hosts such programs.
fn say_whose(log: &mut Log, name: &str, prog_type: u32) {
    let kind = type_name(prog_type);
    let text = format!(
        "program \"{name}\": only the kernel hosts {kind} programs, {NEEDED}\nhint: {RUNNABLE}\n"
    );
    log.text.push_str(&text);
}

/// Checks a program's name as the kernel does.
///
/// # Errors
/// EINVAL for other characters than letters, digits, `_` and `.`.
pub fn prog_name(name: &[u8; uapi::map::BPF_OBJ_NAME_LEN]) -> Result<String, Errno> {
    check_name(name)?;
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    // Checked: ASCII.
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Replaces the fds that name maps in `insns` by object ids, and indexes into
/// `fd_array` by the plain forms. Returns the maps. Anything malformed stays
/// for the verifier to refuse.
///
/// # Errors
/// What `by_fd` and `by_index` say of an fd or index that is no map.
pub fn name_maps(
    insns: &mut [Insn],
    by_fd: impl Fn(i32) -> Result<Arc<MapObject>, Errno>,
    by_index: impl Fn(u32) -> Result<Arc<MapObject>, Errno>,
) -> Result<Vec<Arc<MapObject>>, Errno> {
    let mut maps: BTreeMap<u32, Arc<MapObject>> = BTreeMap::new();
    let mut at = 0;
    while at < insns.len() {
        let insn = &mut insns[at];
        at += 1;
        if insn.code != LD_IMM64 {
            continue;
        }
        at += 1;
        let (map, plain) = match insn.src() {
            BPF_PSEUDO_MAP_FD => (by_fd(insn.imm)?, BPF_PSEUDO_MAP_FD),
            BPF_PSEUDO_MAP_VALUE => (by_fd(insn.imm)?, BPF_PSEUDO_MAP_VALUE),
            BPF_PSEUDO_MAP_IDX => (by_index(insn.imm as u32)?, BPF_PSEUDO_MAP_FD),
            BPF_PSEUDO_MAP_IDX_VALUE => (by_index(insn.imm as u32)?, BPF_PSEUDO_MAP_VALUE),
            _ => continue,
        };
        insn.imm = map.id() as i32;
        insn.regs = insn.dst() | plain << 4;
        maps.insert(map.id(), map);
    }
    Ok(maps.into_values().collect())
}

/// Whether programs under this licence may use GPL-only helpers
/// (`license_is_gpl_compatible`).
pub fn is_gpl_compatible(license: &[u8]) -> bool {
    let compatible: [&[u8]; 6] = [
        b"GPL",
        b"GPL v2",
        b"GPL and additional rights",
        b"Dual BSD/GPL",
        b"Dual MIT/GPL",
        b"Dual MPL/GPL",
    ];
    compatible.contains(&license)
}

fn since_boot() -> Duration {
    Duration::from_nanos(shm::sys::clock_ns(libc::CLOCK_BOOTTIME))
}
