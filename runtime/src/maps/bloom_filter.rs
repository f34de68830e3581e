//! `BPF_MAP_TYPE_BLOOM_FILTER` (kernel/bpf/bloom_filter.c): a set of bits, of
//! which a value sets a few that its hashes name. It knows no key and forgets
//! nothing. Bits are only ever set, each by itself: there is no state between
//! two that could be wrong, but of a value whose adder was killed, which may be
//! found or not.
//!
//! The hash is the kernel's: filters that begin with the same seed say the
//! same of all values.

use shm::Region;
use shm::sync::AtomicU64;
use shm::sync::Ordering::Relaxed;
use uapi::Errno;
use uapi::map::{BPF_ANY, BPF_F_NUMA_NODE, BPF_F_ZERO_SEED};

use super::bytes;
use super::kind::{MapKind, MapType, Start};
use super::spec::{ACCESS_MASK, KMALLOC_MAX_SIZE, MapSpec, WORD};

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

/// `BLOOM_CREATE_FLAG_MASK`.
const KNOWN_FLAGS: u32 = BPF_F_NUMA_NODE | BPF_F_ZERO_SEED | ACCESS_MASK;
/// Bits of `map_extra` that say how many hashes there are.
const HASHES: u64 = 0xf;
const DEFAULT_HASHES: u32 = 5;
const WORD_BITS: u32 = u64::BITS;

fn storage_size(spec: &MapSpec, _nr_cpus: u32) -> Result<u64, Errno> {
    if spec.value_size > KMALLOC_MAX_SIZE {
        return Err(Errno::E2BIG);
    }
    if spec.key_size != 0
        || spec.value_size == 0
        || spec.max_entries == 0
        || spec.map_extra & !HASHES != 0
    {
        return Err(Errno::EINVAL);
    }
    spec.check_flags(KNOWN_FLAGS)?;
    Ok((u64::from(bit_mask(spec)) + 1) / u64::from(WORD_BITS) * WORD)
}

fn hashes(spec: &MapSpec) -> u32 {
    match spec.map_extra & HASHES {
        0 => DEFAULT_HASHES,
        hashes => hashes as u32,
    }
}

/// The number of bits, less 1: entries * hashes / ln(2), rounded up to a power
/// of two (`bloom_map_alloc`).
fn bit_mask(spec: &MapSpec) -> u32 {
    let bits = spec
        .max_entries
        .checked_mul(hashes(spec))
        .and_then(|bits| (bits / 5).checked_mul(7));
    match bits {
        Some(bits) if bits <= 1 << 31 => bits.max(WORD_BITS).next_power_of_two() - 1,
        _ => u32::MAX,
    }
}

fn over(
    spec: &MapSpec,
    storage: Region,
    _nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    Ok(Box::new(BloomFilter {
        base: storage.as_ptr(),
        mask: bit_mask(spec),
        hashes: hashes(spec),
        value_size: spec.value_size as usize,
        seed: match spec.has(BPF_F_ZERO_SEED) {
            true => 0,
            false => spec.seed as u32,
        },
        _storage: storage,
    }))
}

struct BloomFilter {
    /// Start of storage, valid while `_storage` lives.
    base: *mut u8,
    mask: u32,
    hashes: u32,
    value_size: usize,
    seed: u32,
    _storage: Region,
}

// SAFETY: `base` points into `_storage`, which may be used from any thread,
// and its words are only touched as atomics.
unsafe impl Send for BloomFilter {}
// SAFETY: as above.
unsafe impl Sync for BloomFilter {}

