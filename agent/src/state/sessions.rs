//! Which sessions this process follows, and what rests since they ended.

use std::any::Any;
use std::path::{Path, PathBuf};

use runtime::guest;
use runtime::session;

use super::State;
use crate::joined::Joined;
use crate::log::debug;
use crate::maps;

/// Rounds for which removed programs and sessions stay mapped: a thread may
/// have been inside one when its hook went.
const REST_ROUNDS: u32 = 16;

impl State {
    fn joined_where(&self, wanted: impl FnMut(&(&PathBuf, &Joined)) -> bool) -> Vec<PathBuf> {
        let found = self.joined.iter().filter(wanted);
        found.map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn follow_sessions(&mut self) {
        self.mark();
        self.lost = guest::lost();
        let (present, gone) = self.present_and_gone();
        for path in gone {
            self.part_with(&path);
        }
        self.unjoined.clear();
        for path in present {
            self.join(path);
        }
    }

    /// The sessions that there are, and those that are followed and have ended.
    fn present_and_gone(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        if self.lost.is_some() {
            return (Vec::new(), self.joined_where(|_| true));
        }
        match session::try_list(&self.dirs) {
            Ok(present) if root() == self.root => {
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
        }
    }

    fn part_with(&mut self, path: &Path) {
        debug!("session {} has ended", path.display());
        if let Some(joined) = self.joined.remove(path) {
            self.hooks.forget_session(joined.number);
            self.syscalls.forget_session(joined.number);
            self.put_to_rest(joined);
        }
    }

    fn join(&mut self, path: PathBuf) {
        if self.joined.contains_key(&path) {
            return;
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

    pub(super) fn put_to_rest(&mut self, thing: impl Any + Send) {
        self.resting.push((REST_ROUNDS, Box::new(thing)));
    }

    /// Lets go of what has rested long enough. Rounds are counted, not time:
    /// a stopped process makes none.
    pub(super) fn let_go(&mut self) {
        for (rounds, _) in &mut self.resting {
            *rounds = rounds.saturating_sub(1);
        }
        if self.hooks.let_go() {
            self.resting.retain(|(rounds, _)| *rounds > 0);
        }
    }
}

/// Which directory this thread's `/` is.
pub(super) fn root() -> Option<(u64, u64)> {
    maps::identity(Path::new("/"))
}
