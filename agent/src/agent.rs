//! The agent's thread and the lock around what it knows. It knows when to
//! look at sessions, not what to do about them; that is [`crate::state`].

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use attach::{AttachError, Backend, Engine, Refusing};
use runtime::session::{Dirs, Roster, process};
use shm::futex;

use crate::lock::ForkLock;
use crate::log::debug;
use crate::state::{Round, State};
use crate::{fork, signals};

/// While sessions exist: how soon a killed tool is noticed although its
/// sweeper was killed too.
const WITH_SESSIONS: Duration = Duration::from_millis(500);
/// Without sessions nothing but the end of all other threads is to be noticed;
/// the roster wakes us.
const WITHOUT_SESSIONS: Duration = Duration::from_secs(1);
/// After the first thread has ended and before the last one has.
const LAST_THREADS: Duration = Duration::from_millis(50);
/// The thread verifies and compiles; pages cost when touched.
const STACK_BYTES: usize = 1 << 20;

/// The one agent of this process.
pub struct Agent {
    lock: ForkLock,
    /// Only touched with `lock` held.
    state: UnsafeCell<State>,
    /// The process that has an agent thread; a forked child finds its
    /// parent's pid here.
    running: AtomicI32,
    tid: AtomicI32,
    /// The running thread's handle, boxed; whoever takes it joins the thread.
    thread: AtomicPtr<JoinHandle<()>>,
    stop: AtomicBool,
    /// How many calls are under way for which the thread went away, and
    /// whether there was one.
    aside: AtomicU32,
    comes_back: AtomicBool,
    /// The first thread has called pthread_exit(3).
    first_thread_left: AtomicBool,
    /// How often a round was asked for, and the count that the latest
    /// finished round had seen; a futex word.
    asked: AtomicU32,
    answered: AtomicU32,
    /// What the thread sleeps on: a word in the roster, which stays mapped
    /// for ever, or `own_word`.
    sleeps_on: AtomicPtr<AtomicU32>,
    own_word: AtomicU32,
}

// SAFETY: `state` is only touched with `lock` held; all else is atomic.
unsafe impl Sync for Agent {}
// SAFETY: nothing in it belongs to a thread; probes' data is leaked and atomic.
unsafe impl Send for Agent {}

static AGENT: OnceLock<Agent> = OnceLock::new();

/// The agent, if it was started.
pub fn get() -> Option<&'static Agent> {
    AGENT.get()
}

/// The agent; made at the first call.
///
/// # Errors
/// When hooks cannot work here at all.
pub fn get_or_make(dirs: Dirs) -> Result<&'static Agent, AttachError> {
    if let Some(agent) = AGENT.get() {
        if !agent.is_running() {
            agent.with(|state| state.set_dirs(dirs));
        }
        return Ok(agent);
    }
    // The engine first: of the handlers for fork(2) the one registered last
    // runs first, and our lock is always taken before the engine's.
    let engine = engine()?;
    let agent = AGENT.get_or_init(|| Agent {
        lock: ForkLock::new(),
        state: UnsafeCell::new(State::new(dirs, engine)),
        running: AtomicI32::new(0),
        tid: AtomicI32::new(0),
        thread: AtomicPtr::new(std::ptr::null_mut()),
        stop: AtomicBool::new(false),
        aside: AtomicU32::new(0),
        comes_back: AtomicBool::new(false),
        first_thread_left: AtomicBool::new(false),
        asked: AtomicU32::new(0),
        answered: AtomicU32::new(0),
        sleeps_on: AtomicPtr::new(std::ptr::null_mut()),
        own_word: AtomicU32::new(0),
    });
    fork::register();
    Ok(agent)
}

/// The hook back end that `BPFTIME_HOOK` names. One that cannot be had stands
/// in the way of probes, not of the agent, which says why in the roster.
///
/// # Errors
/// When hooks cannot work here at all.
fn engine() -> Result<Box<dyn Backend>, AttachError> {
    let name = std::env::var_os("BPFTIME_HOOK").unwrap_or_default();
    match attach::open(&name.to_string_lossy()) {
        Err(error @ AttachError::BackEnd { .. }) => Ok(Box::new(Refusing(error))),
        opened => opened,
    }
}

