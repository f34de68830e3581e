//! What a hook calls: runs one link's program. Runs inside the target's
//! functions: no allocation, no lock, no libc call, no panic. It knows neither
//! how the point was hooked nor who asked for it.

use std::mem::offset_of;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use attach::{Callback, Counter, Hits, Inline, Needs, Probe};
use runtime::helpers::Pending;
use runtime::maps::kernel::end_run;
use runtime::program::LoadedProgram;
use runtime::run::{ProcessEnv, RunState};
use runtime::session::LinkCounters;
use runtime::thread;
use uapi::PtRegs;
use uapi::helper::{BPF_FUNC_SEND_SIGNAL, BPF_FUNC_SEND_SIGNAL_THREAD};
use vm::link::Entry;

use crate::arch::on_vcpu::{Claims, bpftime_agent_on_vcpu};
use crate::quiet;

/// The words of `PtRegs` that cost nothing: [`Needs::LITTLE`].
const CHEAP_WORDS: u64 = 0b0111_1111_1100_0000;

/// One place of one link. Dropped when no thread can be in it any more; until
/// then the program, the session's [`ProcessEnv`] and its counters are there.
/// What a hit looks at is together, for between two hits a target fills its
/// caches with other things.
#[repr(C, align(64))]
pub struct Hit {
    /// A run as it begins; of quiet programs every run's. First, so that it has
    /// the address of this.
    run: RunState,
    /// The program's [`Entry`]; null when the hook is gone.
    entry: AtomicPtr<()>,
    needs_vcpu: bool,
    /// The program may send signals, which come when it has ended.
    sends_signals: bool,
    /// Its runs end with [`end_run`]; these need a vCPU, too.
    ends_runs: bool,
    /// The program calls nothing and looks at no run.
    is_alone: bool,
    /// It is one ([`LoadedProgram::is_quiet`]).
    is_quiet: bool,
    /// It calls nothing either, but needs a vCPU; else there are none.
    claims: Claims,
    callback: Callback,
    needs: Needs,
    /// What the callback does, where that is short.
    inline: Option<Inline>,
    /// What came of this link's hits.
    tally: Arc<Tally>,
}

const _: () = assert!(offset_of!(Hit, run) == 0);

// SAFETY: what is changed is atomic; `run` is only read, and what it points to
// is made for many threads.
unsafe impl Sync for Hit {}
// SAFETY: as above.
unsafe impl Send for Hit {}

/// Hits of one link in this process.
pub struct Tally {
    /// `None` where there are too many: nobody knows how many hits it has.
    counter: Option<Counter>,
    /// Runs that `counter` does not count, less those that it does though
    /// there was no vCPU for them.
    others: AtomicU64,
    /// Hits that the engine skipped, and those that found no vCPU.
    missed: AtomicU64,
    /// Where the session counts.
    session: LinkCounters,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(session: LinkCounters) -> Tally {
        Tally {
            counter: Counter::new(),
            others: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            session,
        }
    }

    /// Adds what was counted since the last time to the session's counters.
    pub fn settle(&self) {
        let (hits, missed) = self.take();
        self.session.add(hits, missed);
    }

    /// Right after fork(2): what was counted before is the parent's.
    pub fn forget(&self) {
        self.take();
    }

    fn take(&self) -> (u64, u64) {
        let counted = self.counter.as_ref().map_or(0, Counter::take);
        let others = self.others.swap(0, Ordering::Relaxed);
        // A hit without a run may be taken back before it was seen.
        let hits = counted.wrapping_add(others);
        (hits, self.missed.swap(0, Ordering::Relaxed))
    }
}

impl Hit {
    /// Where the callback in `arch` finds what it looks at.
    pub(crate) const ENTRY: usize = offset_of!(Hit, entry);
    pub(crate) const CLAIMS: usize = offset_of!(Hit, claims);

