//! What is hooked in this process for which link: finds the addresses that
//! links mean, attaches and detaches. It knows no session's life and no round.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use attach::breakpoints::Breakpoints;
use attach::{AttachError, Backend, Engine, HookId, Kind, Point, Probe};
use runtime::session::{LinkKind, LinkSpec};
use uapi::helper::BPF_FUNC_OVERRIDE_RETURN;

use crate::breakpoints;
use crate::hit::{Hit, Tally};
use crate::joined::Joined;
use crate::log::debug;
use crate::maps::Mapping;
use crate::modules::{Image, Modules};
use crate::semaphores::{self, Semaphores};

/// A link that this process is to follow.
#[derive(Clone)]
pub struct Wanted {
    /// Number of the session, and the link's id in it.
    pub link: (u64, u32),
    /// When it was made: older ones are attached first.
    pub made: u64,
    /// What it asks.
    pub spec: Arc<LinkSpec>,
}

/// One link at one load of its file: hooked and unhooked as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    link: (u64, u32),
    /// Where the mapping starts.
    start: usize,
}

/// What came of a spot.
#[derive(Default)]
struct Hooked {
    ids: Vec<HookId>,
    #[expect(clippy::vec_box, reason = "the engine knows them by address")]
    hits: Vec<Box<Hit>>,
    tally: Option<Arc<Tally>>,
    /// Addresses of those whose counters were raised.
    counted: Vec<usize>,
    /// Places that were refused, by reason. They are not tried again.
    refused: BTreeMap<String, u32>,
    /// The link has a pid filter.
    filtered: bool,
    /// Of the refused ones, those for which a breakpoint would do.
    short: Vec<Short>,
    /// Of the hooked ones, those for which one does, and where they are.
    broken: Vec<(HookId, String)>,
}

/// A place that takes no jump.
struct Short {
    point: Point,
    probe: Probe,
    hit: Box<Hit>,
    counter: semaphores::Place,
    place: String,
    /// Why no jump fits, and that with why there is no breakpoint.
    jump: String,
    reason: String,
}

impl Hooked {
    fn refuse(&mut self, reason: String, places: usize) {
        *self.refused.entry(reason).or_default() += places as u32;
    }

    /// A place was hooked after all.
    fn accept(&mut self, reason: &str) {
        if let Some(places) = self.refused.get_mut(reason) {
            *places = places.saturating_sub(1);
        }
        self.refused.retain(|_, places| *places > 0);
    }

    /// Tells the session what the engine skipped.
    fn settle(&self) {
        if let Some(tally) = &self.tally {
            tally.settle();
        }
    }
}

/// All hooks of this process.
pub struct Hooks {
    engine: Box<dyn Backend>,
    pub modules: Modules,
    at: BTreeMap<Spot, Hooked>,
    /// Hooks that belong to no link.
    own: Vec<HookId>,
    semaphores: Semaphores,
    /// Some link's file is not mapped here, or may go and come again.
    pub awaits_files: bool,
    /// A place was refused for which a breakpoint would do.
    has_short: bool,
    /// What was followed last; until it changes there is nothing to do.
    followed: Option<(Vec<(u64, u32)>, Image)>,
    /// What threads may be in the midst of still.
    gone: Vec<Hooked>,
}

impl Hooks {
    pub fn new(engine: Box<dyn Backend>) -> Hooks {
        Hooks {
            engine,
            modules: Modules::default(),
            at: BTreeMap::new(),
            own: Vec::new(),
            semaphores: Semaphores::default(),
            awaits_files: false,
            has_short: false,
            followed: None,
            gone: Vec::new(),
        }
    }

    /// Places that are hooked, and places that were refused.
    pub fn counts(&self) -> (u32, u32) {
        let hooked = self.at.values().map(|hooked| hooked.ids.len() as u32);
        let refused = self.at.values().flat_map(|hooked| hooked.refused.values());
        (hooked.sum(), refused.sum())
    }

    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Whether a hook is in place that a pid filter keeps from other processes.
    pub fn any_filtered(&self) -> bool {
        let in_place = |hooked: &Hooked| hooked.filtered && !hooked.ids.is_empty();
        self.at.values().any(in_place)
    }

    /// Why places were refused, each reason with how often it occurred.
    pub fn reasons(&self) -> BTreeMap<&str, u32> {
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for (reason, count) in self.at.values().flat_map(|hooked| &hooked.refused) {
            *counts.entry(reason).or_default() += count;
        }
        counts
    }

