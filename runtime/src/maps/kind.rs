//! What a map type is: one trait, one implementation in a file each, and the
//! one list of them. It knows no type's storage.
//!
//! To add a type, copy the shape of a neighbour's file and add a row here.

use core::ptr;

use shm::Region;
use uapi::Errno;
use uapi::map::*;
use vm::link::{ArrayLayout, HelperFn};

use super::of_maps::{self, InnerMaps};
use super::ringbuf::Ring;
use super::spec::MapSpec;
use super::task_storage::{self, TaskStorage};
use super::user_ringbuf::{self, UserRing};
use super::{
    array, bloom_filter, hash, lpm_trie, percpu_array, queue, ringbuf, slots, stack_trace,
};
use crate::unwind::FrameOf;

/// Is the storage fresh, or does another process use it already?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Fresh storage, all zero: initialise it.
    Create,
    /// Storage that another process initialised and may be writing.
    Open,
}

type Over = fn(&MapSpec, Region, nr_cpus: u32, Start) -> Result<Box<dyn MapKind>, Errno>;

/// What makes a map of one type.
pub(super) struct MapType {
    /// Bytes of storage; errno of `map_alloc_check` for a spec that the kernel
    /// would refuse.
    pub storage_size: fn(&MapSpec, nr_cpus: u32) -> Result<u64, Errno>,
    /// The map over storage of at least that size.
    pub over: Over,
    /// Has a value per CPU.
    pub per_cpu: bool,
}

/// The map types there are.
pub(super) fn map_type(number: u32) -> Option<&'static MapType> {
    Some(match number {
        BPF_MAP_TYPE_HASH | BPF_MAP_TYPE_LRU_HASH => &hash::HASH,
        BPF_MAP_TYPE_PERCPU_HASH | BPF_MAP_TYPE_LRU_PERCPU_HASH => &hash::PERCPU_HASH,
        BPF_MAP_TYPE_ARRAY => &array::TYPE,
        BPF_MAP_TYPE_STACK_TRACE => &stack_trace::TYPE,
        BPF_MAP_TYPE_RINGBUF => &ringbuf::TYPE,
        BPF_MAP_TYPE_PERCPU_ARRAY => &percpu_array::TYPE,
        BPF_MAP_TYPE_LPM_TRIE => &lpm_trie::TYPE,
        BPF_MAP_TYPE_QUEUE | BPF_MAP_TYPE_STACK => &queue::TYPE,
        BPF_MAP_TYPE_BLOOM_FILTER => &bloom_filter::TYPE,
        BPF_MAP_TYPE_PROG_ARRAY | BPF_MAP_TYPE_PERF_EVENT_ARRAY | BPF_MAP_TYPE_CGROUP_ARRAY => {
            &slots::TYPE
        }
        BPF_MAP_TYPE_USER_RINGBUF => &user_ringbuf::TYPE,
        BPF_MAP_TYPE_ARRAY_OF_MAPS => &of_maps::ARRAY,
        BPF_MAP_TYPE_HASH_OF_MAPS => &of_maps::HASH,
        BPF_MAP_TYPE_TASK_STORAGE => &task_storage::TYPE,
        _ => return None,
    })
}

/// The operations of a map. What a type leaves out fails as the kernel's
/// operation tables do where they have no entry.
///
/// Callers of the byte operations have checked that keys and values have the
/// sizes of the spec and that lookup flags are 0; those of the pointer
/// operations that pointers are good for those sizes (the verifier did).
pub(super) trait MapKind: Send + Sync {
    /// Where the value of `key` lies for a program on `vcpu`; null if absent.
    ///
    /// # Safety
    /// `key` is readable for the spec's key size.
    unsafe fn lookup_ptr(&self, key: *const u8, vcpu: u32) -> *mut u8 {
        let _ = (key, vcpu);
        ptr::null_mut()
    }

    /// Where `lookup_ptr` finds elements, if that is all it does.
    fn layout(&self) -> Option<ArrayLayout> {
        None
    }

    /// What does a helper's work, with the address of this in place of the
    /// map's, if there is something quicker.
    fn direct(&self, helper: u32) -> Option<HelperFn> {
        let _ = helper;
        None
    }

    /// `bpf_map_lookup_percpu_elem`: the value of `key` of CPU `cpu`.
    ///
    /// # Safety
    /// As [`MapKind::lookup_ptr`].
    unsafe fn lookup_percpu_ptr(&self, key: *const u8, cpu: u32) -> *mut u8 {
        let _ = (key, cpu);
        ptr::null_mut()
    }

    /// `bpf_map_update_elem` from a program on `vcpu`.
    ///
    /// # Safety
    /// `key` and `value` are readable for the spec's sizes.
    unsafe fn update_prog(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
        vcpu: u32,
    ) -> Result<(), Errno> {
        let _ = (key, value, flags, vcpu);
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_map_delete_elem` from a program.
    ///
    /// # Safety
    /// As [`MapKind::lookup_ptr`].
    unsafe fn delete_prog(&self, key: *const u8) -> Result<(), Errno> {
        let _ = key;
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_map_push_elem`, and `BPF_MAP_UPDATE_ELEM` of maps that have it.
    ///
    /// # Safety
    /// `value` is readable for the spec's value size.
    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        let _ = (value, flags);
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_map_pop_elem`, and `BPF_MAP_LOOKUP_AND_DELETE_ELEM` of maps that
    /// have it.
    ///
    /// # Safety
    /// `value` is writable for the spec's value size.
    unsafe fn pop(&self, value: *mut u8) -> Result<(), Errno> {
        let _ = value;
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_map_peek_elem`, and `BPF_MAP_LOOKUP_ELEM` of maps that have it.
    ///
    /// # Safety
    /// `value` is readable and writable for the spec's value size.
    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        let _ = value;
        Err(Errno::ENOTSUPP)
    }

