//! `BPF_MAP_TYPE_STACK_TRACE` (kernel/bpf/stackmap.c): stacks under the hash
//! of their frames, in a place of their own each: addresses, or places in files
//! (`BPF_F_STACK_BUILD_ID`). It does not know how a
//! stack is walked.
//!
//! A place is written by the process that its state word names; readers copy
//! and look again whether the word is the same. A writer that was killed is
//! noticed by whoever needs the place next. Each writing has a number in the
//! word, so a reader whose copy is of two writings sees the word change: the
//! writer's fence is between the word and the frames, the reader's between the
//! frames and its second look.

use shm::sync::AtomicU64;
use shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use shm::sync::fence;
use shm::{Region, sys};
use uapi::Errno;
use uapi::map::{
    BPF_F_FAST_STACK_CMP, BPF_F_NUMA_NODE, BPF_F_RDONLY, BPF_F_REUSE_STACKID,
    BPF_F_SKIP_FIELD_MASK, BPF_F_STACK_BUILD_ID, BPF_F_USER_STACK, BPF_F_WRONLY,
};

use super::kind::{self, MapKind, MapType, Start};
use super::spec::{MapSpec, WORD};
use super::{bytes, hasher};
use crate::thread;
use crate::unwind::{FrameOf, StackBuildId};

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

/// How long bpf(2) waits for one writer, in ns: one that was stopped, or a word
/// that someone wrote, must not hang the tool.
const PATIENCE_NS: u64 = 100_000_000;

/// `STACK_CREATE_FLAG_MASK`.
const KNOWN_FLAGS: u32 = BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_STACK_BUILD_ID;
/// `sysctl_perf_event_max_stack` as the kernel starts with it.
const MAX_STACK: u32 = 127;
const MAX_BUCKETS: u64 = 1 << 31;
/// Tries of a reader whose place changes under it.
const TRIES: u32 = 1 << 16;

/// Bytes of a place before its frames: state, number of frames.
const HEADER: u64 = 2 * WORD;

fn storage_size(spec: &MapSpec, _nr_cpus: u32) -> Result<u64, Errno> {
    let word = WORD as u32;
    if spec.map_flags & !KNOWN_FLAGS != 0
        || spec.max_entries == 0
        || spec.key_size != 4
        || spec.value_size < word
        || !spec.value_size.is_multiple_of(word)
        || !spec.value_size.is_multiple_of(element(spec))
        || spec.value_size / element(spec) > MAX_STACK
    {
        return Err(Errno::EINVAL);
    }
    let buckets = buckets(spec);
    if buckets > MAX_BUCKETS {
        return Err(Errno::E2BIG);
    }
    Ok(buckets * stride(spec))
}

/// Bytes of a frame (`stack_map_data_size`).
fn element(spec: &MapSpec) -> u32 {
    let bytes = match spec.has(BPF_F_STACK_BUILD_ID) {
        true => size_of::<StackBuildId>(),
        false => size_of::<u64>(),
    };
    bytes as u32
}

/// Frames of a stack at most.
pub(super) fn depth(spec: &MapSpec) -> usize {
    (spec.value_size / element(spec)) as usize
}

fn buckets(spec: &MapSpec) -> u64 {
    u64::from(spec.max_entries).next_power_of_two()
}

fn stride(spec: &MapSpec) -> u64 {
    HEADER + u64::from(spec.value_size)
}

fn over(
    spec: &MapSpec,
    storage: Region,
    _nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    thread::init();
    Ok(Box::new(StackTrace {
        base: storage.as_ptr(),
        buckets: buckets(spec),
        stride: stride(spec),
        value_size: spec.value_size as usize,
        element: element(spec) as usize,
        seed: spec.seed,
        _storage: storage,
    }))
}

/// The word that says what is in a place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

const PHASE: u64 = 3;
const READY: u64 = 1;
const WRITING: u64 = 2;
const PID_SHIFT: u32 = 2;
const PID: u64 = (1 << 22) - 1;
/// Counts writes, so that a rewrite with a stack of the same hash shows.
const TURN_SHIFT: u32 = 24;
const TURN: u64 = 0xff;
const HASH_SHIFT: u32 = 32;

impl State {
    fn is_ready(self) -> bool {
        self.0 & PHASE == READY
    }

    fn is_being_written(self) -> bool {
        self.0 & PHASE == WRITING
    }

    fn hash(self) -> u32 {
        (self.0 >> HASH_SHIFT) as u32
    }