    /// Tells the sessions of this process's hits. They are joined or rest.
    pub fn settle(&self) {
        self.at.values().for_each(Hooked::settle);
        self.gone.iter().for_each(Hooked::settle);
    }

    /// Right after fork(2), in the child.
    pub fn forget_hits(&self) {
        let hooked = self.at.values().chain(&self.gone);
        let tallies = hooked.filter_map(|hooked| hooked.tally.as_ref());
        tallies.for_each(|tally| tally.forget());
    }

    /// Whether no thread can be in the midst of a hit of a hook that went. What
    /// such hits use may then be dropped, and what they need is dropped here.
    pub fn let_go(&mut self) -> bool {
        let is_settled = self.engine.is_settled();
        if is_settled {
            self.gone.clear();
        }
        is_settled
    }

    /// Attaches probes that belong to no link; gives why some were refused.
    pub fn attach(&mut self, probes: &[(Point, Probe)]) -> Vec<attach::AttachError> {
        let results = self.engine.attach(probes);
        let own = &mut self.own;
        let keep = |result: Result<HookId, _>| result.map(|id| own.push(id)).err();
        results.into_iter().filter_map(keep).collect()
    }

    /// Brings the hooks into line with the links, where their files are
    /// mapped; `sessions` are those that the links are of.
    pub fn follow(
        &mut self,
        links: &[Wanted],
        image: Image,
        sessions: &mut BTreeMap<u64, &mut Joined>,
    ) {
        let keys: Vec<(u64, u32)> = links.iter().map(|wanted| wanted.link).collect();
        let unchanged = |(last_keys, last_image): &(Vec<(u64, u32)>, Image)| {
            *last_keys == keys && *last_image == image
        };
        if self.followed.as_ref().is_some_and(unchanged) {
            return;
        }
        self.awaits_files = false;
        let mut spots: Vec<(Spot, &Wanted, &Mapping)> = Vec::new();
        for wanted in links {
            let spec = &wanted.spec;
            let mut for_life = false;
            for mapping in image.mappings_of((spec.dev, spec.ino)) {
                let has = |place: &runtime::session::Place| mapping.address_of(place.offset);
                if spec.places.iter().find_map(has).is_some() {
                    for_life |= image.is_for_life(mapping);
                    let (link, start) = (wanted.link, mapping.range.start);
                    spots.push((Spot { link, start }, wanted, mapping));
                }
            }
            // All other libraries may be closed and come again.
            self.awaits_files |= !for_life;
        }
        let wanted: BTreeSet<Spot> = spots.iter().map(|(spot, ..)| *spot).collect();
        self.unhook(|spot| !wanted.contains(spot));
        spots.retain(|(spot, ..)| !self.at.contains_key(spot));
        self.hook(&spots, &image, sessions);
        self.semaphores.find_counters();
        self.followed = Some((keys, image));
    }

    /// Without sight of the mappings: hooks can only go. Returns whether a
    /// link has none.
    pub fn follow_blindly(&mut self, links: &[Wanted]) -> bool {
        self.followed = None;
        let wanted: BTreeSet<(u64, u32)> = links.iter().map(|wanted| wanted.link).collect();
        self.unhook(|spot| !wanted.contains(&spot.link));
        let hooked: BTreeSet<(u64, u32)> = self.at.keys().map(|spot| spot.link).collect();
        wanted.difference(&hooked).next().is_some()
    }

    /// Drops all hooks of a session.
    pub fn forget_session(&mut self, session: u64) {
        self.followed = None;
        self.unhook(|spot| spot.link.0 == session);
    }

    /// Drops all hooks.
    pub fn clear(&mut self) {
        self.followed = None;
        self.unhook(|_| true);
        self.engine.detach(&std::mem::take(&mut self.own));
    }

    /// Drops hooks whose module was unmapped: that text is not ours to write.
    pub fn forget_unmapped(&mut self, image: &Image) {
        for range in self.modules.retain(image) {
            debug!("{range:x?} was unmapped");
            self.forget_range(&range);
        }
    }

    fn forget_range(&mut self, range: &Range<usize>) {
        self.engine.forget_range(range.clone());
        self.semaphores.forget_range(range);
        let gone = self
            .at
            .extract_if(.., |spot, _| range.contains(&spot.start));
        let gone: Vec<Hooked> = gone.map(|(_, hooked)| hooked).collect();
        gone.iter().for_each(Hooked::settle);
        self.gone.extend(gone);
    }

