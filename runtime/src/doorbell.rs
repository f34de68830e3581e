//! How a producer in a target wakes the reader in the tool: a word to ring,
//! and a word that says whether anyone sleeps. It knows no ring.
//!
//! Why no record is slept over: the producer rings, then looks for a sleeper; the
//! reader says that it will sleep, then notes what has rung, looks at the rings,
//! and sleeps only while nothing else has. In any order of these four steps the
//! producer sees the sleeper or the reader the ring. Who dies before its ring has
//! committed a record that the next ring shows; a reader that dies leaves
//! `ASLEEP`, which costs others a system call for each record.
//! `tests/model/doorbell.rs` goes through all orders.

use shm::sync::{AtomicU32, Ordering};
use std::time::Duration;

use shm::{Region, futex};

/// Offsets in the doorbell's page; on lines of their own.
const RINGS: u64 = 0;
const ASLEEP: u64 = 64;

/// A session's doorbell.
#[derive(Clone, Debug)]
pub struct Doorbell {
    region: Region,
}

/// What the bell had rung when the reader began to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard(u32);

impl Doorbell {
    /// The doorbell in `region`; `None` if that is too small.
    pub fn new(region: Region) -> Option<Doorbell> {
        region.u32_at(ASLEEP)?;
        Some(Doorbell { region })
    }

    fn word(&self, offset: u64) -> &AtomicU32 {
        /// Never reached: `new` checked both offsets.
        static NOWHERE: AtomicU32 = AtomicU32::new(0);
        self.region.u32_at(offset).unwrap_or(&NOWHERE)
    }

    /// Tells the reader that there is something to read. A system call only
    /// when the reader sleeps. Callable from trampolines.
    #[inline]
    pub fn ring(&self) {
        // Pairs with the store and load in `listen`, all in one order: either we
        // see the reader asleep, or it sees our ring before it sleeps. A fence
        // would cost more than all the rest.
        self.word(RINGS).fetch_add(1, Ordering::SeqCst);
        if self.word(ASLEEP).load(Ordering::SeqCst) != 0 {
            futex::wake(self.word(RINGS), 1);
        }
    }

    /// The reader's first step: note the bell, then look at all rings, then
    /// [`Doorbell::wait`] if there was nothing.
    pub fn listen(&self) -> Heard {
        self.word(ASLEEP).store(1, Ordering::SeqCst);
        Heard(self.word(RINGS).load(Ordering::SeqCst))
    }

    /// Sleeps until the bell rings after [`Doorbell::listen`], at most `timeout`.
    pub fn wait(&self, heard: Heard, timeout: Option<Duration>) {
        futex::wait(self.word(RINGS), heard.0, timeout);
    }

    /// The reader is awake and will listen again by itself.
    pub fn awake(&self) {
        self.word(ASLEEP).store(0, Ordering::Relaxed);
    }
}
