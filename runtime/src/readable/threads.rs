//! The threads that read: their words on the board, and waiting for them. It
//! knows no range. Reachable from trampolines but for [`init`].
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::*};

use shm::sys;

use super::table::{Board, THREADS};
use super::{MEMBARRIER_PRIVATE_EXPEDITED_RSEQ, membarrier};
use crate::arch::{self, readable as sequence};

/// Who has which word: thread pointers. Those of dead threads stay, for who has
/// the same thread pointer later has no one beside it.
static POINTERS: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];
/// Their ids when they got it, 0 if unknown.
static IDS: [AtomicI32; THREADS] = [const { AtomicI32::new(0) }; THREADS];
static USED: AtomicUsize = AtomicUsize::new(0);
/// How long an rseq area libc registers, 0 before that is known.
static AREA_LEN: AtomicUsize = AtomicUsize::new(0);

/// Where `rseq_cs` is in an rseq area (uapi/linux/rseq.h).
const RSEQ_CS: usize = 8;
/// Above the number of calls under way: how often the thread was barred.
const BARRED: u64 = 1 << 32;

fn own_words() -> &'static [AtomicU64; arch::WORDS] {
    // SAFETY: the words live as long as the thread, which is the only user of
    // this reference.
    unsafe { &*arch::thread_words() }
}

/// Notes that this thread begins a call that takes memory away.
pub(super) fn call_begins() {
    let [_, _, _, calls, ..] = own_words();
    calls.store(calls.load(Relaxed).wrapping_add(1), Relaxed);
}

/// Notes its end; false if its beginning was not noted.
pub(super) fn call_ends() -> bool {
    let [_, _, _, calls, ..] = own_words();
    let before = calls.load(Relaxed);
    let is_known = before % BARRED != 0;
    if is_known {
        calls.store(before - 1, Relaxed);
    }
    is_known
}

/// Whether the kernel has registered the calling thread, with an area of this
/// length where libc has it, and with libc's signature. Asks for what it must
/// refuse: taking the area back with a wrong signature (EPERM if all else is
/// right), and then registering it once more (EBUSY).
fn is_registered(area: usize, len: usize) -> bool {
    const UNREGISTER: usize = 1;
    let right = sequence::SIGNATURE as usize;
    let rseq = |flags: usize, signature: usize| {
        let nr = libc::SYS_rseq as usize;
        // SAFETY: neither call changes anything: see above.
        unsafe { sys::syscall6(nr, area, len, flags, signature, 0, 0) }
    };
    rseq(UNREGISTER, right ^ 1) == -(libc::EPERM as isize)
        && rseq(0, right) == -(libc::EBUSY as isize)
}

/// Learns how libc registers threads, from the calling one.
pub(super) fn init(offset: isize) -> Result<(), &'static str> {
    /// Older structures are no shorter, and none is as long as this.
    const LENGTHS: core::ops::Range<usize> = 20..512;
    let area = arch::thread_pointer().wrapping_add_signed(offset);
    let mut lengths = LENGTHS.step_by(4);
    let len = lengths.find(|len| is_registered(area, *len));
    let len = len.ok_or("libc has not registered threads for restartable sequences")?;
    let distance = (RSEQ_CS as isize).wrapping_add(offset) as usize;
    if read_word(area as u64 + RSEQ_CS as u64).is_none() {
        return Err("the kernel does not copy memory of this process");
    }
    sequence::RSEQ_CS.store(distance, Relaxed);
    AREA_LEN.store(len, Release);
    Ok(())
}

/// Gives the calling thread its word on the board. False if it cannot have one.
#[cold]
pub(super) fn give_word(board: &'static Board) -> bool {
    let len = AREA_LEN.load(Acquire);
    let distance = sequence::RSEQ_CS.load(Relaxed);
    let pointer = arch::thread_pointer();
    let area = pointer.wrapping_add(distance).wrapping_sub(RSEQ_CS);
    let [_, _, own, calls, ..] = own_words();
    let is_barred = calls.load(Relaxed) >= BARRED;
    if len == 0 || is_barred || !is_registered(area, len) {
        return false;
    }
    let Some((index, word)) = index_of(pointer as u64).and_then(|index| {
        let word = board.words.get(index)?;
        Some((index, word))
    }) else {
        return false;
    };
    if let Some(id) = IDS.get(index) {
        id.store(sys::gettid(), Relaxed);
    }
    own.store(core::ptr::from_ref(word) as u64, Relaxed);
    true
}

/// The place of a thread pointer among all.
fn index_of(pointer: u64) -> Option<usize> {
    let used = USED.load(Acquire).min(THREADS);
    let known = POINTERS.iter().take(used);
    if let Some(index) = known
        .clone()
        .position(|known| known.load(Relaxed) == pointer)
    {
        return Some(index);
    }
    let index = USED.fetch_add(1, AcqRel);
    let Some(place) = POINTERS.get(index) else {
        USED.store(THREADS, Release);
        return None;
    };
    place.store(pointer, Release);
    Some(index)
}

