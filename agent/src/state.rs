//! What this process does for which session: opens sessions and follows
//! their links. It knows no thread: whoever holds the agent's lock calls it.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use attach::Backend;
use runtime::guest;
use runtime::session::{self, AgentSlot, Dirs, Role, Roster};

use crate::breakpoints::{self, Breakpoints};
use crate::dispatch::{self, Dispatch};
use crate::hooks::{Hooks, Wanted};
use crate::joined::Joined;
use crate::log::debug;
use crate::maps;
use crate::modules::Image;
use crate::readable::Readable;
use crate::stacks::Stacks;
use crate::syscalls::{self, Syscalls};
use crate::{alone, exit, loader, sandbox};

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

/// Rounds for which removed programs and sessions stay mapped: a thread may
/// have been inside one when its hook went.
const REST_ROUNDS: u32 = 16;

/// Most breakpoints that are named.
const NAMED: usize = 4;

/// How long breakpoints wait for all system calls to be hooked, and how often
/// they look.
const CALLS_HOOKED: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(10);

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
            root: root(),
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
        self.root = root();
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

    /// Places breakpoints where no jump fits, and takes them away when they are
    /// not safe any more. Whether anything has changed.
    fn follow_breakpoints(&mut self) -> bool {
        let has_some = self.hooks.breakpoints().next().is_some();
        if has_some && let Some(why) = self.breakpoints.doubt(self.syscalls.is_whole()) {
            self.hooks.remove_breakpoints(&why);
            self.breakpoints.leave();
            return true;
        }
        if !self.hooks.takes_breakpoints() {
            if !has_some {
                self.breakpoints.leave();
            }
            return false;
        }
        if breakpoints::is_traced() {
            self.hooks.refuse_breakpoints("it is being debugged", true);
            return true;
        }
        match self.allow_breakpoints() {
            Ok(()) => self.hooks.place_breakpoints(),
            Err(why) => {
                // Threads may need longer to get past instructions that are
                // hooked now.
                let for_now = self.syscalls.is_whole() && !crate::syscalls::sees_all();
                self.hooks.refuse_breakpoints(&why, for_now);
                if !has_some && !for_now {
                    self.breakpoints.leave();
                }
            }
        }
        true
    }

    /// Has calls of text that may change dispatched while that is wanted and
    /// safe. Whether anything has changed.
    fn follow_dispatch(&mut self) -> bool {
        let is_wanted = self.dispatch.is_tried(self.syscalls.wants_changing());
        if dispatch::is_on() {
            // What is hooked no more, or not yet, raises SIGSYS as well.
            if is_wanted && self.dispatch.is_sound() {
                return false;
            }
        } else if is_wanted && self.allow_dispatch() {
            return true;
        }
        if !self.dispatch.is_prepared() {
            return false;
        }
        let is_over = self.dispatch.leave();
        self.syscalls.is_dispatched = !is_over;
        is_over
    }

    /// Makes it safe, and begins.
    fn allow_dispatch(&mut self) -> bool {
        self.syscalls.is_dispatched = self.dispatch.prepare();
        let deadline = Instant::now() + CALLS_HOOKED;
        while self.syscalls.is_dispatched && Instant::now() < deadline {
            self.follow_links();
            if self.syscalls.is_whole_but_changing() {
                return self.dispatch.arm().is_ok();
            }
            std::thread::sleep(LOOK);
        }
        false
    }

    /// Makes breakpoints safe.
    fn allow_breakpoints(&mut self) -> Result<(), String> {
        self.breakpoints.prepare()?;
        // Rounds that hook system calls, until no thread is on its way past one.
        let deadline = Instant::now() + CALLS_HOOKED;
        loop {
            self.follow_links();
            if crate::syscalls::sees_all() {
                return self.breakpoints.arm();
            }
            if Instant::now() >= deadline {
                return Err("not every system call of this process can be seen".to_owned());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn put_to_rest(&mut self, thing: impl Any + Send) {
        self.resting.push((REST_ROUNDS, Box::new(thing)));
    }

    /// Lets go of what has rested long enough. Rounds are counted, not time:
    /// a stopped process makes none.
    fn let_go(&mut self) {
        for (rounds, _) in &mut self.resting {
            *rounds = rounds.saturating_sub(1);
        }
        if self.hooks.let_go() {
            self.resting.retain(|(rounds, _)| *rounds > 0);
        }
    }

    fn joined_where(&self, wanted: impl FnMut(&(&PathBuf, &Joined)) -> bool) -> Vec<PathBuf> {
        let found = self.joined.iter().filter(wanted);
        found.map(|(path, _)| path.clone()).collect()
    }

    fn follow_sessions(&mut self) {
        let same_root = root() == self.root;
        self.mark();
        self.lost = guest::lost();
        let (present, gone) = match session::try_list(&self.dirs) {
            _ if self.lost.is_some() => (Vec::new(), self.joined_where(|_| true)),
            Ok(present) if same_root => {
                let is_gone = |(path, joined): &(&PathBuf, &Joined)| {
                    !present.contains(path) || !joined.view.alive()
                };
                let gone = self.joined_where(is_gone);
                (present, gone)
            }
            // This process has changed its user or its root and does not see
            // the sessions any more: they live as long as their tools do.
            _ => {
                let gone = self.joined_where(|(_, joined)| !joined.view.owner().alive());
                (Vec::new(), gone)
            }
        };
        for path in gone {
            debug!("session {} has ended", path.display());
            if let Some(joined) = self.joined.remove(&path) {
                self.hooks.forget_session(joined.number);
                self.syscalls.forget_session(joined.number);
                self.put_to_rest(joined);
            }
        }
        self.unjoined.clear();
        for path in present {
            if self.joined.contains_key(&path) {
                continue;
            }
            match Joined::open(&path, self.next_number) {
                Ok(joined) => {
                    debug!("following {}", path.display());
                    self.next_number += 1;
                    self.joined.insert(path, joined);
                }
                // A tool that just ended is no refusal.
                Err(error) if session::is_alive(&path) => {
                    debug!("cannot follow {}: {error}", path.display());
                    self.unjoined.insert(path, error);
                }
                Err(_) => {}
            }
        }
    }

    /// Marks the sessions directory for a guest that has lived for a while: the
    /// first one is marked already, and most children are short-lived and leave
    /// no time to take a mark away.
    fn mark(&mut self) {
        const A_WHILE: u32 = 3;
        self.rounds = self.rounds.saturating_add(1);
        if guest::is_guest()
            && self.rounds == A_WHILE
            && let Some(slot) = &self.slot
        {
            guest::mark(&self.dirs.sessions, slot.process().pid);
        }
    }

    fn follow_links(&mut self) -> Round {
        let pid = guest::pid();
        let mut links: Vec<Wanted> = Vec::new();
        for joined in self.joined.values_mut() {
            joined.meet_objects();
            if joined.has_outdated() {
                self.hooks.forget_session(joined.number);
                self.syscalls.forget_session(joined.number);
            }
            links.extend(joined.links_of(pid));
        }
        // Sessions tell theirs by name and index.
        links.sort_by_key(|wanted| (wanted.made, wanted.link));
        // The mappings matter only where something is hooked or to be hooked.
        let mut blind = false;
        let of_syscalls = |wanted: &mut Wanted| wanted.spec.kind.is_of_syscalls();
        let calls: Vec<Wanted> = links.extract_if(.., of_syscalls).collect();
        let is_idle = self.hooks.is_empty() && self.syscalls.is_empty();
        if !links.is_empty() || !calls.is_empty() || !is_idle {
            self.syscalls.round_begins();
            let image = Image::read();
            if let Ok(image) = &image {
                self.follow_modules(image, &links, &calls);
                let concerns = !calls.is_empty() || links.iter().any(|link| is_here(link, image));
                self.readable.want(concerns && self.reads_memory());
            }
            let sessions = self.joined.values_mut();
            let mut sessions = sessions.map(|joined| (joined.number, joined)).collect();
            match image {
                Ok(image) => {
                    self.hooks.forget_unmapped(&image);
                    let modules = &mut self.hooks.modules;
                    self.syscalls.follow(&calls, &image, modules, &mut sessions);
                    self.hooks.follow(&links, image, &mut sessions);
                }
                Err(_) => blind = self.hooks.follow_blindly(&links),
            }
            self.readable.follow();
        }
        if !self.walks_stacks() {
            self.stacks.forget();
        }
        let parted = self.joined.values_mut().map(Joined::part_from_objects);
        let parted: Vec<_> = parted.collect();
        for (programs, maps) in parted {
            if !programs.is_empty() || !maps.is_empty() {
                self.put_to_rest((programs, maps));
            }
        }
        let (hooks, refused) = self.hooks.counts();
        let (calls, calls_refused) = self.syscalls.counts();
        let (hooks, refused) = (hooks + calls, refused + calls_refused);
        let own = self.unjoined.len() + self.unfollowed.len();
        Round {
            hooks,
            refused: refused + own as u32 + u32::from(blind) + u32::from(self.lost.is_some()),
            reasons: match blind {
                true => "this process cannot see its /proc any more".to_owned(),
                false => self.reasons(),
            },
            sessions: !self.joined.is_empty(),
            resting: !self.resting.is_empty(),
        }
    }

    fn reads_memory(&self) -> bool {
        self.joined.values().any(|joined| joined.reads_memory)
    }

    fn walks_stacks(&self) -> bool {
        self.joined.values().any(|joined| joined.walks_stacks)
    }

    /// Reads the unwind tables of what is mapped, when hooks may ask for stacks.
    fn follow_modules(&mut self, image: &Image, links: &[Wanted], calls: &[Wanted]) {
        let concerns = !calls.is_empty() || links.iter().any(|link| is_here(link, image));
        if self.walks_stacks() && concerns {
            self.stacks.follow(image);
        }
    }

    /// Hooks the loader, so that dlopen(3) waits for a round: a link's file may
    /// still come. `true` the first time.
    fn follow_loader(&mut self) -> bool {
        if self.loader_followed {
            return false;
        }
        let Ok(image) = Image::read() else {
            return false;
        };
        self.loader_followed = true;
        let probe = loader::probe(&image, &mut self.hooks.modules);
        let errors = self.hooks.attach(probe.as_slice());
        let errors = errors
            .iter()
            .map(|error| format!("dlopen is not followed: {error}"));
        self.unfollowed.extend(errors);
        true
    }

    /// Hooks the calls for which the agent's thread goes away, or that it has to
    /// notice, in a process that did not preload this library.
    fn follow_calls(&mut self) {
        if !self.injected || self.calls_followed {
            return;
        }
        self.calls_followed = true;
        let Ok(image) = Image::read() else { return };
        let modules = &mut self.hooks.modules;
        let probes = alone::probes(&image, modules).and_then(|mut probes| {
            probes.push(exit::probe(&image, modules)?);
            probes.extend(sandbox::probes(&image, modules)?);
            Ok(probes)
        });
        match probes {
            Ok(probes) => {
                let errors = self.hooks.attach(&probes);
                let errors = errors
                    .iter()
                    .map(|error| format!("a call of libc is not followed: {error}"));
                self.unfollowed.extend(errors);
            }
            Err(reason) => {
                let reason = format!("calls of libc are not followed: {reason}");
                self.unfollowed.push(reason);
            }
        }
    }

    /// How many breakpoints there are, and where.
    fn breakpoints_told(&self) -> String {
        let all = self.hooks.breakpoints().count();
        let named: Vec<&str> = self.hooks.breakpoints().take(NAMED).collect();
        match all {
            0 => String::new(),
            1..=NAMED => format!("{all} by breakpoint: {}", named.join(", ")),
            _ => format!("{all} by breakpoint: {} and others", named.join(", ")),
        }
    }

    /// Each reason once, with how often it occurred.
    fn reasons(&self) -> String {
        let mut counts = self.hooks.reasons();
        for (reason, count) in self.syscalls.reasons() {
            *counts.entry(reason).or_default() += count;
        }
        if let Some(reason) = self.lost {
            counts.insert(reason, 1);
        }
        let told = self.breakpoints_told();
        if !told.is_empty() {
            counts.insert(&told, 1);
        }
        for reason in self.unjoined.values().chain(&self.unfollowed) {
            *counts.entry(reason).or_default() += 1;
        }
        let lines: Vec<String> = counts
            .iter()
            .map(|(reason, count)| match count {
                1 => (*reason).to_owned(),
                count => format!("{reason} ({count} times)"),
            })
            .collect();
        lines.join("\n")
    }
}

/// Whether a link's file is mapped.
fn is_here(wanted: &Wanted, image: &Image) -> bool {
    let file = (wanted.spec.dev, wanted.spec.ino);
    image.mappings_of(file).next().is_some()
}

/// Which directory this thread's `/` is.
fn root() -> Option<(u64, u64)> {
    maps::identity(Path::new("/"))
}
