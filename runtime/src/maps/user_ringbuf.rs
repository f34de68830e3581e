//! `BPF_MAP_TYPE_USER_RINGBUF` (kernel/bpf/ringbuf.c), laid out as an unmodified
//! libbpf mmaps it: the tool writes samples, programs drain them. It knows no
//! callback.
//!
//! Positions and lengths are claims, of the tool and of other targets. Who is
//! killed while it drains leaves its id in `BUSY`; the next one takes over, and
//! meets the sample again that the dead one looked at.

use shm::sync::AtomicU64;
use shm::sync::Ordering::{Acquire, Relaxed, Release};
use shm::{DoubleMapping, Region};
use uapi::Errno;
use uapi::map::{
    BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT,
    BPF_RINGBUF_HDR_SZ,
};

use super::kind::{MapKind, MapType, Start};
use super::ringbuf;
use super::spec::{MapSpec, PAGE};
use crate::thread::{self, ThreadIds};

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

/// Where `consumer_pos` lies: the tool only reads it.
const CONSUMER: u64 = 0;
/// Where `producer_pos` lies.
const PRODUCER: u64 = PAGE;
/// Where data starts.
const DATA: u64 = 2 * PAGE;
/// Behind the data, which the tool never maps: who drains, and in which run.
const BUSY: u64 = 0;
const RUN: u64 = 8;

/// `BPF_MAX_USER_RINGBUF_SAMPLES`.
const MAX_SAMPLES: u32 = 128 << 10;
/// `DYNPTR_MAX_SIZE`.
const MAX_SAMPLE: u32 = (1 << 24) - 1;

fn storage_size(spec: &MapSpec, _nr_cpus: u32) -> Result<u64, Errno> {
    ringbuf::check(spec)?;
    Ok(DATA + u64::from(spec.max_entries) + PAGE)
}

fn over(
    spec: &MapSpec,
    storage: Region,
    _nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    thread::init();
    let size = u64::from(spec.max_entries);
    // Zeros are an empty ring.
    Ok(Box::new(UserRing {
        data: storage.map_double(DATA, size).ok_or(Errno::ENOMEM)?,
        size,
        storage,
    }))
}

/// A user ring buffer as one process sees it.
pub struct UserRing {
    storage: Region,
    /// The data twice, so that every sample is in one piece.
    data: DoubleMapping,
    /// Bytes of data, a power of two.
    size: u64,
}

/// What came of draining.
pub struct Drained {
    /// Samples, or a negative errno.
    pub ret: i64,
    /// Whether the tool is to be told of room.
    pub wakes: bool,
}

/// What is at the front of the ring.
enum Front {
    Sample { at: *mut u8, len: u32 },
    Discarded { total: u64 },
    Nothing,
}

impl UserRing {
    #[inline]
    fn word(&self, offset: u64) -> &AtomicU64 {
        /// Never reached: `over` was given storage of the size it asked for.
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.storage.u64_at(offset).unwrap_or(&NOWHERE)
    }

    fn own(&self, field: u64) -> &AtomicU64 {
        self.word(DATA + self.size + field)
    }

    /// `bpf_user_ringbuf_drain` by the run at `run`: calls `turn` with the
    /// address and length of each sample until it returns `false`.
    pub fn drain(
        &self,
        run: u64,
        flags: u64,
        turn: &mut dyn FnMut(*mut u8, u32) -> bool,
    ) -> Drained {
        let known = BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP;
        let refused = |errno: Errno| Drained {
            ret: errno.ret(),
            wakes: false,
        };
        if flags & !known != 0 {
            return refused(Errno::EINVAL);
        }
        if !self.take_turn(run) {
            return refused(Errno::EBUSY);
        }
        let (met, ret) = self.drain_alone(turn);
        self.own(RUN).store(0, Relaxed);
        // Pairs with the load in `take_turn`.
        self.own(BUSY).store(0, Release);
        let quiet = flags & BPF_RB_NO_WAKEUP != 0;
        Drained {
            ret,
            wakes: flags & BPF_RB_FORCE_WAKEUP != 0 || (!quiet && met > 0),
        }
    }

