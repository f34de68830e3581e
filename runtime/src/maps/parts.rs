//! Values with parts that are more than bytes (a lock, a timer, a pointer to a
//! kernel object): bpf(2) and programs copy what is around those
//! (`copy_map_value`, `check_and_init_map_value`), and `BPF_F_LOCK` holds the
//! lock meanwhile. It knows no map.
//!
//! Of programs that run here only those can take a lock that find it in a map
//! of maps, as in the kernel. A holder calls nothing, so it holds for a moment;
//! one that is killed leaves its id in the word, and the next one takes over.
//! What it had half written stays: the kernel's cannot be killed there.
//!
//! Why one holds at a time: the word is taken by a compare-and-swap from 0 or from
//! the id of a dead thread, of which one succeeds, and given back by one from the
//! own id, which fails for who was given up. Only a live holder that is stopped,
//! or has not run for a second, meets another in the value
//! (`tests/model/lock.rs`).
//!
//! Usable from trampolines.

use shm::sync::Ordering::{Acquire, Relaxed, Release};
use shm::sync::{AtomicU32, looks, spin_loop};
use shm::sys;

use super::bytes;
use super::spec::MapSpec;
use crate::thread;

/// How long a lock is waited for whose holder lives, in ns: one that was
/// stopped, or a word that someone wrote, must not hang everybody.
const PATIENCE_NS: u64 = 100_000_000;
/// The same, for one that would run if there was a processor for it.
const MORE_PATIENCE_NS: u64 = 10 * PATIENCE_NS;
/// Looks at a lock between two system calls.
const SPINS: u32 = looks(256);

/// The special parts of a map's values.
pub(super) struct Parts {
    /// Offset and bytes of each, ascending.
    ranges: Box<[(usize, usize)]>,
    lock: Option<usize>,
}

impl Parts {
    pub(super) fn of(spec: &MapSpec) -> Parts {
        let fields = spec.fields().unwrap_or_default().list;
        let range = |field: &vm::verifier::MapField| (field.offset as usize, field.size as usize);
        Parts {
            ranges: fields.iter().map(range).collect(),
            lock: spec.lock().map(|offset| offset as usize),
        }
    }

    /// Calls `copy` for what is between the parts, and `part` for each of them,
    /// with offset and bytes.
    fn split(&self, len: usize, copy: impl Fn(usize, usize), part: impl Fn(usize, usize)) {
        let mut at = 0;
        for &(offset, size) in &self.ranges {
            copy(at, offset.min(len).saturating_sub(at));
            at = (offset + size).min(len);
            part(offset.min(len), at.saturating_sub(offset));
        }
        copy(at, len.saturating_sub(at));
    }

    /// Copies to a value that is there: its parts stay.
    ///
    /// # Safety
    /// `to` is a value, writable for `len` bytes, and `from` readable for them.
    #[inline]
    pub(super) unsafe fn store(&self, to: *mut u8, from: *const u8, len: usize) {
        if self.ranges.is_empty() {
            // SAFETY: the caller's contract.
            return unsafe { bytes::copy(to, from, len) };
        }
        let copy = |at: usize, bytes: usize| {
            // SAFETY: within `len` bytes.
            unsafe { bytes::copy(to.wrapping_add(at), from.wrapping_add(at), bytes) };
        };
        self.split(len, copy, |_, _| {});
    }

    /// Copies from a value, or to one that is new: the parts become zeros.
    ///
    /// # Safety
    /// As [`Parts::store`].
    #[inline]
    pub(super) unsafe fn load(&self, to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: the caller's contract.
        unsafe { self.store(to, from, len) };
        let part = |at: usize, bytes: usize| {
            // SAFETY: within `len` bytes.
            unsafe { bytes::zero(to.wrapping_add(at), bytes) };
        };
        if !self.ranges.is_empty() {
            self.split(len, |_, _| {}, part);
        }
    }

    /// Runs `body` with the lock of the value at `value` held, if values have
    /// one. Only for bpf(2): it may wait.
    ///
    /// # Safety
    /// `value` is a value in storage, aligned to 8.
    pub(super) unsafe fn locked(&self, value: *mut u8, body: impl FnOnce()) {
        let Some(offset) = self.lock else {
            return body();
        };
        let at = value.wrapping_add(offset);
        // SAFETY: inside the value; `map_fields` wants locks aligned to 4.
        unsafe { lock(at) };
        body();
        // SAFETY: as above.
        unsafe { unlock(at) };
    }
}

/// Takes the lock at `at`, whose word is 0 or the thread that holds it.
///
/// # Safety
/// `at` is the lock of a value in storage, aligned to 4.
pub(crate) unsafe fn lock(at: *mut u8) {
    // SAFETY: the caller's contract; locks are only accessed as atomics.
    let word = unsafe { AtomicU32::from_ptr(at.cast()) };
    let me = thread::ids().tid as u32;
    let mut begun = None;
    loop {
        let mut holder = word.load(Relaxed);
        for _ in 0..SPINS {
            if holder == 0 && word.compare_exchange(0, me, Acquire, Relaxed).is_ok() {
                return;
            }
            spin_loop();
            holder = word.load(Relaxed);
        }
        let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
        let waited = now.saturating_sub(*begun.get_or_insert(now));
        // A holder that is this very thread was cut short by a longjmp.
        let is_late = waited > PATIENCE_NS
            && (waited > MORE_PATIENCE_NS || !sys::thread_wants_to_run(holder as i32));
        let is_free = holder == me || is_late || !sys::thread_can_run(holder as i32);
        if is_free && word.compare_exchange(holder, me, Acquire, Relaxed).is_ok() {
            return;
        }
        if is_late && waited > 2 * PATIENCE_NS {
            // Whoever changes the word all the time does not lock.
            return;
        }
        sys::sched_yield();
    }
}

/// Gives the lock at `at` back.
///
/// # Safety
/// As [`lock`].
pub(crate) unsafe fn unlock(at: *mut u8) {
    // SAFETY: as in `lock`.
    let word = unsafe { AtomicU32::from_ptr(at.cast()) };
    let me = thread::ids().tid as u32;
    // Fails when someone lost patience with us: the lock is theirs.
    let _ = word.compare_exchange(me, 0, Release, Relaxed);
}
