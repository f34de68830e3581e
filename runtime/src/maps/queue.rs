//! `BPF_MAP_TYPE_QUEUE` and `BPF_MAP_TYPE_STACK`
//! (kernel/bpf/queue_stack_maps.c): elements from the oldest to the newest, of
//! which a queue gives the oldest and a stack the newest. They know no key.
//!
//! All that is decided is decided by one compare-and-swap of a pair of words,
//! [`Ends`]: which element is the newest, and where the row begins and ends.
//! So an element is in the map or not, whoever is killed when, and making
//! room by dropping the oldest is one step with the push.
//!
//! The row's slots name the elements. The newest one's slot may not be written
//! yet when the pair says that it is there: whoever wants to change the pair
//! writes it first. A write that comes late does nothing, for it expects what
//! was in the slot before, an element's generation, which never comes again.
//!
//! An element is filled before it is linked and its value is copied before it
//! is taken out; that nobody changed the pair meanwhile says that the copy is
//! whole. Elements that killed processes held are found by [`Queue::reclaim`].

use shm::sync::Ordering::{AcqRel, Acquire, Relaxed};
use shm::sync::{AtomicU64, fence};
use shm::{Region, sys};
use uapi::Errno;
use uapi::map::{BPF_ANY, BPF_EXIST, BPF_F_NUMA_NODE, BPF_MAP_TYPE_STACK};

use super::bytes;
use super::hash::element::{Element, Link, Phase, State, Stock};
use super::hash::layout::{Layout, header};
use super::hash::pool::{Held, Pool};
use super::kind::{MapKind, MapType, Start};
use super::spec::{ACCESS_MASK, KMALLOC_MAX_SIZE, MapSpec};
use crate::{arch, thread};

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

/// `QUEUE_STACK_CREATE_FLAG_MASK`.
const KNOWN_FLAGS: u32 = BPF_F_NUMA_NODE | ACCESS_MASK;
/// Elements beyond `max_entries`, for pushes that replace the oldest and for
/// what is on its way out.
const LEAST_SPARES: u64 = 64;
/// Least number of slots: a page.
const LEAST_SLOTS: u64 = 512;
/// How often an operation starts again before it gives up with `EBUSY`. Each
/// time another process has got something done.
const RESTARTS: u32 = 1 << 16;
/// Least time between two scans for elements that killed processes held.
const SCAN_EVERY_NS: u64 = 1_000_000_000;

fn layout(spec: &MapSpec, nr_cpus: u32) -> Result<Layout, Errno> {
    if spec.max_entries == 0 || spec.key_size != 0 || spec.value_size == 0 {
        return Err(Errno::EINVAL);
    }
    spec.check_flags(KNOWN_FLAGS)?;
    if spec.value_size > KMALLOC_MAX_SIZE || spec.max_entries >= u32::MAX / spec.value_size {
        return Err(Errno::E2BIG);
    }
    let entries = u64::from(spec.max_entries);
    let count = entries + LEAST_SPARES.max(2 * u64::from(nr_cpus));
    let slots = entries.next_power_of_two().max(LEAST_SLOTS);
    Layout::of_elements(count, slots, u64::from(spec.value_size)).ok_or(Errno::ENOMEM)
}

fn storage_size(spec: &MapSpec, nr_cpus: u32) -> Result<u64, Errno> {
    Ok(layout(spec, nr_cpus)?.bytes)
}

fn over(
    spec: &MapSpec,
    storage: Region,
    nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    // Zeros are an empty map.
    let pool = Pool::new(storage, layout(spec, nr_cpus)?).ok_or(Errno::ENOMEM)?;
    Ok(Box::new(Queue {
        pool,
        max: spec.max_entries,
        value_size: spec.value_size as usize,
        newest_first: spec.map_type == BPF_MAP_TYPE_STACK,
    }))
}

struct Queue {
    pool: Pool,
    max: u32,
    value_size: usize,
    newest_first: bool,
}

/// The pair of words that says what is in the map.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    /// Leads to the newest element; its upper bits count changes of the pair.
    newest: Link,
    /// Positions: the next one, and the oldest's. Modulo 2^32.
    head: u32,
    tail: u32,
}

impl Ends {
    fn of([newest, positions]: [u64; 2]) -> Ends {
        Ends {
            newest: Link(newest),
            head: positions as u32,
            tail: (positions >> 32) as u32,
        }
    }

