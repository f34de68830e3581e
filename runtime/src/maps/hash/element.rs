//! One element of a hash table: where its words lie and what they say. It
//! knows no list and no bucket.
//!
//! The word that leads to an element is a [`Link`]: the element's number and
//! generation, and of the element that holds the link the mark and the
//! generation. A generation counts how often an element was freed. So a link
//! to an earlier use of an element is recognised, and a compare-and-swap of
//! an element's `next` fails when the element is used anew, even if the same
//! one follows.

use core::ptr::NonNull;

use shm::sync::{AtomicU32, AtomicU64};

/// Bits of an element's number.
pub(super) const NUMBER_BITS: u32 = 26;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;
const MARK_SHIFT: u32 = NUMBER_BITS;
const MARK: u64 = 3 << MARK_SHIFT;
/// Bits of a generation: who compares two must not have slept while the
/// element was freed a multiple of 2^18 times.
const GENERATION_BITS: u32 = 18;
const GENERATION: u64 = (1 << GENERATION_BITS) - 1;
const GENERATION_SHIFT: u32 = MARK_SHIFT + 2;
const HOLDER_SHIFT: u32 = GENERATION_SHIFT + GENERATION_BITS;

/// The part of a link that names an element.
const TARGET: u64 = NUMBER | GENERATION << GENERATION_SHIFT;

const PHASE: u64 = 0xf;
const STATE_GENERATION_SHIFT: u32 = 4;
/// Of a live element all bits from here on count changes of its value, of
/// one that has an owner those below the owner.
const COUNT_SHIFT: u32 = 22;
const OWNED_COUNT: u64 = (1 << 20) - 1;
const OWNER_SHIFT: u32 = 42;
/// What a state says whether there is an owner or not.
const LASTING: u64 = GENERATION << STATE_GENERATION_SHIFT | OWNED_COUNT << COUNT_SHIFT;

/// What an element counts as when it is not in the table: `max_entries`
/// elements are regular, so a table without a free one is full. Spare ones
/// let an update of an existing key go through when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::maps) enum Stock {
    Regular,
    Spare,
}

/// The word that leads to an element: a bucket's head or an element's `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::maps) struct Link(pub u64);

impl Link {
    /// To an element, from a bucket's head.
    pub fn new(number: u32, generation: u64) -> Link {
        Link(u64::from(number) & NUMBER | (generation & GENERATION) << GENERATION_SHIFT)
    }

    /// Number of the element, from 1; 0 for the end of the list.
    #[inline]
    pub fn number(self) -> u32 {
        (self.0 & NUMBER) as u32
    }

    /// Generation of the element that it leads to.
    #[inline]
    pub fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT & GENERATION
    }

    /// Has the element that holds this link left the table for good?
    #[inline]
    pub fn marked(self) -> bool {
        !self.is_live() && !self.is_absent()
    }

    /// Is the key of the element that holds this link in the table?
    #[inline]
    pub fn is_live(self) -> bool {
        self.0 & MARK == 0
    }

    /// Was that key deleted, and may come back in the same element?
    #[inline]
    pub fn is_absent(self) -> bool {
        self.0 & MARK == MARK
    }

    /// As the `next` of an element whose key is deleted.
    pub fn absent(self) -> Link {
        Link(self.0 | MARK)
    }

    /// As the `next` of an element whose key is there.
    pub fn live(self) -> Link {
        Link(self.0 & !MARK)
    }

    /// Where the element that holds this link goes when it is freed.
    pub fn stock(self) -> Stock {
        match self.0 & MARK {
            mark if mark == 2 << MARK_SHIFT => Stock::Spare,
            _ => Stock::Regular,
        }
    }

    /// Does it lead where `other` leads?
    pub fn same_target(self, other: Link) -> bool {
        (self.0 ^ other.0) & TARGET == 0
    }

    /// The same word, leading where `other` leads.
    pub fn leading_to(self, other: Link) -> Link {
        Link(self.0 & !TARGET | other.0 & TARGET)
    }

    /// As the `next` of an element of this generation, not marked.
    pub fn held_by(self, generation: u64) -> Link {
        Link(self.0 & TARGET | (generation & GENERATION) << HOLDER_SHIFT)
    }

    /// What [`Link::held_by`] noted.
    pub fn holder(self) -> u64 {
        self.0 >> HOLDER_SHIFT
    }

    pub fn mark(self, stock: Stock) -> Link {
        let mark = match stock {
            Stock::Regular => 1,
            Stock::Spare => 2,
        };
        Link(self.0 & !MARK | mark << MARK_SHIFT)
    }
}

/// What an element is being used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::maps) enum Phase {
    /// Never used; all zero.
    Fresh,
    Free(Stock),
    /// Taken by a process that prepares it, or that has linked it; then
    /// nobody has changed its value since.
    Held(Stock),
    /// Linked. Its value was changed so many times.
    Live,
    /// Of one process, that changes its value or sees to its end. What others
    /// see of it is what they saw before.
    Claimed,
    /// Out of every list; a process clears its words.
    Clearing(Stock),
    /// No phase of ours: someone wrote nonsense.
    Unknown,
}

impl Phase {
    const ALL: [Phase; 9] = [
        Phase::Fresh,
        Phase::Free(Stock::Regular),
        Phase::Free(Stock::Spare),
        Phase::Held(Stock::Regular),
        Phase::Held(Stock::Spare),
        Phase::Live,
        Phase::Claimed,
        Phase::Clearing(Stock::Regular),
        Phase::Clearing(Stock::Spare),
    ];

