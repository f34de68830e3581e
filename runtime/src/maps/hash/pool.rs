//! Elements on their way into a table and out of it. It knows neither keys'
//! meaning nor flags.
//!
//! What an element is used for is said by its state word alone, and changes
//! by one compare-and-swap; everything else (hints, counters of elements ever
//! used) only helps to find one. So a process that is killed leaves elements
//! signed with its id, which a scan takes back.

use shm::Region;
use shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use shm::sync::{AtomicU64, fence};

use super::element::{Element, Link, Phase, State, Stock};
use super::hints::Hints;
use super::layout::{Layout, header};
use crate::thread::{self, ThreadIds};

/// Hints tried before a search for a free element gives up; one is stale only
/// after a kill or while another process takes the same element.
pub(super) const TRIES: u32 = 256;
/// Bytes of elements that are used before any is used anew: so a key that
/// comes and goes finds the element that it had, where there are few.
const FRESH_FIRST: u64 = 1 << 16;

/// In the order of [`Layout`].
#[repr(C)]
pub(in crate::maps) struct Pool {
    /// Start of `region`, valid while it lives.
    base: *mut u8,
    pub layout: Layout,
    pub region: Region,
    regular: Hints,
    spare: Hints,
}

// SAFETY: `base` points into `region`, which may be used from any thread, and
// what lies there is only touched as atomics or as `bytes` does.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// An element that this process has taken and nobody else sees.
#[derive(Clone, Copy)]
pub(in crate::maps) struct Held<'t> {
    pub element: Element<'t>,
    pub stock: Stock,
    pub generation: u64,
}

impl Held<'_> {
    /// The link that leads to it.
    pub fn link(&self) -> Link {
        Link::new(self.element.number, self.generation)
    }
}

impl Pool {
    /// `None` when `region` is too short for `layout`.
    pub fn new(region: Region, layout: Layout) -> Option<Pool> {
        if region.len() < layout.bytes {
            return None;
        }
        thread::init();
        let numbers = layout.count + 1;
        let hints = |at| Some(Hints::new(region.sub(at, Hints::bytes(numbers))?, numbers));
        Some(Pool {
            regular: hints(layout.regular_hints)?,
            spare: hints(layout.spare_hints)?,
            base: region.as_ptr(),
            region,
            layout,
        })
    }