    /// The data of a new hook at `address`, if it is at one.
    pub fn new(
        program: &LoadedProgram,
        env: &ProcessEnv,
        tally: &Arc<Tally>,
        cookie: u64,
        address: usize,
        at_entry: bool,
    ) -> Hit {
        let is_alone = !program.calls() && !program.needs_vcpu();
        let is_quiet = !is_alone && quiet::bears_out(program);
        let claims = match program.calls() || is_alone {
            true => None,
            false => Claims::of(env),
        };
        let code = program.code_bytes();
        let inline = match &claims {
            _ if is_alone => Inline::of(code),
            Some(claims) => claims
                .around()
                .and_then(|around| Inline::within(code, around)),
            None => None,
        };
        let words = match program.registers_read() & !CHEAP_WORDS {
            0 => Needs::LITTLE,
            _ => Needs::ALL_REGISTERS,
        };
        let (callback, needs) = match is_alone {
            // SAFETY: both take pointers in the same registers and give a
            // word; a third argument is in a register that any may change.
            // The program looks at its ctx only.
            true => unsafe {
                let callback = std::mem::transmute::<Entry, Callback>(program.entry());
                (callback, words)
            },
            false if claims.is_some() => (bpftime_agent_on_vcpu as Callback, words),
            // SAFETY: as above; its run, the second argument, is at the start of
            // the data.
            false if is_quiet => unsafe {
                let callback = std::mem::transmute::<Entry, Callback>(program.entry());
                (callback, words)
            },
            false => (on_hit as Callback, words.and(Needs::VECTORS)),
        };
        let mut run = RunState::new(env, ptr::null(), cookie, address as u64);
        run.at_entry = at_entry;
        let helpers = &program.facts().helpers;
        let mut senders = [BPF_FUNC_SEND_SIGNAL, BPF_FUNC_SEND_SIGNAL_THREAD].into_iter();
        Hit {
            sends_signals: senders.any(|sender| helpers.contains(&sender)),
            run,
            entry: AtomicPtr::new(program.entry() as *mut ()),
            needs_vcpu: program.needs_vcpu(),
            ends_runs: program.ends_runs(),
            is_alone,
            is_quiet,
            claims: claims.unwrap_or(Claims::NONE),
            callback,
            needs,
            inline,
            tally: Arc::clone(tally),
        }
    }

    /// What `bpf_get_func_ip` gives.
    pub fn func_ip(&self) -> u64 {
        self.run.func_ip
    }

    /// From now on hits do nothing, if they ask at all; those under way finish.
    pub fn retire(&self) {
        self.entry.store(ptr::null_mut(), Ordering::Release);
    }

    /// What the engine calls at each hit, as long as this lives. The newest
    /// goes first, as in the kernel (kernel/events/uprobes.c, `consumer_add`):
    /// bpftrace counts on it.
    pub fn probe(&self) -> Probe {
        let probe = self.uncounted_probe().counting_hits(self.hits());
        if !self.sends_signals {
            return probe;
        }
        Probe {
            callback: on_signalling_hit,
            needs: Needs::EVERYTHING,
            inline: ptr::null(),
            ..probe
        }
    }

    fn uncounted_probe(&self) -> Probe {
        Probe::new(self.callback, ptr::from_ref(self).cast())
            .needing(self.needs)
            .inlined(self.inline.as_ref().map_or(ptr::null(), ptr::from_ref))
            .counting_misses(&raw const self.tally.missed)
            .before_others()
    }

    /// The same for a session, whose program asks which hit it is.
    pub fn session_probe(&self) -> Probe {
        Probe {
            callback: on_session_hit,
            needs: Needs::EVERYTHING,
            inline: ptr::null(),
            ..self.probe()
        }
    }

    /// The same for a program that may override the function.
    pub fn override_probe(&self) -> Probe {
        Probe {
            callback: on_override_hit,
            needs: Needs::EVERYTHING,
            inline: ptr::null(),
            ..self.probe()
        }
    }

    /// The same for a program that replaces the function.
    pub fn replace_probe(&self) -> Probe {
        Probe {
            callback: on_replace_hit,
            ..self.override_probe()
        }
    }

    /// A run for these registers.
    #[inline(always)]
    fn begin(&self, regs: *const PtRegs) -> RunState {
        let RunState {
            env,
            cookie,
            func_ip,
            ..
        } = self.run;
        RunState::new(env, regs, cookie, func_ip)
    }

    /// The program itself, where it is quiet: it takes this for its run.
    pub fn quiet(&self) -> Option<Entry> {
        let entry = self.entry();
        if !self.is_quiet || entry.is_null() {
            return None;
        }
        // SAFETY: stored from an `Entry` by `new`.
        Some(unsafe { std::mem::transmute::<*mut (), Entry>(entry) })
    }

