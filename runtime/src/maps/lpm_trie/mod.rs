//! `BPF_MAP_TYPE_LPM_TRIE` (kernel/bpf/lpm_trie.c): values under prefixes, of
//! which a lookup finds the longest that fits. It knows no address family.
//!
//! Prefixes of all lengths are in one hash table, and a set of bits says which
//! lengths were ever used: a lookup asks for one after the other, the longest
//! first. There are few, and a table of lists takes the death of anybody,
//! which a tree whose nodes are joined and split in several steps does not.
//!
//! Reading order: `prefix` (a key), then this, then `order` (what follows a
//! key for `BPF_MAP_GET_NEXT_KEY`).

mod order;
mod prefix;

use core::ptr;
use shm::Region;
use shm::sync::AtomicU64;
use shm::sync::Ordering::{AcqRel, Acquire};
use uapi::Errno;
use uapi::map::{BPF_EXIST, BPF_F_NO_PREALLOC, BPF_F_NUMA_NODE};

use self::order::{Change, Order};
use self::prefix::Prefix;
use super::bytes;
use super::hash::element::Element;
use super::hash::layout::{Layout, Places, header};
use super::hash::pool::Pool;
use super::hash::table::{self, Entry, Table};
use super::kind::{MapKind, MapType, Start};
use super::spec::{ACCESS_MASK, KMALLOC_MAX_SIZE, MapSpec, PAGE, WORD};
use crate::thread;

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

/// `LPM_CREATE_FLAG_MASK`.
const KNOWN_FLAGS: u32 = BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | ACCESS_MASK;
/// Bytes of a key before its data: the prefix's length in bits.
const LENGTH: u32 = 4;
/// `LPM_DATA_SIZE_MAX`.
const MAX_DATA: u32 = 256;
/// `LPM_VAL_SIZE_MAX`; a node of the kernel's has 40 bytes.
const MAX_VALUE: u32 = KMALLOC_MAX_SIZE - MAX_DATA - 40;
/// A word for each 64 lengths, and one for the longest.
const LENGTH_WORDS: u64 = MAX_DATA as u64 * 8 / 64 + 1;
/// How often a lookup starts again when the map changed under it.
const RESTARTS: u32 = 16;

/// The table, and where the lengths lie behind it.
fn layout(spec: &MapSpec, nr_cpus: u32) -> Result<(Layout, u64), Errno> {
    spec.check_flags(KNOWN_FLAGS)?;
    if spec.max_entries == 0
        || !spec.has(BPF_F_NO_PREALLOC)
        || !(LENGTH + 1..=LENGTH + MAX_DATA).contains(&spec.key_size)
        || !(1..=MAX_VALUE).contains(&spec.value_size)
    {
        return Err(Errno::EINVAL);
    }
    let element = MapSpec {
        value_size: spec.key_size.next_multiple_of(WORD as u32) + spec.value_size,
        ..*spec
    };
    let entries = u64::from(spec.max_entries);
    let buckets = entries.next_power_of_two();
    let table =
        Layout::place(&element, nr_cpus, Places::One, entries, buckets).ok_or(Errno::ENOMEM)?;
    let lengths = table.bytes.next_multiple_of(PAGE);
    Ok((table, lengths))
}

fn storage_size(spec: &MapSpec, nr_cpus: u32) -> Result<u64, Errno> {
    let (_, lengths) = layout(spec, nr_cpus)?;
    Ok(lengths + LENGTH_WORDS * WORD)
}

fn over(
    spec: &MapSpec,
    storage: Region,
    nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    // Zeros are an empty table without lengths.
    let (table, lengths) = layout(spec, nr_cpus)?;
    let lengths = storage.sub(lengths, LENGTH_WORDS * WORD);
    Ok(Box::new(LpmTrie {
        lengths: lengths.ok_or(Errno::ENOMEM)?,
        table: Table {
            pool: Pool::new(storage, table).ok_or(Errno::ENOMEM)?,
            key_size: spec.key_size as usize,
            seed: spec.seed,
            evicts: false,
            patience: Default::default(),
        },
        max_length: (spec.key_size - LENGTH) * 8,
        key_size: spec.key_size as usize,
        value_size: spec.value_size as usize,
        order: Order::default(),
    }))
}

