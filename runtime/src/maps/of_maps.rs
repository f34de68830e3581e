//! `BPF_MAP_TYPE_ARRAY_OF_MAPS` and `BPF_MAP_TYPE_HASH_OF_MAPS`
//! (kernel/bpf/map_in_map.c): an array or a hash whose values are object ids.
//!
//! An id in storage is a claim. What a program gets is a map that this process
//! has opened, and that is like the template; an id of anything else is nothing.
//! So whoever stores an id has first made all processes open its map. Who keeps
//! a map alive is not known here.

use core::ptr;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shm::Region;
use uapi::Errno;

use super::hash::{self, Hash};
use super::kind::{MapKind, MapType, Start};
use super::map::Map;
use super::slots::{self, Slots};
use super::spec::MapSpec;
use crate::id_table::IdTable;

pub(super) const ARRAY: MapType = MapType {
    storage_size: array_size,
    over: array_over,
    per_cpu: false,
};

pub(super) const HASH: MapType = MapType {
    storage_size: hash_size,
    over: hash_over,
    per_cpu: false,
};

/// How often a map is looked for that is replaced all the time.
const LOOKS: u32 = 16;

/// Bytes of an id.
const ID: usize = size_of::<u32>();

fn array_size(spec: &MapSpec, nr_cpus: u32) -> Result<u64, Errno> {
    (slots::TYPE.storage_size)(spec, nr_cpus)
}

/// `fd_htab_map_alloc_check`.
fn hash_size(spec: &MapSpec, nr_cpus: u32) -> Result<u64, Errno> {
    if spec.value_size as usize != ID {
        return Err(Errno::EINVAL);
    }
    (hash::HASH.storage_size)(spec, nr_cpus)
}

fn array_over(
    spec: &MapSpec,
    storage: Region,
    _nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    Ok(Box::new(OfMaps {
        ids: Slots::new(spec, storage),
        inner: InnerMaps::new(),
    }))
}

fn hash_over(
    spec: &MapSpec,
    storage: Region,
    nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    Ok(Box::new(OfMaps {
        ids: Hash::new(spec, storage, nr_cpus)?,
        inner: InnerMaps::new(),
    }))
}

/// Where a map of maps has its ids.
pub(super) trait Ids: MapKind {
    /// The id under `key`; 0 if there is none.
    ///
    /// # Safety
    /// As [`MapKind::lookup_ptr`].
    unsafe fn id(&self, key: *const u8) -> u32;
}

struct OfMaps<I> {
    ids: I,
    inner: InnerMaps,
}

impl<I: Ids> MapKind for OfMaps<I> {
    unsafe fn lookup_ptr(&self, key: *const u8, _vcpu: u32) -> *mut u8 {
        let mut last = 0;
        for _ in 0..LOOKS {
            // SAFETY: the caller's contract.
            let id = unsafe { self.ids.id(key) };
            let found = self.inner.address(id);
            // A map that was replaced and has gone since we read its id is no
            // reason to miss the one that replaced it.
            if !found.is_null() || id == last {
                return found.cast_mut().cast();
            }
            last = id;
        }
        ptr::null_mut()
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        self.ids.lookup(key, value)?;
        match value.iter().all(|&byte| byte == 0) {
            true => Err(Errno::ENOENT),
            false => Ok(()),
        }
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.ids.update(key, value, flags)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.ids.delete(key)
    }

    fn lookup_and_delete(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        self.ids.lookup_and_delete(key, value)
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        self.ids.next_key(key, next)
    }

    fn reclaim(&self) {
        self.ids.reclaim();
    }

    fn inner_maps(&self) -> Option<&InnerMaps> {
        Some(&self.inner)
    }
}

/// The maps that a map of maps may hold, as far as this process has opened them.
pub(super) struct InnerMaps {
    by_id: IdTable<Address>,
    open: Mutex<HashMap<u32, Arc<Map>>>,
}

/// Of a map in `open`.
struct Address(*const Map);

// SAFETY: a `Map` may be used from any thread.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

impl InnerMaps {
    fn new() -> InnerMaps {
        InnerMaps {
            by_id: IdTable::new(),
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u32, Arc<Map>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn address(&self, id: u32) -> *const Map {
        self.by_id.get(id).map_or(ptr::null(), |address| address.0)
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.open().contains_key(&id)
    }

    pub(super) fn add(&self, id: u32, map: Arc<Map>) {
        let address = Address(Arc::as_ptr(&map));
        if self.open().insert(id, map).is_none() {
            self.by_id.insert(id, address);
        }
    }

    /// Takes out the maps that do not `stay`: programs that found them before
    /// may still use them.
    pub(super) fn part(&self, stays: &dyn Fn(u32) -> bool) -> Vec<Arc<Map>> {
        let mut open = self.open();
        let gone: Vec<u32> = open.keys().copied().filter(|&id| !stays(id)).collect();
        gone.into_iter()
            .filter_map(|id| {
                self.by_id.remove(id);
                open.remove(&id)
            })
            .collect()
    }
}
