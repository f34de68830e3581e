//! What the engine knows of a site.

use std::ops::Range;

use super::inlined::Blocks;
use crate::arch::plan::{Need, Plan};
use crate::arch::{block, decode, direct, entry};
use crate::module::Module;
use crate::probe::{Kind, Tactic};
use crate::site::{Attached, ProbeList, Site};
use crate::text::Change;

/// What the engine knows of a site.
pub(super) struct Record {
    pub(super) site: &'static Site,
    pub(super) tactic: Tactic,
    pub(super) head: Change,
    pub(super) is_patched: bool,
    /// Taken back since its text was about to be moved.
    pub(super) is_away: bool,
    /// Where the trampoline begins, with the address of its thunk.
    pub(super) trampoline: u64,
    pub(super) thunk: u64,
    /// Nobody needs the status flags at the address.
    pub(super) flags_dead: bool,
    /// Another site that has to be patched as long as this one is.
    pub(super) needs: Option<Need>,
    /// How many patched sites need this one, and how many of them undone first.
    pub(super) holders: usize,
    pub(super) leaning: usize,
    /// Bytes at the address that the plan changes or relies on.
    pub(super) owned: Range<u64>,
    /// The trampoline's last jump, and where it goes.
    pub(super) tail: Option<(u64, u64)>,
    pub(super) entry: Vec<Attached>,
    pub(super) exit: Vec<Attached>,
    pub(super) blocks: Blocks,
}

impl Record {
    pub(super) fn new(
        site: Box<Site>,
        plan: &Plan,
        work: Option<block::Work>,
        module: &Module,
    ) -> Record {
        let flags_dead = flags_dead(module, site.addr);
        let code = plan.writes.last();
        let (trampoline, code) = code.map_or((0, &[][..]), |(at, code)| (*at, code));
        Record {
            flags_dead,
            site: Box::leak(site),
            tactic: plan.tactic,
            head: plan.head,
            is_patched: false,
            is_away: false,
            trampoline,
            thunk: entry::address(),
            owned: plan.owned.clone(),
            needs: plan.needs,
            holders: 0,
            leaning: 0,
            tail: plan.tail,
            entry: Vec::new(),
            exit: Vec::new(),
            blocks: Blocks::of(trampoline, code, work.map(|work| (work, flags_dead))),
        }
    }

    /// The lists that probes of a kind are in.
    pub(super) fn lists(&mut self, kind: Kind) -> impl Iterator<Item = &mut Vec<Attached>> {
        let at_entry = kind != Kind::Return;
        let at_exit = matches!(kind, Kind::Return | Kind::Session);
        let entry = at_entry.then_some(&mut self.entry);
        entry.into_iter().chain(at_exit.then_some(&mut self.exit))
    }

    /// Lets threads see the lists; gives the old ones.
    pub(super) fn publish(&self) -> impl Iterator<Item = Box<ProbeList>> + use<> {
        self.disarm();
        let entry = ProbeList::publish(&self.site.entry, &self.entry);
        let exit = ProbeList::publish(&self.site.exit, &self.exit);
        entry.into_iter().chain(exit)
    }

    /// The thunk that fits the published lists.
    pub(super) fn best_thunk(&self) -> u64 {
        // The engine's lock is held, so nobody frees the lists.
        direct::thunk(
            self.site.entry_probes(),
            self.site.exit_probes(),
            self.flags_dead,
        )
    }

    pub(super) fn is_idle(&self) -> bool {
        self.entry.is_empty() && self.exit.is_empty()
    }
}

/// Whether nobody needs the status flags at `addr`.
pub(super) fn flags_dead(module: &Module, addr: u64) -> bool {
    let code = module.original(addr, FLAGS_WINDOW);
    code.is_some_and(|code| decode::overwrites_flags(code, addr))
}

/// Bytes of code that are looked at for what overwrites the flags.
const FLAGS_WINDOW: usize = 64;