    /// `bpf_for_each_map_elem` from a program on `vcpu`: calls `turn` with the
    /// address of each key and value until it returns `false`.
    fn for_each(&self, vcpu: u32, turn: &mut dyn FnMut(*const u8, *mut u8) -> bool) {
        let _ = (vcpu, turn);
    }

    /// `BPF_MAP_LOOKUP_ELEM`.
    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        let _ = (key, value);
        Err(Errno::ENOTSUPP)
    }

    /// `BPF_MAP_LOOKUP_ELEM` with `BPF_F_LOCK`, of values that have a lock.
    fn lookup_locked(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        let _ = (key, value);
        Err(Errno::EINVAL)
    }

    /// `BPF_MAP_UPDATE_ELEM`; with `BPF_F_LOCK` only where values have a lock.
    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let _ = (key, value, flags);
        Err(Errno::ENOTSUPP)
    }

    /// `BPF_MAP_DELETE_ELEM`.
    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        let _ = key;
        Err(Errno::ENOTSUPP)
    }

    /// `BPF_MAP_GET_NEXT_KEY`.
    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        let _ = (key, next);
        Err(Errno::ENOTSUPP)
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`.
    fn lookup_and_delete(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        let _ = (key, value);
        Err(Errno::ENOTSUPP)
    }

    /// The ranges of storage, in order, that an mmap of the map's fd shows.
    fn mmap(&self, offset: u64, len: u64, writable: bool) -> Result<Vec<(u64, u64)>, Errno> {
        let _ = (offset, len, writable);
        Err(Errno::ENOTSUPP)
    }

    /// `map_direct_value_addr`: where byte `offset` of the only value lies.
    fn direct_value(&self, offset: u32) -> Result<*mut u8, Errno> {
        let _ = offset;
        Err(Errno::ENOTSUPP)
    }

    /// Would a poll of the map's fd say that it is readable?
    fn ready(&self) -> bool {
        false
    }

    /// `bpf_get_stackid` for a stack: its id.
    fn stack_put(&self, ips: &[u64], flags: u64, frame_of: FrameOf<'_>) -> Result<u32, Errno> {
        let _ = (ips, flags, frame_of);
        Err(Errno::EINVAL)
    }

    /// The map as a ring buffer.
    fn ring(&self) -> Option<&Ring> {
        None
    }

    /// The map as a user ring buffer.
    fn user_ring(&self) -> Option<&UserRing> {
        None
    }

    /// The map as one with a value for each thread.
    fn task_storage(&self) -> Option<&TaskStorage> {
        None
    }

    /// The maps in a map of maps.
    fn inner_maps(&self) -> Option<&InnerMaps> {
        None
    }

    /// All keys at once, where each is seen that is there throughout; `None`
    /// where [`MapKind::next_key`] says no less.
    fn keys(&self) -> Option<Vec<Box<[u8]>>> {
        None
    }

    /// Takes back what killed processes held of the map.
    fn reclaim(&self) {}

    /// Puts an object id in a slot.
    fn set_slot(&self, index: u32, id: u32) -> Result<(), Errno> {
        let _ = (index, id);
        Err(Errno::EINVAL)
    }

    /// The object id in a slot; `None` if empty.
    fn slot(&self, index: u32) -> Option<u32> {
        let _ = index;
        None
    }
}

/// The checks of `array_map_update_elem` (kernel/bpf/arraymap.c), which all
/// array types share: the index, or the errno.
pub(super) fn array_update_index(index: u32, max: u32, flags: u64) -> Result<u32, Errno> {
    if flags & !BPF_F_LOCK > BPF_EXIST {
        return Err(Errno::EINVAL);
    }
    if index >= max {
        return Err(Errno::E2BIG);
    }
    if flags & BPF_NOEXIST != 0 {
        return Err(Errno::EEXIST);
    }
    Ok(index)
}

/// `bpf_for_each_array_elem`: indices ascending. Stops where there is no value.
pub(super) fn array_for_each(
    max: u32,
    value: impl Fn(u32) -> *mut u8,
    turn: &mut dyn FnMut(*const u8, *mut u8) -> bool,
) {
    for index in 0..max {
        let value = value(index);
        let key = ptr::from_ref(&index).cast();
        if value.is_null() || !turn(key, value) {
            return;
        }
    }
}

/// `array_map_get_next_key`.
pub(super) fn array_next_key(key: Option<&[u8]>, max: u32, next: &mut [u8]) -> Result<(), Errno> {
    let index = match key.and_then(|key| <[u8; 4]>::try_from(key).ok()) {
        Some(key) => u32::from_le_bytes(key),
        None => u32::MAX,
    };
    let following = match index {
        _ if index >= max => 0,
        _ if index == max - 1 => return Err(Errno::ENOENT),
        _ => index + 1,
    };
    next.copy_from_slice(&following.to_le_bytes());
    Ok(())
}

/// The index that a key of an array is.
pub(super) fn index(key: &[u8]) -> u32 {
    key.try_into().map_or(u32::MAX, u32::from_le_bytes)
}
