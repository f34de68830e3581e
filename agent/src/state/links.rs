//! Brings hooks into line with the links of all sessions, and says what came of
//! it.

use runtime::guest;

use super::{Round, State};
use crate::hooks::Wanted;
use crate::joined::Joined;
use crate::modules::Image;

/// Most breakpoints that are named.
const NAMED: usize = 4;

impl State {
    pub(super) fn follow_links(&mut self) -> Round {
        let mut links = self.meet_links();
        let of_syscalls = |wanted: &mut Wanted| wanted.spec.kind.is_of_syscalls();
        let calls: Vec<Wanted> = links.extract_if(.., of_syscalls).collect();
        let is_idle = self.hooks.is_empty() && self.syscalls.is_empty();
        // The mappings matter only where something is hooked or to be hooked.
        let is_blind =
            (!links.is_empty() || !calls.is_empty() || !is_idle) && !self.hook(&links, &calls);
        if !self.walks_stacks() {
            self.stacks.forget();
        }
        self.part_from_objects();
        self.round(is_blind)
    }

    /// The links that concern this process, in the order in which they were made.
    fn meet_links(&mut self) -> Vec<Wanted> {
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
        links
    }

    /// `false` where links are left out, since mappings cannot be read.
    fn hook(&mut self, links: &[Wanted], calls: &[Wanted]) -> bool {
        self.syscalls.round_begins();
        let image = Image::read();
        if let Ok(image) = &image {
            let concerns = !calls.is_empty() || links.iter().any(|link| is_here(link, image));
            if concerns && self.walks_stacks() {
                self.stacks.follow(image);
            }
            self.readable.want(concerns && self.reads_memory());
        }
        let sessions = self.joined.values_mut();
        let mut sessions = sessions.map(|joined| (joined.number, joined)).collect();
        let sees = match image {
            Ok(image) => {
                self.hooks.forget_unmapped(&image);
                let modules = &mut self.hooks.modules;
                self.syscalls.follow(calls, &image, modules, &mut sessions);
                self.hooks.follow(links, image, &mut sessions);
                true
            }
            Err(_) => !self.hooks.follow_blindly(links),
        };
        self.readable.follow();
        sees
    }

    fn part_from_objects(&mut self) {
        let parted = self.joined.values_mut().map(Joined::part_from_objects);
        let parted: Vec<_> = parted.collect();
        for (programs, maps) in parted {
            if !programs.is_empty() || !maps.is_empty() {
                self.put_to_rest((programs, maps));
            }
        }
    }

    /// What there is to tell.
    fn round(&self, is_blind: bool) -> Round {
        let (hooks, refused) = self.hooks.counts();
        let (calls, calls_refused) = self.syscalls.counts();
        let own = self.unjoined.len() + self.unfollowed.len();
        let own = own as u32 + u32::from(is_blind) + u32::from(self.lost.is_some());
        Round {
            hooks: hooks + calls,
            refused: refused + calls_refused + own,
            reasons: match is_blind {
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
