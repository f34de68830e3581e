//! Running programs in the process that owns the session: test runs, timers
//! and samples. It knows no hook.

use std::sync::{Arc, RwLock};

use uapi::Errno;

use crate::maps::{Map, PerfRing};
use crate::program::LoadedProgram;
use crate::run::{NO_VCPU, ProcessEnv, RunState};
use crate::sample::Sample;
use crate::session::Session;
use crate::thread;

/// The session as programs in this process see it.
pub(super) struct Here {
    env: ProcessEnv,
    /// Read while a program runs.
    runs: RwLock<()>,
}

impl Here {
    /// The view of a session; `None` when its shared areas are too small.
    pub(super) fn new(session: &Session) -> Option<Here> {
        thread::init();
        let env = ProcessEnv::new(session.vcpus()?, session.doorbell()?)?;
        let env = env.with_tasks(session.tasks());
        Some(Here {
            env,
            runs: RwLock::default(),
        })
    }

    /// Lets programs here write to a perf ring.
    pub(super) fn add_perf_ring(&self, id: u32, ring: PerfRing) {
        self.env.add_perf_ring(id, ring);
    }

    /// What programs here print goes there.
    pub(super) fn set_trace_ring(&self, ring: Arc<Map>) {
        self.env.set_trace_ring(ring);
    }

    /// A record in a perf event array's ring of whichever CPU can be had.
    ///
    /// # Errors
    /// EBUSY when all vCPUs stay taken, ENOENT without a ring there, ENOSPC
    /// without room.
    pub(super) fn perf_output(&self, map: &Map, bytes: &[u8]) -> Result<(), Errno> {
        let vcpu = self.env.vcpus.claim(thread::ids()).ok_or(Errno::EBUSY)?;
        let running = self.runs.read();
        let ring = map.slot(vcpu).and_then(|id| self.env.perf_ring(id));
        // SAFETY: the bytes of the slice; the vCPU claim makes this the only writer.
        let output = |ring: &PerfRing| unsafe { ring.output(&[(bytes.as_ptr(), bytes.len())]) };
        let written = ring.ok_or(Errno::ENOENT).and_then(output);
        drop(running);
        self.env.vcpus.release(vcpu);
        written.map(drop)
    }

    /// A perf ring is about to go.
    pub(super) fn remove_perf_ring(&self, id: u32) {
        self.env.remove_perf_ring(id);
    }

    /// Waits until the runs that have begun are over.
    pub(super) fn wait_for_runs(&self) {
        drop(self.runs.write());
    }

    /// Runs a program once on `ctx`, which has at least the bytes that the
    /// program's type promises. Returns its result.
    ///
    /// # Errors
    /// EBUSY when all vCPUs stay taken.
    pub(super) fn run(
        &self,
        program: &LoadedProgram,
        ctx: &mut [u64],
        cookie: u64,
    ) -> Result<u64, Errno> {
        let mut run = RunState::new(&raw const self.env, std::ptr::null(), cookie, 0);
        if program.needs_vcpu() {
            run.vcpu = self.env.vcpus.claim(thread::ids()).ok_or(Errno::EBUSY)?;
        }
        self.run_as(program, ctx, run)
    }

    /// Runs a program that was loaded for samples.
    ///
    /// # Errors
    /// EBUSY when all vCPUs stay taken.
    pub(super) fn run_for(
        &self,
        program: &LoadedProgram,
        sample: &Sample<'_>,
        cookie: u64,
    ) -> Result<u64, Errno> {
        let mut run = RunState::new(&raw const self.env, sample.as_regs(), cookie, 0);
        if program.needs_vcpu() {
            let claimed = self.env.vcpus.claim_near(sample.cpu, thread::ids());
            run.vcpu = claimed.ok_or(Errno::EBUSY)?;
        }
        self.run_as(program, &mut sample.context(), run)
    }

    fn run_as(
        &self,
        program: &LoadedProgram,
        ctx: &mut [u64],
        mut run: RunState,
    ) -> Result<u64, Errno> {
        let claimed = run.vcpu;
        let running = self.runs.read();
        // SAFETY: the caller's ctx has what the program's type promises, `env`
        // lives as long as `self`, and a vCPU is held where it is needed.
        let result = unsafe { program.run(ctx.as_mut_ptr().cast(), &mut run) };
        drop(running);
        if claimed != NO_VCPU {
            self.env.vcpus.release(claimed);
        }
        Ok(result)
    }
}