    /// Becomes the one that drains.
    fn take_turn(&self, run: u64) -> bool {
        let me = thread::ids().pid_tgid();
        let busy = self.own(BUSY);
        let holder = busy.load(Acquire);
        // A holder that is this very thread left its run by a longjmp out of a
        // signal handler, unless it is this run, whose callback asks again.
        let left = holder == me && self.own(RUN).load(Relaxed) != run;
        if holder != 0 && !left && !is_dead(holder) {
            return false;
        }
        let taken = busy.compare_exchange(holder, me, Acquire, Relaxed).is_ok();
        if taken {
            self.own(RUN).store(run, Relaxed);
        }
        taken
    }

    /// How many samples and gaps were met, and the result.
    fn drain_alone(&self, turn: &mut dyn FnMut(*mut u8, u32) -> bool) -> (u32, i64) {
        let mut samples = 0;
        for met in 0..MAX_SAMPLES {
            match self.front() {
                Ok(Front::Sample { at, len }) => {
                    samples += 1;
                    let goes_on = turn(at, len);
                    self.consume(total(len));
                    if !goes_on {
                        return (met + 1, samples);
                    }
                }
                Ok(Front::Discarded { total }) => self.consume(total),
                Ok(Front::Nothing) => return (met, samples),
                Err(errno) => return (met, errno.ret()),
            }
        }
        (MAX_SAMPLES, samples)
    }

    /// `__bpf_user_ringbuf_peek`.
    fn front(&self) -> Result<Front, Errno> {
        // Pairs with the release store in libbpf's `user_ringbuf_commit`.
        let produced = self.word(PRODUCER).load(Acquire);
        let consumed = self.word(CONSUMER).load(Acquire);
        if !produced.is_multiple_of(8) || !consumed.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        if consumed >= produced {
            return Ok(Front::Nothing);
        }
        let at = consumed & (self.size - 1);
        let header = self.word(DATA + at).load(Acquire) as u32;
        let len = header & !(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
        let total = total(len);
        if total > produced - consumed {
            return Err(Errno::EINVAL);
        }
        if total > self.size || len > MAX_SAMPLE {
            return Err(Errno::E2BIG);
        }
        if header & BPF_RINGBUF_DISCARD_BIT != 0 {
            return Ok(Front::Discarded { total });
        }
        if header & BPF_RINGBUF_BUSY_BIT != 0 {
            return Ok(Front::Nothing);
        }
        let at = (at + u64::from(BPF_RINGBUF_HDR_SZ)) & (self.size - 1);
        // `len` is less than `size`, which follows once more behind the data.
        Ok(Front::Sample {
            at: self.data.as_ptr().wrapping_add(at as usize),
            len,
        })
    }

    fn consume(&self, bytes: u64) {
        let consumer = self.word(CONSUMER);
        let consumed = consumer.load(Relaxed).wrapping_add(bytes);
        // Pairs with the load in libbpf's `user_ring_buffer__reserve`.
        consumer.store(consumed, Release);
    }

    /// Has the tool room for another sample?
    fn has_room(&self) -> bool {
        let consumed = self.word(CONSUMER).load(Acquire);
        let produced = self.word(PRODUCER).load(Acquire);
        produced.wrapping_sub(consumed) < self.size
    }
}

/// Bytes of a sample with its header.
fn total(len: u32) -> u64 {
    (u64::from(len) + u64::from(BPF_RINGBUF_HDR_SZ)).next_multiple_of(8)
}

fn is_dead(holder: u64) -> bool {
    !ThreadIds::from_pid_tgid(holder).can_run()
}

impl MapKind for UserRing {
    /// All but the consumer's page may be written.
    fn mmap(&self, offset: u64, len: u64, writable: bool) -> Result<Vec<(u64, u64)>, Errno> {
        if writable && offset == CONSUMER {
            return Err(Errno::EPERM);
        }
        ringbuf::ranges(self.size, offset, len)
    }

    fn ready(&self) -> bool {
        self.has_room()
    }

    fn user_ring(&self) -> Option<&UserRing> {
        Some(self)
    }
}