impl BloomFilter {
    /// The word and bit of a value's hash number `index`.
    ///
    /// # Safety
    /// `value` is readable for the map's value size.
    unsafe fn bit(&self, value: *const u8, index: u32) -> (&AtomicU64, u64) {
        // SAFETY: the caller's contract.
        let hash = unsafe { jhash(value, self.value_size, self.seed.wrapping_add(index)) };
        let bit = hash & self.mask;
        let at = u64::from(bit / WORD_BITS) * WORD;
        // SAFETY: storage holds the words of `mask + 1` bits (`Map::over`
        // compared its length), aligned; they are only accessed as atomics.
        let word = unsafe { AtomicU64::from_ptr(self.base.wrapping_add(at as usize).cast()) };
        (word, 1 << (bit % WORD_BITS))
    }
}

impl MapKind for BloomFilter {
    unsafe fn push(&self, value: *const u8, flags: u64) -> Result<(), Errno> {
        if flags != BPF_ANY {
            return Err(Errno::EINVAL);
        }
        for index in 0..self.hashes {
            // SAFETY: the caller's contract.
            let (word, bit) = unsafe { self.bit(value, index) };
            // Most bits of a filter in use are set: no write, no wait.
            if word.load(Relaxed) & bit == 0 {
                word.fetch_or(bit, Relaxed);
            }
        }
        Ok(())
    }

    unsafe fn pop(&self, _value: *mut u8) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    unsafe fn peek(&self, value: *mut u8) -> Result<(), Errno> {
        for index in 0..self.hashes {
            // SAFETY: the caller's contract.
            let (word, bit) = unsafe { self.bit(value, index) };
            if word.load(Relaxed) & bit == 0 {
                return Err(Errno::ENOENT);
            }
        }
        Ok(())
    }

    fn lookup(&self, _key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
        // SAFETY: `value` has the map's value size (`MapKind`).
        unsafe { self.peek(value.as_mut_ptr()) }
    }

    fn update(&self, _key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        // SAFETY: `value` has the map's value size (`MapKind`).
        unsafe { self.push(value.as_ptr(), flags) }
    }

    fn delete(&self, _key: &[u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn next_key(&self, _key: Option<&[u8]>, _next: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
}

/// Bob Jenkins' hash of `len` bytes, as include/linux/jhash.h has it.
///
/// # Safety
/// `key` is readable for `len` bytes.
unsafe fn jhash(key: *const u8, len: usize, seed: u32) -> u32 {
    const INITIAL: u32 = 0xdead_beef;
    let start = INITIAL.wrapping_add(len as u32).wrapping_add(seed);
    let mut state = [start; 3];
    let mut at = 0;
    while len - at > 12 {
        for (word, lane) in state.iter_mut().enumerate() {
            // SAFETY: more than 12 bytes are left.
            let part = unsafe { bytes::read_u32(key.wrapping_add(at + 4 * word)) };
            *lane = lane.wrapping_add(part);
        }
        mix(&mut state);
        at += 12;
    }
    for (word, lane) in state.iter_mut().enumerate() {
        for byte in 0..4 {
            let from = at + 4 * word + byte;
            if from < len {
                // SAFETY: in range by the condition.
                let part = unsafe { bytes::read_u8(key.wrapping_add(from)) };
                *lane = lane.wrapping_add(u32::from(part) << (8 * byte));
            }
        }
    }
    finish(state)
}

/// `__jhash_mix`.
fn mix([a, b, c]: &mut [u32; 3]) {
    let step = |x: &mut u32, y: &mut u32, z: &mut u32, turn: u32| {
        *x = x.wrapping_sub(*z) ^ z.rotate_left(turn);
        *z = z.wrapping_add(*y);
    };
    step(a, b, c, 4);
    step(b, c, a, 6);
    step(c, a, b, 8);
    step(a, b, c, 16);
    step(b, c, a, 19);
    step(c, a, b, 4);
}

/// `__jhash_final`.
fn finish([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    let step = |x: &mut u32, y: u32, turn: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(turn));
    step(&mut c, b, 14);
    step(&mut a, c, 11);
    step(&mut b, a, 25);
    step(&mut c, b, 16);
    step(&mut a, c, 4);
    step(&mut b, a, 14);
    step(&mut c, b, 24);
    c
}
