//! A map of which programs are verified and never run: a spec of any type
//! that the kernel has, and no storage but the bytes of global data, which
//! the verifier reads once they are frozen.

use std::sync::{Mutex, MutexGuard, PoisonError};

use uapi::Errno;
use uapi::map::*;

use super::kind::{MapKind, map_type};
use super::spec::MapSpec;

/// Most bytes of global data that are kept; larger values are unknown data.
const MAX_DATA: u32 = 16 << 20;

/// The operations that loading a program needs.
pub(super) struct SpecOnly {
    /// The value of an array with one entry.
    data: Mutex<Vec<u8>>,
}

impl SpecOnly {
    /// Checks the spec as the type does, and takes room for global data.
    pub(super) fn new(spec: &MapSpec, nr_cpus: u32) -> Result<SpecOnly, Errno> {
        match map_type(spec.map_type) {
            Some(hosted) => drop((hosted.storage_size)(spec, nr_cpus)?),
            None => check(spec)?,
        }
        let is_data = spec.map_type == BPF_MAP_TYPE_ARRAY
            && spec.max_entries == 1
            && spec.value_size <= MAX_DATA;
        let bytes = if is_data { spec.value_size } else { 0 };
        Ok(SpecOnly {
            data: Mutex::new(vec![0; bytes as usize]),
        })
    }

    fn data(&self) -> MutexGuard<'_, Vec<u8>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MapKind for SpecOnly {
    fn lookup(&self, _: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        let data = self.data();
        if data.len() != value.len() {
            return Err(Errno::ENOENT);
        }
        value.copy_from_slice(&data);
        Ok(())
    }

    fn update(&self, _: &[u8], value: &[u8], _: u64) -> Result<(), Errno> {
        let mut data = self.data();
        if data.len() == value.len() {
            data.copy_from_slice(value);
        }
        Ok(())
    }

    fn mmap(&self, offset: u64, len: u64, _: bool) -> Result<Vec<(u64, u64)>, Errno> {
        Ok(vec![(offset, len)])
    }

    fn set_slot(&self, _: u32, _: u32) -> Result<(), Errno> {
        Ok(())
    }
}

/// What `map_alloc_check` of a type asks of a size.
#[derive(Clone, Copy)]
enum Size {
    /// No other one.
    Is(u32),
    /// Any but zero.
    Some,
    /// Any.
    Any,
}

impl Size {
    fn takes(self, size: u32) -> bool {
        match self {
            Size::Is(wanted) => size == wanted,
            Size::Some => size != 0,
            Size::Any => true,
        }
    }
}

/// The sizes of key and value and the number of entries for types that user
/// space cannot host (`map_alloc_check` of each, Linux 6.18). Flags, limits
/// and capabilities are not checked.
fn check(spec: &MapSpec) -> Result<(), Errno> {
    use Size::{Any, Is, Some};
    let (key, value, entries) = match spec.map_type {
        BPF_MAP_TYPE_LRU_HASH | BPF_MAP_TYPE_LRU_PERCPU_HASH => (Some, Any, Some),
        BPF_MAP_TYPE_LPM_TRIE => (Some, Some, Some),
        BPF_MAP_TYPE_ARRAY_OF_MAPS => (Is(4), Is(4), Some),
        BPF_MAP_TYPE_HASH_OF_MAPS => (Some, Is(4), Some),
        BPF_MAP_TYPE_QUEUE | BPF_MAP_TYPE_STACK | BPF_MAP_TYPE_BLOOM_FILTER => (Is(0), Some, Some),
        BPF_MAP_TYPE_USER_RINGBUF => (Is(0), Is(0), Some),
        BPF_MAP_TYPE_ARENA => (Is(0), Is(0), Some),
        BPF_MAP_TYPE_DEVMAP
        | BPF_MAP_TYPE_CPUMAP
        | BPF_MAP_TYPE_XSKMAP
        | BPF_MAP_TYPE_SOCKMAP
        | BPF_MAP_TYPE_REUSEPORT_SOCKARRAY => (Is(4), Some, Some),
        BPF_MAP_TYPE_DEVMAP_HASH | BPF_MAP_TYPE_SOCKHASH => (Some, Some, Some),
        BPF_MAP_TYPE_SK_STORAGE
        | BPF_MAP_TYPE_INODE_STORAGE
        | BPF_MAP_TYPE_TASK_STORAGE
        | BPF_MAP_TYPE_CGRP_STORAGE => (Is(4), Some, Is(0)),
        BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED | BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE_DEPRECATED => {
            (Some, Some, Is(0))
        }
        BPF_MAP_TYPE_STRUCT_OPS => (Is(4), Some, Is(1)),
        _ => return Err(Errno::EINVAL),
    };
    let fits =
        key.takes(spec.key_size) && value.takes(spec.value_size) && entries.takes(spec.max_entries);
    fits.then_some(()).ok_or(Errno::EINVAL)
}
