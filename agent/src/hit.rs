//! What a hook calls: runs one link's program and counts. Runs inside the
//! target's functions: no allocation, no lock, no libc call, no panic. It
//! knows neither how the point was hooked nor who asked for it.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use attach::Probe;
use runtime::program::LoadedProgram;
use runtime::run::{ProcessEnv, RunState};
use runtime::session::{COUNTER_LINES, CounterLine, LinkCounters};
use runtime::thread;
use uapi::PtRegs;
use vm::link::Entry;

/// One hooked address of one link. Never freed: a thread may look at it at
/// any time after the hook went. What it points to outlives the last run by
/// far; `entry` says whether it may still be used.
pub struct Hit {
    /// The program's [`Entry`]; null when the hook is gone.
    entry: AtomicPtr<()>,
    env: *const ProcessEnv,
    lines: *const [CounterLine; COUNTER_LINES],
    cookie: u64,
    /// The probed instruction begins a function's frame.
    at_entry: bool,
    needs_vcpu: bool,
    /// Hits that the engine skipped, since the last [`Hit::settle`]. Not in
    /// the session's data: a function entered before the hook went may return
    /// when that is long unmapped.
    missed: AtomicU64,
}

// SAFETY: immutable but for `entry`; what it points to is made for many threads.
unsafe impl Sync for Hit {}

impl Hit {
    /// The data of a new hook. The caller keeps `program`, `env` and the
    /// session of `counters` until some time after [`Hit::retire`].
    pub fn new(
        program: &LoadedProgram,
        env: &ProcessEnv,
        counters: &LinkCounters,
        cookie: u64,
        at_entry: bool,
    ) -> &'static Hit {
        Box::leak(Box::new(Hit {
            entry: AtomicPtr::new(program.entry() as *mut ()),
            env,
            lines: counters.lines(),
            cookie,
            at_entry,
            needs_vcpu: program.needs_vcpu(),
            missed: AtomicU64::new(0),
        }))
    }

    /// From now on hits do nothing; those under way finish.
    pub fn retire(&self) {
        self.entry.store(ptr::null_mut(), Ordering::Release);
    }

    /// What the engine calls at each hit. The newest goes first, as in the
    /// kernel (kernel/events/uprobes.c, `consumer_add`): bpftrace counts on it.
    pub fn probe(&'static self) -> Probe {
        Probe::new(on_hit, ptr::from_ref(self).cast())
            .counting_misses(&raw const self.missed)
            .before_others()
    }

    /// Counts hits that were skipped.
    pub fn missed(&self) -> *const AtomicU64 {
        &raw const self.missed
    }

    /// Adds what the engine has skipped to the link's counters. Only while
    /// the session is mapped.
    pub fn settle(&self) {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed != 0 {
            // SAFETY: the caller holds the session, so the counters are mapped.
            let lines = unsafe { &*self.lines };
            lines[0].missed.fetch_add(missed, Ordering::Relaxed);
        }
    }
}

/// The engine's callback.
unsafe extern "C" fn on_hit(regs: *mut PtRegs, data: *const (), hit: *mut attach::Hit) -> u64 {
    // SAFETY: valid during the call.
    let at = unsafe { *hit };
    // SAFETY: `data` is what `probe` gave: a `Hit` that is never freed.
    let hit = unsafe { &*data.cast::<Hit>() };
    // SAFETY: the registers are the context that the program was verified for.
    unsafe { hit.run(regs.cast(), regs, &at) }
}

impl Hit {
    /// Runs the program and counts.
    ///
    /// # Safety
    /// `ctx` is the context that the program was verified for; `regs` are the
    /// calling thread's, as the point has them.
    #[inline]
    pub unsafe fn run(&self, ctx: *mut (), regs: *const PtRegs, at: &attach::Hit) -> u64 {
        let entry = self.entry.load(Ordering::Acquire);
        if entry.is_null() {
            return 0;
        }
        // SAFETY: stored from an `Entry` by `new`.
        let entry = unsafe { std::mem::transmute::<*mut (), Entry>(entry) };
        let mut run = RunState::new(self.env, regs, self.cookie, at.func_ip);
        run.at_return = at.at_return == 1;
        run.at_entry = self.at_entry && !run.at_return;
        run.session_cookie = at.session_cookie;
        // Threads that run at once mostly use different lines.
        // SAFETY: mapped while the hook is in place and for a while after.
        let lines = unsafe { &*self.lines };
        let line = &lines[thread::spread() % COUNTER_LINES];
        if !self.needs_vcpu {
            // SAFETY: the caller's contract; `env` and the code live as `lines`
            // do.
            let result = unsafe { entry(ctx.cast(), run.as_run()) };
            line.hits.fetch_add(1, Ordering::Relaxed);
            return result;
        }
        let vcpus = &run.env().vcpus;
        match vcpus.claim(thread::ids()) {
            Some(vcpu) => {
                run.vcpu = vcpu;
                // SAFETY: as above.
                let result = unsafe { entry(ctx.cast(), run.as_run()) };
                run.env().vcpus.release(vcpu);
                line.hits.fetch_add(1, Ordering::Relaxed);
                result
            }
            None => {
                line.missed.fetch_add(1, Ordering::Relaxed);
                0
            }
        }
    }
}
