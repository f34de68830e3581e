//! Arrays of objects: `BPF_MAP_TYPE_PROG_ARRAY`, `_PERF_EVENT_ARRAY` and
//! `_CGROUP_ARRAY` (the `fd_array` part of kernel/bpf/arraymap.c). A slot is
//! the object's id in the session, or 0. What the object is, and who keeps it
//! alive, is not known here.

use shm::Region;
use shm::sync::{AtomicU32, Ordering};
use uapi::Errno;
use uapi::map::{
    BPF_ANY, BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, BPF_MAP_TYPE_ARRAY_OF_MAPS,
    BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_PROG_ARRAY,
};

use super::kind::{self, MapKind, MapType, Start};
use super::of_maps::Ids;
use super::spec::MapSpec;
use super::{array, bytes};

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

const SLOT: u64 = size_of::<u32>() as u64;

/// `fd_array_map_alloc_check`.
fn storage_size(spec: &MapSpec, _nr_cpus: u32) -> Result<u64, Errno> {
    let own_flags = match spec.map_type == BPF_MAP_TYPE_PERF_EVENT_ARRAY {
        true => array::PERF_EVENT_FLAGS,
        false => 0,
    };
    if u64::from(spec.value_size) != SLOT
        || spec.has(BPF_F_RDONLY_PROG)
        || spec.has(BPF_F_WRONLY_PROG)
    {
        return Err(Errno::EINVAL);
    }
    array::check(spec, own_flags)?;
    Ok(u64::from(spec.max_entries) * SLOT)
}

fn over(
    spec: &MapSpec,
    storage: Region,
    _nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    Ok(Box::new(Slots::new(spec, storage)))
}

pub(super) struct Slots {
    spec: MapSpec,
    storage: Region,
}

impl Slots {
    pub(super) fn new(spec: &MapSpec, storage: Region) -> Slots {
        Slots {
            spec: *spec,
            storage,
        }
    }

    #[inline]
    fn at(&self, index: u32) -> Option<&AtomicU32> {
        if index >= self.spec.max_entries {
            return None;
        }
        self.storage.u32_at(u64::from(index) * SLOT)
    }
}

impl MapKind for Slots {
    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        // Those that have `map_fd_sys_lookup_elem`.
        let tells = [BPF_MAP_TYPE_PROG_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS];
        if !tells.contains(&self.spec.map_type) {
            return Err(Errno::ENOTSUPP);
        }
        let id = self.slot(kind::index(key)).ok_or(Errno::ENOENT)?;
        value.copy_from_slice(&id.to_le_bytes());
        Ok(())
    }

    /// The value is an object id here, which came from an fd.
    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        self.set_slot(kind::index(key), kind::index(value))
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        let slot = self.at(kind::index(key)).ok_or(Errno::E2BIG)?;
        match slot.swap(0, Ordering::AcqRel) {
            0 => Err(Errno::ENOENT),
            _ => Ok(()),
        }
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        kind::array_next_key(key, self.spec.max_entries, next)
    }

    fn set_slot(&self, index: u32, id: u32) -> Result<(), Errno> {
        let slot = self.at(index).ok_or(Errno::E2BIG)?;
        // Pairs with the load in `slot`: the object was published before.
        slot.store(id, Ordering::Release);
        Ok(())
    }

    fn slot(&self, index: u32) -> Option<u32> {
        // Pairs with the store in `set_slot`.
        match self.at(index)?.load(Ordering::Acquire) {
            0 => None,
            id => Some(id),
        }
    }
}

impl Ids for Slots {
    unsafe fn id(&self, key: *const u8) -> u32 {
        // SAFETY: the key size is 4, and the caller's contract.
        self.slot(unsafe { bytes::read_u32(key) }).unwrap_or(0)
    }
}
