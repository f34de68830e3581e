//! What a program's run carries with it, and what a process knows of a
//! session while programs run. It knows no hook. Used from trampolines.

use core::cell::Cell;
use std::ptr;
use std::sync::{Arc, OnceLock};

use shm::Region;
use uapi::PtRegs;
use vm::Run;

use crate::doorbell::Doorbell;
use crate::helpers::Pending;
use crate::id_table::IdTable;
use crate::maps::{Map, PerfRing, Ring};
use crate::tasks::TaskFields;
use crate::vcpu::Vcpus;

/// No vCPU was claimed for the run.
pub const NO_VCPU: u32 = u32::MAX;

/// One run of a program. Every helper gets it as its sixth argument, as a
/// pointer to [`vm::Run`].
#[repr(C)]
#[derive(Debug)]
pub struct RunState {
    /// The session the program belongs to.
    pub env: *const ProcessEnv,
    /// The target's registers at the probe; null when the run has none.
    pub regs: *const PtRegs,
    /// The link's `bpf_cookie`.
    pub cookie: u64,
    /// Address of the probed function's entry, or of the probed instruction.
    pub func_ip: u64,
    /// The vCPU that the run holds, or [`NO_VCPU`].
    pub vcpu: u32,
    /// The probed instruction begins a function's frame: the caller is where
    /// sp points.
    pub at_entry: bool,
    /// The probed function has returned.
    pub at_return: bool,
    /// The probed function can be kept from running.
    pub may_override: bool,
    /// What it is to return then.
    pub overridden: Cell<Option<u64>>,
    /// Where signals wait for the program's end; null: they do not.
    pub signals: *const Pending,
    /// What a session keeps between entry and return; null outside of one.
    pub session_cookie: *mut u64,
    /// Stands for it then: an event takes a session's program too.
    no_cookie: Cell<u64>,
    /// The ring buffers that the run has reserved records in.
    rings: [Cell<*const Ring>; RINGS],
}

/// Ring buffers that one run may reserve records in.
const RINGS: usize = 4;

impl RunState {
    /// A run without a vCPU.
    #[inline]
    pub fn new(env: *const ProcessEnv, regs: *const PtRegs, cookie: u64, func_ip: u64) -> RunState {
        RunState {
            env,
            regs,
            cookie,
            func_ip,
            vcpu: NO_VCPU,
            at_entry: false,
            at_return: false,
            may_override: false,
            overridden: Cell::new(None),
            signals: ptr::null(),
            session_cookie: ptr::null_mut(),
            no_cookie: Cell::new(0),
            rings: [const { Cell::new(ptr::null()) }; RINGS],
        }
    }

    /// Remembers a ring that a record is about to be reserved in; `false`
    /// when the run uses too many.
    #[inline]
    pub(crate) fn uses_ring(&self, ring: &Ring) -> bool {
        let known = |slot: &&Cell<*const Ring>| slot.get().is_null() || ptr::eq(slot.get(), ring);
        match self.rings.iter().find(known) {
            Some(slot) => {
                slot.set(ring);
                true
            }
            None => false,
        }
    }

    /// The ring that a reserved record lies in.
    #[inline]
    pub(crate) fn ring_of(&self, record: *const u8) -> Option<&Ring> {
        self.rings
            .iter()
            // SAFETY: the rings are those of maps that the running program
            // names, which outlive the run.
            .filter_map(|slot| unsafe { slot.get().as_ref() })
            .find(|ring| ring.contains(record))
    }

    /// Eight bytes that the run's session keeps.
    #[inline]
    pub(crate) fn session_cookie(&self) -> *mut u64 {
        match self.session_cookie.is_null() {
            true => self.no_cookie.as_ptr(),
            false => self.session_cookie,
        }
    }

    /// As helpers receive it.
    #[inline]
    pub fn as_run(&mut self) -> *mut Run {
        ptr::from_mut(self).cast()
    }

    /// The state behind a helper's last argument.
    ///
    /// # Safety
    /// `run` must come from [`RunState::as_run`] of a run that goes on, with
    /// `env` pointing to a live [`ProcessEnv`].
    #[inline]
    pub unsafe fn of<'a>(run: *mut Run) -> &'a RunState {
        // SAFETY: the caller's contract.
        unsafe { &*run.cast::<RunState>() }
    }