    /// The element of this number; `None` for the end and for nonsense.
    #[inline]
    pub fn element(&self, number: u32) -> Option<Element<'_>> {
        let index = u64::from(number).wrapping_sub(1);
        if index >= self.layout.count {
            return None;
        }
        let at = self.layout.elements + index * self.layout.element_bytes;
        // SAFETY: `index < count`, so the element lies in the region (`new`
        // compared its length), which lives as long as `self`.
        Some(unsafe { Element::new(number, self.base.wrapping_add(at as usize)) })
    }

    /// Where the value of an element (of CPU `cpu`, which is below the number
    /// that `layout` was made for) lies.
    #[inline]
    pub fn value(&self, element: Element<'_>, cpu: u32) -> *mut u8 {
        let index = u64::from(element.number).wrapping_sub(1);
        let at = self.layout.values
            + u64::from(cpu) * self.layout.cpu_step
            + index * self.layout.value_step;
        self.base.wrapping_add(at as usize)
    }

    /// Where the value of an element is that has it in `place`, 0 or 1.
    #[inline]
    pub fn place(&self, element: Element<'_>, place: usize) -> *mut u8 {
        let index = u64::from(element.number).wrapping_sub(1) as usize;
        let layout = &self.layout;
        let first = (layout.values as usize).wrapping_add(index * layout.value_step as usize);
        let other = (layout.twins as usize).wrapping_add(index * layout.twin_step as usize);
        // Without a branch: which one it is cannot be foretold.
        let offset = first.wrapping_add(other.wrapping_sub(first) & place.wrapping_neg());
        self.base.wrapping_add(offset)
    }

    /// The head of the bucket for `hash`.
    #[inline]
    pub fn bucket(&self, hash: u32) -> &AtomicU64 {
        let at = self.layout.buckets + (u64::from(hash) & self.layout.bucket_mask) * 8;
        // SAFETY: the mask keeps it among the buckets, which lie in the region
        // and are aligned; heads are only accessed as atomics.
        unsafe { AtomicU64::from_ptr(self.base.wrapping_add(at as usize).cast()) }
    }

    /// Notes that the bucket for `hash` is about to have an entry, so that
    /// walks look at it.
    pub fn note_use(&self, hash: u32) {
        let (at, bit) = self.layout.used_page(hash.into());
        if let Some(word) = self.region.u64_at(at)
            && word.load(Acquire) & bit == 0
        {
            word.fetch_or(bit, AcqRel);
        }
    }

    /// The first bucket from `bucket` on that may have had an entry; behind
    /// the last one if there is none.
    pub fn used_from(&self, bucket: u64) -> u64 {
        let end = self.layout.bucket_mask + 1;
        let mut bucket = bucket;
        while bucket < end {
            let (at, bit) = self.layout.used_page(bucket);
            if self
                .region
                .u64_at(at)
                .is_some_and(|word| word.load(Acquire) & bit != 0)
            {
                return bucket;
            }
            bucket = Layout::next_page(bucket);
        }
        end
    }

    fn hints(&self, stock: Stock) -> &Hints {
        match stock {
            Stock::Regular => &self.regular,
            Stock::Spare => &self.spare,
        }
    }

    fn state(&self, phase: Phase, generation: u64) -> State {
        State::new(phase, thread::ids().pid as u32, generation)
    }

    /// Takes a free element, none below `start` of its word if there is
    /// another; `None` if all are in use.
    pub fn take(&self, stock: Stock, start: u32) -> Option<Held<'_>> {
        for _ in 0..TRIES {
            let element = self.candidate(stock, start)?;
            if let Some(held) = self.hold(element, stock) {
                return Some(held);
            }
        }
        None
    }

    /// An element that may be free, and that nobody else is told of.
    pub(super) fn candidate(&self, stock: Stock, start: u32) -> Option<Element<'_>> {
        // Unused spares first: the value of a replaced element stays as it
        // was for as long as possible, for programs that still look at it.
        let fresh_first = stock == Stock::Spare || self.has_few(stock);
        let number = match fresh_first {
            true => self.fresh(stock).or_else(|| self.hints(stock).take(start)),
            false => self.hints(stock).take(start).or_else(|| self.fresh(stock)),
        };
        self.element(u32::try_from(number?).ok()?)
    }

    fn has_few(&self, stock: Stock) -> bool {
        let (at, ..) = self.range(stock);
        let used = self.region.u64_at(at).map_or(0, |word| word.load(Relaxed));
        used.saturating_mul(self.layout.element_bytes) < FRESH_FIRST
    }

    /// Notes that an element may be free.
    pub(super) fn hint(&self, element: Element<'_>, stock: Stock) {
        self.hints(stock).set(u64::from(element.number));
    }

    /// Takes an element, if it is free.
    pub(super) fn hold<'t>(&'t self, element: Element<'t>, stock: Stock) -> Option<Held<'t>> {
        let state = State(element.state().load(Acquire));
        let free = match state.phase() {
            Phase::Fresh => self.first_stock(element) == stock,
            Phase::Free(of) => of == stock,
            _ => false,
        };
        let generation = state.generation();
        let held = self.state(Phase::Held(stock), generation);
        let taken = free
            && element
                .state()
                .compare_exchange(state.0, held.0, AcqRel, Relaxed)
                .is_ok();
        // A reader who strayed here sees the state of the last free before any
        // byte that the owner writes now.
        fence(Release);
        taken.then_some(Held {
            element,
            stock,
            generation,
        })
    }

    /// What a never used element counts as.
    fn first_stock(&self, element: Element<'_>) -> Stock {
        match u64::from(element.number) <= self.layout.regular {
            true => Stock::Regular,
            false => Stock::Spare,
        }
    }

    /// Number of an element that was never used, so that memory is touched
    /// only when needed.
    fn fresh(&self, stock: Stock) -> Option<u64> {
        let (at, first, count) = self.range(stock);
        let used = self.region.u64_at(at)?;
        if used.load(Relaxed) >= count {
            return None;
        }
        let index = used.fetch_add(1, AcqRel);
        if index >= count {
            used.store(count, Relaxed);
            return None;
        }
        Some(first + index)
    }

    /// The counter of used elements, the first number, how many.
    fn range(&self, stock: Stock) -> (u64, u64, u64) {
        let regular = self.layout.regular;
        match stock {
            Stock::Regular => (header::REGULAR_USED, 1, regular),
            Stock::Spare => (header::SPARE_USED, 1 + regular, self.layout.count - regular),
        }
    }

    /// Gives back an element that was never linked.
    pub fn give_back(&self, held: Held<'_>) {
        self.reset(held.element, held.generation);
        let free = State::new(Phase::Free(held.stock), 0, held.generation);
        held.element.state().store(free.0, Release);
        self.hint(held.element, held.stock);
    }

    /// Says that an element was linked. Fails harmlessly when someone has
    /// marked it already and sees to its end.
    pub fn linked(&self, held: Held<'_>) {
        let from = self.state(Phase::Held(held.stock), held.generation);
        let live = State::new(Phase::Live, 0, held.generation);
        let _ = held
            .element
            .state()
            .compare_exchange(from.0, live.0, AcqRel, Relaxed);
    }

    /// Claims a linked element of this generation that nobody has claimed;
    /// one process succeeds.
    pub fn begin_end(&self, element: Element<'_>, generation: u64) -> bool {
        let mut state = State(element.state().load(Acquire));
        loop {
            if !state.is_idle() || state.generation() != generation {
                return false;
            }
            match self.claim(element, state) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// Claims an element in a state that [is idle](State::is_idle): its state
    /// as claimed, or the one that it is in.
    #[inline]
    pub fn claim(&self, element: Element<'_>, idle: State) -> Result<State, State> {
        self.claim_for(element, idle, thread::ids())
    }

    /// The same for who knows its ids.
    #[inline]
    pub fn claim_for(
        &self,
        element: Element<'_>,
        idle: State,
        owner: ThreadIds,
    ) -> Result<State, State> {
        let claimed = idle.claimed_by(owner.pid as u32);
        let was = element
            .state()
            .compare_exchange(idle.0, claimed.0, AcqRel, Acquire);
        // Who reads a value while it is written over sees the claim.
        fence(Release);
        was.map(|_| claimed).map_err(State)
    }

    /// Frees an element that this process has claimed and that is out of its
    /// list.
    pub fn free(&self, element: Element<'_>, generation: u64) {
        self.give_back(self.renew(element, generation));
    }

    /// Holds an element anew that this process has claimed and that is out of
    /// its list. The generation counts first, so that whoever still stands on
    /// the element notices.
    pub(super) fn renew<'t>(&self, element: Element<'t>, generation: u64) -> Held<'t> {
        let stock = Link(element.next().load(Acquire)).stock();
        let generation = self
            .state(Phase::Fresh, generation.wrapping_add(1))
            .generation();
        let clearing = self.state(Phase::Clearing(stock), generation);
        element.state().store(clearing.0, Release);
        fence(Release);
        self.reset(element, generation);
        let held = self.state(Phase::Held(stock), generation);
        element.state().store(held.0, Release);
        Held {
            element,
            stock,
            generation,
        }
    }

    /// `next` of an element that is nowhere.
    fn reset(&self, element: Element<'_>, generation: u64) {
        let end = Link::new(0, 0).held_by(generation);
        element.next().store(end.0, Relaxed);
    }

    fn clear(&self, element: Element<'_>, stock: Stock, generation: u64) {
        self.reset(element, generation);
        let free = State::new(Phase::Free(stock), 0, generation);
        element.state().store(free.0, Release);
        self.hint(element, stock);
    }

    /// Calls `each` for every element that was ever given out.
    pub fn each_used(&self, each: &mut dyn FnMut(Element<'_>)) {
        for stock in [Stock::Regular, Stock::Spare] {
            let (at, first, count) = self.range(stock);
            let used = self.region.u64_at(at).map_or(0, |word| word.load(Acquire));
            for number in first..first + used.min(count) {
                let Some(element) = self.element(number as u32) else {
                    break;
                };
                each(element);
            }
        }
    }

    /// Finishes what a dead owner has begun with this element: whether there
    /// may be a free element now.
    pub fn rescue(&self, element: Element<'_>, reachable: &Reachable<'_>) -> bool {
        let state = State(element.state().load(Acquire));
        let generation = state.generation();
        match state.phase() {
            Phase::Fresh => {
                self.hint(element, self.first_stock(element));
                return true;
            }
            Phase::Free(stock) => {
                self.hint(element, stock);
                return true;
            }
            // Nonsense keeps the element out of use.
            Phase::Live | Phase::Unknown => return false,
            phase => {
                let owner = state.owner() as i32;
                if thread::exists(owner) {
                    return false;
                }
                let mine = self.state(phase, generation);
                if element
                    .state()
                    .compare_exchange(state.0, mine.0, AcqRel, Relaxed)
                    .is_err()
                {
                    return false;
                }
            }
        }
        if let Phase::Clearing(stock) = state.phase() {
            self.clear(element, stock, generation);
            return true;
        }
        let link = Link::new(element.number, generation);
        let Some(linked) = reachable(element.hash().load(Relaxed), link) else {
            // Signed by us now, and nobody would look at it before we die.
            let mine = self.state(state.phase(), generation);
            let _ = element
                .state()
                .compare_exchange(mine.0, state.0, AcqRel, Relaxed);
            return false;
        };
        match state.phase() {
            Phase::Held(stock) => {
                let held = Held {
                    element,
                    stock,
                    generation,
                };
                if linked {
                    self.linked(held);
                    return false;
                }
                // Its owner is dead: what is not linked now never will be,
                // but it may have been linked, and deleted since.
                if !Link(element.next().load(Acquire)).marked() {
                    self.give_back(held);
                } else if self.begin_end(element, generation) {
                    self.free(element, generation);
                }
            }
            _ if linked => return false,
            _ => self.free(element, generation),
        }
        true
    }
}

/// Whether the list for a hash leads to an element; `None` if unknown.
pub(in crate::maps) type Reachable<'a> = dyn Fn(u32, Link) -> Option<bool> + 'a;
