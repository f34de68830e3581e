//! What programs call in place of helpers for the most common tables: one value
//! for a key, nothing is evicted, and a key is a word. All that such a call
//! needs to know of the table is known when it is compiled, so little code and
//! memory is touched: in a target that does other work between two hits, most
//! of a hit's time is spent on fetching both. Each does by itself what is done
//! by few instructions, without vector registers, and has all else done aside
//! (`helpers::quiet`). It knows no program.

use uapi::Errno;
use uapi::helper::{BPF_FUNC_MAP_LOOKUP_ELEM, BPF_FUNC_MAP_UPDATE_ELEM};
use vm::Run;
use vm::link::HelperFn;

use super::Hash;
use super::element::Element;
use super::key::{Key, Word};
use crate::arch::aside::bpftime_runtime_aside;
use crate::maps::bytes;
use crate::maps::kind::MapKind;
use crate::run::RunState;
use crate::thread;

impl Hash {
    /// What does a helper's work for this table, which it gets in place of the
    /// map; `None` where the helper has to.
    pub(super) fn direct_call(&self, helper: u32) -> Option<HelperFn> {
        // With two places a value is nothing but bytes.
        if self.cpus.is_some() || self.table.evicts || !self.table.pool.layout.has_twins {
            return None;
        }
        let found = CALLS
            .iter()
            .find(|(of, key_size, _)| (*of, *key_size) == (helper, self.table.key_size));
        found.map(|(.., call)| *call)
    }
}

/// The helpers, sizes of keys, and functions.
const CALLS: [(u32, usize, HelperFn); 4] = [
    (BPF_FUNC_MAP_LOOKUP_ELEM, 4, lookup::<4>),
    (BPF_FUNC_MAP_LOOKUP_ELEM, 8, lookup::<8>),
    (BPF_FUNC_MAP_UPDATE_ELEM, 4, update::<4>),
    (BPF_FUNC_MAP_UPDATE_ELEM, 8, update::<8>),
];

/// The helper in place of which this address is called.
pub fn helper_at(address: u64) -> Option<u32> {
    let found = CALLS
        .iter()
        .find(|(.., call)| *call as usize as u64 == address);
    found.map(|(helper, ..)| *helper)
}

unsafe extern "C" fn lookup<const KEY: usize>(
    hash: u64,
    key: u64,
    _: u64,
    _: u64,
    _: u64,
    run: *mut Run,
) -> u64 {
    // SAFETY: the linker gave this for a `Hash` that outlives its programs.
    let table = &unsafe { &*(hash as *const Hash) }.table;
    // SAFETY: the verifier proved that `key` has the map's key size.
    if let Some(word) = unsafe { Word::<KEY>::new(key as *const u8) }
        // SAFETY: the table's key size (`direct_call`).
        && let Some(found) = unsafe { table.glance(word, word.hash(table.seed)) }
    {
        return found.map_or(0, |entry| table.value(entry) as u64);
    }
    // SAFETY: the same arguments.
    unsafe { bpftime_runtime_aside(hash, key, 0, 0, run as u64, lookup_any) }
}

unsafe extern "C" fn update<const KEY: usize>(
    hash: u64,
    key: u64,
    value: u64,
    flags: u64,
    _: u64,
    run: *mut Run,
) -> u64 {
    // SAFETY: as in `lookup`.
    let this = unsafe { &*(hash as *const Hash) };
    let fill = |element: Element<'_>, place| {
        let to = this.table.pool.place(element, place);
        // SAFETY: a value of the element; the verifier proved that `value`
        // has the map's value size.
        unsafe { bytes::copy(to, value as *const u8, this.value_size) };
    };
    // SAFETY: as in `lookup`.
    if let Some(word) = unsafe { Word::<KEY>::new(key as *const u8) }
        && value != 0
        && let Some(owner) = thread::known()
        // SAFETY: the table's key size (`direct_call`).
        && unsafe {
            let hash = word.hash(this.table.seed);
            this.table.change_now(word, hash, flags, owner, &fill)
        }
    {
        return 0;
    }
    // SAFETY: the same arguments.
    unsafe { bpftime_runtime_aside(hash, key, value, flags, run as u64, update_any) }
}

/// # Safety
/// The arguments are those of [`lookup`].
unsafe extern "C" fn lookup_any(hash: u64, key: u64, _: u64, _: u64, run: u64) -> u64 {
    if key == 0 {
        return 0;
    }
    // SAFETY: the caller's contract: engines pass the run they were entered with.
    unsafe {
        let vcpu = RunState::of(run as *mut Run).vcpu;
        (*(hash as *const Hash)).lookup_ptr(key as *const u8, vcpu) as u64
    }
}

/// # Safety
/// The arguments are those of [`update`].
unsafe extern "C" fn update_any(hash: u64, key: u64, value: u64, flags: u64, run: u64) -> u64 {
    if key == 0 || value == 0 {
        return Errno::EFAULT.ret() as u64;
    }
    // SAFETY: as in `lookup_any`.
    let done = unsafe {
        let (key, value) = (key as *const u8, value as *const u8);
        let vcpu = RunState::of(run as *mut Run).vcpu;
        (*(hash as *const Hash)).update_prog(key, value, flags, vcpu)
    };
    match done {
        Ok(()) => 0,
        Err(errno) => errno.ret() as u64,
    }
}

/// All that [`Hash::direct_call`] gives.
pub(crate) const DIRECT_CALLS: [HelperFn; 4] = [lookup::<4>, lookup::<8>, update::<4>, update::<8>];