    /// The program itself, where it needs nothing but its context.
    pub fn alone(&self) -> Option<Entry> {
        let entry = self.entry();
        if !self.is_alone || entry.is_null() {
            return None;
        }
        // SAFETY: stored from an `Entry` by `new`.
        Some(unsafe { std::mem::transmute::<*mut (), Entry>(entry) })
    }

    /// Counts hits that were skipped.
    pub fn missed(&self) -> *const AtomicU64 {
        &raw const self.tally.missed
    }

    /// See [`Tally::settle`].
    pub fn settle(&self) {
        self.tally.settle();
    }

    /// See [`Tally::forget`].
    pub fn forget(&self) {
        self.tally.forget();
    }

    fn entry(&self) -> *mut () {
        self.entry.load(Ordering::Acquire)
    }

    /// Where the engine is to count.
    pub fn hits(&self) -> Hits {
        let counter = self.tally.counter.as_ref();
        counter.map_or(Hits::UNCOUNTED, Counter::hits)
    }

    /// Runs the program at a point that is in no function, for who has counted.
    ///
    /// # Safety
    /// `ctx` is the context that the program was verified for; `regs` are the
    /// calling thread's, as the point has them.
    #[inline]
    pub unsafe fn run(&self, ctx: *mut (), regs: *const PtRegs) -> u64 {
        if self.is_alone {
            let entry = self.entry();
            if entry.is_null() {
                self.tally.others.fetch_sub(1, Ordering::Relaxed);
                return 0;
            }
            // SAFETY: stored from an `Entry` by `new`.
            let entry = unsafe { std::mem::transmute::<*mut (), Entry>(entry) };
            // SAFETY: the caller's contract; it looks at no run.
            return unsafe { entry(ctx.cast(), ptr::null_mut()) };
        }
        let mut run = self.begin(regs);
        // SAFETY: the caller's contract.
        unsafe { self.run_in(ctx, &mut run) }
    }

    /// The same for a program that may send signals and, if it
    /// `may_override`, say what the caller gets in place of the result; gives
    /// what it said.
    ///
    /// # Safety
    /// As for [`Hit::run`].
    pub unsafe fn run_acting(
        &self,
        ctx: *mut (),
        regs: *const PtRegs,
        may_override: bool,
    ) -> Option<u64> {
        let pending = Pending::default();
        let mut run = self.begin(regs);
        run.may_override = may_override;
        run.signals = &raw const pending;
        // SAFETY: the caller's contract.
        unsafe { self.run_in(ctx, &mut run) };
        pending.deliver();
        run.overridden.get()
    }

    /// Whether the program may send signals.
    pub fn sends_signals(&self) -> bool {
        self.sends_signals
    }

