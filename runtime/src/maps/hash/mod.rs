//! `BPF_MAP_TYPE_HASH`, `BPF_MAP_TYPE_LRU_HASH` and those with a value per CPU
//! (kernel/bpf/hashtab.c). They know no process: who may be killed where is
//! `table`'s business.
//!
//! Reading order: `layout` (where things lie), `element` (one of them), `key`,
//! `table` (the operations), `lru` (what a full table evicts), `pool` (elements
//! in and out), `hints`, `direct` (what programs call).
//!
//! A value that a program holds a pointer to stays readable when its key is
//! deleted, and may become another key's value, as in the kernel.

pub mod direct;
pub(super) mod element;
mod hints;
mod key;
pub(super) mod layout;
mod lru;
pub(super) mod pool;
pub(super) mod table;

use core::ptr;

use shm::Region;
use uapi::Errno;
use uapi::map::{
    BPF_F_LOCK, BPF_F_ZERO_SEED, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH,
    BPF_MAP_TYPE_PERCPU_HASH,
};
use vm::link::HelperFn;

pub(crate) use self::direct::DIRECT_CALLS;
use self::element::Element;
use self::layout::Layout;
use self::pool::Pool;
use self::table::{Entry, Table};
use super::bytes;
use super::kind::{MapKind, MapType, Start};
use super::of_maps::Ids;
use super::parts::Parts;
use super::spec::MapSpec;

pub(super) const HASH: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

pub(super) const PERCPU_HASH: MapType = MapType {
    storage_size,
    over,
    per_cpu: true,
};

/// How often a program looks for an id that others change all the time.
const LOOKS: u32 = 8;

fn layout(spec: &MapSpec, nr_cpus: u32) -> Result<Layout, Errno> {
    Layout::of(spec, nr_cpus, is_per_cpu(spec), is_lru(spec))
}

fn is_per_cpu(spec: &MapSpec) -> bool {
    [BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH].contains(&spec.map_type)
}

fn is_lru(spec: &MapSpec) -> bool {
    [BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH].contains(&spec.map_type)
}

fn storage_size(spec: &MapSpec, nr_cpus: u32) -> Result<u64, Errno> {
    Ok(layout(spec, nr_cpus)?.bytes)
}

fn over(
    spec: &MapSpec,
    storage: Region,
    nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    Ok(Box::new(Hash::new(spec, storage, nr_cpus)?))
}

/// In the order of [`Layout`], in as few cache lines as can be.
#[repr(C, align(64))]
pub(super) struct Hash {
    value_size: usize,
    table: Table,
    /// Bytes of a value, rounded up to words.
    stride: usize,
    parts: Parts,
    /// Values of an element, if there is one for each CPU.
    cpus: Option<u32>,
}

impl Hash {
    pub(super) fn new(spec: &MapSpec, storage: Region, nr_cpus: u32) -> Result<Hash, Errno> {
        // Zeros are an empty table, so nothing is initialised.
        let pool = Pool::new(storage, layout(spec, nr_cpus)?).ok_or(Errno::ENOMEM)?;
        Ok(Hash {
            table: Table {
                pool,
                key_size: spec.key_size as usize,
                seed: if spec.has(BPF_F_ZERO_SEED) {
                    0
                } else {
                    spec.seed
                },
                evicts: is_lru(spec),
                patience: Default::default(),
            },
            value_size: spec.value_size as usize,
            stride: spec.stride() as usize,
            parts: Parts::of(spec),
            cpus: is_per_cpu(spec).then_some(nr_cpus),
        })
    }

    /// The value that a program on `vcpu` sees; null without a vCPU.
    #[inline]
    fn value(&self, entry: Entry<'_>, vcpu: u32) -> *mut u8 {
        match self.cpus {
            None => self.table.value(entry),
            Some(cpus) if vcpu < cpus => self.table.pool.value(entry.element, vcpu),
            Some(_) => ptr::null_mut(),
        }
    }

