//! `BPF_MAP_TYPE_PERCPU_ARRAY` (kernel/bpf/arraymap.c): an array for each CPU,
//! one after the other. Who may use which CPU's is the vCPU claim's business.

use core::mem::offset_of;
use core::ptr;

use shm::Region;
use uapi::Errno;
use uapi::map::{BPF_F_LOCK, BPF_F_NUMA_NODE};
use vm::link::{ArrayLayout, CpuLayout};

use super::kind::{self, MapKind, MapType, Start};
use super::parts::Parts;
use super::spec::{MapSpec, PCPU_MIN_UNIT_SIZE};
use super::{array, bytes};
use crate::run::RunState;

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: true,
};

/// CPUs' arrays start this far apart at least: two cache lines, as hardware
/// fetches lines in pairs.
const CPU_ALIGN: u64 = 128;

fn cpu_stride(spec: &MapSpec) -> u64 {
    (spec.stride() * u64::from(spec.max_entries)).next_multiple_of(CPU_ALIGN)
}

fn storage_size(spec: &MapSpec, nr_cpus: u32) -> Result<u64, Errno> {
    array::check(spec, 0)?;
    if spec.has(BPF_F_NUMA_NODE) {
        return Err(Errno::EINVAL);
    }
    if spec.stride() > u64::from(PCPU_MIN_UNIT_SIZE) {
        return Err(Errno::E2BIG);
    }
    cpu_stride(spec)
        .checked_mul(u64::from(nr_cpus))
        .ok_or(Errno::ENOMEM)
}

fn over(
    spec: &MapSpec,
    storage: Region,
    nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    Ok(Box::new(PerCpuArray {
        base: storage.as_ptr(),
        stride: spec.stride(),
        cpu_stride: cpu_stride(spec),
        nr_cpus,
        spec: *spec,
        parts: Parts::of(spec),
        _storage: storage,
    }))
}

struct PerCpuArray {
    /// Start of storage, valid while `_storage` lives.
    base: *mut u8,
    stride: u64,
    cpu_stride: u64,
    nr_cpus: u32,
    spec: MapSpec,
    parts: Parts,
    _storage: Region,
}

// SAFETY: `base` points into `_storage`, which may be used from any thread,
// and values are only touched as `bytes` does.
unsafe impl Send for PerCpuArray {}
// SAFETY: as above.
unsafe impl Sync for PerCpuArray {}

impl PerCpuArray {
    #[inline]
    fn value(&self, index: u32, cpu: u32) -> *mut u8 {
        if index >= self.spec.max_entries || cpu >= self.nr_cpus {
            return ptr::null_mut();
        }
        // `Map::over` saw that storage holds `nr_cpus` arrays of `max_entries`.
        let offset = u64::from(cpu) * self.cpu_stride + u64::from(index) * self.stride;
        self.base.wrapping_add(offset as usize)
    }
}

impl MapKind for PerCpuArray {
    unsafe fn lookup_ptr(&self, key: *const u8, vcpu: u32) -> *mut u8 {
        // SAFETY: the key size is 4, and the caller's contract.
        self.value(unsafe { bytes::read_u32(key) }, vcpu)
    }

    fn layout(&self) -> Option<ArrayLayout> {
        Some(ArrayLayout {
            base: self.base as u64,
            stride: self.stride.try_into().ok()?,
            max_entries: self.spec.max_entries,
            cpus: Some(CpuLayout {
                cpu_at: offset_of!(RunState, vcpu) as u32,
                count: self.nr_cpus,
                stride: self.cpu_stride,
            }),
        })
    }

    unsafe fn lookup_percpu_ptr(&self, key: *const u8, cpu: u32) -> *mut u8 {
        // SAFETY: the key size is 4, and the caller's contract.
        self.value(unsafe { bytes::read_u32(key) }, cpu)
    }

    unsafe fn update_prog(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
        vcpu: u32,
    ) -> Result<(), Errno> {
        // SAFETY: the key size is 4, and the caller's contract.
        let index = unsafe { bytes::read_u32(key) };
        let index = kind::array_update_index(index, self.spec.max_entries, flags)?;
        if flags & BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        let to = self.value(index, vcpu);
        if to.is_null() {
            return Err(Errno::EBUSY);
        }
        // SAFETY: `to` is a value in storage; `value` by the caller's contract.
        unsafe { self.parts.store(to, value, self.spec.value_size as usize) };
        Ok(())
    }

    fn for_each(&self, vcpu: u32, turn: &mut dyn FnMut(*const u8, *mut u8) -> bool) {
        kind::array_for_each(self.spec.max_entries, |index| self.value(index, vcpu), turn);
    }

    unsafe fn delete_prog(&self, _key: *const u8) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        let index = kind::index(key);
        for (cpu, value) in (0..).zip(value.chunks_exact_mut(self.stride as usize)) {
            let from = self.value(index, cpu);
            if from.is_null() {
                return Err(Errno::ENOENT);
            }
            // SAFETY: a stride in storage, into as many bytes of `value`.
            unsafe { self.parts.load(value.as_mut_ptr(), from, value.len()) };
        }
        Ok(())
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let index = kind::array_update_index(kind::index(key), self.spec.max_entries, flags)?;
        for (cpu, value) in (0..).zip(value.chunks_exact(self.stride as usize)) {
            let to = self.value(index, cpu);
            if to.is_null() {
                return Err(Errno::E2BIG);
            }
            // SAFETY: a stride in storage, from as many bytes of `value`.
            unsafe { self.parts.store(to, value.as_ptr(), value.len()) };
        }
        Ok(())
    }

    fn delete(&self, _key: &[u8]) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        kind::array_next_key(key, self.spec.max_entries, next)
    }
}