    fn unhook(&mut self, mut goes: impl FnMut(&Spot) -> bool) {
        let gone: Vec<Hooked> = self
            .at
            .extract_if(.., |spot, _| goes(spot))
            .map(|(_, hooked)| hooked)
            .collect();
        let ids: Vec<HookId> = gone
            .iter()
            .flat_map(|hooked| &hooked.ids)
            .copied()
            .collect();
        if !ids.is_empty() {
            self.engine.detach(&ids);
        }
        for address in gone.iter().flat_map(|hooked| &hooked.counted) {
            self.semaphores.lower(*address);
        }
        gone.iter().for_each(Hooked::settle);
        self.gone.extend(gone);
    }

    fn hook(
        &mut self,
        spots: &[(Spot, &Wanted, &Mapping)],
        image: &Image,
        sessions: &mut BTreeMap<u64, &mut Joined>,
    ) {
        let mut batch: Vec<(Point, Probe)> = Vec::new();
        let mut asked: Vec<(Spot, Box<Hit>, semaphores::Place, &Mapping)> = Vec::new();
        for (spot, wanted, mapping) in spots {
            let mut hooked = Hooked {
                filtered: wanted.spec.pid != -1,
                ..Hooked::default()
            };
            let session = sessions.get_mut(&spot.link.0);
            match prepare(wanted, mapping, session, &mut self.modules, image) {
                Ok((tally, prepared)) => {
                    hooked.tally = Some(tally);
                    for (point, hit, ref_ctr_offset) in prepared {
                        let place = semaphores::Place {
                            address: point.addr,
                            file: (mapping.dev, mapping.ino),
                            ref_ctr_offset,
                        };
                        let probe = match (point.kind, wanted.spec.kind) {
                            (Kind::Session, _) => hit.session_probe(),
                            (Kind::Override, LinkKind::Replace) => hit.replace_probe(),
                            (Kind::Override, _) => hit.override_probe(),
                            _ => hit.probe(),
                        };
                        batch.push((point, probe));
                        asked.push((*spot, hit, place, mapping));
                    }
                }
                Err(reason) => {
                    debug!("{spot:x?}: {reason}");
                    let inside = |place: &&runtime::session::Place| {
                        mapping.address_of(place.offset).is_some()
                    };
                    let places = wanted.spec.places.iter().filter(inside).count();
                    hooked.refuse(reason, places);
                }
            }
            self.at.insert(*spot, hooked);
        }
        if batch.is_empty() {
            return;
        }
        let results = self.engine.attach(&batch);
        let mut counted = Vec::new();
        let asked = asked.into_iter().zip(batch).zip(results);
        for (((spot, hit, place, mapping), (point, probe)), result) in asked {
            let Some(hooked) = self.at.get_mut(&spot) else {
                continue;
            };
            match result {
                Ok(id) => {
                    hooked.ids.push(id);
                    hooked.hits.push(hit);
                    if place.ref_ctr_offset != 0 {
                        hooked.counted.push(place.address);
                        counted.push(place);
                    }
                }
                Err(error) => {
                    debug!("{spot:x?}: {error}");
                    let reason = format!("{}: {error}", mapping.path.display());
                    hooked.refuse(reason.clone(), 1);
                    let is_short = matches!(
                        &error,
                        AttachError::Refused { reason, .. } if reason.is_for_want_of_jump()
                    );
                    if is_short && breakpoints::are_wanted() {
                        let offset = point.addr - mapping.range.start + mapping.offset as usize;
                        let named = format!("{}:{offset:#x}", mapping.path.display());
                        hooked.short.push(Short {
                            point,
                            probe,
                            hit,
                            counter: place,
                            place: named,
                            jump: reason.clone(),
                            reason,
                        });
                        self.has_short = true;
                    }
                }
            }
        }
        self.semaphores.raise(&counted);
    }
}

/// Breakpoints, where no jump fits.
impl Hooks {
    /// Whether there are places that were refused since this was asked last, and
    /// for which a breakpoint would do.
    pub fn takes_breakpoints(&mut self) -> bool {
        std::mem::take(&mut self.has_short)
    }