struct LpmTrie {
    /// Keys are prefixes with zeros behind them; a value is the key as it was
    /// given, then the value.
    table: Table,
    /// Lengths that were ever used.
    lengths: Region,
    max_length: u32,
    key_size: usize,
    value_size: usize,
    order: Order,
}

impl LpmTrie {
    fn length_word(&self, length: u32) -> Option<&AtomicU64> {
        self.lengths.u64_at(u64::from(length / 64) * WORD)
    }

    /// The longest length in use that is at most `length`.
    #[inline]
    fn length_below(&self, length: u32) -> Option<u32> {
        let mut word = length / 64;
        let mut wanted = u64::MAX >> (63 - length % 64);
        loop {
            let used = self.length_word(word * 64)?.load(Acquire) & wanted;
            if used != 0 {
                return Some(word * 64 + used.ilog2());
            }
            word = word.checked_sub(1)?;
            wanted = u64::MAX;
        }
    }

    /// Counts changes. It moves on before each, so that who sees the map
    /// without one and then with a later one notices.
    fn changes(&self) -> Option<&AtomicU64> {
        self.table.pool.region.u64_at(header::OWN)
    }

    fn change_count(&self) -> u64 {
        self.changes().map_or(0, |changes| changes.load(Acquire))
    }

    /// Counts a change that is about to happen; the count before.
    fn changing(&self) -> u64 {
        self.changes()
            .map_or(0, |changes| changes.fetch_add(1, AcqRel))
    }

    /// The length that a key has; `None` when it is longer than its data.
    ///
    /// # Safety
    /// `key` is readable for the map's key size.
    #[inline]
    unsafe fn length(&self, key: *const u8) -> Option<u32> {
        // SAFETY: the caller's contract; a key is longer than its length.
        let length = unsafe { bytes::read_u32(key) };
        (length <= self.max_length).then_some(length)
    }

    /// The entry of the longest prefix that `key` has.
    ///
    /// # Safety
    /// `key` is readable for the map's key size.
    #[inline]
    unsafe fn find(&self, key: *const u8) -> Option<Entry<'_>> {
        let mut found = None;
        for _ in 0..RESTARTS {
            let before = self.change_count();
            // SAFETY: the caller's contract.
            found = unsafe { self.find_once(key) };
            // A longer one may have come behind the search, and what it
            // missed gone before it.
            if self.change_count() == before {
                break;
            }
        }
        found
    }

    /// # Safety
    /// As [`LpmTrie::find`].
    #[inline]
    unsafe fn find_once(&self, key: *const u8) -> Option<Entry<'_>> {
        // SAFETY: the caller's contract.
        let mut length = unsafe { self.length(key) }?;
        let mut prefix = Prefix::new();
        // SAFETY: as above; `layout` checked the key size.
        unsafe { prefix.set(key, self.key_size, length) };
        loop {
            let used = self.length_below(length)?;
            prefix.shorten(used);
            // SAFETY: a prefix has the table's key size.
            let entry = unsafe {
                let hash = self.table.hash(prefix.as_ptr());
                self.table.find(prefix.as_ptr(), hash)
            };
            if entry.is_some() {
                return entry;
            }
            length = used.checked_sub(1)?;
        }
    }

    /// The key as it was given.
    fn key(&self, element: Element<'_>) -> *mut u8 {
        self.table.pool.value(element, 0)
    }

    fn value(&self, element: Element<'_>) -> *mut u8 {
        let key = self.key_size.next_multiple_of(WORD as usize);
        self.key(element).wrapping_add(key)
    }

    /// After [`LpmTrie::changing`].
    ///
    /// # Safety
    /// `key` and `value` are readable for the map's sizes.
    unsafe fn store(&self, key: *const u8, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's contract.
        let length = unsafe { self.length(key) }.ok_or(Errno::EINVAL)?;
        let mut prefix = Prefix::new();
        // SAFETY: as above.
        unsafe { prefix.set(key, self.key_size, length) };
        // Lookups ask for the length before there is a prefix of it.
        let bit = 1 << (length % 64);
        let lengths = self.length_word(length).ok_or(Errno::EINVAL)?;
        if lengths.load(Acquire) & bit == 0 {
            lengths.fetch_or(bit, AcqRel);
        }
        let fill = |element: Element<'_>, _place| {
            // SAFETY: key and value of an element that nobody else sees, from
            // the caller's.
            unsafe {
                bytes::copy(self.key(element), key, self.key_size);
                bytes::copy(self.value(element), value, self.value_size);
            }
        };
        let start = thread::spread() as u32;
        // SAFETY: a prefix has the table's key size.
        let stored = unsafe {
            self.table
                .update(prefix.as_ptr(), flags, start, &fill, None)
        };
        stored.map_err(|errno| match errno {
            Errno::E2BIG => Errno::ENOSPC,
            other => other,
        })
    }

    /// After [`LpmTrie::changing`].
    ///
    /// # Safety
    /// `key` is readable for the map's key size.
    unsafe fn remove(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: the caller's contract.
        let length = unsafe { self.length(key) }.ok_or(Errno::EINVAL)?;
        let mut prefix = Prefix::new();
        // SAFETY: as above.
        unsafe { prefix.set(key, self.key_size, length) };
        // SAFETY: a prefix has the table's key size.
        unsafe { self.table.delete(prefix.as_ptr()) }
    }

    /// All keys, as they were given, in no order.
    fn all_keys(&self) -> Vec<Box<[u8]>> {
        self.table.all(&|element| {
            let mut key = vec![0; self.key_size];
            // SAFETY: the element's key, into as many bytes.
            unsafe { bytes::copy(key.as_mut_ptr(), self.key(element), self.key_size) };
            key.into_boxed_slice()
        })
    }
}