    fn writer(self) -> i32 {
        (self.0 >> PID_SHIFT & PID) as i32
    }

    fn turn(self) -> u64 {
        self.0 >> TURN_SHIFT & TURN
    }

    /// The next use of the place, being written.
    fn writing(self, hash: u32, pid: u32) -> State {
        let turn = (self.turn() + 1) & TURN;
        State(
            WRITING
                | (u64::from(pid) & PID) << PID_SHIFT
                | turn << TURN_SHIFT
                | u64::from(hash) << HASH_SHIFT,
        )
    }

    fn ready(self) -> State {
        State(self.0 & !(PHASE | PID << PID_SHIFT) | READY)
    }

    fn empty(self) -> State {
        State(self.turn() << TURN_SHIFT)
    }
}

struct StackTrace {
    /// Start of storage, valid while `_storage` lives.
    base: *mut u8,
    buckets: u64,
    stride: u64,
    value_size: usize,
    /// Bytes of a frame.
    element: usize,
    seed: u64,
    _storage: Region,
}

// SAFETY: `base` points into `_storage`, which may be used from any thread;
// its bytes are only touched as atomics or as `bytes` does.
unsafe impl Send for StackTrace {}
// SAFETY: as above.
unsafe impl Sync for StackTrace {}

/// The place of one stack id.
#[derive(Clone, Copy)]
struct Place<'m> {
    state: &'m AtomicU64,
    frames: &'m AtomicU64,
    at: *mut u8,
}

