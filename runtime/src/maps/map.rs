//! A map as one process sees it. It knows what all map types have in common.

use core::ptr::{self, NonNull};
use shm::Region;
use shm::sync::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use uapi::Errno;
use uapi::map::{BPF_F_LOCK, BPF_F_RDONLY_PROG, BPF_MAP_TYPE_ARRAY};
use vm::link::{ArrayLayout, Direct};

use super::kernel::{self, KernelObjects};
use super::kind::{self, MapKind, Start};
use super::ringbuf::Ring;
use super::spec::MapSpec;
use super::spec_only::SpecOnly;
use super::stack_trace;
use super::task_storage::TaskStorage;
use super::user_ringbuf::UserRing;
use crate::unwind::{FrameOf, StackBuildId};

/// A process-local view of one map. Its address (keep it boxed or in an `Arc`)
/// is what a program's register holds for the map.
pub struct Map {
    spec: MapSpec,
    syscall_value_size: usize,
    kind: Box<dyn MapKind>,
    /// Where the ring in `kind` is, if that is one.
    ring: Option<NonNull<Ring>>,
    /// Only the tool writes maps through bpf(2), so this need not be shared.
    frozen: AtomicBool,
    /// Its elements are a kernel map's.
    in_kernel: bool,
}

// SAFETY: `ring` is a reference to what `kind` owns, which may be used from any
// thread; all else may, too.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Bytes of storage that a map of this spec needs; 0 for none.
    ///
    /// # Errors
    /// As `BPF_MAP_CREATE`: `EINVAL` for what the type does not allow, `E2BIG`
    /// for sizes beyond its limits.
    pub fn storage_size(spec: &MapSpec, nr_cpus: u32) -> Result<u64, Errno> {
        let map_type = kind::map_type(spec.map_type).ok_or(Errno::EINVAL)?;
        (map_type.storage_size)(spec, nr_cpus)
    }

    /// Makes the map in fresh storage, which must be all zero.
    ///
    /// # Errors
    /// As [`Map::storage_size`]; `ENOMEM` when `storage` is too short.
    pub fn create(spec: MapSpec, storage: Region, nr_cpus: u32) -> Result<Map, Errno> {
        Map::over(spec, storage, nr_cpus, Start::Create)
    }

    /// The map in storage that another process made. Believes nothing in it.
    ///
    /// # Errors
    /// As [`Map::create`].
    pub fn open(spec: MapSpec, storage: Region, nr_cpus: u32) -> Result<Map, Errno> {
        Map::over(spec, storage, nr_cpus, Start::Open)
    }

    /// A map of any type that the kernel has, against which programs are
    /// verified that never run.
    ///
    /// # Errors
    /// As [`Map::storage_size`], as far as the type's limits are known.
    pub fn spec_only(spec: MapSpec, nr_cpus: u32) -> Result<Map, Errno> {
        let kind = SpecOnly::new(&spec, nr_cpus)?;
        let per_cpu = kind::map_type(spec.map_type).is_some_and(|hosted| hosted.per_cpu);
        Map::of(spec, per_cpu.then_some(nr_cpus), Box::new(kind))
    }

    /// The map whose elements are those of a kernel map.
    ///
    /// # Errors
    /// `EPERM` and `ENOENT` where this process cannot open that, `EINVAL` when
    /// it is another than the spec says, `ENOTSUPP` for a type that only
    /// programs in the kernel use.
    pub fn of_kernel(spec: MapSpec, objects: KernelObjects, nr_cpus: u32) -> Result<Map, Errno> {
        let kind = kernel::open(&spec, objects, nr_cpus)?;
        let per_cpu = kind::map_type(spec.map_type).is_some_and(|hosted| hosted.per_cpu);
        let map = Map::of(spec, per_cpu.then_some(nr_cpus), kind)?;
        Ok(Map {
            in_kernel: true,
            ..map
        })
    }

    /// Adds to the words of an array's value by how much those of `after`
    /// differ from `before`, each at once.
    pub fn add_difference(&self, key: &[u8], before: &[u8], after: &[u8]) {
        if self.spec.map_type != BPF_MAP_TYPE_ARRAY || self.check_key(key).is_err() {
            return;
        }
        let len = self.syscall_value_size.min(before.len()).min(after.len());
        // SAFETY: the key has its size.
        let value = unsafe { self.lookup_ptr(key.as_ptr(), 0) };
        if value.is_null() {
            return;
        }
        for at in (0..len).step_by(8) {
            let word = |bytes: &[u8]| {
                let mut word = [0; 8];
                for (to, from) in word.iter_mut().zip(bytes.iter().take(len).skip(at)) {
                    *to = *from;
                }
                u64::from_le_bytes(word)
            };
            let difference = word(after).wrapping_sub(word(before));
            if difference != 0 {
                // SAFETY: the values of an array lie at multiples of eight
                // bytes, so this word is the value's, or what pads it.
                let word = unsafe { AtomicU64::from_ptr(value.add(at).cast()) };
                word.fetch_add(difference, Ordering::Relaxed);
            }
        }
    }

    /// Whether programs here get copies of its elements, so that their runs
    /// must end with [`kernel::end_run`].
    pub fn is_relayed(&self) -> bool {
        self.in_kernel && kernel::is_relayed(&self.spec)
    }

    /// Whether the elements are a kernel map's.
    pub fn in_kernel(&self) -> bool {
        self.in_kernel
    }

    fn over(spec: MapSpec, storage: Region, nr_cpus: u32, start: Start) -> Result<Map, Errno> {
        let map_type = kind::map_type(spec.map_type).ok_or(Errno::EINVAL)?;
        if (map_type.storage_size)(&spec, nr_cpus)? > storage.len() {
            return Err(Errno::ENOMEM);
        }
        let kind = (map_type.over)(&spec, storage, nr_cpus, start)?;
        Map::of(spec, map_type.per_cpu.then_some(nr_cpus), kind)
    }

    fn of(spec: MapSpec, copies: Option<u32>, kind: Box<dyn MapKind>) -> Result<Map, Errno> {
        let value_size = match copies {
            Some(nr_cpus) => spec.percpu_value_size(nr_cpus),
            None => u64::from(spec.value_size),
        };
        Ok(Map {
            spec,
            syscall_value_size: usize::try_from(value_size).map_err(|_| Errno::E2BIG)?,
            ring: kind.ring().map(NonNull::from),
            kind,
            frozen: AtomicBool::new(false),
            in_kernel: false,
        })
    }

    /// What the map was made from.
    pub fn spec(&self) -> &MapSpec {
        &self.spec
    }

    /// Bytes of a value as bpf(2) copies it: for per-CPU types the values of
    /// all CPUs, each rounded up to 8 bytes.
    pub fn syscall_value_size(&self) -> usize {
        self.syscall_value_size
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Errno> {
        (key.len() == self.spec.key_size as usize)
            .then_some(())
            .ok_or(Errno::EINVAL)
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Errno> {
        (value.len() == self.syscall_value_size)
            .then_some(())
            .ok_or(Errno::EINVAL)
    }

    fn check_writable(&self) -> Result<(), Errno> {
        match self.frozen() {
            true => Err(Errno::EPERM),
            false => Ok(()),
        }
    }

    /// `BPF_MAP_LOOKUP_ELEM`: copies the value of `key` to `value`.
    ///
    /// # Errors
    /// `ENOENT` if absent, `EINVAL` for flags, `BPF_F_LOCK` where values have no
    /// lock, and wrong lengths, `ENOTSUPP` where the type has no lookup.
    pub fn lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        self.check_lock(flags)?;
        self.check_key(key)?;
        self.check_value(value)?;
        match flags {
            0 => self.kind.lookup(key, value),
            BPF_F_LOCK => self.kind.lookup_locked(key, value),
            _ => Err(Errno::EINVAL),
        }
    }

    fn check_lock(&self, flags: u64) -> Result<(), Errno> {
        match flags & BPF_F_LOCK != 0 && self.spec.lock().is_none() {
            true => Err(Errno::EINVAL),
            false => Ok(()),
        }
    }

    /// `BPF_MAP_UPDATE_ELEM`.
    ///
    /// # Errors
    /// `EPERM` if frozen, `EINVAL` for unknown flags and wrong lengths,
    /// `EEXIST` and `ENOENT` by flags, `E2BIG` if full or out of range,
    /// `ENOTSUPP` where the type has no update.
    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        self.check_writable()?;
        self.check_lock(flags)?;
        self.check_key(key)?;
        self.check_value(value)?;
        self.kind.update(key, value, flags)
    }

    /// `bpf_for_each_map_elem` from a program on `vcpu`: calls `turn` with the
    /// address of each key and value until it returns `false`.
    pub fn for_each(&self, vcpu: u32, turn: &mut dyn FnMut(*const u8, *mut u8) -> bool) {
        self.kind.for_each(vcpu, turn);
    }

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    /// `EPERM` if frozen, `ENOENT` if absent, `EINVAL` for arrays, `ENOTSUPP`
    /// where the type has no delete.
    pub fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.check_writable()?;
        self.check_key(key)?;
        self.kind.delete(key)
    }

    /// `BPF_MAP_GET_NEXT_KEY`: the key after `key`, or the first one when
    /// `key` is `None` or not in the map.
    ///
    /// # Errors
    /// `ENOENT` after the last key, `ENOTSUPP` where the type has no keys.
    pub fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        if let Some(key) = key {
            self.check_key(key)?;
        }
        self.check_key(next)?;
        self.kind.next_key(key, next)
    }

    /// All keys, each once; `None` where only [`Map::next_key`] tells them.
    pub fn keys(&self) -> Option<Vec<Box<[u8]>>> {
        self.kind.keys()
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`.
    ///
    /// # Errors
    /// As [`Map::lookup`] and [`Map::delete`].
    pub fn lookup_and_delete(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        self.check_writable()?;
        self.check_lock(flags)?;
        if flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        self.check_key(key)?;
        self.check_value(value)?;
        // What has left the map needs no lock to be read.
        self.kind.lookup_and_delete(key, value)
    }

    /// `BPF_MAP_FREEZE`: no more changes through bpf(2).
    ///
    /// # Errors
    /// `EPERM` if frozen already.
    pub fn freeze(&self) -> Result<(), Errno> {
        match self.frozen.swap(true, Ordering::Relaxed) {
            true => Err(Errno::EPERM),
            false => Ok(()),
        }
    }

    /// Is the map frozen?
    pub fn frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// The contents of an array that neither programs nor bpf(2) can change any
    /// more (kernel/bpf/verifier.c, `bpf_map_is_rdonly`).
    pub fn rodata(&self) -> Option<Vec<u8>> {
        let spec = &self.spec;
        if spec.map_type != BPF_MAP_TYPE_ARRAY
            || !spec.has(BPF_F_RDONLY_PROG)
            || spec.max_entries != 1
            || !self.frozen()
        {
            return None;
        }
        let mut value = vec![0; self.syscall_value_size];
        self.lookup(&0u32.to_ne_bytes(), &mut value, 0).ok()?;
        Some(value)
    }

    /// The ranges {offset, bytes} of storage, in order, that an mmap of the
    /// map's fd at `offset` for `len` bytes shows.
    ///
    /// # Errors
    /// `ENOTSUPP` where the type has no mmap, `EINVAL` for ranges outside and
    /// arrays without `BPF_F_MMAPABLE`, `EPERM` for writing where it is not
    /// allowed, `EACCES` for writing with `BPF_F_RDONLY_PROG`.
    pub fn mmap(&self, offset: u64, len: u64, writable: bool) -> Result<Vec<(u64, u64)>, Errno> {
        let ranges = self.kind.mmap(offset, len, writable);
        // Values that are more than bytes are nobody's to write.
        if ranges == Err(Errno::ENOTSUPP) || self.spec.field_count != 0 {
            return Err(Errno::ENOTSUPP);
        }
        if writable {
            self.check_writable()?;
            if self.spec.has(BPF_F_RDONLY_PROG) {
                return Err(Errno::EACCES);
            }
        }
        ranges
    }

    /// Where byte `offset` of an array's only value lies, for
    /// `BPF_PSEUDO_MAP_VALUE`.
    ///
    /// # Errors
    /// `ENOTSUPP` where the type or its size does not allow it, `EINVAL` for
    /// offsets outside the value.
    pub fn direct_value(&self, offset: u32) -> Result<*mut u8, Errno> {
        self.kind.direct_value(offset)
    }

    /// Would a poll of the map's fd say that it is readable?
    pub fn ready(&self) -> bool {
        self.kind.ready()
    }

    /// Frames of a stack that a stack trace map keeps.
    pub fn stack_depth(&self) -> usize {
        stack_trace::depth(&self.spec)
    }

    /// `bpf_get_stackid` for a stack that was walked: `ips` are its frames, the
    /// innermost first, before those that `flags` say to skip. The id, or a
    /// negative errno: `EINVAL` for unknown flags and other map types,
    /// `EFAULT` when nothing is left, `EEXIST` when another stack is there.
    pub fn stack_put(&self, ips: &[u64], flags: u64) -> i64 {
        self.stack_put_as(ips, flags, &StackBuildId::of)
    }

    /// The same for the stack of any process: `frame_of` says where in which
    /// file an address is.
    pub(crate) fn stack_put_as(&self, ips: &[u64], flags: u64, frame_of: FrameOf<'_>) -> i64 {
        match self.kind.stack_put(ips, flags, frame_of) {
            Ok(id) => i64::from(id),
            Err(errno) => errno.ret(),
        }
    }

    /// The map as a ring buffer, if it is one.
    #[inline]
    pub fn ring(&self) -> Option<&Ring> {
        // SAFETY: points into what `kind` owns and never moves.
        self.ring.map(|ring| unsafe { ring.as_ref() })
    }

    /// The map as a user ring buffer, if it is one.
    pub fn user_ring(&self) -> Option<&UserRing> {
        self.kind.user_ring()
    }

    /// The map as one with a value for each thread, if it is one.
    pub fn task_storage(&self) -> Option<&TaskStorage> {
        self.kind.task_storage()
    }

    /// Whether a map of maps may hold maps of this spec.
    pub fn may_hold(&self, inner: &MapSpec) -> bool {
        self.kind.inner_maps().is_some() && inner.is_like(&self.spec.inner)
    }

    /// Whether programs here find the map `id` in this map of maps.
    pub fn has_inner(&self, id: u32) -> bool {
        self.kind.inner_maps().is_some_and(|inner| inner.has(id))
    }

    /// Lets programs here find a map that this map of maps [may
    /// hold](Map::may_hold); others are left out.
    pub fn add_inner(&self, id: u32, map: &Arc<Map>) {
        if let Some(inner) = self.kind.inner_maps()
            && self.may_hold(map.spec())
        {
            inner.add(id, Arc::clone(map));
        }
    }

    /// Programs here find those maps no more that do not `stay`. Keep what is
    /// returned until runs that have begun are over.
    pub fn part_from_inner(&self, stays: &dyn Fn(u32) -> bool) -> Vec<Arc<Map>> {
        let inner = self.kind.inner_maps();
        inner.map_or_else(Vec::new, |inner| inner.part(stays))
    }

    /// Takes back what killed processes held of the map: elements of a full
    /// hash map, busy records of a ring. Walks all elements ever used; for the
    /// tool, when it learns that a target died.
    pub fn reclaim(&self) {
        self.kind.reclaim();
    }

    /// Puts object id `id` (0 = none) in slot `index` of a program, perf event
    /// or cgroup array.
    ///
    /// # Errors
    /// `E2BIG` for an index outside, `EINVAL` for other types.
    pub fn set_slot(&self, index: u32, id: u32) -> Result<(), Errno> {
        self.kind.set_slot(index, id)
    }

    /// The object id in slot `index`; `None` if empty or outside.
    #[inline]
    pub fn slot(&self, index: u32) -> Option<u32> {
        self.kind.slot(index)
    }

    /// Where elements are, for look-ups that are part of a program's code.
    pub fn layout(&self) -> Option<ArrayLayout> {
        self.kind.layout()
    }

    /// What does a helper's work for this map, if there is something quicker.
    pub fn direct(&self, helper: u32) -> Option<Direct> {
        let call = self.kind.direct(helper)?;
        let map = ptr::from_ref(&*self.kind).cast::<()>() as u64;
        Some(Direct { call, map })
    }

    /// `bpf_map_lookup_elem`: where the value of `key` lies for a program on
    /// `vcpu`; null if absent.
    ///
    /// # Safety
    /// `key` is readable for the spec's key size.
    #[inline]
    pub unsafe fn lookup_ptr(&self, key: *const u8, vcpu: u32) -> *mut u8 {
        if key.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { self.kind.lookup_ptr(key, vcpu) }
    }

    /// `bpf_map_lookup_percpu_elem`: the value of `key` of CPU `cpu`; null if
    /// absent.
    ///
    /// # Safety
    /// `key` is readable for the spec's key size.
    #[inline]
    pub unsafe fn lookup_percpu_ptr(&self, key: *const u8, cpu: u32) -> *mut u8 {
        if key.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { self.kind.lookup_percpu_ptr(key, cpu) }
    }

    /// `bpf_map_update_elem` for a program on `vcpu`: 0 or a negative errno.
    ///
    /// # Safety
    /// `key` and `value` are readable for the spec's sizes.
    #[inline]
    pub unsafe fn update_prog(
        &self,
        key: *const u8,
        value: *const u8,
        flags: u64,
        vcpu: u32,
    ) -> i64 {
        if key.is_null() || value.is_null() {
            return Errno::EFAULT.ret();
        }
        // SAFETY: the caller's contract.
        match unsafe { self.kind.update_prog(key, value, flags, vcpu) } {
            Ok(()) => 0,
            Err(errno) => errno.ret(),
        }
    }

    /// `bpf_map_delete_elem` for a program: 0 or a negative errno.
    ///
    /// # Safety
    /// `key` is readable for the spec's key size.
    #[inline]
    pub unsafe fn delete_prog(&self, key: *const u8) -> i64 {
        if key.is_null() {
            return Errno::EFAULT.ret();
        }
        // SAFETY: the caller's contract.
        match unsafe { self.kind.delete_prog(key) } {
            Ok(()) => 0,
            Err(errno) => errno.ret(),
        }
    }

    /// `bpf_map_push_elem`: 0 or a negative errno.
    ///
    /// # Safety
    /// `value` is readable for the spec's value size.
    pub unsafe fn push(&self, value: *const u8, flags: u64) -> i64 {
        if value.is_null() {
            return Errno::EFAULT.ret();
        }
        // SAFETY: the caller's contract.
        answer(unsafe { self.kind.push(value, flags) })
    }

    /// `bpf_map_pop_elem`: 0 or a negative errno.
    ///
    /// # Safety
    /// `value` is writable for the spec's value size.
    pub unsafe fn pop(&self, value: *mut u8) -> i64 {
        if value.is_null() {
            return Errno::EFAULT.ret();
        }
        // SAFETY: the caller's contract.
        answer(unsafe { self.kind.pop(value) })
    }

    /// `bpf_map_peek_elem`: 0 or a negative errno.
    ///
    /// # Safety
    /// `value` is readable and writable for the spec's value size.
    pub unsafe fn peek(&self, value: *mut u8) -> i64 {
        if value.is_null() {
            return Errno::EFAULT.ret();
        }
        // SAFETY: the caller's contract.
        answer(unsafe { self.kind.peek(value) })
    }
}

/// What a helper returns.
fn answer(result: Result<(), Errno>) -> i64 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.ret(),
    }
}
