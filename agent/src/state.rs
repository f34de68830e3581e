//! What this process does for which session: opens sessions, finds the
//! addresses that links mean, loads programs, attaches and detaches. It knows
//! no thread: whoever holds the agent's lock calls it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use attach::{Engine, HookId, Kind, Point, Probe};
use runtime::program::LoadedProgram;
use runtime::run::ProcessSession;
use runtime::session::{self, AgentSlot, Dirs, LinkKind, LinkSpec, Role, Roster, SessionView};

use crate::hit::{self, Hit};
use crate::log::debug;
use crate::maps::Mapping;
use crate::modules::{Image, Modules};

/// A session this process follows.
struct Joined {
    view: Arc<SessionView>,
    session: Arc<ProcessSession>,
    /// By object id; a program that did not load is not tried again.
    programs: HashMap<u32, Result<Arc<LoadedProgram>, String>>,
}

/// One hook that a link means: a link may mean several, and an address may
/// serve several links.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
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

/// What happened in one round.
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
    engine: Engine,
    roster: Option<Roster>,
    slot: Option<AgentSlot>,
    joined: BTreeMap<PathBuf, Joined>,
    modules: Modules,
    hooked: BTreeMap<Wanted, Hooked>,
    refused: BTreeMap<Wanted, String>,
    resting: Vec<(u32, Box<dyn Any + Send>)>,
}

impl State {
    /// The state of a process that follows nobody yet.
    pub fn new(dirs: Dirs, engine: Engine) -> State {
        State {
            dirs,
            engine,
            roster: None,
            slot: None,
            joined: BTreeMap::new(),
            modules: Modules::default(),
            hooked: BTreeMap::new(),
            refused: BTreeMap::new(),
            resting: Vec::new(),
        }
    }

