//! What this process does for which session: opens sessions and follows
//! their links. It knows no thread: whoever holds the agent's lock calls it.
//!
//! Reading order: this file (the state and its rounds), [`sessions`] (who is
//! followed), [`links`] (what is hooked for them), [`own`] (what else is).

mod links;
mod own;
mod sessions;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use attach::Backend;
use runtime::guest;
use runtime::session::{AgentSlot, Dirs, Role, Roster};

use crate::breakpoints::{self, Breakpoints};
use crate::dispatch::Dispatch;
use crate::hooks::Hooks;
use crate::joined::Joined;
use crate::log::debug;
use crate::readable::Readable;
use crate::stacks::Stacks;
use crate::syscalls::{self, Syscalls};

/// What came of one round.
#[derive(Default)]
pub struct Round {
    /// Hooks in place.
    pub hooks: u32,
    /// Hooks that were refused.
    pub refused: u32,
    /// Why, one line for each reason.
    pub reasons: String,
    /// Whether there is a session at all.
    pub sessions: bool,
    /// Whether a later round has something to let go of.
    pub resting: bool,
}

/// Looks, at the end, whether all threads have left what rests.
const LOOKS: u32 = 64;

/// Everything the agent knows.
pub struct State {
    dirs: Dirs,
    /// The root directory in which `dirs` are meant.
    root: Option<(u64, u64)>,
    hooks: Hooks,
    syscalls: Syscalls,
    breakpoints: Breakpoints,
    dispatch: Dispatch,
    stacks: Stacks,
    readable: Readable,
    roster: Option<Roster>,
    slot: Option<AgentSlot>,
    joined: BTreeMap<PathBuf, Joined>,
    next_number: u64,
    /// Sessions that cannot be followed, and why.
    unjoined: BTreeMap<PathBuf, String>,
    /// Rounds in this process, as far as they matter.
    rounds: u32,
    /// Why there is no way to the sessions any more.
    lost: Option<&'static str>,
    /// The hook on the loader was tried.
    loader_followed: bool,
    /// Nothing stands before libc's functions but hooks, which were tried.
    injected: bool,
    calls_followed: bool,
    /// Why hooks of our own on libc and the loader are not there.
    unfollowed: Vec<String>,
    resting: Vec<(u32, Box<dyn Any + Send>)>,
}

impl State {
    /// The state of a process that follows nobody yet.
    pub fn new(dirs: Dirs, engine: Box<dyn Backend>) -> State {
        let mut syscalls = Syscalls::default();
        syscalls.set_state(&dirs.state);
        State {
            dirs,
            root: sessions::root(),
            hooks: Hooks::new(engine),
            syscalls,
            breakpoints: Breakpoints::default(),
            dispatch: Dispatch::default(),
            stacks: Stacks::default(),
            readable: Readable::default(),
            roster: None,
            slot: None,
            joined: BTreeMap::new(),
            next_number: 0,
            unjoined: BTreeMap::new(),
            rounds: 0,
            lost: None,
            loader_followed: false,
            injected: false,
            calls_followed: false,
            unfollowed: Vec::new(),
            resting: Vec::new(),
        }
    }

    /// Other directories than before, when an agent that left starts again.
    pub fn set_dirs(&mut self, dirs: Dirs) {
        if self.dirs.state != dirs.state {
            self.slot = None;
            // A roster in use stays mapped: threads may sleep on its words.
            if let Some(roster) = self.roster.take() {
                std::mem::forget(roster);
            }
        }
        self.syscalls.set_state(&dirs.state);
        self.dirs = dirs;
        self.root = sessions::root();
    }

    /// The roster that this process, a guest, was handed.
    pub fn set_roster(&mut self, roster: Roster) {
        self.roster.get_or_insert(roster);
    }

    /// Hooks must do what this library cannot: it was not preloaded.
    pub fn set_injected(&mut self) {
        self.injected = true;
    }

