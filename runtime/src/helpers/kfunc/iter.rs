//! Open-coded iterators. Once at its end, each stays there: the verifier
//! proves loops on that promise.

use core::mem::MaybeUninit;
use core::ptr;

use uapi::Errno;
use uapi::insn::BPF_MAX_LOOPS;
use vm::Run;

use super::super::read::read;
use super::int;

/// `struct bpf_iter_num_kern`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Num {
    /// The element given last.
    cur: i32,
    /// The first that is not given.
    end: i32,
}

impl Num {
    const DONE: Num = Num { cur: 0, end: 0 };
}

/// `int bpf_iter_num_new(it, int start, int end)`: the numbers from `start`
/// below `end`. EINVAL when the end is before the start, E2BIG for more than
/// [`BPF_MAX_LOOPS`].
pub(super) unsafe extern "C" fn num_new(
    it: u64,
    start: u64,
    end: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    let (start, end) = (start as i32, end as i32);
    let (num, result) = if start > end {
        (Num::DONE, Err(Errno::EINVAL))
    } else if i64::from(end) - i64::from(start) > i64::from(BPF_MAX_LOOPS) {
        (Num::DONE, Err(Errno::E2BIG))
    } else {
        // `next` adds 1 first.
        let cur = start.wrapping_sub(1);
        (Num { cur, end }, Ok(()))
    };
    // SAFETY: the verifier proved 8 bytes of stack on a multiple of 8.
    unsafe { (it as *mut Num).write(num) };
    int(result)
}

/// `int *bpf_iter_num_next(it)`.
pub(super) unsafe extern "C" fn num_next(
    it: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    let it = it as *mut Num;
    // SAFETY: the verifier proved an iterator that `num_new` filled.
    unsafe {
        let num = it.read();
        let next = num.cur.wrapping_add(1);
        if next >= num.end {
            it.write(Num::DONE);
            return 0;
        }
        it.write(Num { cur: next, ..num });
        &raw mut (*it).cur as u64
    }
}

/// `void bpf_iter_num_destroy(it)`.
pub(super) unsafe extern "C" fn num_destroy(
    it: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    // SAFETY: as in `num_next`.
    unsafe { (it as *mut Num).write(Num::DONE) };
    0
}

/// Words of one bits iterator (kernel: `BITS_ITER_NR_WORDS_MAX`).
const MAX_WORDS: u32 = 511;

/// Words that are looked at together.
const CHUNK: usize = 16;

/// A bits iterator in 16 bytes. The kernel copies more than one word to
/// memory that it allocates; nothing allocates here, so those are read again
/// where they are, and seen as they are then.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bits {
    /// The word itself when it is one, else the address of the words.
    word: u64,
    nr_bits: i32,
    /// The bit given last.
    bit: i32,
}

impl Bits {
    const NONE: Bits = Bits {
        word: 0,
        nr_bits: 0,
        bit: -1,
    };

    fn new(from: u64, words: u32) -> Result<Bits, Errno> {
        if from == 0 || words == 0 {
            return Err(Errno::EINVAL);
        }
        if words > MAX_WORDS {
            return Err(Errno::E2BIG);
        }
        let mut chunk = Chunk::new();
        let mut first = 0;
        while first < words as usize {
            chunk.fill(from, first, words as usize)?;
            first += CHUNK;
        }
        Ok(Bits {
            word: if words == 1 { chunk.word(0) } else { from },
            nr_bits: words as i32 * 64,
            bit: -1,
        })
    }

    /// The first bit that is set after the last one.
    fn find(&self) -> Option<i32> {
        let mut at = self.bit + 1;
        let words = self.nr_bits as usize / 64;
        let mut chunk = Chunk::new();
        let mut filled = None;
        while at < self.nr_bits {
            let word = at as usize / 64;
            let bits = if words == 1 {
                self.word
            } else {
                let first = word - word % CHUNK;
                if filled != Some(first) {
                    // What cannot be read any more has no bits.
                    chunk.fill(self.word, first, words).ok()?;
                    filled = Some(first);
                }
                chunk.word(word % CHUNK)
            };
            let rest = bits >> (at % 64);
            if rest != 0 {
                return Some(at + rest.trailing_zeros() as i32);
            }
            at = (word as i32 + 1) * 64;
        }
        None
    }
}

/// Some words of a bits iterator.
struct Chunk(MaybeUninit<[u64; CHUNK]>);

impl Chunk {
    fn new() -> Chunk {
        Chunk(MaybeUninit::zeroed())
    }

    /// Reads the words from `first` on, at most up to `end`.
    fn fill(&mut self, from: u64, first: usize, end: usize) -> Result<(), Errno> {
        let len = CHUNK.min(end - first) * 8;
        let at = from.wrapping_add(first as u64 * 8);
        // SAFETY: `len` is at most the size of the words.
        unsafe { read(self.0.as_mut_ptr().cast(), at, len) }
    }

    fn word(&self, at: usize) -> u64 {
        let words = self.0.as_ptr().cast::<u64>();
        // SAFETY: below CHUNK; zeros or what was read.
        unsafe { words.wrapping_add(at % CHUNK).read() }
    }
}

/// `int bpf_iter_bits_new(it, const u64 *from, u32 words)`: the bits that are
/// set. EINVAL for nothing, E2BIG for more than 511 words, EFAULT where they
/// cannot be read.
pub(super) unsafe extern "C" fn bits_new(
    it: u64,
    from: u64,
    words: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    let (bits, result) = match Bits::new(from, words as u32) {
        Ok(bits) => (bits, Ok(())),
        Err(errno) => (Bits::NONE, Err(errno)),
    };
    // SAFETY: the verifier proved 16 bytes of stack on a multiple of 8.
    unsafe { (it as *mut Bits).write(bits) };
    int(result)
}

/// `int *bpf_iter_bits_next(it)`.
pub(super) unsafe extern "C" fn bits_next(
    it: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    let it = it as *mut Bits;
    // SAFETY: the verifier proved an iterator that `bits_new` filled.
    unsafe {
        let bits = it.read();
        match bits.find() {
            Some(bit) => {
                it.write(Bits { bit, ..bits });
                &raw mut (*it).bit as u64
            }
            None => {
                let bit = bits.nr_bits;
                it.write(Bits { bit, ..bits });
                ptr::null_mut::<i32>() as u64
            }
        }
    }
}

/// `void bpf_iter_bits_destroy(it)`.
pub(super) unsafe extern "C" fn bits_destroy(
    it: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: *mut Run,
) -> u64 {
    // SAFETY: as in `bits_next`.
    unsafe { (it as *mut Bits).write(Bits::NONE) };
    0
}