    /// This process's place in the roster; taken when it has none, so also
    /// in a forked child.
    pub fn slot(&mut self) -> Option<&AgentSlot> {
        let pid = shm::sys::getpid();
        if !self
            .slot
            .as_ref()
            .is_some_and(|slot| slot.process().pid == pid && slot.is_mine())
        {
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

    /// Follows all sessions as they are now, and says so in the roster.
    pub fn follow(&mut self) -> Round {
        // Read first: what changes from here on is another generation's.
        let generation = self.roster.as_ref().map_or(0, Roster::generation);
        self.rest();
        self.follow_sessions();
        let round = self.follow_links();
        if let Some(slot) = self.slot() {
            slot.ack(generation, round.hooks, round.refused, &round.reasons);
        }
        round
    }

    /// The word in the roster that wakes this process.
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
        let all: Vec<Wanted> = self.hooked.keys().cloned().collect();
        self.unhook(&all);
        for (_, joined) in std::mem::take(&mut self.joined) {
            self.put_to_rest(joined);
        }
        self.refused.clear();
        self.leave_roster();
    }

    /// Gives the place in the roster back, if it is this process's.
    pub fn leave_roster(&mut self) {
        if let Some(slot) = self.slot.take()
            && slot.process().pid == shm::sys::getpid()
        {
            slot.leave();
        }
    }

    fn put_to_rest(&mut self, thing: impl Any + Send) {
        self.resting.push((REST_ROUNDS, Box::new(thing)));
    }

    /// Lets go of what has rested long enough. Rounds are counted, not time:
    /// a stopped process makes none.
    fn rest(&mut self) {
        for (rounds, _) in &mut self.resting {
            *rounds = rounds.saturating_sub(1);
        }
        self.resting.retain(|(rounds, _)| *rounds > 0);
    }

    fn follow_sessions(&mut self) {
        let present = session::list(&self.dirs);
        let gone: Vec<PathBuf> = self
            .joined
            .iter()
            .filter(|(path, joined)| !present.contains(path) || !joined.view.alive())
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            debug!("session {} has ended", path.display());
            let hooks: Vec<Wanted> = self
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
        for path in present {
            if self.joined.contains_key(&path) {
                continue;
            }
            match open(&path) {
                Ok(joined) => {
                    debug!("following session {}", path.display());
                    self.joined.insert(path, joined);
                }
                Err(error) => debug!("cannot follow {}: {error}", path.display()),
            }
        }
    }

    fn follow_links(&mut self) -> Round {
        let pid = shm::sys::getpid();
        let mut links: Vec<(PathBuf, u32, LinkSpec)> = Vec::new();
        for (path, joined) in &self.joined {
            for (id, link) in joined.view.links() {
                if link.enabled && (link.pid == -1 || link.pid == pid) {
                    links.push((path.clone(), id, link));
                }
            }
        }
        // The mappings matter only where something is hooked or to be hooked.
        let image = if links.is_empty() && self.hooked.is_empty() {
            Image::default()
        } else {
            Image::read()
        };
        self.forget_unmapped(&image);
        let mut wanted: BTreeMap<Wanted, (LinkSpec, Mapping)> = BTreeMap::new();
        for (session, id, link) in links {
            for (mapping, address) in image.places((link.dev, link.ino), link.offset) {
                let hook = Wanted {
                    session: session.clone(),
                    link: id,
                    address,
                };
                wanted.insert(hook, (link.clone(), mapping.clone()));
            }
        }
        let gone: Vec<Wanted> = self
            .hooked
            .keys()
            .filter(|hook| !wanted.contains_key(hook))
            .cloned()
            .collect();
        self.unhook(&gone);
        self.refused.retain(|hook, _| wanted.contains_key(hook));
        wanted
            .retain(|hook, _| !self.hooked.contains_key(hook) && !self.refused.contains_key(hook));
        self.hook(wanted, &image);
        self.forget_programs();
        Round {
            hooks: self.hooked.len() as u32,
            refused: self.refused.len() as u32,
            reasons: self.reasons(),
            sessions: !self.joined.is_empty(),
            resting: !self.resting.is_empty(),
        }
    }

    /// Drops hooks whose module was unmapped: their text is not ours to write.
    fn forget_unmapped(&mut self, image: &Image) {
        for range in self.modules.retain(image) {
            self.engine.forget_range(range.clone());
            let gone: Vec<Wanted> = self
                .hooked
                .iter()
                .filter(|(hook, _)| range.contains(&hook.address))
                .map(|(hook, _)| hook.clone())
                .collect();
            for hook in gone {
                if let Some(hooked) = self.hooked.remove(&hook) {
                    hooked.hit.retire();
                }
            }
        }
    }

    fn unhook(&mut self, hooks: &[Wanted]) {
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
    }

    fn hook(&mut self, wanted: BTreeMap<Wanted, (LinkSpec, Mapping)>, image: &Image) {
        let mut batch: Vec<(Point, Probe)> = Vec::new();
        let mut asked: Vec<(Wanted, &'static Hit, bool, PathBuf)> = Vec::new();
        for (hook, (link, mapping)) in wanted {
            match self.prepare(&hook, &link, &mapping, image) {
                Ok((point, hit)) => {
                    batch.push((point, hit.probe()));
                    asked.push((hook, hit, link.pid != -1, mapping.path));
                }
                Err(reason) => {
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
                    self.hooked.insert(hook, Hooked { id, hit, filtered });
                }
                Err(error) => {
                    hit.retire();
                    self.refused
                        .insert(hook, format!("{}: {error}", path.display()));
                }
            }
        }
    }

    fn prepare(
        &mut self,
        hook: &Wanted,
        link: &LinkSpec,
        mapping: &Mapping,
        image: &Image,
    ) -> Result<(Point, &'static Hit), String> {
        let joined = self
            .joined
            .get_mut(&hook.session)
            .ok_or("the session has ended")?;
        let program = joined
            .programs
            .entry(link.prog)
            .or_insert_with(|| {
                LoadedProgram::load(&joined.session, link.prog)
                    .map(Arc::new)
                    .map_err(|error| format!("program {}: {error}", link.prog))
            })
            .clone()?;
        let module = self.modules.of(mapping, image)?;
        let counters = joined
            .view
            .counters(hook.link)
            .ok_or("the session's data is too short")?;
        let hit = hit::Hit::new(&program, &joined.session, counters, link.cookie);
        let kind = match link.kind {
            LinkKind::Uprobe => Kind::Entry,
            LinkKind::Uretprobe => Kind::Return,
        };
        let point = Point {
            addr: hook.address,
            kind,
            module,
        };
        Ok((point, hit))
    }

    /// Lets go of programs and maps that the tool has removed.
    fn forget_programs(&mut self) {
        let mut gone: Vec<Arc<LoadedProgram>> = Vec::new();
        for joined in self.joined.values_mut() {
            let view = &joined.view;
            joined.programs.retain(|&id, program| {
                let stays = view.has_program(id);
                if !stays && let Ok(program) = program {
                    gone.push(program.clone());
                }
                stays
            });
        }
        if !gone.is_empty() {
            self.put_to_rest(gone);
        }
    }

    /// Each reason once, with how often it occurred.
    fn reasons(&self) -> String {
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for reason in self.refused.values() {
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

fn open(path: &Path) -> Result<Joined, String> {
    let view = Arc::new(SessionView::open(path).map_err(|error| error.to_string())?);
    let session = ProcessSession::new(view.clone())?;
    Ok(Joined {
        view,
        session: Arc::new(session),
        programs: HashMap::new(),
    })
}
