//! How `producer_pos` comes to move over records that are done. It knows no
//! claims.
//!
//! **Who moves it.** It stands at the first record that is not done, the front.
//! Only the front's owner moves it from there, by a plain store, unless the
//! record's header says that its owner has *left* it: then anybody may, by
//! compare and exchange. An owner that is done while another record is the
//! front leaves its own, and never stores `producer_pos` afterwards. So a plain
//! store never meets another change, and the position never moves back. Laps
//! tell headers apart, so a header of long ago is nobody's word.
//!
//! **Nobody is forgotten.** Whoever leaves a record looks afterwards, with a
//! barrier between, whether `producer_pos` has come to it; whoever moves that
//! by a store looks afterwards, with a barrier between, whether somebody has
//! reserved more; whoever moves it by compare and exchange looks at the next
//! header. Of an owner that leaves and one that stores at the same time, one
//! sees the other's.
//!
//! **The barrier that is not there.** A producer that was alone so far does
//! without: it stores, and looks ([`barrier::light`]). What it does not see
//! then, and who does not see its store, is found out by the tool: who leaves
//! a record behind such a producer marks the ring as *shared*, from when on all
//! make their barriers, and if it is the first to do so rings the doorbell. The
//! tool has a barrier made by every thread ([`barrier::heavy`]), and looks at
//! the ring: a store from before is seen now, and one from after is followed by
//! a look that sees more is reserved. When all is read the tool takes the
//! mark away. Readers are asleep only after such a barrier, too, so a producer
//! sees where the reader is, or the reader sees the record.
//!
//! **Who wakes the reader.** As in the kernel the owner of the record that it
//! waits for; for a record that was left, whoever moves `producer_pos` over it,
//! unless its header says that its owner wanted it *quiet*.
//!
//! **Who is stopped or dies.** Before its header is done: its record is the end
//! of what the reader sees, as a busy record is in the kernel. Between that and
//! its store: the same, for the length of two instructions. Behind the store,
//! or after it left: the next look by anybody goes on. What the dead leave,
//! `reap` does.

use shm::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use shm::sync::fence;

use super::header::Header;
use super::{Ring, SHARED, position};
use crate::barrier;

/// Records over which one producer moves `producer_pos` at a time.
const ADVANCES: u32 = 1 << 16;

impl Ring {
    /// Gives the record at `at`, whose owner is done with it, to the reader.
    /// `true` if somebody is to be woken for other records. What is read after
    /// this is read after the record can be seen, as far as sleepers go.
    #[inline]
    pub(super) fn publish(&self, at: u64, header: Header, quiet: bool) -> bool {
        let next = at.wrapping_add(header.step());
        self.header(at).store(header.0, Release);
        // Pairs with the store below, of the record before.
        if self.producer().load(Acquire) != at {
            return self.leave(at, header, quiet);
        }
        let shared = self.reserved().load(Relaxed) & SHARED != 0;
        // Pairs with the reader's load.
        self.producer().store(next, Release);
        match shared {
            true => fence(SeqCst),
            false => barrier::light(),
        }
        position(self.reserved().load(Relaxed)) != next && self.advance()
    }

    /// The same while another record is the front.
    #[cold]
    fn leave(&self, at: u64, header: Header, quiet: bool) -> bool {
        // Pairs with the load in `advance`.
        self.header(at).store(header.left(quiet).0, Release);
        fence(SeqCst);
        if self.advance() {
            return true;
        }
        let behind = at.wrapping_sub(self.producer().load(Relaxed)) < self.size;
        behind
            && self.reserved().load(Relaxed) & SHARED == 0
            && self.reserved().fetch_or(SHARED, SeqCst) & SHARED == 0
    }

    /// Moves `producer_pos` over all records in a row that were left. `true` if
    /// the reader waits for one of these.
    #[cold]
    pub(super) fn advance(&self) -> bool {
        let mut moved = None;
        for _ in 0..ADVANCES {
            let at = self.producer().load(SeqCst);
            let left = position(self.reserved().load(SeqCst)).wrapping_sub(at);
            if left == 0 || left > self.size {
                break;
            }
            let header = Header(self.header(at).load(SeqCst));
            if !self.tagged(header, at) || !header.is_left() || header.step() > left {
                break;
            }
            let next = at.wrapping_add(header.step());
            // Publishes the record; pairs with the reader's load.
            let done = self
                .producer()
                .compare_exchange(at, next, SeqCst, Relaxed)
                .is_ok();
            if done {
                moved = Some((moved.map_or(at, |(from, _)| from), next));
            }
        }
        moved.is_some_and(|(from, end)| {
            let waits = self.consumer().load(SeqCst);
            let one_of_these = waits.wrapping_sub(from) < end.wrapping_sub(from);
            one_of_these && !Header(self.header(waits).load(Relaxed)).is_quiet()
        })
    }

    /// Where all is read, producers are alone again.
    pub(super) fn calm(&self) {
        let reserved = self.reserved().load(Acquire);
        let (producer, consumer) = (self.producer().load(Acquire), self.consumer().load(Acquire));
        if reserved & SHARED != 0 && position(reserved) == producer && producer == consumer {
            let alone = position(reserved);
            let _ = self
                .reserved()
                .compare_exchange(reserved, alone, SeqCst, Relaxed);
        }
    }
}