    /// The session.
    #[inline]
    pub fn env(&self) -> &ProcessEnv {
        // SAFETY: whoever built the run vouched for `env`.
        unsafe { &*self.env }
    }

    /// The vCPU held, or the CPU the thread runs on.
    #[inline]
    pub fn cpu(&self) -> u32 {
        if self.vcpu == NO_VCPU {
            crate::arch::cpu()
        } else {
            self.vcpu
        }
    }
}

/// Where a function really returns to, given the stack slot of its return
/// address and what was found there.
pub type ReturnAddress = fn(slot: u64, found: u64) -> u64;

/// A session as this process's programs see it. Outlives the last hook of the
/// session by a while: a hit may be under way when it goes.
pub struct ProcessEnv {
    /// vCPU claims.
    pub vcpus: Vcpus,
    /// Wakes the tool.
    pub doorbell: Doorbell,
    /// For stack walkers.
    pub return_address: ReturnAddress,
    tasks: Option<TaskFields>,
    trace_ring: OnceLock<Arc<Map>>,
    perf_rings: IdTable<PerfRing>,
    programs: IdTable<TailTarget>,
}

/// What an engine jumps to in a tail call.
#[derive(Clone, Copy, Debug)]
struct TailTarget(*const u8);

// SAFETY: the address of immutable code or of an immutable program.
unsafe impl Send for TailTarget {}
// SAFETY: as above.
unsafe impl Sync for TailTarget {}

impl ProcessEnv {
    /// A session's view from the shared areas for claims and doorbell; `None`
    /// when they are too small.
    pub fn new(vcpus: Region, doorbell: Region) -> Option<ProcessEnv> {
        Some(ProcessEnv {
            vcpus: Vcpus::new(vcpus)?,
            doorbell: Doorbell::new(doorbell)?,
            return_address: |_, found| found,
            tasks: None,
            trace_ring: OnceLock::new(),
            perf_rings: IdTable::new(),
            programs: IdTable::new(),
        })
    }

    /// The same, where return probes put addresses of their own on the stack:
    /// `lookup` finds what belongs there.
    pub fn with_return_addresses(self, lookup: ReturnAddress) -> ProcessEnv {
        ProcessEnv {
            return_address: lookup,
            ..self
        }
    }

    /// The same, where programs read fields of tasks.
    pub fn with_tasks(self, tasks: Option<TaskFields>) -> ProcessEnv {
        ProcessEnv { tasks, ..self }
    }

    /// Where the kernel has a task's fields.
    pub(crate) fn tasks(&self) -> Option<&TaskFields> {
        self.tasks.as_ref()
    }

    /// What programs print goes there from now on.
    pub fn set_trace_ring(&self, ring: Arc<Map>) {
        // It stays the same as long as the session.
        let _ = self.trace_ring.set(ring);
    }

    /// Where programs print to.
    pub(crate) fn trace_ring(&self) -> Option<&Ring> {
        self.trace_ring.get()?.ring()
    }

    /// Makes a perf ring known to `bpf_perf_event_output`.
    pub fn add_perf_ring(&self, id: u32, ring: PerfRing) {
        self.perf_rings.insert(id, ring);
    }

    /// The perf ring of an object id.
    #[inline]
    pub fn perf_ring(&self, id: u32) -> Option<&PerfRing> {
        self.perf_rings.get(id)
    }

    /// Makes a program reachable by tail calls: `target` is what the engine
    /// gave as its tail target, and lives as long as this.
    pub fn add_program(&self, id: u32, target: *const u8) {
        self.programs.insert(id, TailTarget(target));
    }

    /// Tail calls of the program fall through from now on.
    pub fn remove_program(&self, id: u32) {
        self.programs.remove(id);
    }

    /// A perf ring was removed.
    pub fn remove_perf_ring(&self, id: u32) {
        self.perf_rings.remove(id);
    }

    /// The tail target of a program id; null when it is not known here.
    #[inline]
    pub fn program(&self, id: u32) -> *const u8 {
        self.programs.get(id).map_or(ptr::null(), |target| target.0)
    }
}

impl core::fmt::Debug for ProcessEnv {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ProcessEnv")
            .field("vcpus", &self.vcpus)
            .finish_non_exhaustive()
    }
}