    /// Counts a run that the engine does not.
    pub fn counts_one(&self) {
        self.tally.others.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs the program, which was counted, with a vCPU if it needs one.
    ///
    /// # Safety
    /// As for [`Hit::run`].
    #[inline(always)]
    unsafe fn run_in(&self, ctx: *mut (), run: &mut RunState) -> u64 {
        // SAFETY: the caller's contract.
        unsafe { self.try_run_in(ctx, run) }.unwrap_or(0)
    }

    /// The same; `None` if it did not run.
    ///
    /// # Safety
    /// As for [`Hit::run`].
    #[inline(always)]
    unsafe fn try_run_in(&self, ctx: *mut (), run: &mut RunState) -> Option<u64> {
        let entry = self.entry();
        if entry.is_null() {
            self.tally.others.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // SAFETY: stored from an `Entry` by `new`.
        let entry = unsafe { std::mem::transmute::<*mut (), Entry>(entry) };
        if !self.needs_vcpu {
            // SAFETY: the caller's contract; `env` and the code live as `self`.
            return Some(unsafe { entry(ctx.cast(), run.as_run()) });
        }
        // SAFETY: as above.
        unsafe { self.run_on_vcpu(entry, ctx, run) }
    }

    /// The same for a program that needs a vCPU. On its own: the others save
    /// fewer registers.
    ///
    /// # Safety
    /// As for [`Hit::run`]; `entry` is the program's.
    #[inline(never)]
    unsafe fn run_on_vcpu(&self, entry: Entry, ctx: *mut (), run: &mut RunState) -> Option<u64> {
        // SAFETY: lives as `self` does.
        let vcpus = &unsafe { &*self.run.env }.vcpus;
        let Some(vcpu) = vcpus.claim(thread::ids()) else {
            self.tally.others.fetch_sub(1, Ordering::Relaxed);
            self.tally.missed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        run.vcpu = vcpu;
        // SAFETY: the caller's contract; `env` and the code live as `self`.
        let result = unsafe { entry(ctx.cast(), run.as_run()) };
        if self.ends_runs {
            end_run();
        }
        vcpus.release(vcpu);
        Some(result)
    }
}

/// The engine's callback, where every hit is the same.
pub(crate) unsafe extern "C" fn on_hit(
    regs: *mut PtRegs,
    data: *const (),
    _: *mut attach::Hit,
) -> u64 {
    // SAFETY: `data` is what `probe` gave, and lives during the call.
    let hit = unsafe { &*data.cast::<Hit>() };
    let mut run = hit.begin(regs);
    run.at_entry = hit.run.at_entry;
    // SAFETY: the registers are the context that the program was verified for.
    unsafe { hit.run_in(regs.cast(), &mut run) }
}

/// The engine's callback for a program that may send signals.
unsafe extern "C" fn on_signalling_hit(
    regs: *mut PtRegs,
    data: *const (),
    _: *mut attach::Hit,
) -> u64 {
    // SAFETY: as in `on_hit`.
    let hit = unsafe { &*data.cast::<Hit>() };
    let pending = Pending::default();
    let mut run = hit.begin(regs);
    run.at_entry = hit.run.at_entry;
    run.signals = &raw const pending;
    // SAFETY: as in `on_hit`.
    let result = unsafe { hit.run_in(regs.cast(), &mut run) };
    pending.deliver();
    result
}

/// The engine's callback for a session.
unsafe extern "C" fn on_session_hit(
    regs: *mut PtRegs,
    data: *const (),
    at: *mut attach::Hit,
) -> u64 {
    // SAFETY: as in `on_hit`; `at` is valid during the call.
    let (hit, at) = unsafe { (&*data.cast::<Hit>(), &*at) };
    let mut run = RunState::new(hit.run.env, regs, hit.run.cookie, at.func_ip);
    run.at_return = at.at_return == 1;
    run.at_entry = hit.run.at_entry && !run.at_return;
    run.session_cookie = at.session_cookie;
    // SAFETY: as in `on_hit`.
    unsafe { hit.run_in(regs.cast(), &mut run) }
}

/// The engine's callback for a program that may override the function.
unsafe extern "C" fn on_override_hit(
    regs: *mut PtRegs,
    data: *const (),
    at: *mut attach::Hit,
) -> u64 {
    // SAFETY: as in `on_session_hit`.
    let (hit, at) = unsafe { (&*data.cast::<Hit>(), &mut *at) };
    let mut run = RunState::new(hit.run.env, regs, hit.run.cookie, at.func_ip);
    run.at_entry = hit.run.at_entry;
    run.may_override = true;
    let pending = Pending::default();
    run.signals = &raw const pending;
    // SAFETY: as in `on_hit`.
    let result = unsafe { hit.run_in(regs.cast(), &mut run) };
    pending.deliver();
    if let Some(value) = run.overridden.get() {
        at.overrides = 1;
        at.value = value;
    }
    result
}

/// The engine's callback for a program that replaces the function.
unsafe extern "C" fn on_replace_hit(
    regs: *mut PtRegs,
    data: *const (),
    at: *mut attach::Hit,
) -> u64 {
    // SAFETY: as in `on_session_hit`.
    let (hit, at) = unsafe { (&*data.cast::<Hit>(), &mut *at) };
    let mut run = RunState::new(hit.run.env, regs, hit.run.cookie, at.func_ip);
    run.at_entry = hit.run.at_entry;
    // SAFETY: as in `on_hit`.
    let result = unsafe { hit.try_run_in(regs.cast(), &mut run) };
    if let Some(value) = result {
        at.overrides = 1;
        at.value = value;
    }
    0
}

#[cfg(test)]
mod tests;