    /// Calls `each` for every value of an element that has its value in
    /// `place`, with its place among the bytes that bpf(2) copies.
    fn values(&self, element: Element<'_>, place: usize, mut each: impl FnMut(*mut u8, usize)) {
        let Some(cpus) = self.cpus else {
            return each(self.table.pool.place(element, place), 0);
        };
        for cpu in 0..cpus {
            each(
                self.table.pool.value(element, cpu),
                cpu as usize * self.stride,
            );
        }
    }

    /// Bytes of each value that bpf(2) copies.
    fn copied(&self) -> usize {
        match self.cpus {
            None => self.value_size,
            Some(_) => self.stride,
        }
    }

    /// Copies an entry's values to `to`, as bpf(2) wants them.
    fn read(&self, entry: Entry<'_>, to: &mut [u8]) {
        let len = self.copied();
        self.values(entry.element, entry.place(), |value, offset| {
            if let Some(to) = to.get_mut(offset..offset + len) {
                // SAFETY: a value of the element, into as many bytes.
                unsafe { self.parts.load(to.as_mut_ptr(), value, len) };
            }
        });
    }

    /// Copies what bpf(2) gave to an element's values, which are new or not.
    fn write(&self, element: Element<'_>, place: usize, from: &[u8], new: bool) {
        let len = self.copied();
        self.values(element, place, |value, offset| {
            let Some(from) = from.get(offset..offset + len) else {
                return;
            };
            match new {
                // SAFETY: a value of the element, from as many bytes.
                true => unsafe { self.parts.load(value, from.as_ptr(), len) },
                // SAFETY: as above.
                false => unsafe { self.parts.store(value, from.as_ptr(), len) },
            }
        });
    }

