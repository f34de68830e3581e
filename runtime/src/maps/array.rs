//! `BPF_MAP_TYPE_ARRAY` (kernel/bpf/arraymap.c): values in a row, from offset
//! 0 of storage, so that a `BPF_F_MMAPABLE` array is its file. Knows no CPU.

use core::ptr;

use shm::Region;
use uapi::Errno;
use uapi::map::{
    BPF_F_INNER_MAP, BPF_F_LOCK, BPF_F_MMAPABLE, BPF_F_NUMA_NODE, BPF_F_PRESERVE_ELEMS,
};
use vm::link::ArrayLayout;

use super::bytes;
use super::kind::{self, MapKind, MapType, Start};
use super::parts::Parts;
use super::spec::{ACCESS_MASK, MapSpec, PAGE};

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

/// `ARRAY_CREATE_FLAG_MASK`.
const KNOWN_FLAGS: u32 = BPF_F_NUMA_NODE | ACCESS_MASK;

/// `array_map_alloc_check` for all array types, with the flags that only some
/// of them allow in `own_flags`.
pub(super) fn check(spec: &MapSpec, own_flags: u32) -> Result<(), Errno> {
    if spec.max_entries == 0 || spec.key_size != 4 || spec.value_size == 0 {
        return Err(Errno::EINVAL);
    }
    spec.check_flags(KNOWN_FLAGS | own_flags)?;
    // "avoid overflow on round_up(map->value_size)"
    if spec.value_size > i32::MAX as u32 {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

/// Flags that perf event arrays alone allow.
pub(super) const PERF_EVENT_FLAGS: u32 = BPF_F_PRESERVE_ELEMS;

fn storage_size(spec: &MapSpec, _nr_cpus: u32) -> Result<u64, Errno> {
    check(spec, BPF_F_MMAPABLE | BPF_F_INNER_MAP)?;
    Ok((spec.stride() * u64::from(spec.max_entries)).next_multiple_of(PAGE))
}

fn over(
    spec: &MapSpec,
    storage: Region,
    _nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    Ok(Box::new(Array {
        base: storage.as_ptr(),
        stride: spec.stride(),
        bytes: storage_size(spec, 0)?,
        spec: *spec,
        parts: Parts::of(spec),
        _storage: storage,
    }))
}

struct Array {
    /// Start of storage, valid while `_storage` lives.
    base: *mut u8,
    stride: u64,
    bytes: u64,
    spec: MapSpec,
    parts: Parts,
    _storage: Region,
}

// SAFETY: `base` points into `_storage`, which may be used from any thread,
// and values are only touched as `bytes` does.
unsafe impl Send for Array {}
// SAFETY: as above.
unsafe impl Sync for Array {}

impl Array {
    #[inline]
    fn value(&self, index: u32) -> *mut u8 {
        if index >= self.spec.max_entries {
            return ptr::null_mut();
        }
        // `Map::over` saw that storage holds `max_entries` strides.
        self.base
            .wrapping_add((u64::from(index) * self.stride) as usize)
    }
}

impl MapKind for Array {
    unsafe fn lookup_ptr(&self, key: *const u8, _vcpu: u32) -> *mut u8 {
        // SAFETY: the key size is 4, and the caller's contract.
        self.value(unsafe { bytes::read_u32(key) })
    }

    fn layout(&self) -> Option<ArrayLayout> {
        Some(ArrayLayout {
            base: self.base as u64,
            stride: self.stride.try_into().ok()?,
            max_entries: self.spec.max_entries,
            cpus: None,
        })
    }

    unsafe fn update_prog(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
        _vcpu: u32,
    ) -> Result<(), Errno> {
        // SAFETY: the key size is 4, and the caller's contract.
        let index = unsafe { bytes::read_u32(key) };
        let index = kind::array_update_index(index, self.spec.max_entries, flags)?;
        // Programs that run here may not use maps with locks.
        if flags & BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        let len = self.spec.value_size as usize;
        // SAFETY: `index` was checked; `value` by the caller's contract.
        unsafe { self.parts.store(self.value(index), value, len) };
        Ok(())
    }

    fn for_each(&self, _vcpu: u32, turn: &mut dyn FnMut(*const u8, *mut u8) -> bool) {
        kind::array_for_each(self.spec.max_entries, |index| self.value(index), turn);
    }

    unsafe fn delete_prog(&self, _key: *const u8) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        let from = self.value(kind::index(key));
        if from.is_null() {
            return Err(Errno::ENOENT);
        }
        let len = value.len().min(self.spec.value_size as usize);
        // SAFETY: a value's bytes in storage, into as many of `value`.
        unsafe { self.parts.load(value.as_mut_ptr(), from, len) };
        Ok(())
    }

    fn lookup_locked(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        let at = self.value(kind::index(key));
        if at.is_null() {
            return Err(Errno::ENOENT);
        }
        let mut copied = Ok(());
        // SAFETY: a value in storage.
        unsafe { self.parts.locked(at, || copied = self.lookup(key, value)) };
        copied
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let index = kind::array_update_index(kind::index(key), self.spec.max_entries, flags)?;
        let len = value.len().min(self.spec.value_size as usize);
        let at = self.value(index);
        // SAFETY: `index` was checked; `len` bytes of `value` are there.
        let copy = || unsafe { self.parts.store(at, value.as_ptr(), len) };
        match flags & BPF_F_LOCK {
            0 => copy(),
            // SAFETY: a value in storage.
            _ => unsafe { self.parts.locked(at, copy) },
        }
        Ok(())
    }

    fn delete(&self, _key: &[u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        kind::array_next_key(key, self.spec.max_entries, next)
    }

    fn mmap(&self, offset: u64, len: u64, _writable: bool) -> Result<Vec<(u64, u64)>, Errno> {
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        if !self.spec.mmapable() || !offset.is_multiple_of(PAGE) || end > self.bytes {
            return Err(Errno::EINVAL);
        }
        Ok(vec![(offset, len)])
    }

    fn direct_value(&self, offset: u32) -> Result<*mut u8, Errno> {
        if self.spec.max_entries != 1 {
            return Err(Errno::ENOTSUPP);
        }
        if offset >= self.spec.value_size {
            return Err(Errno::EINVAL);
        }
        Ok(self.base.wrapping_add(offset as usize))
    }
}
