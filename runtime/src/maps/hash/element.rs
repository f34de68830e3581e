//! One element of a hash table: where its words lie and what they say. It
//! knows no list and no bucket.
//!
//! The word that leads to an element is a [`Link`]: the element's number and
//! generation, and of the element that holds the link the mark and the
//! generation. A generation counts how often an element was freed. So a link
//! to an earlier use of an element is recognised, and a compare-and-swap of
//! an element's `next` fails when the element is used anew, even if the same
//! one follows.

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
const PID_SHIFT: u32 = 4;
/// `PID_MAX_LIMIT` is 2^22 (include/linux/threads.h).
const PID: u64 = (1 << 22) - 1;
const STATE_GENERATION_SHIFT: u32 = 32;

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

    /// Is the element that holds this link out of the table?
    #[inline]
    pub fn marked(self) -> bool {
        self.0 & MARK != 0
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
    /// Taken by a process that prepares it, or has just linked it.
    Held(Stock),
    Live,
    /// Marked, and a process is seeing to its end.
    Dying,
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
        Phase::Dying,
        Phase::Clearing(Stock::Regular),
        Phase::Clearing(Stock::Spare),
    ];

    fn number(self) -> u64 {
        match self {
            Phase::Fresh => 0,
            Phase::Free(Stock::Regular) => 1,
            Phase::Free(Stock::Spare) => 2,
            Phase::Held(Stock::Regular) => 3,
            Phase::Held(Stock::Spare) => 4,
            Phase::Live => 5,
            Phase::Dying => 6,
            Phase::Clearing(Stock::Regular) => 7,
            Phase::Clearing(Stock::Spare) => 8,
            Phase::Unknown => PHASE,
        }
    }
}

/// The word that says who may do what with an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::maps) struct State(pub u64);

impl State {
    pub fn new(phase: Phase, owner: u32, generation: u64) -> State {
        let owner = (u64::from(owner) & PID) << PID_SHIFT;
        State(phase.number() | owner | (generation & GENERATION) << STATE_GENERATION_SHIFT)
    }

    pub fn phase(self) -> Phase {
        Phase::ALL
            .get((self.0 & PHASE) as usize)
            .copied()
            .unwrap_or(Phase::Unknown)
    }

    pub fn owner(self) -> u32 {
        (self.0 >> PID_SHIFT & PID) as u32
    }

    #[inline]
    pub fn generation(self) -> u64 {
        self.0 >> STATE_GENERATION_SHIFT & GENERATION
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
    at: *mut u8,
    _table: core::marker::PhantomData<&'t AtomicU64>,
}

impl<'t> Element<'t> {
    /// # Safety
    /// `at` is the aligned start of an element of a table that lives for `'t`.
    #[inline]
    pub unsafe fn new(number: u32, at: *mut u8) -> Element<'t> {
        Element {
            number,
            at,
            _table: core::marker::PhantomData,
        }
    }

    #[inline]
    pub fn next(self) -> &'t AtomicU64 {
        // SAFETY: `Element::new`'s contract: mapped for 't and aligned; the
        // word is only accessed as an atomic.
        unsafe { AtomicU64::from_ptr(self.at.wrapping_add(NEXT).cast()) }
    }

    #[inline]
    pub fn state(self) -> &'t AtomicU64 {
        // SAFETY: as in `next`.
        unsafe { AtomicU64::from_ptr(self.at.wrapping_add(STATE).cast()) }
    }

    #[inline]
    pub fn hash(self) -> &'t AtomicU32 {
        // SAFETY: as in `next`.
        unsafe { AtomicU32::from_ptr(self.at.wrapping_add(HASH).cast()) }
    }

    /// How recently it was used, for maps that evict ([`super::lru`]).
    #[inline]
    pub fn used(self) -> &'t AtomicU32 {
        // SAFETY: as in `next`.
        unsafe { AtomicU32::from_ptr(self.at.wrapping_add(USED).cast()) }
    }

    #[inline]
    pub fn key(self) -> *mut u8 {
        self.at.wrapping_add(HEADER as usize)
    }
}