    fn words(self) -> [u64; 2] {
        let positions = u64::from(self.head) | u64::from(self.tail) << 32;
        [self.newest.0, positions]
    }

    fn len(self) -> u32 {
        self.head.wrapping_sub(self.tail)
    }

    /// Is this position in the row?
    fn holds(self, position: u32) -> bool {
        position.wrapping_sub(self.tail) < self.len()
    }

    /// The pair that follows this one, with another newest element.
    fn then(self, newest: Link, head: u32, tail: u32) -> Ends {
        Ends {
            newest: newest.held_by(self.newest.holder().wrapping_add(1)),
            head,
            tail,
        }
    }
}

impl Queue {
    fn words(&self) -> Option<[&AtomicU64; 2]> {
        let at = header::OWN;
        Some([
            self.pool.region.u64_at(at)?,
            self.pool.region.u64_at(at + 8)?,
        ])
    }

    /// The pair as it was at one moment; `None` while others change it.
    fn ends(&self) -> Option<Ends> {
        let [newest, positions] = self.words()?;
        let before = newest.load(Acquire);
        let ends = Ends::of([before, positions.load(Acquire)]);
        (newest.load(Relaxed) == before).then_some(ends)
    }

    /// Is the pair still `ends`, after all that was read since?
    fn unchanged(&self, ends: Ends) -> bool {
        fence(Acquire);
        self.ends() == Some(ends)
    }

    fn replace(&self, ends: Ends, by: Ends) -> bool {
        let Some([newest, _]) = self.words() else {
            return false;
        };
        // SAFETY: two words of the region's header, aligned to 16, which are
        // only touched as atomics.
        unsafe { arch::replace_pair(newest.as_ptr(), ends.words(), by.words()) }
    }

    fn slot(&self, position: u32) -> &AtomicU64 {
        self.pool.bucket(position)
    }

    /// What the row has at a position that the pair holds.
    fn at(&self, position: u32) -> Link {
        Link(self.slot(position).load(Acquire))
    }

    /// Writes the slot of the newest element, if that was not done.
    fn settle(&self, ends: Ends) {
        if ends.len() == 0 {
            return;
        }
        let slot = self.slot(ends.head.wrapping_sub(1));
        let before = slot.load(Acquire);
        let after = ends.newest.held_by(0);
        if before != after.0 && self.unchanged(ends) {
            let _ = slot.compare_exchange(before, after.0, AcqRel, Relaxed);
        }
    }

    /// Where the element is that a pop would take.
    fn next_out(&self, ends: Ends) -> u32 {
        match self.newest_first {
            true => ends.head.wrapping_sub(1),
            false => ends.tail,
        }
    }

    /// Copies the value of the element at `position`.
    ///
    /// # Safety
    /// `value` is writable for the map's value size.
    unsafe fn copy(&self, position: u32, value: *mut u8) -> Option<Link> {
        let link = self.at(position);
        let element = self.pool.element(link.number())?;
        // SAFETY: a value in storage; the caller's contract.
        unsafe { bytes::copy(value, self.pool.value(element, 0), self.value_size) };
        Some(link)
    }

    /// Frees what this process took out of the row, unless a scan was faster.
    fn retire(&self, link: Link) {
        if let Some(element) = self.pool.element(link.number())
            && self.pool.begin_end(element, link.generation())
        {
            self.pool.free(element, link.generation());
        }
    }

