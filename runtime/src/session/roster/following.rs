//! Waiting for agents: until they have followed a generation, or have left. It
//! waits by time, and for the living only.

use shm::sync::Ordering;
use std::time::{Duration, Instant};

use shm::futex;

use super::{FLAG_DETACH, ProcessId, Role, Roster, header, slot, slot_at};

/// How long a tool waits for its agents to follow.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// After what times who waits for acks looks whether it waits for the living.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(20);

/// Agents that let a tool wait in vain; it does not wait for them again until
/// they have caught up.
#[derive(Debug, Default)]
pub struct Laggards(Vec<u64>);

impl Roster {
    /// Asks the agent of `pid` to unhook and leave, and waits for it.
    /// Returns whether it has left; false without an agent there.
    pub fn detach(&self, pid: i32, timeout: Duration) -> bool {
        let found = (0..self.high()).find(|&index| {
            self.member(index)
                .is_some_and(|m| m.process.pid == pid && m.role == Role::Agent)
        });
        let Some(index) = found else { return false };
        let owner = self.owner_word(index).load(Ordering::Acquire);
        self.word(slot_at(index) + slot::FLAGS)
            .fetch_or(FLAG_DETACH, Ordering::AcqRel);
        self.bump();
        self.wait_until(timeout, || {
            self.owner_word(index).load(Ordering::Acquire) != owner
        })
    }

    /// Waits for a condition that changes with acks; returns whether it holds.
    fn wait_until(&self, timeout: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let acks = self.word(header::ACKS);
        let mut most = FIRST_LOOK;
        loop {
            let seen = acks.load(Ordering::Acquire);
            if holds() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // A process that dies acks no more, and one that was killed before
            // never will: look again after a while, and then less often.
            futex::wait(acks, seen, Some(left.min(most)));
            most = (2 * most).min(LAST_LOOK);
        }
    }

    /// Bumps the generation and waits until every living agent has followed
    /// it, but at most `timeout`, and not for `laggards`.
    pub fn publish(&self, timeout: Duration, laggards: &mut Laggards) {
        let generation = self.bump();
        let mut open: Vec<(u32, u64)> = (0..self.high())
            .filter_map(|index| {
                let owner = self.owner_word(index).load(Ordering::Acquire);
                (owner != 0).then_some((index, owner))
            })
            .collect();
        let mut checked = false;
        let behind = |index: u32, owner: u64| {
            let base = slot_at(index);
            self.owner_word(index).load(Ordering::Acquire) == owner
                && self.word(base + slot::ROLE).load(Ordering::Acquire) == Role::Agent as u32
                // Wrapping: a generation is behind when it is less than half
                // the number space before.
                && (self.word(base + slot::ACKED).load(Ordering::Acquire).wrapping_sub(generation)
                    as i32)
                    < 0
        };
        laggards.0.retain(|&late| {
            open.iter()
                .any(|&(index, owner)| owner == late && behind(index, owner))
        });
        open.retain(|(_, owner)| !laggards.0.contains(owner));
        self.wait_until(timeout, || {
            open.retain(|&(index, owner)| behind(index, owner));
            if checked {
                // Only those that take their time are worth a look at /proc.
                open.retain(|&(index, owner)| {
                    let alive = ProcessId::unpack(owner).alive();
                    if !alive {
                        self.free(index, owner);
                    }
                    alive
                });
            }
            checked = true;
            open.is_empty()
        });
        laggards.0.extend(open.iter().map(|&(_, owner)| owner));
    }
}
