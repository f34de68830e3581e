//! When targets die: what they held of the session's maps comes back. It knows
//! no map's storage.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use super::super::process::ProcessId;
use super::Session;
use crate::maps::Map;

/// The agents of the last look.
#[derive(Default)]
pub(super) struct Agents {
    alive: HashSet<u64>,
    dead: HashSet<u64>,
}

impl Session {
    /// Takes back what targets held that went since the last call: elements
    /// that are in no map, records that nobody will finish. Returns whether
    /// there were such targets.
    pub fn reclaim(&self) -> bool {
        let present: HashSet<u64> = self.roster.agents().into_iter().collect();
        let lives = |owner: &u64| ProcessId::unpack(*owner).alive();
        let (alive, dead): (HashSet<u64>, HashSet<u64>) = present.into_iter().partition(lives);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        // A dead one's place may have been given to another since, and one that
        // came and died has never been seen alive.
        let gone = !agents.alive.is_subset(&alive) || !dead.is_subset(&agents.dead);
        *agents = Agents { alive, dead };
        drop(agents);
        if gone {
            let maps: Vec<Arc<Map>> = self.lock().maps.values().cloned().collect();
            maps.iter().for_each(|map| map.reclaim());
        }
        gone
    }
}