/// Returns when no thread can load by what it saw in the table before.
pub(super) fn interrupt_all(board: &Board) {
    // It needs a little memory and may be refused some; nothing else helps.
    while membarrier(MEMBARRIER_PRIVATE_EXPEDITED_RSEQ).is_err() {
        sys::sched_yield();
    }
    let own = arch::thread_pointer() as u64;
    let used = USED.load(Acquire).min(THREADS);
    for (index, word) in board.words.iter().take(used).enumerate() {
        let pointer = word.0.load(Acquire);
        if pointer != 0 && pointer != own {
            wait_for(index, &word.0);
        }
    }
}

/// Waits until a thread has been out of the sequence.
#[cold]
fn wait_for(index: usize, word: &AtomicU64) {
    /// Looks before the processor is given away, and before it sleeps.
    const SPINS: u32 = 64;
    const YIELDS: u32 = 256;
    /// Sleeps of 50 µs after which it may have been stopped.
    const STOPPED: u32 = YIELDS + 400;
    let mut looks = 0u32;
    while is_inside(word) {
        looks = looks.saturating_add(1);
        if looks < SPINS {
            core::hint::spin_loop();
        } else if looks < YIELDS {
            sys::sched_yield();
        } else {
            sleep();
            let id = IDS.get(index).map_or(0, |id| id.load(Relaxed));
            if looks > STOPPED && is_stopped(id) {
                return;
            }
        }
    }
}

/// Whether a thread is in the sequence, maybe in a page fault. A word may be
/// left behind by a jump out of a signal handler; the kernel's note is not.
fn is_inside(word: &AtomicU64) -> bool {
    let pointer = word.load(Acquire);
    let at = pointer.wrapping_add(sequence::RSEQ_CS.load(Relaxed) as u64);
    // Where nothing can be read, the thread has ended.
    pointer != 0 && read_word(at) == Some(sequence::sequence())
}

fn read_word(at: u64) -> Option<u64> {
    let mut value = [0; 8];
    // SAFETY: eight bytes into `value`.
    let read = unsafe { sys::read_own(sys::getpid(), value.as_mut_ptr(), at, value.len()) };
    (read == value.len() as isize).then(|| u64::from_ne_bytes(value))
}

fn sleep() {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 50_000,
    };
    let nr = libc::SYS_nanosleep as usize;
    // SAFETY: the kernel reads one timespec.
    unsafe { sys::syscall6(nr, &raw const time as usize, 0, 0, 0, 0, 0) };
}

/// Whether a debugger or a signal has stopped a thread: it stands where the
/// kernel looks at signals, in no page fault, and leaves by way of `abort`.
fn is_stopped(id: i32) -> bool {
    let mut path = [0u8; 40];
    if id <= 0 || !stat_path(&mut path, id) {
        return false;
    }
    let mut text = [0u8; 64];
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let path = path.as_ptr() as usize;
    let (open, read) = (libc::SYS_openat as usize, libc::SYS_read as usize);
    let here = libc::AT_FDCWD as usize;
    // SAFETY: a zero-terminated path, a buffer with its length, and the fd that
    // was just opened.
    let len = unsafe {
        let fd = sys::syscall6(open, here, path, flags as usize, 0, 0, 0);
        if fd < 0 {
            return false;
        }
        let buffer = text.as_mut_ptr() as usize;
        let len = sys::syscall6(read, fd as usize, buffer, text.len(), 0, 0, 0);
        sys::syscall6(libc::SYS_close as usize, fd as usize, 0, 0, 0, 0, 0);
        len
    };
    let text = text
        .get(..usize::try_from(len).unwrap_or(0))
        .unwrap_or_default();
    let behind_name = text.iter().rposition(|&byte| byte == b')');
    let state = behind_name.and_then(|at| text.get(at + 2));
    matches!(state, Some(b't' | b'T'))
}

/// `/proc/self/task/ID/stat`, zero-terminated.
fn stat_path(path: &mut [u8; 40], id: i32) -> bool {
    let mut digits = [0u8; 10];
    let mut rest = id as u32;
    let mut first = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        first -= 1;
        if rest == 0 {
            break;
        }
    }
    let digits = digits.get(first..).unwrap_or_default();
    let parts = [b"/proc/self/task/", digits, b"/stat"];
    let bytes = parts.into_iter().flatten();
    let mut places = path.iter_mut();
    bytes.into_iter().all(|byte| {
        let place = places.next();
        place.map(|place| *place = *byte).is_some()
    })
}

/// Whoever runs on this thread's words has no word on the board from now on.
pub(super) fn bar() {
    let [_, _, word, calls, ..] = own_words();
    calls.store(calls.load(Relaxed).wrapping_add(BARRED), Relaxed);
    word.store(0, Relaxed);
}

/// Ends what [`bar`] began: a later read finds the word again.
pub(super) fn unbar() {
    let [_, _, _, calls, ..] = own_words();
    let before = calls.load(Relaxed);
    if before >= BARRED {
        calls.store(before - BARRED, Relaxed);
    }
}