    /// Finds an entry and lets `read` copy of its value until that is whole.
    fn read_whole(&self, key: &[u8], mut read: impl FnMut(Entry<'_>)) -> Result<(), Errno> {
        for _ in 0..table::LOOKS {
            // SAFETY: `key` has the map's key size (`MapKind`).
            let found = unsafe { self.table.find(key.as_ptr(), self.table.hash(key.as_ptr())) };
            let entry = found.ok_or(Errno::ENOENT)?;
            read(entry);
            if self.table.has_kept_value(entry) {
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }
}

impl MapKind for Hash {
    unsafe fn lookup_ptr(&self, key: *const u8, vcpu: u32) -> *mut u8 {
        // SAFETY: the caller's contract.
        let found = unsafe { self.table.find(key, self.table.hash(key)) };
        let Some(entry) = found else {
            return ptr::null_mut();
        };
        if self.table.evicts {
            lru::mark_used(entry.element);
        }
        self.value(entry, vcpu)
    }

    fn direct(&self, helper: u32) -> Option<HelperFn> {
        self.direct_call(helper)
    }

    unsafe fn lookup_percpu_ptr(&self, key: *const u8, cpu: u32) -> *mut u8 {
        if self.cpus.is_none() {
            return ptr::null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { self.lookup_ptr(key, cpu) }
    }

    unsafe fn update_prog(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
        vcpu: u32,
    ) -> Result<(), Errno> {
        let Some(cpus) = self.cpus else {
            let fill = |element: Element<'_>, place| {
                let to = self.table.pool.place(element, place);
                // SAFETY: a value of the element; `value` by the caller's contract.
                unsafe { self.parts.load(to, value, self.value_size) };
            };
            // SAFETY: the caller's contract.
            return unsafe { self.table.update(key, flags, vcpu, &fill, None) };
        };
        if vcpu >= cpus {
            return Err(Errno::EBUSY);
        }
        let put = |element: Element<'_>| {
            let to = self.table.pool.value(element, vcpu);
            // SAFETY: a value of the element; `value` by the caller's contract.
            unsafe { self.parts.store(to, value, self.value_size) };
        };
        // `pcpu_init_value`: the other CPUs' values of a new key are 0.
        let fill = |element: Element<'_>, place| {
            self.values(element, place, |value, _| {
                // SAFETY: a value of the element.
                unsafe { bytes::zero(value, self.stride) };
            });
            put(element);
        };
        // SAFETY: the caller's contract.
        unsafe { self.table.update(key, flags, vcpu, &fill, Some(&put)) }
    }

    fn for_each(&self, vcpu: u32, turn: &mut dyn FnMut(*const u8, *mut u8) -> bool) {
        self.table.each(&mut |entry| {
            let value = self.value(entry, vcpu);
            !value.is_null() && turn(entry.element.key(), value)
        });
    }

    unsafe fn delete_prog(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: the caller's contract.
        unsafe { self.table.delete(key) }
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        self.read_whole(key, |entry| self.read(entry, value))
    }

    fn lookup_locked(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        self.read_whole(key, |entry| {
            let at = self.value(entry, 0);
            // SAFETY: the value of an element.
            unsafe { self.parts.locked(at, || self.read(entry, value)) };
        })
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let fill = |element: Element<'_>, place| self.write(element, place, value, true);
        let change = |element: Element<'_>| self.write(element, 0, value, false);
        let change_locked = |element: Element<'_>| {
            let at = self.table.pool.place(element, 0);
            // SAFETY: the value of an element.
            unsafe { self.parts.locked(at, || change(element)) };
        };
        let in_place: Option<&dyn Fn(Element<'_>)> = match self.cpus {
            Some(_) => Some(&change),
            None if flags & BPF_F_LOCK != 0 => Some(&change_locked),
            None => None,
        };
        let flags = flags & !BPF_F_LOCK;
        // SAFETY: `key` has the map's key size (`MapKind`).
        unsafe { self.table.update(key.as_ptr(), flags, 0, &fill, in_place) }
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        // SAFETY: `key` has the map's key size (`MapKind`).
        unsafe { self.table.delete(key.as_ptr()) }
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        for _ in 0..table::LOOKS {
            let from = key.and_then(|key| {
                // SAFETY: `key` has the map's key size (`MapKind`).
                let hash = unsafe { self.table.hash(key.as_ptr()) };
                // SAFETY: as above.
                let entry = unsafe { self.table.find(key.as_ptr(), hash) }?;
                Some((entry, hash))
            });
            let entry = self.table.after(from).ok_or(Errno::ENOENT)?;
            // SAFETY: the element's key, into as many bytes (`MapKind`).
            unsafe { bytes::copy(next.as_mut_ptr(), entry.element.key(), next.len()) };
            if self.table.is_current(entry) {
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    fn lookup_and_delete(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        let mut last = |entry: Entry<'_>| self.read(entry, value);
        // SAFETY: `key` has the map's key size (`MapKind`).
        unsafe { self.table.take_out(key.as_ptr(), &mut last) }
    }

    fn keys(&self) -> Option<Vec<Box<[u8]>>> {
        Some(self.table.all(&|element| {
            let mut key = vec![0; self.table.key_size];
            // SAFETY: the element's key, into as many bytes.
            unsafe { bytes::copy(key.as_mut_ptr(), element.key(), key.len()) };
            key.into_boxed_slice()
        }))
    }

    fn reclaim(&self) {
        self.table.reclaim();
    }
}

impl Ids for Hash {
    unsafe fn id(&self, key: *const u8) -> u32 {
        for _ in 0..LOOKS {
            // SAFETY: the caller's contract.
            let Some(entry) = (unsafe { self.table.find(key, self.table.hash(key)) }) else {
                return 0;
            };
            // SAFETY: a value of the element, which has 4 bytes.
            let id = unsafe { bytes::read_u32(self.table.value(entry)) };
            if self.table.has_kept_value(entry) {
                return id;
            }
        }
        0
    }
}