    /// Hooks these places. Threads that hit a breakpoint are safe now.
    pub fn place_breakpoints(&mut self) {
        let Ok(engine) = Engine::new() else { return };
        engine.place_breakpoints(Breakpoints::WhereNeeded);
        let mut counted = Vec::new();
        for hooked in self.at.values_mut() {
            let short = std::mem::take(&mut hooked.short);
            let batch: Vec<_> = short.iter().map(|s| (s.point.clone(), s.probe)).collect();
            let results = self.engine.attach(&batch);
            for (short, result) in short.into_iter().zip(results) {
                let Ok(id) = result else { continue };
                hooked.accept(&short.reason);
                hooked.ids.push(id);
                hooked.hits.push(short.hit);
                hooked.broken.push((id, short.place));
                if short.counter.ref_ctr_offset != 0 {
                    hooked.counted.push(short.counter.address);
                    counted.push(short.counter);
                }
            }
        }
        engine.place_breakpoints(Breakpoints::Never);
        self.semaphores.raise(&counted);
    }

    /// Says why those places stay refused. With `for_now` they are tried again.
    pub fn refuse_breakpoints(&mut self, why: &str, for_now: bool) {
        for hooked in self.at.values_mut() {
            for short in std::mem::take(&mut hooked.short) {
                hooked.accept(&short.reason);
                let reason = format!("{} (no breakpoint either: {why})", short.jump);
                hooked.refuse(reason.clone(), 1);
                hooked.short.push(Short { reason, ..short });
            }
        }
        self.has_short |= for_now;
    }

    /// Takes all breakpoints away.
    pub fn remove_breakpoints(&mut self, why: &str) {
        let mut gone = Vec::new();
        for hooked in self.at.values_mut() {
            let broken = std::mem::take(&mut hooked.broken);
            let is_broken = |id: &HookId| broken.iter().any(|(gone, _)| gone == id);
            hooked.ids.retain(|id| !is_broken(id));
            for (id, place) in broken {
                hooked.refuse(format!("{place}: its breakpoint was taken away: {why}"), 1);
                gone.push(id);
            }
        }
        self.engine.detach(&gone);
    }

    /// Where breakpoints are.
    pub fn breakpoints(&self) -> impl Iterator<Item = &str> {
        let broken = self.at.values().flat_map(|hooked| &hooked.broken);
        broken.map(|(_, place)| place.as_str())
    }
}

/// Where something is to be hooked, what for, and where its counter lies.
type Prepared = (Point, Box<Hit>, u64);

/// The points of a link in one mapping.
fn prepare(
    wanted: &Wanted,
    mapping: &Mapping,
    session: Option<&mut &mut Joined>,
    modules: &mut Modules,
    image: &Image,
) -> Result<(Arc<Tally>, Vec<Prepared>), String> {
    let joined = session.ok_or("the session has ended")?;
    let spec = &wanted.spec;
    let program = joined.program(spec.prog)?;
    let module = modules.of(mapping, image)?;
    let counters = joined
        .view
        .counters(wanted.link.1)
        .ok_or("the session's data is too short")?;
    let overrides = program.facts().helpers.contains(&BPF_FUNC_OVERRIDE_RETURN);
    let kind = match spec.kind {
        LinkKind::Replace => Kind::Override,
        LinkKind::Uprobe if overrides => Kind::Override,
        _ if overrides => {
            return Err("bpf_override_return works at a function's entry (uprobe) only".to_owned());
        }
        LinkKind::Uprobe => Kind::Entry,
        LinkKind::Uretprobe => Kind::Return,
        LinkKind::Session => Kind::Session,
        _ => return Err("not a place in a file".to_owned()),
    };
    let tally = Arc::new(Tally::new(counters));
    let points: Vec<Prepared> = spec
        .places
        .iter()
        .filter_map(|place| {
            let point = Point {
                addr: mapping.address_of(place.offset)?,
                kind,
                module: Arc::clone(&module),
            };
            let at_entry = kind != Kind::Return && begins_frame(&point);
            let hit = Hit::new(
                &program,
                &joined.env,
                &tally,
                place.cookie,
                point.addr,
                at_entry,
            );
            Some((point, Box::new(hit), place.ref_ctr_offset))
        })
        .collect();
    Ok((tally, points))
}

/// Whether the caller's address is still where sp points and no frame pointer
/// leads to it (arch/x86/events/core.c, `is_uprobe_at_func_entry`).
fn begins_frame(point: &Point) -> bool {
    const PUSH_RBP: u8 = 0x55;
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    let text = point.module.original(point.addr as u64, ENDBR64.len());
    text.is_some_and(|text| text.first() == Some(&PUSH_RBP) || *text == ENDBR64)
}
