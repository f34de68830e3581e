//! What this process does for which session: opens sessions, finds the
//! addresses that links mean, attaches and detaches. It knows no thread:
//! whoever holds the agent's lock calls it.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use attach::{Engine, HookId, Kind, Point, Probe};
use runtime::session::{self, AgentSlot, Dirs, LinkKind, LinkSpec, Role, Roster};

use crate::hit::Hit;
use crate::joined::Joined;
use crate::loader;
use crate::log::debug;
use crate::maps::{self, Mapping};
use crate::modules::{Image, Modules};

/// One hook that a link means: a link may mean several, and an address may
/// serve several links. In this order hooks of one address are attached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hook {
    /// The session's directory, and the id that is unique in it.
    session: PathBuf,
    link: u32,
    address: usize,
}

/// A hook in place.
struct Hooked {
    id: HookId,
    hit: &'static Hit,
    /// The link has a pid filter.
    filtered: bool,
}

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

/// Everything the agent knows.
pub struct State {
    dirs: Dirs,
    /// The root directory in which `dirs` are meant.
    root: Option<(u64, u64)>,
    engine: Engine,
    roster: Option<Roster>,
    slot: Option<AgentSlot>,
    joined: BTreeMap<PathBuf, Joined>,
    /// Sessions that cannot be followed, and why.
    unjoined: BTreeMap<PathBuf, String>,
    modules: Modules,
    hooked: BTreeMap<Hook, Hooked>,
    refused: BTreeMap<Hook, String>,
    /// Some link's file is not mapped here, or may go and come again.
    awaits_files: bool,
    /// The hook on the loader was tried.
    loader_followed: bool,
    resting: Vec<(u32, Box<dyn Any + Send>)>,
}