impl Agent {
    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        self.lock.with(|| {
            // SAFETY: the lock is held, and `body` cannot take it again: the
            // state knows no agent.
            body(unsafe { &mut *self.state.get() })
        })
    }

    /// Hooks must do what this library cannot: it was not preloaded.
    pub fn set_injected(&self) {
        self.with(State::set_injected);
        if !self.is_running() {
            // A call that was under way when all hooks went never came back.
            self.aside.store(0, Ordering::Release);
        }
    }

    /// The directories and the roster that were handed over.
    pub fn set_roster(&self, roster: Roster, dirs: &Dirs) {
        self.with(|state| {
            state.set_dirs(dirs.clone());
            state.set_roster(roster);
        });
    }

    /// Takes a place in the roster, so that tools wait for this process.
    pub fn join_roster(&self) {
        self.with(|state| {
            // Without a place, tools do not wait, and rounds try again.
            let _ = state.wake_word();
        });
    }

    /// The lock, for the fork handlers.
    pub fn lock(&self) -> &ForkLock {
        &self.lock
    }

    /// Whether a thread follows sessions in this very process.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire) == shm::sys::getpid()
    }

    /// Whether a thread followed sessions in this process or, right after
    /// fork(2), in its parent.
    fn was_running(&self) -> bool {
        self.running.load(Ordering::Acquire) != 0
    }

    /// Starts the thread unless it runs. Returns whether it runs then.
    pub fn start(&'static self) -> bool {
        let pid = shm::sys::getpid();
        let before = self.running.load(Ordering::Acquire);
        if before == pid
            || self
                .running
                .compare_exchange(before, pid, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return true;
        }
        self.stop.store(false, Ordering::Release);
        // A forked child finds the handle of a thread that it does not have.
        self.thread.store(std::ptr::null_mut(), Ordering::Release);
        // How it went we did not see: most do by pthread_exit(3).
        if process::is_first_thread_gone() {
            self.first_thread_left.store(true, Ordering::Release);
        }
        // Ours must never run the target's handlers.
        let spawned = signals::with_all_blocked(|| {
            std::thread::Builder::new()
                .name("bpftime".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || self.run())
        });
        match spawned {
            Ok(handle) => {
                let handle = Box::into_raw(Box::new(handle));
                self.thread.store(handle, Ordering::Release);
                true
            }
            Err(error) => {
                debug!("no thread: {error}");
                self.running.store(0, Ordering::Release);
                false
            }
        }
    }

    /// Ends the thread but leaves its hooks, until [`Agent::come_back`]. When
    /// it returns, the kernel counts one thread less.
    pub fn step_aside(&self) {
        self.aside.fetch_add(1, Ordering::AcqRel);
        if !self.is_running() {
            return;
        }
        let handle = self.thread.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if handle.is_null() {
            return;
        }
        self.comes_back.store(true, Ordering::Release);
        self.wake();
        // SAFETY: from `Box::into_raw` in `start`, and taken once.
        let handle = unsafe { Box::from_raw(handle) };
        // A thread that panicked has ended too.
        let _ = handle.join();
        self.running.store(0, Ordering::Release);
        // Joined is a little earlier than gone.
        self.await_end();
    }

    /// Waits for the kernel to forget the thread, which has said its last word.
    fn await_end(&self) {
        let tid = self.tid.load(Ordering::Acquire);
        let deadline = Instant::now() + Duration::from_secs(1);
        while process::has_thread(tid) && Instant::now() < deadline {
            shm::sys::sched_yield();
        }
    }

    /// Starts the thread again that went for [`Agent::step_aside`].
    pub fn come_back(&'static self) {
        let last = self.aside.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.comes_back.swap(false, Ordering::AcqRel) {
            self.start();
        }
    }

    /// Right after fork(2): calls of the parent's other threads are not under
    /// way here. Returns whether there is to be a thread.
    pub fn is_wanted_in_child(&self) -> bool {
        self.aside.store(0, Ordering::Release);
        self.comes_back.swap(false, Ordering::AcqRel) || self.was_running()
    }

    /// Asks for a round and waits until one that began later has finished.
    /// Allocates nothing, so hooks may call it.
    pub fn follow_now(&self, timeout: Duration) -> bool {
        if !self.is_running() {
            return false;
        }
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        self.wake();
        let deadline = Instant::now() + timeout;
        loop {
            let answered = self.answered.load(Ordering::Acquire);
            // Wrapping: answered when it is not before the ticket.
            if answered.wrapping_sub(ticket) as i32 >= 0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.is_running() {
                return false;
            }
            futex::wait(&self.answered, answered, Some(left));
        }
    }

    /// Unhooks everything and ends the thread. Returns whether it has ended.
    pub fn stop(&self, timeout: Duration) -> bool {
        self.stop.store(true, Ordering::Release);
        self.follow_now(timeout);
        let has_ended = !self.is_running();
        if has_ended {
            self.await_end();
        }
        has_ended
    }

    /// The first thread leaves by pthread_exit(3): from now on the process
    /// ends with its last other thread.
    pub fn first_thread_leaves(&self) {
        self.first_thread_left.store(true, Ordering::Release);
        self.wake();
    }

    /// At the end of the process: gives the roster slot back, if nothing is
    /// in the way.
    pub fn process_ends(&self) {
        // Not in a child that shares the memory (vfork) or has joined nothing.
        if self.is_running() && self.lock.try_lock() {
            // SAFETY: the lock is held.
            unsafe { self.state_under_lock() }.leave_roster();
            self.lock.unlock();
        }
    }

    /// Right before the process ends without exit handlers: tells the sessions
    /// of its hits, if nothing is in the way.
    pub fn process_ends_at_once(&self) {
        if self.is_running() && self.lock.try_lock() {
            // SAFETY: the lock is held.
            unsafe { self.state_under_lock() }.settle();
            self.lock.unlock();
        }
    }

    /// The state, for whoever has taken the lock by [`Agent::lock`].
    ///
    /// # Safety
    /// The calling thread holds the lock and no other reference to the state.
    #[expect(clippy::mut_from_ref, reason = "the lock makes it exclusive")]
    pub unsafe fn state_under_lock(&self) -> &mut State {
        // SAFETY: the caller's contract.
        unsafe { &mut *self.state.get() }
    }

    fn wake(&self) {
        let word = self.sleeps_on.load(Ordering::Acquire);
        // SAFETY: null, or a word that stays mapped for ever (see the field).
        let word = unsafe { word.as_ref() }.unwrap_or(&self.own_word);
        word.fetch_add(1, Ordering::AcqRel);
        futex::wake(word, 1);
    }

    /// The thread's life.
    fn run(&self) {
        Engine::exempt_thread();
        attach::breakpoints::enter_thread();
        self.tid.store(shm::sys::gettid(), Ordering::Release);
        process::keep_own_root();
        runtime::own_stack::init();
        loop {
            if self.aside.load(Ordering::Acquire) > 0 {
                return;
            }
            let stop = self.stop.load(Ordering::Acquire);
            let asked = self.asked.load(Ordering::Acquire);
            // Both words are read before looking: what comes later wakes us.
            let mut sleep = (&self.own_word, 0);
            let round = catch_unwind(AssertUnwindSafe(|| {
                self.with(|state| {
                    sleep = self.bed(state);
                    Agent::round(state, stop)
                })
            }));
            let ended = !matches!(&round, Ok(Some(_)));
            if ended {
                self.forget_thread();
                self.running.store(0, Ordering::Release);
            }
            self.answered.store(asked, Ordering::Release);
            futex::wake(&self.answered, u32::MAX >> 1);
            let Ok(Some(round)) = round else { return };
            let first_thread_left = self.first_thread_left.load(Ordering::Acquire);
            if let Some(status) = process::is_last_thread() {
                if first_thread_left {
                    // As glibc does when the last thread of a program ends.
                    // SAFETY: runs the program's exit handlers, which is wanted.
                    unsafe { libc::exit(0) }
                }
                self.end_unnoticed(status);
            }
            let timeout = if first_thread_left {
                LAST_THREADS
            } else if round.sessions || round.resting {
                WITH_SESSIONS
            } else {
                WITHOUT_SESSIONS
            };
            futex::wait(sleep.0, sleep.1, Some(timeout));
        }
    }

    /// The program's last thread ended by exit(2), without libc, so no handlers
    /// run. The process's status is that of the last thread to end, this one.
    fn end_unnoticed(&self, status: i32) -> ! {
        self.process_ends();
        loop {
            let status = status as usize;
            // SAFETY: ends this thread, on whose stack nothing is waited for.
            unsafe { shm::sys::syscall6(libc::SYS_exit as usize, status, 0, 0, 0, 0, 0) };
        }
    }

    /// Nobody will join this thread.
    fn forget_thread(&self) {
        let handle = self.thread.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !handle.is_null() {
            // SAFETY: from `Box::into_raw` in `start`, and taken once.
            drop(unsafe { Box::from_raw(handle) });
        }
    }

    /// The word to sleep on, the roster's if there is a slot, and its value.
    fn bed(&self, state: &mut State) -> (&AtomicU32, u32) {
        let word = state.wake_word().unwrap_or(std::ptr::null_mut());
        self.sleeps_on.store(word, Ordering::Release);
        // SAFETY: null, or a word that stays mapped for ever (see the field).
        let word = unsafe { word.as_ref() }.unwrap_or(&self.own_word);
        (word, word.load(Ordering::Acquire))
    }

    /// One look at everything; `None` when it was the last.
    fn round(state: &mut State, stop: bool) -> Option<Round> {
        if stop || state.detach_requested() {
            debug!("leaving");
            state.leave();
            return None;
        }
        Some(state.follow())
    }
}