    fn take(&self) -> Option<Held<'_>> {
        let start = thread::spread() as u32;
        let taken = self.pool.take(Stock::Regular, start);
        if taken.is_none() && self.scan_is_due() {
            self.reclaim();
            return self.pool.take(Stock::Regular, start);
        }
        taken
    }

    fn scan_is_due(&self) -> bool {
        let Some(last) = self.pool.region.u64_at(header::LAST_SCAN) else {
            return false;
        };
        let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
        let before = last.load(Relaxed);
        // A time in the future is nonsense that someone wrote.
        (before > now || before == 0 || now - before >= SCAN_EVERY_NS)
            && last.compare_exchange(before, now, Relaxed, Relaxed).is_ok()
    }

    /// Links a filled element as the newest; without `replace`, only if there
    /// is room.
    fn link(&self, held: &Held<'_>, replace: bool) -> Result<(), Errno> {
        for _ in 0..RESTARTS {
            let Some(ends) = self.ends() else { continue };
            self.settle(ends);
            let full = ends.len() >= self.max;
            if full && !replace {
                return Err(Errno::E2BIG);
            }
            // Where a scan looks for it.
            held.element.hash().store(ends.head, Relaxed);
            let oldest = self.at(ends.tail);
            let tail = ends.tail.wrapping_add(u32::from(full));
            let after = ends.then(held.link(), ends.head.wrapping_add(1), tail);
            if self.replace(ends, after) {
                self.pool.linked(*held);
                self.settle(after);
                if full {
                    self.retire(oldest);
                }
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    /// Is an element in the row?
    fn is_linked(&self, element: Element<'_>, generation: u64) -> Option<bool> {
        let link = Link::new(element.number, generation);
        for _ in 0..RESTARTS {
            let Some(ends) = self.ends() else { continue };
            self.settle(ends);
            let position = element.hash().load(Relaxed);
            let found = ends.holds(position) && self.at(position).same_target(link);
            if self.unchanged(ends) {
                return Some(found);
            }
        }
        None
    }

    /// Frees an element that is out of the row though nobody saw to its end:
    /// who took it out was killed, or is about to and will find it done.
    fn rescue(&self, element: Element<'_>) {
        let state = State(element.state().load(Acquire));
        let generation = state.generation();
        if state.phase() == Phase::Live {
            if self.is_linked(element, generation) == Some(false)
                && self.pool.begin_end(element, generation)
            {
                self.pool.free(element, generation);
            }
            return;
        }
        self.pool.rescue(element, &|_, link| {
            self.is_linked(element, link.generation())
        });
    }
}

impl MapKind for Queue {
    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY && flags != BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let replace = flags == BPF_EXIST;
        if !replace && self.ends().is_some_and(|ends| ends.len() >= self.max) {
            return Err(Errno::E2BIG);
        }
        let held = self.take().ok_or(Errno::EBUSY)?;
        // SAFETY: the value of an element that nobody else sees; the caller's
        // contract.
        unsafe { bytes::copy(self.pool.value(held.element, 0), value, self.value_size) };
        // Once it may have been linked, nobody gives it back as it is: it
        // comes back as another generation.
        let next = Link::new(0, 0).held_by(held.generation);
        held.element
            .next()
            .store(next.mark(Stock::Regular).0, Relaxed);
        self.link(&held, replace)
            .inspect_err(|_| self.pool.give_back(held))
    }

    unsafe fn pop(&self, value: *mut u8) -> Result<(), Errno> {
        for _ in 0..RESTARTS {
            let Some(ends) = self.ends() else { continue };
            if ends.len() == 0 {
                // SAFETY: the caller's contract.
                unsafe { bytes::zero(value, self.value_size) };
                return Err(Errno::ENOENT);
            }
            self.settle(ends);
            let position = self.next_out(ends);
            // SAFETY: the caller's contract.
            let link = unsafe { self.copy(position, value) };
            let after = match self.newest_first {
                true => ends.then(self.at(position.wrapping_sub(1)), position, ends.tail),
                false => ends.then(ends.newest, ends.head, position.wrapping_add(1)),
            };
            if self.replace(ends, after) {
                // Nonsense in a slot is no element.
                self.retire(link.ok_or(Errno::EBUSY)?);
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        for _ in 0..RESTARTS {
            let Some(ends) = self.ends() else { continue };
            if ends.len() == 0 {
                // SAFETY: the caller's contract.
                unsafe { bytes::zero(value, self.value_size) };
                return Err(Errno::ENOENT);
            }
            self.settle(ends);
            // SAFETY: the caller's contract.
            let link = unsafe { self.copy(self.next_out(ends), value) };
            if self.unchanged(ends) {
                return link.map(drop).ok_or(Errno::EBUSY);
            }
        }
        Err(Errno::EBUSY)
    }

    fn lookup(&self, _key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        // SAFETY: `value` has the map's value size (`MapKind`).
        unsafe { self.peek(value.as_mut_ptr()) }
    }

    fn update(&self, _key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: `value` has the map's value size (`MapKind`).
        unsafe { self.push(value.as_ptr(), flags) }
    }

    fn delete(&self, _key: &[u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn next_key(&self, _key: Option<&[u8]>, _next: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn lookup_and_delete(&self, _key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        // SAFETY: `value` has the map's value size (`MapKind`).
        unsafe { self.pop(value.as_mut_ptr()) }
    }

    fn reclaim(&self) {
        self.pool.each_used(&mut |element| self.rescue(element));
    }
}
