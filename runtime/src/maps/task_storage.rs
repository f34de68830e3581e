//! `BPF_MAP_TYPE_TASK_STORAGE` (kernel/bpf/bpf_task_storage.c): a value for each
//! thread, in a hash under the thread's id and time of start, so that another
//! thread of the same id has none. It does not know how a program came by its
//! thread.
//!
//! The kernel's values go with their threads. Here those of dead ones stay
//! until the map is full or the tool learns that a target died.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shm::{Region, sys};
use uapi::Errno;
use uapi::map::{
    BPF_EXIST, BPF_F_CLONE, BPF_F_LOCK, BPF_F_NO_PREALLOC, BPF_MAP_TYPE_HASH, BPF_NOEXIST,
};

use super::hash::{self, Hash};
use super::kind::{MapKind, MapType, Start};
use super::spec::MapSpec;
use crate::{guest, tasks, thread};

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

/// `BPF_LOCAL_STORAGE_MAX_VALUE_SIZE`: `U16_MAX` less a `struct
/// bpf_local_storage_elem`.
const MAX_VALUE: u32 = 0xffff - 128;
/// Most threads with a value, and most bytes of their values: storage is sparse.
const MOST: u64 = 1 << 15;
const MOST_BYTES: u64 = 256 << 20;
/// A full map is searched for dead threads once in so many nanoseconds.
const PAUSE_NS: u64 = 1_000_000_000;

/// `bpf_local_storage_map_alloc_check`.
fn storage_size(spec: &MapSpec, nr_cpus: u32) -> Result<u64, Errno> {
    let known = BPF_F_NO_PREALLOC | BPF_F_CLONE;
    if spec.map_flags & !known != 0
        || !spec.has(BPF_F_NO_PREALLOC)
        || spec.max_entries != 0
        || spec.key_size as usize != size_of::<i32>()
        || spec.value_size == 0
        || spec.btf_key_type_id == 0
        || spec.btf_value_type_id == 0
    {
        return Err(Errno::EINVAL);
    }
    if spec.value_size > MAX_VALUE {
        return Err(Errno::E2BIG);
    }
    (hash::HASH.storage_size)(&by_thread(spec), nr_cpus)
}

/// The hash that values are in.
fn by_thread(spec: &MapSpec) -> MapSpec {
    let entries = (MOST_BYTES / spec.stride()).min(MOST);
    MapSpec {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: size_of::<Key>() as u32,
        max_entries: entries as u32,
        map_flags: BPF_F_NO_PREALLOC,
        ..*spec
    }
}

fn over(
    spec: &MapSpec,
    storage: Region,
    nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    thread::init();
    Ok(Box::new(TaskStorage {
        values: Hash::new(&by_thread(spec), storage, nr_cpus)?,
        zeros: vec![0; spec.value_size as usize].into(),
        searched: AtomicU64::new(0),
    }))
}

/// A thread, as the tools see it. No padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    tid: u64,
    /// In ticks since boot.
    start: u64,
}

impl Key {
    /// `None` if there is no such thread.
    fn of(tid: i32) -> Option<Key> {
        let start = match thread::ids().tid == tid {
            true => tasks::own_start()?,
            false => tasks::start_of(tid)?,
        };
        Some(Key {
            tid: u64::from(tid as u32),
            start,
        })
    }

    fn as_ptr(&self) -> *const u8 {
        ptr::from_ref(self).cast()
    }

    fn bytes(&self) -> [u8; size_of::<Key>()] {
        let mut bytes = [0; size_of::<Key>()];
        bytes[..8].copy_from_slice(&self.tid.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.start.to_ne_bytes());
        bytes
    }

    /// Whether the thread can still run, as far as its id says.
    fn can_run(&self) -> bool {
        sys::thread_can_run(self.tid as i32)
    }
}

/// A map with a value for each thread.
pub struct TaskStorage {
    values: Hash,
    /// What a new value is when a program gives none.
    zeros: Box<[u8]>,
    /// When a full map was last searched for dead threads.
    searched: AtomicU64,
}