impl MapKind for LpmTrie {
    unsafe fn lookup_ptr(&self, key: *const u8, _vcpu: u32) -> *mut u8 {
        // SAFETY: the caller's contract.
        let found = unsafe { self.find(key) };
        found.map_or(ptr::null_mut(), |entry| self.value(entry.element))
    }

    unsafe fn update_prog(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
        _vcpu: u32,
    ) -> Result<(), Errno> {
        self.changing();
        // SAFETY: the caller's contract.
        unsafe { self.store(key, value, flags) }
    }

    unsafe fn delete_prog(&self, key: *const u8) -> Result<(), Errno> {
        self.changing();
        // SAFETY: the caller's contract.
        unsafe { self.remove(key) }
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        for _ in 0..table::LOOKS {
            // SAFETY: `key` has the map's key size (`MapKind`).
            let entry = unsafe { self.find(key.as_ptr()) }.ok_or(Errno::ENOENT)?;
            // SAFETY: a value in storage, into as many bytes (`MapKind`).
            unsafe { bytes::copy(value.as_mut_ptr(), self.value(entry.element), value.len()) };
            if self.table.is_current(entry) {
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let before = self.changing();
        // SAFETY: key and value have the map's sizes (`MapKind`).
        let stored = unsafe { self.store(key.as_ptr(), value.as_ptr(), flags) };
        self.order.follow(
            before,
            &match stored {
                Ok(()) => Change::Stored(key),
                Err(_) => Change::Nothing,
            },
        );
        stored
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        let before = self.changing();
        // SAFETY: `key` has the map's key size (`MapKind`).
        let removed = unsafe { self.remove(key.as_ptr()) };
        self.order.follow(
            before,
            &match removed {
                Ok(()) => Change::Removed(key),
                Err(_) => Change::Nothing,
            },
        );
        removed
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        // A key that is too long is in no map.
        // SAFETY: `key` has the map's key size (`MapKind`).
        let key = key.filter(|key| unsafe { self.length(key.as_ptr()) }.is_some());
        let found = self
            .order
            .after(key, self.change_count(), || self.all_keys());
        next.copy_from_slice(&found.ok_or(Errno::ENOENT)?);
        Ok(())
    }

    fn reclaim(&self) {
        self.table.reclaim();
    }
}