impl StackTrace {
    #[inline]
    fn place(&self, id: u32) -> Option<Place<'_>> {
        if u64::from(id) >= self.buckets {
            return None;
        }
        let at = self
            .base
            .wrapping_add((u64::from(id) * self.stride) as usize);
        // SAFETY: `id` is below `buckets`, whose places lie in storage
        // (`Map::over` compared its length), aligned; the words are only
        // accessed as atomics.
        unsafe {
            Some(Place {
                state: AtomicU64::from_ptr(at.cast()),
                frames: AtomicU64::from_ptr(at.wrapping_add(WORD as usize).cast()),
                at: at.wrapping_add(HEADER as usize),
            })
        }
    }

    /// Bytes of frames that a place says it holds, within its size.
    fn len(&self, place: Place<'_>) -> usize {
        let frames = place.frames.load(Relaxed) as usize;
        frames.saturating_mul(self.element).min(self.value_size)
    }

    fn state(place: Place<'_>) -> State {
        State(place.state.load(Acquire))
    }

    /// Is the place as it was when its state was read?
    fn unchanged(place: Place<'_>, state: State) -> bool {
        fence(Acquire);
        place.state.load(Relaxed) == state.0
    }

    fn change(place: Place<'_>, from: State, to: State) -> bool {
        place
            .state
            .compare_exchange(from.0, to.0, AcqRel, Relaxed)
            .is_ok()
    }

    /// Copies a stack out, zeros behind it, and takes it away if `delete`.
    fn read(&self, id: u32, value: &mut [u8], delete: bool) -> Result<(), Errno> {
        let place = self.place(id).ok_or(Errno::ENOENT)?;
        let mut seen = (State(0), 0);
        for _ in 0..TRIES {
            let state = StackTrace::state(place);
            if state.is_being_written() && thread::exists(state.writer()) {
                let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
                if state != seen.0 {
                    seen = (state, now);
                } else if now.saturating_sub(seen.1) > PATIENCE_NS {
                    return Err(Errno::EBUSY);
                }
                sys::sched_yield();
                continue;
            }
            if !state.is_ready() {
                return Err(Errno::ENOENT);
            }
            value.fill(0);
            let len = self.len(place).min(value.len());
            // SAFETY: the place's frames, into as many bytes of `value`.
            unsafe { bytes::copy(value.as_mut_ptr(), place.at, len) };
            let whole = match delete {
                true => StackTrace::change(place, state, state.empty()),
                false => StackTrace::unchanged(place, state),
            };
            if whole {
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    /// Where a place has frame number `index`, which is below its depth.
    fn frame(&self, place: Place<'_>, index: usize) -> *mut u8 {
        place.at.wrapping_add(index * self.element)
    }

    /// Whether a place holds these frames, at most its depth.
    fn holds(&self, place: Place<'_>, frames: &[u64], frame_of: FrameOf<'_>) -> bool {
        if self.element == size_of::<u64>() {
            // SAFETY: the place has room for its depth.
            return unsafe { bytes::equal(place.at, frames.as_ptr().cast(), size_of_val(frames)) };
        }
        frames.iter().enumerate().all(|(index, &ip)| {
            let frame = frame_of(ip);
            let from = core::ptr::from_ref(&frame).cast();
            // SAFETY: as above.
            unsafe { bytes::equal(self.frame(place, index), from, self.element) }
        })
    }

    /// Writes frames, at most its depth, to a place that is ours.
    fn store(&self, place: Place<'_>, frames: &[u64], frame_of: FrameOf<'_>) {
        if self.element == size_of::<u64>() {
            // SAFETY: the place has room for its depth.
            return unsafe { bytes::copy(place.at, frames.as_ptr().cast(), size_of_val(frames)) };
        }
        for (index, &ip) in frames.iter().enumerate() {
            let frame = frame_of(ip);
            let from = core::ptr::from_ref(&frame).cast();
            // SAFETY: as above.
            unsafe { bytes::copy(self.frame(place, index), from, self.element) };
        }
    }

    /// `__bpf_get_stackid` for the frames that are left after skipping.
    fn put(&self, frames: &[u64], flags: u64, frame_of: FrameOf<'_>) -> Result<u32, Errno> {
        let len = size_of_val(frames);
        let from: *const u8 = frames.as_ptr().cast();
        // SAFETY: the bytes of the slice.
        let hash = unsafe { hasher::hash(from, len, self.seed) };
        let id = (u64::from(hash) & (self.buckets - 1)) as u32;
        let place = self.place(id).ok_or(Errno::EFAULT)?;
        for _ in 0..TRIES {
            let state = StackTrace::state(place);
            let same_hash = state.hash() == hash;
            if state.is_being_written() {
                if thread::exists(state.writer()) {
                    // The same stack at the same time, or another one.
                    return same_hash.then_some(id).ok_or(Errno::EEXIST);
                }
            } else if state.is_ready() {
                if same_hash && flags & BPF_F_FAST_STACK_CMP != 0 {
                    return Ok(id);
                }
                let same = same_hash
                    && place.frames.load(Relaxed) == frames.len() as u64
                    && self.holds(place, frames, frame_of);
                if !StackTrace::unchanged(place, state) {
                    continue;
                }
                if same {
                    return Ok(id);
                }
                if flags & BPF_F_REUSE_STACKID == 0 {
                    return Err(Errno::EEXIST);
                }
            }
            let writing = state.writing(hash, thread::ids().pid as u32);
            if !StackTrace::change(place, state, writing) {
                continue;
            }
            fence(Release);
            place.frames.store(frames.len() as u64, Relaxed);
            self.store(place, frames, frame_of);
            // Publishes the frames; pairs with the load in `state`.
            place.state.store(writing.ready().0, Release);
            return Ok(id);
        }
        Err(Errno::EBUSY)
    }
}

impl MapKind for StackTrace {
    fn stack_put(&self, ips: &[u64], flags: u64, frame_of: FrameOf<'_>) -> Result<u32, Errno> {
        let known =
            BPF_F_SKIP_FIELD_MASK | BPF_F_USER_STACK | BPF_F_FAST_STACK_CMP | BPF_F_REUSE_STACKID;
        if flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let skip = (flags & BPF_F_SKIP_FIELD_MASK) as usize;
        let frames = ips.get(skip..).unwrap_or_default();
        if frames.is_empty() {
            return Err(Errno::EFAULT);
        }
        let most = self.value_size / self.element;
        self.put(frames.get(..most).unwrap_or(frames), flags, frame_of)
    }

    fn lookup(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        self.read(kind::index(key), value, false)
    }

    fn lookup_and_delete(&self, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        self.read(kind::index(key), value, true)
    }

    fn update(&self, _key: &[u8], _value: &[u8], _flags: u64) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        let place = self.place(kind::index(key)).ok_or(Errno::E2BIG)?;
        for _ in 0..TRIES {
            let state = StackTrace::state(place);
            if !state.is_ready() {
                return Err(Errno::ENOENT);
            }
            if StackTrace::change(place, state, state.empty()) {
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        let there = |id: u32| {
            self.place(id)
                .is_some_and(|place| StackTrace::state(place).is_ready())
        };
        let mut id = match key.map(kind::index) {
            Some(id) if there(id) => id + 1,
            _ => 0,
        };
        while u64::from(id) < self.buckets {
            if there(id) {
                next.copy_from_slice(&id.to_le_bytes());
                return Ok(());
            }
            id += 1;
        }
        Err(Errno::ENOENT)
    }
}