impl TaskStorage {
    /// `bpf_task_storage_get` for thread `tid`: the address of its value, which
    /// is made of `initial` (or zeros, if null) when `create`; null if there is none.
    ///
    /// # Safety
    /// `initial` is null or readable for the value size.
    pub unsafe fn get(&self, tid: i32, initial: *const u8, create: bool) -> *mut u8 {
        let Some(key) = Key::of(tid) else {
            return ptr::null_mut();
        };
        // SAFETY: a key of the hash.
        let found = unsafe { self.values.lookup_ptr(key.as_ptr(), 0) };
        if !found.is_null() || !create {
            return found;
        }
        let initial = match initial.is_null() {
            true => self.zeros.as_ptr(),
            false => initial,
        };
        // SAFETY: a key of the hash; `initial` by the caller's contract.
        let insert = || unsafe {
            self.values
                .update_prog(key.as_ptr(), initial, BPF_NOEXIST, 0)
        };
        if insert() == Err(Errno::E2BIG) && self.drop_dead() {
            // Full again if it fails: no value.
            let _ = insert();
        }
        // SAFETY: a key of the hash.
        unsafe { self.values.lookup_ptr(key.as_ptr(), 0) }
    }

    /// `bpf_task_storage_delete`.
    ///
    /// # Errors
    /// ENOENT without a value.
    pub fn remove(&self, tid: i32) -> Result<(), Errno> {
        let key = Key::of(tid).ok_or(Errno::ENOENT)?;
        // SAFETY: a key of the hash.
        unsafe { self.values.delete_prog(key.as_ptr()) }
    }

    /// Drops values of threads that are gone: whether the map was searched.
    #[cold]
    fn drop_dead(&self) -> bool {
        if guest::is_guest() {
            // It sees nobody else.
            return false;
        }
        let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
        let last = self.searched.load(Relaxed);
        if last != 0 && now.saturating_sub(last) < PAUSE_NS {
            return false;
        }
        self.searched.store(now, Relaxed);
        self.keep(&Key::can_run);
        true
    }

    /// Drops the values of threads that do not `stay`.
    fn keep(&self, stays: &dyn Fn(&Key) -> bool) {
        self.values.for_each(0, &mut |at, _| {
            // SAFETY: a key of the hash, which has two words; whatever stands
            // there is a key that is looked for.
            let key = unsafe { at.cast::<Key>().read_unaligned() };
            if !stays(&key) {
                // SAFETY: a key of the hash. Absent if another was faster.
                let _ = unsafe { self.values.delete_prog(key.as_ptr()) };
            }
            true
        });
    }
}

/// The key of the thread behind the pidfd that is the key of bpf(2).
fn of_pidfd(key: &[u8]) -> Result<Key, Errno> {
    let fd = key.try_into().map_err(|_| Errno::EINVAL)?;
    let tid = tasks::of_pidfd(i32::from_ne_bytes(fd)).ok_or(Errno::EBADF)?;
    Key::of(tid).ok_or(Errno::ENOENT)
}

impl MapKind for TaskStorage {
    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        self.values.lookup(&of_pidfd(key)?.bytes(), value)
    }

    fn lookup_locked(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        self.values.lookup_locked(&of_pidfd(key)?.bytes(), value)
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let key = of_pidfd(key)?;
        if flags & !BPF_F_LOCK > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        match self.values.update(&key.bytes(), value, flags) {
            Err(Errno::E2BIG) => {
                self.reclaim();
                self.values.update(&key.bytes(), value, flags)
            }
            done => done,
        }
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.values.delete(&of_pidfd(key)?.bytes())
    }

    fn reclaim(&self) {
        self.values.reclaim();
        self.keep(&|key| tasks::start_of(key.tid as i32) == Some(key.start));
    }

    fn task_storage(&self) -> Option<&TaskStorage> {
        Some(self)
    }
}