    #[inline]
    fn number(self) -> u64 {
        match self {
            Phase::Fresh => 0,
            Phase::Free(Stock::Regular) => 1,
            Phase::Free(Stock::Spare) => 2,
            Phase::Held(Stock::Regular) => 3,
            Phase::Held(Stock::Spare) => 4,
            Phase::Live => 5,
            Phase::Claimed => 6,
            Phase::Clearing(Stock::Regular) => 7,
            Phase::Clearing(Stock::Spare) => 8,
            Phase::Unknown => PHASE,
        }
    }
}

/// The word that says who may do what with an element, and which of its
/// values counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::maps) struct State(pub u64);

impl State {
    pub fn new(phase: Phase, owner: u32, generation: u64) -> State {
        let generation = (generation & GENERATION) << STATE_GENERATION_SHIFT;
        State(phase.number() | generation | u64::from(owner) << OWNER_SHIFT)
    }

    /// The same element and count of changes, live.
    #[inline]
    pub fn live(self) -> State {
        let lasting = match self.phase() {
            Phase::Live => self.0 & !PHASE,
            _ => self.0 & LASTING,
        };
        State(lasting | Phase::Live.number())
    }

    /// The same element and count of changes, claimed by a process.
    #[inline]
    pub fn claimed_by(self, owner: u32) -> State {
        let owner = u64::from(owner) << OWNER_SHIFT;
        State(self.0 & LASTING | owner | Phase::Claimed.number())
    }

    /// As after so many more changes of the value.
    #[inline]
    pub fn changed(self, times: u64) -> State {
        match self.phase() {
            Phase::Live => State(self.0.wrapping_add(times << COUNT_SHIFT)),
            _ => {
                let count = (self.0 >> COUNT_SHIFT).wrapping_add(times) & OWNED_COUNT;
                State(self.0 & !(OWNED_COUNT << COUNT_SHIFT) | count << COUNT_SHIFT)
            }
        }
    }

    #[inline]
    pub fn phase(self) -> Phase {
        Phase::ALL
            .get((self.0 & PHASE) as usize)
            .copied()
            .unwrap_or(Phase::Unknown)
    }

    pub fn owner(self) -> u32 {
        (self.0 >> OWNER_SHIFT) as u32
    }

    #[inline]
    pub fn generation(self) -> u64 {
        self.0 >> STATE_GENERATION_SHIFT & GENERATION
    }

    /// Which of the two places holds the value: 0 or 1.
    #[inline]
    pub fn place(self) -> usize {
        (self.0 >> COUNT_SHIFT) as usize & 1
    }

    /// May a process that finds the element linked claim it?
    #[inline]
    pub fn is_idle(self) -> bool {
        matches!(self.phase(), Phase::Live | Phase::Held(_))
    }

    /// Does the element have the value still that it had?
    #[inline]
    pub fn has_value_of(self, before: State) -> bool {
        let differs = self.0 ^ before.0;
        differs == 0
            || differs & LASTING == 0
                && !(self.phase() == Phase::Live && before.phase() == Phase::Live)
    }

    /// Are the bytes still whole of the value that it had? A value that was
    /// changed once is in the other place, until someone claims it again.
    pub fn keeps_value_of(self, before: State) -> bool {
        self.has_value_of(before)
            || self.phase() == Phase::Live && self.has_value_of(before.changed(1))
    }
}

/// Bytes before the key.
pub(in crate::maps) const HEADER: u64 = 24;
const NEXT: usize = 0;
const STATE: usize = 8;
const HASH: usize = 16;
const USED: usize = 20;

/// An element of a table, whose number was checked.
#[derive(Clone, Copy)]
pub(in crate::maps) struct Element<'t> {
    pub number: u32,
    at: NonNull<u8>,
    _table: core::marker::PhantomData<&'t AtomicU64>,
}

impl<'t> Element<'t> {
    /// # Safety
    /// `at` is the aligned start of an element of a table that lives for `'t`.
    #[inline]
    pub unsafe fn new(number: u32, at: *mut u8) -> Element<'t> {
        Element {
            number,
            // SAFETY: the caller's contract: part of a mapping.
            at: unsafe { NonNull::new_unchecked(at) },
            _table: core::marker::PhantomData,
        }
    }

    #[inline(always)]
    fn part(self, offset: usize) -> *mut u8 {
        self.at.as_ptr().wrapping_add(offset)
    }

    #[inline]
    pub fn next(self) -> &'t AtomicU64 {
        // SAFETY: `Element::new`'s contract: mapped for 't and aligned; the
        // word is only accessed as an atomic.
        unsafe { AtomicU64::from_ptr(self.part(NEXT).cast()) }
    }

    #[inline]
    pub fn state(self) -> &'t AtomicU64 {
        // SAFETY: as in `next`.
        unsafe { AtomicU64::from_ptr(self.part(STATE).cast()) }
    }

    #[inline]
    pub fn hash(self) -> &'t AtomicU32 {
        // SAFETY: as in `next`.
        unsafe { AtomicU32::from_ptr(self.part(HASH).cast()) }
    }

    /// How recently it was used, for maps that evict ([`super::lru`]).
    #[inline]
    pub fn used(self) -> &'t AtomicU32 {
        // SAFETY: as in `next`.
        unsafe { AtomicU32::from_ptr(self.part(USED).cast()) }
    }

    #[inline]
    pub fn key(self) -> *mut u8 {
        self.part(HEADER as usize)
    }
}
