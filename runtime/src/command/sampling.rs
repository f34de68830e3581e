//! Programs that run whenever so much of something has happened, most often
//! time: for samples of other processes' threads, or, where nobody is to be
//! sampled, in this process. Who takes the samples is a [`Sampler`], given by the
//! server; this knows no fd.
//!
//! The kernel makes no difference: its event on a CPU runs the program in
//! whatever is there. Tools make one (bpftrace's `interval` and `profile`), and
//! it can be told: what is to happen once in a period is put on the first CPU
//! alone ([`Sampling::may_be_a_timer`]), what samples is put on every CPU, on a
//! thread, or at a frequency. On the first CPU of a machine a program is not
//! alone when it is put on another, or when it asks for stacks.

use std::sync::{Arc, Weak};
use std::time::Duration;

use uapi::helper::{
    BPF_FUNC_COPY_FROM_USER, BPF_FUNC_GET_STACK, BPF_FUNC_GET_STACKID, BPF_FUNC_PROBE_READ,
    BPF_FUNC_PROBE_READ_STR, BPF_FUNC_PROBE_READ_USER, BPF_FUNC_PROBE_READ_USER_STR,
    BPF_FUNC_TAIL_CALL,
};
use uapi::insn::{BPF_CALL, BPF_JMP};
use uapi::perf::{PERF_COUNT_SW_CPU_CLOCK, PERF_TYPE_SOFTWARE};
use uapi::{Errno, Insn};

use super::object::{Home, locked};
use super::timer::Timer;
use super::{Bpf, PerfEvent, ProgObject};
use crate::program::LoadedProgram;
use crate::sample::Sample;

/// What is sampled, in the terms of perf_event_open(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// `PERF_TYPE_*`.
    pub kind: u32,
    /// Which event of the type.
    pub config: u64,
    /// Events between samples, or samples each second if `freq`.
    pub period: u64,
    /// Whether `period` is a frequency.
    pub freq: bool,
    /// A thread's id, or -1 for all targets.
    pub pid: i32,
    /// A CPU, or -1 for all.
    pub cpu: i32,
    /// Whether what the thread makes is sampled, too.
    pub inherit: bool,
}

impl Sampling {
    /// The same with another period.
    pub(super) fn with_period(&self, period: Option<u64>) -> Sampling {
        Sampling {
            period: period.unwrap_or(self.period),
            ..self.clone()
        }
    }

    /// Whether this alone does not ask who is interrupted.
    pub fn may_be_a_timer(&self) -> bool {
        let is_clock = self.kind == PERF_TYPE_SOFTWARE && self.config == PERF_COUNT_SW_CPU_CLOCK;
        is_clock && !self.freq && self.pid == -1 && self.cpu == 0
    }
}

/// Takes samples.
pub trait Sampler: Send + Sync {
    /// Has the program run for each sample until what is returned is dropped;
    /// it has run for all before then when that returns.
    ///
    /// # Errors
    /// The kernel's for the event, those of [`SampledProgram::load`].
    fn start(&self, what: &Sampling, prog: &Arc<ProgObject>, cookie: u64)
    -> Result<Running, Errno>;
}

/// Sampling that goes on; stops when dropped.
pub type Running = Box<dyn Send + Sync>;

/// What makes a program run; stops when dropped.
pub(super) enum Ticking {
    Timer { _runs: Timer },
    Samples { _runs: Running },
}

impl Ticking {
    pub(super) fn start(
        home: &Home,
        what: &Sampling,
        prog: &Arc<ProgObject>,
        cookie: u64,
    ) -> Result<Ticking, Errno> {
        if what.may_be_a_timer() && !prog.samples() && !walks_stacks(prog) {
            let period = Duration::from_nanos(what.period);
            let timer = Timer::start(prog, period, cookie)?;
            return Ok(Ticking::Timer { _runs: timer });
        }
        let sampler = home.sampler.get().ok_or(Errno::EOPNOTSUPP)?;
        let running = sampler.start(what, prog, cookie)?;
        Ok(Ticking::Samples { _runs: running })
    }

    /// Whether it runs in this process.
    pub(super) fn is_timer(&self) -> bool {
        matches!(self, Ticking::Timer { .. })
    }
}

impl Home {
    /// Remembers an event that samples, or may.
    pub(super) fn note_sampling(&self, event: &Arc<PerfEvent>) {
        let mut events = locked(&self.sampling);
        events.retain(|event| event.strong_count() > 0);
        events.push(Arc::downgrade(event));
    }

    /// Has timers sample whose program is known to.
    pub(super) fn follow_sampling(&self, prog: &Arc<ProgObject>) -> Result<(), Errno> {
        if !prog.samples() {
            return Ok(());
        }
        let events: Vec<_> = locked(&self.sampling)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        events
            .iter()
            .try_for_each(|event| event.follow_sampling(prog))
    }
}

impl Bpf {
    /// Who takes samples from now on.
    pub fn set_sampler(&self, sampler: Box<dyn Sampler>) {
        // There is one for the life of the process.
        let _ = self.home.sampler.set(sampler);
    }

    /// The program was put on an event of the kernel's that samples: it does
    /// not run in this process any more.
    ///
    /// # Errors
    /// As [`PerfEvent::enable`].
    pub fn samples_in_kernel(&self, prog: &Arc<ProgObject>) -> Result<(), Errno> {
        prog.note_sampling();
        self.home.follow_sampling(prog)
    }
}

/// Whether a program asks for the stack of whoever it interrupts.
fn walks_stacks(prog: &ProgObject) -> bool {
    let asked = [BPF_FUNC_GET_STACKID, BPF_FUNC_GET_STACK];
    let is_call = |insn: &Insn| insn.code == BPF_JMP | BPF_CALL && insn.src() == 0;
    let mut calls = prog.spec().insns.iter().filter(|insn| is_call(insn));
    calls.any(|call| asked.contains(&(call.imm as u32)))
}

/// A program that is linked to answer for who was sampled.
pub struct SampledProgram {
    home: Arc<Home>,
    loaded: LoadedProgram,
    cookie: u64,
}

impl SampledProgram {
    /// Verifies and compiles a program once more, for runs with this cookie.
    ///
    /// # Errors
    /// Those of its verdict; ENOMEM when it cannot be compiled.
    pub fn load(prog: &Arc<ProgObject>, cookie: u64) -> Result<SampledProgram, Errno> {
        let home = Arc::clone(prog.home());
        home.here()?;
        let loaded = LoadedProgram::load_sampled(home.session()?, prog.id())
            .map_err(|error| Errno::from(&error))?;
        Ok(SampledProgram {
            home,
            loaded,
            cookie,
        })
    }

    /// Whether it may look at the stack.
    pub fn looks_at_stacks(&self) -> bool {
        const LOOKING: [u32; 8] = [
            BPF_FUNC_GET_STACKID,
            BPF_FUNC_GET_STACK,
            BPF_FUNC_PROBE_READ,
            BPF_FUNC_PROBE_READ_STR,
            BPF_FUNC_PROBE_READ_USER,
            BPF_FUNC_PROBE_READ_USER_STR,
            BPF_FUNC_COPY_FROM_USER,
            BPF_FUNC_TAIL_CALL,
        ];
        let helpers = &self.loaded.facts().helpers;
        helpers.iter().any(|id| LOOKING.contains(id))
    }

    /// Runs it for a sample; one that finds no vCPU is missed.
    pub fn run(&self, sample: &Sample<'_>) {
        if let Ok(here) = self.home.here() {
            let _ = here.run_for(&self.loaded, sample, self.cookie);
        }
    }
}
