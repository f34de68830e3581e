//! Virtual CPUs: a program that uses per-CPU values or perf output holds one
//! for the duration of its run, so that each slot has one writer at a time
//! although threads are preempted and migrate. It knows no map. Callable from
//! trampolines: no allocation, no libc, no panic; waits a bounded time only.
//!
//! Why one writer at a time is enough: the word of a slot goes from 0 to a holder by
//! a compare-and-swap that acquires, and back by the holder's store that
//! releases, so each holder sees all that those before it wrote. A holder that
//! is dead is replaced by a compare-and-swap from its very id; the kernel tells
//! of a death after the dead one's last store. An id comes again only after its
//! thread was dead, and then that thread holds no slot: `release` was its last
//! step, or another took the slot from it. `tests/model/vcpu.rs` goes through all
//! of it, with a kill at each step.

use shm::sync::{AtomicU64, Ordering, looks, spin_loop};
use shm::{Region, sys};

use crate::arch;
use crate::thread::ThreadIds;

/// Bytes of one claim, a cache line.
pub const CLAIM_BYTES: u64 = 64;
/// Rounds over all slots before a run is given up: at first the CPU is
/// yielded after each [`SPINS`], then the thread sleeps [`NAP_NS`].
const ROUNDS: u32 = 4096 + 64 * 1000;
/// Rounds of plain looking.
const SPINS: u32 = looks(64);
/// Rounds after which a yield did not help: the holders wait for a CPU.
const YIELDS: u32 = 4096;
/// A nap; a thousand of them are the longest that a target waits.
const NAP_NS: i64 = 100_000;
/// Offset in a claim of the holder that was waited for in vain.
const STUCK: u64 = 8;

/// The claims of a session.
#[derive(Clone, Debug)]
pub struct Vcpus {
    region: Region,
    count: u32,
}

impl Vcpus {
    /// The claims in `region`, one per possible CPU; `None` if it is empty.
    pub fn new(region: Region) -> Option<Vcpus> {
        arch::init();
        let count = u32::try_from(region.len() / CLAIM_BYTES).ok()?;
        (count > 0).then_some(Vcpus { region, count })
    }

    /// Number of slots.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where the first claim lies, for who claims by itself the slot of the CPU
    /// that `rdpid` names as [`Vcpus::claim`] does; `None` if it may not be used.
    pub fn first_for_rdpid(&self) -> Option<*const AtomicU64> {
        arch::has_rdpid().then_some(())?;
        self.owner(0).map(core::ptr::from_ref)
    }

    #[inline]
    fn owner(&self, slot: u32) -> Option<&AtomicU64> {
        self.region.u64_at(u64::from(slot) * CLAIM_BYTES)
    }

    /// Claims a slot for this thread: that of the CPU it runs on if it is
    /// free, else any. `None` when all stay taken: the run must be skipped
    /// and counted as missed.
    #[inline]
    pub fn claim(&self, ids: ThreadIds) -> Option<u32> {
        self.claim_near(arch::cpu(), ids)
    }

    /// The same, that of `cpu` if it is free.
    #[inline]
    pub fn claim_near(&self, cpu: u32, ids: ThreadIds) -> Option<u32> {
        let first = cpu.min(self.count - 1);
        let me = ids.pid_tgid();
        let word = self.owner(first)?;
        // Pairs with the release store in `release`: what the last holder
        // wrote to the slot's values is seen.
        if word
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return Some(first);
        }
        self.claim_any(first, me)
    }

    #[cold]
    fn claim_any(&self, first: u32, me: u64) -> Option<u32> {
        for round in 0..ROUNDS {
            let mut stuck = 0;
            for step in 0..self.count {
                let slot = (first + step) % self.count;
                let word = self.owner(slot)?;
                let holder = word.load(Ordering::Relaxed);
                // A holder that is this very thread left its run by a longjmp
                // out of a signal handler: there is no nested run on a thread.
                let free = holder == 0 || holder == me || (round % SPINS == 1 && dead(holder));
                if free
                    && word
                        .compare_exchange(holder, me, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok()
                {
                    return Some(slot);
                }
                // A free slot that another thread was faster to take is not stuck.
                if holder != 0 && holder == self.stuck(slot)?.load(Ordering::Relaxed) {
                    stuck += 1;
                }
            }
            // Nobody waits twice for holders that do not move: stopped
            // processes, threads that left their run and probe no more.
            if stuck == self.count && round > SPINS {
                return None;
            }
            match round % SPINS {
                0 if round >= YIELDS => nap(),
                0 => sys::sched_yield(),
                _ => spin_loop(),
            }
        }
        for slot in 0..self.count {
            let holder = self.owner(slot)?.load(Ordering::Relaxed);
            self.stuck(slot)?.store(holder, Ordering::Relaxed);
        }
        None
    }

    fn stuck(&self, slot: u32) -> Option<&AtomicU64> {
        self.region.u64_at(u64::from(slot) * CLAIM_BYTES + STUCK)
    }

    /// Gives a claimed slot back.
    #[inline]
    pub fn release(&self, slot: u32) {
        if let Some(word) = self.owner(slot) {
            word.store(0, Ordering::Release);
        }
    }
}

fn dead(holder: u64) -> bool {
    !ThreadIds::from_pid_tgid(holder).can_run()
}

fn nap() {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: NAP_NS,
    };
    // SAFETY: the kernel reads one timespec; a signal cuts the nap short.
    unsafe {
        sys::syscall6(
            libc::SYS_nanosleep as usize,
            &raw const time as usize,
            0,
            0,
            0,
            0,
            0,
        )
    };
}
