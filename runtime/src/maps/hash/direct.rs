//! What programs call in place of helpers for the most common tables: one value
//! for a key, nothing is evicted, and a key is a word. All that such a call
//! needs to know of the table is known when it is compiled, so little code and
//! memory is touched: in a target that does other work between two hits, most
//! of a hit's time is spent on fetching both. It knows no program.

use core::ptr;

use uapi::Errno;
use uapi::helper::{BPF_FUNC_MAP_LOOKUP_ELEM, BPF_FUNC_MAP_UPDATE_ELEM};
use vm::Run;
use vm::link::HelperFn;

use super::Hash;
use super::element::Element;
use super::key::{Key, Word};
use crate::maps::bytes;
use crate::maps::kind::MapKind;
use crate::run::RunState;

impl Hash {
    /// What does a helper's work for this table, which it gets in place of the
    /// map; `None` where the helper has to.
    pub(super) fn direct_call(&self, helper: u32) -> Option<HelperFn> {
        // With two places a value is nothing but bytes.
        if self.cpus.is_some() || self.table.evicts || !self.table.pool.layout.has_twins {
            return None;
        }
        match (helper, self.table.key_size) {
            (BPF_FUNC_MAP_LOOKUP_ELEM, 4) => Some(lookup::<4>),
            (BPF_FUNC_MAP_LOOKUP_ELEM, 8) => Some(lookup::<8>),
            (BPF_FUNC_MAP_UPDATE_ELEM, 4) => Some(update::<4>),
            (BPF_FUNC_MAP_UPDATE_ELEM, 8) => Some(update::<8>),
            _ => None,
        }
    }
}

unsafe extern "C" fn lookup<const KEY: usize>(
    hash: u64,
    key: u64,
    _: u64,
    _: u64,
    _: u64,
    run: *mut Run,
) -> u64 {
    let key = key as *const u8;
    // SAFETY: the linker gave this for a `Hash` that outlives its programs.
    let hash = unsafe { &*(hash as *const Hash) };
    // SAFETY: the verifier proved that `key` has the map's key size.
    let Some(word) = (unsafe { Word::<KEY>::new(key) }) else {
        // SAFETY: as above.
        return unsafe { lookup_any(hash, key, run) };
    };
    let table = &hash.table;
    // SAFETY: the table's key size (`direct_call`).
    match unsafe { table.find_key(word, word.hash(table.seed)) } {
        Some(entry) => table.value(entry) as u64,
        None => 0,
    }
}

unsafe extern "C" fn update<const KEY: usize>(
    hash: u64,
    key: u64,
    value: u64,
    flags: u64,
    _: u64,
    run: *mut Run,
) -> u64 {
    let (key, value) = (key as *const u8, value as *const u8);
    // SAFETY: as in `lookup`.
    let hash = unsafe { &*(hash as *const Hash) };
    // SAFETY: as in `lookup`.
    let Some(word) = (unsafe { Word::<KEY>::new(key) }).filter(|_| !value.is_null()) else {
        // SAFETY: as in `lookup`, also for the value.
        return unsafe { update_any(hash, [key, value], flags, run) };
    };
    let fill = |element: Element<'_>, place| {
        let to = hash.table.pool.place(element, place);
        // SAFETY: a value of the element; the verifier proved that `value`
        // has the map's value size.
        unsafe { bytes::copy(to, value, hash.value_size) };
    };
    // SAFETY: engines pass the run they were entered with.
    let vcpu = || unsafe { RunState::of(run) }.vcpu;
    // SAFETY: the table's key size (`direct_call`).
    answer(unsafe { hash.table.update_key(word, flags, vcpu, &fill, None) })
}

/// # Safety
/// `key` is as the verifier wants it, or null; `run` goes on.
#[cold]
#[inline(never)]
unsafe fn lookup_any(hash: &Hash, key: *const u8, run: *mut Run) -> u64 {
    if key.is_null() {
        return ptr::null_mut::<u8>() as u64;
    }
    // SAFETY: the caller's contract.
    unsafe { hash.lookup_ptr(key, RunState::of(run).vcpu) as u64 }
}

/// # Safety
/// As [`lookup_any`], for both key and value.
#[cold]
#[inline(never)]
unsafe fn update_any(hash: &Hash, [key, value]: [*const u8; 2], flags: u64, run: *mut Run) -> u64 {
    if key.is_null() || value.is_null() {
        return Errno::EFAULT.ret() as u64;
    }
    // SAFETY: the caller's contract.
    answer(unsafe { hash.update_prog(key, value, flags, RunState::of(run).vcpu) })
}

#[inline(always)]
fn answer(done: Result<(), Errno>) -> u64 {
    match done {
        Ok(()) => 0,
        Err(errno) => errno.ret() as u64,
    }
}