    /// This process's place in the roster; taken when it has none, so also
    /// in a forked child.
    fn slot(&mut self) -> Option<&AgentSlot> {
        let pid = guest::pid();
        let mine = |slot: &AgentSlot| slot.process().pid == pid && slot.is_mine();
        if !self.slot.as_ref().is_some_and(mine) {
            self.slot = None;
            // A guest was handed its own.
            if self.roster.is_none() && !guest::is_guest() {
                self.roster = Roster::open(&self.dirs)
                    .inspect_err(|error| debug!("no roster: {error}"))
                    .ok();
            }
            self.slot = self.roster.as_ref().and_then(|roster| {
                roster
                    .join(Role::Agent)
                    .inspect_err(|error| debug!("cannot join: {error}"))
                    .ok()
            });
            self.rounds = 0;
        }
        self.slot.as_ref()
    }

    /// The word in the roster that wakes this process; it stays mapped.
    pub fn wake_word(&mut self) -> Option<*mut AtomicU32> {
        let slot = self.slot()?;
        Some(std::ptr::from_ref(slot.wake_word()).cast_mut())
    }

    /// Right after fork(2), in the child: hits of before are the parent's.
    pub fn forget_hits(&self) {
        self.hooks.forget_hits();
        self.syscalls.forget_hits();
        syscalls::forget_calls();
    }

    /// Tells the sessions of this process's hits.
    pub fn settle(&self) {
        self.hooks.settle();
        self.syscalls.settle();
    }

    /// Whether a hook is in place that a pid filter keeps from other processes.
    pub fn has_filtered_hooks(&self) -> bool {
        self.hooks.any_filtered()
    }

    /// Whether `bpftime detach` asks this process to leave.
    pub fn detach_requested(&self) -> bool {
        self.slot.as_ref().is_some_and(AgentSlot::detach_requested)
    }

    /// Unhooks everything and leaves the roster.
    pub fn leave(&mut self) {
        // The engine tells of functions only whether threads have left them.
        let calls_traced = !self.syscalls.is_empty();
        self.hooks.clear();
        self.stacks.forget();
        // Before calls go unseen.
        self.readable.want(false);
        self.breakpoints.leave_now();
        self.dispatch.leave_now();
        self.syscalls.is_dispatched = false;
        self.syscalls.clear();
        self.loader_followed = false;
        self.calls_followed = false;
        self.unfollowed.clear();
        for (_, joined) in std::mem::take(&mut self.joined) {
            self.put_to_rest(joined);
        }
        // No later round lets go of them.
        let mut settled = || {
            shm::sys::sched_yield();
            self.hooks.let_go()
        };
        if (0..LOOKS).any(|_| settled()) && !calls_traced {
            self.resting.clear();
        }
        self.leave_roster();
    }

    /// Gives the place in the roster back, if it is this process's.
    pub fn leave_roster(&mut self) {
        self.hooks.settle();
        self.syscalls.settle();
        if let Some(slot) = self.slot.take()
            && slot.process().pid == guest::pid()
        {
            if guest::is_guest() {
                guest::unmark(&self.dirs.sessions, slot.process().pid);
                guest::close_kept();
            }
            slot.leave();
        }
    }

    /// Follows all sessions as they are now, and says so in the roster.
    pub fn follow(&mut self) -> Round {
        self.slot();
        // Read first: what changes from here on is another generation's.
        let generation = self.roster.as_ref().map_or(0, Roster::generation);
        self.let_go();
        self.hooks.settle();
        self.syscalls.settle();
        self.follow_calls();
        self.follow_sessions();
        let mut round = self.follow_links();
        let awaits_files = self.hooks.awaits_files || self.stacks.in_use();
        if awaits_files && self.follow_loader() {
            // What was opened before the loader was hooked is found now, what
            // is opened later waits for a round of its own.
            round = self.follow_links();
        }
        if breakpoints::are_wanted() && self.follow_breakpoints() {
            round = self.follow_links();
        }
        if breakpoints::are_wanted() && self.follow_dispatch() {
            round = self.follow_links();
        }
        if let Some(slot) = &self.slot {
            slot.ack(generation, round.hooks, round.refused, &round.reasons);
        }
        round
    }
}