impl State {
    /// The state of a process that follows nobody yet.
    pub fn new(dirs: Dirs, engine: Engine) -> State {
        State {
            dirs,
            root: root(),
            engine,
            roster: None,
            slot: None,
            joined: BTreeMap::new(),
            unjoined: BTreeMap::new(),
            modules: Modules::default(),
            hooked: BTreeMap::new(),
            refused: BTreeMap::new(),
            awaits_files: false,
            loader_followed: false,
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
        self.dirs = dirs;
        self.root = root();
    }

    /// This process's place in the roster; taken when it has none, so also
    /// in a forked child.
    fn slot(&mut self) -> Option<&AgentSlot> {
        let pid = shm::sys::getpid();
        let mine = |slot: &AgentSlot| slot.process().pid == pid && slot.is_mine();
        if !self.slot.as_ref().is_some_and(mine) {
            self.slot = None;
            if self.roster.is_none() {
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
        }
        self.slot.as_ref()
    }

    /// The word in the roster that wakes this process; it stays mapped.
    pub fn wake_word(&mut self) -> Option<*mut AtomicU32> {
        let slot = self.slot()?;
        Some(std::ptr::from_ref(slot.wake_word()).cast_mut())
    }

    /// Whether a hook is in place that a pid filter keeps from other processes.
    pub fn has_filtered_hooks(&self) -> bool {
        self.hooked.values().any(|hooked| hooked.filtered)
    }

    /// Whether `bpftime detach` asks this process to leave.
    pub fn detach_requested(&self) -> bool {
        self.slot.as_ref().is_some_and(AgentSlot::detach_requested)
    }

    /// Unhooks everything and leaves the roster.
    pub fn leave(&mut self) {
        let all: Vec<Hook> = self.hooked.keys().cloned().collect();
        self.unhook(&all);
        for (_, joined) in std::mem::take(&mut self.joined) {
            self.put_to_rest(joined);
        }
        self.refused.clear();
        self.leave_roster();
    }

    /// Gives the place in the roster back, if it is this process's.
    pub fn leave_roster(&mut self) {
        settle(self.hooked.values());
        if let Some(slot) = self.slot.take()
            && slot.process().pid == shm::sys::getpid()
        {
            slot.leave();
        }
    }

    /// Follows all sessions as they are now, and says so in the roster.
    pub fn follow(&mut self) -> Round {
        self.slot();
        // Read first: what changes from here on is another generation's.
        let generation = self.roster.as_ref().map_or(0, Roster::generation);
        self.let_go();
        settle(self.hooked.values());
        self.follow_sessions();
        let mut round = self.follow_links();
        if self.awaits_files && self.follow_loader() {
            // What was opened before the loader was hooked is found now, what
            // is opened later waits for a round of its own.
            round = self.follow_links();
        }
        if let Some(slot) = &self.slot {
            slot.ack(generation, round.hooks, round.refused, &round.reasons);
        }
        round
    }

    fn put_to_rest(&mut self, thing: impl Any + Send) {
        self.resting.push((REST_ROUNDS, Box::new(thing)));
    }

    /// Lets go of what has rested long enough. Rounds are counted, not time:
    /// a stopped process makes none.
    fn let_go(&mut self) {
        for (rounds, _) in &mut self.resting {
            *rounds -= 1;
        }
        self.resting.retain(|(rounds, _)| *rounds > 0);
    }

    fn joined_where(&self, wanted: impl FnMut(&(&PathBuf, &Joined)) -> bool) -> Vec<PathBuf> {
        let found = self.joined.iter().filter(wanted);
        found.map(|(path, _)| path.clone()).collect()
    }

    fn follow_sessions(&mut self) {
        let same_root = root() == self.root;
        let (present, gone) = match session::try_list(&self.dirs) {
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
            let hooks: Vec<Hook> = self
                .hooked
                .keys()
                .filter(|hook| hook.session == path)
                .cloned()
                .collect();
            self.unhook(&hooks);
            self.refused.retain(|hook, _| hook.session != path);
            if let Some(joined) = self.joined.remove(&path) {
                self.put_to_rest(joined);
            }
        }
        self.unjoined.clear();
        for path in present {
            if self.joined.contains_key(&path) {
                continue;
            }
            match Joined::open(&path) {
                Ok(joined) => {
                    debug!("following {}", path.display());
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

    fn follow_links(&mut self) -> Round {
        let pid = shm::sys::getpid();
        let mut links: Vec<(PathBuf, u32, LinkSpec)> = Vec::new();
        for (path, joined) in &mut self.joined {
            joined.meet_objects();
            for (id, link) in joined.view.links() {
                if link.enabled && (link.pid == -1 || link.pid == pid) {
                    links.push((path.clone(), id, link));
                }
            }
        }
        // The mappings matter only where something is hooked or to be hooked.
        let mut blind = false;
        if !links.is_empty() || !self.hooked.is_empty() {
            match Image::read() {
                Ok(image) => self.follow_image(links, &image),
                Err(_) => blind = self.follow_blindly(&links),
            }
        }
        let mut parted = Vec::new();
        for joined in self.joined.values_mut() {
            parted.extend(joined.part_from_objects());
        }
        if !parted.is_empty() {
            self.put_to_rest(parted);
        }
        Round {
            hooks: self.hooked.len() as u32,
            refused: (self.refused.len() + self.unjoined.len()) as u32 + u32::from(blind),
            reasons: match blind {
                true => "this process cannot see its /proc any more".to_owned(),
                false => self.reasons(),
            },
            sessions: !self.joined.is_empty(),
            resting: !self.resting.is_empty(),
        }
    }

    /// Without sight of the mappings: hooks can only go. Returns whether a
    /// link has none.
    fn follow_blindly(&mut self, links: &[(PathBuf, u32, LinkSpec)]) -> bool {
        let hooked: BTreeSet<(&PathBuf, u32)> = self
            .hooked
            .keys()
            .map(|hook| (&hook.session, hook.link))
            .collect();
        let wanted: BTreeSet<(&PathBuf, u32)> = links
            .iter()
            .map(|(session, link, _)| (session, *link))
            .collect();
        let blind = wanted.difference(&hooked).next().is_some();
        let gone = |hook: &&Hook| !wanted.contains(&(&hook.session, hook.link));
        let gone: Vec<Hook> = self.hooked.keys().filter(gone).cloned().collect();
        self.unhook(&gone);
        blind
    }

    /// Brings the hooks into line with the links, where their files are mapped.
    fn follow_image(&mut self, links: Vec<(PathBuf, u32, LinkSpec)>, image: &Image) {
        self.forget_unmapped(image);
        let mut wanted: BTreeMap<Hook, (LinkSpec, Mapping)> = BTreeMap::new();
        self.awaits_files = false;
        for (session, link, spec) in links {
            let mut places = image.places((spec.dev, spec.ino), spec.offset);
            // All other libraries may be closed and come again.
            if !places
                .next()
                .is_some_and(|(mapping, _)| image.is_for_life(mapping))
            {
                self.awaits_files = true;
            }
            for (mapping, address) in image.places((spec.dev, spec.ino), spec.offset) {
                let session = session.clone();
                let hook = Hook {
                    session,
                    link,
                    address,
                };
                wanted.insert(hook, (spec.clone(), mapping.clone()));
            }
        }
        let unwanted = |hook: &&Hook| !wanted.contains_key(*hook);
        let gone: Vec<Hook> = self.hooked.keys().filter(unwanted).cloned().collect();
        self.unhook(&gone);
        self.refused.retain(|hook, _| wanted.contains_key(hook));
        wanted
            .retain(|hook, _| !self.hooked.contains_key(hook) && !self.refused.contains_key(hook));
        self.hook(wanted, image);
    }

    /// Drops hooks whose module was unmapped: that text is not ours to write.
    fn forget_unmapped(&mut self, image: &Image) {
        if self.hooked.is_empty() {
            return;
        }
        for range in self.modules.retain(image) {
            debug!("{range:x?} was unmapped");
            self.engine.forget_range(range.clone());
            self.hooked.retain(|hook, hooked| {
                let stays = !range.contains(&hook.address);
                if !stays {
                    hooked.hit.retire();
                }
                stays
            });
        }
    }

    fn unhook(&mut self, hooks: &[Hook]) {
        let gone: Vec<Hooked> = hooks
            .iter()
            .filter_map(|hook| self.hooked.remove(hook))
            .collect();
        // First no new run, then no new hit.
        for hooked in &gone {
            hooked.hit.retire();
        }
        let ids: Vec<HookId> = gone.iter().map(|hooked| hooked.id).collect();
        if !ids.is_empty() {
            self.engine.detach(&ids);
        }
        settle(&gone);
    }

    fn hook(&mut self, wanted: BTreeMap<Hook, (LinkSpec, Mapping)>, image: &Image) {
        let mut batch: Vec<(Point, Probe)> = Vec::new();
        let mut asked: Vec<(Hook, &'static Hit, bool, PathBuf)> = Vec::new();
        for (hook, (link, mapping)) in wanted {
            match self.prepare(&hook, &link, &mapping, image) {
                Ok((point, hit)) => {
                    batch.push((point, hit.probe()));
                    asked.push((hook, hit, link.pid != -1, mapping.path));
                }
                Err(reason) => {
                    debug!("{hook:x?}: {reason}");
                    self.refused.insert(hook, reason);
                }
            }
        }
        if batch.is_empty() {
            return;
        }
        let results = self.engine.attach(&batch);
        for ((hook, hit, filtered, path), result) in asked.into_iter().zip(results) {
            match result {
                Ok(id) => {
                    debug!("{hook:x?}: in place");
                    self.hooked.insert(hook, Hooked { id, hit, filtered });
                }
                Err(error) => {
                    debug!("{hook:x?}: {error}");
                    hit.retire();
                    let reason = format!("{}: {error}", path.display());
                    self.refused.insert(hook, reason);
                }
            }
        }
    }

    fn prepare(
        &mut self,
        hook: &Hook,
        link: &LinkSpec,
        mapping: &Mapping,
        image: &Image,
    ) -> Result<(Point, &'static Hit), String> {
        let joined = self
            .joined
            .get_mut(&hook.session)
            .ok_or("the session has ended")?;
        let program = joined.program(link.prog)?;
        let module = self.modules.of(mapping, image)?;
        let counters = joined
            .view
            .counters(hook.link)
            .ok_or("the session's data is too short")?;
        let point = Point {
            addr: hook.address,
            kind: match link.kind {
                LinkKind::Uprobe => Kind::Entry,
                LinkKind::Uretprobe => Kind::Return,
            },
            module,
        };
        let at_entry = point.kind == Kind::Entry && begins_frame(&point);
        let hit = Hit::new(&program, &joined.env, &counters, link.cookie, at_entry);
        Ok((point, hit))
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
        let probe = loader::probe(&image, &mut self.modules);
        for error in self
            .engine
            .attach(probe.as_slice())
            .into_iter()
            .filter_map(Result::err)
        {
            debug!("dlopen is not followed: {error}");
        }
        true
    }

    /// Each reason once, with how often it occurred.
    fn reasons(&self) -> String {
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for reason in self.refused.values().chain(self.unjoined.values()) {
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

/// Which directory this thread's `/` is.
fn root() -> Option<(u64, u64)> {
    maps::identity(Path::new("/"))
}

/// Tells the sessions what the engine skipped. The hooks' sessions are joined
/// or rest.
fn settle<'a>(hooks: impl IntoIterator<Item = &'a Hooked>) {
    for hooked in hooks {
        hooked.hit.settle();
    }
}

/// Whether the caller's address is still where sp points and no frame pointer
/// leads to it (arch/x86/events/core.c, `is_uprobe_at_func_entry`).
fn begins_frame(point: &Point) -> bool {
    const PUSH_RBP: u8 = 0x55;
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let text = point.module.original(point.addr as u64, ENDBR64.len());
    text.is_some_and(|text| text.first() == Some(&PUSH_RBP) || *text == ENDBR64)
}
