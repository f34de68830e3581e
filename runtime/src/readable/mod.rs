//! Memory of the process that programs read by plain loads, and why no load
//! faults. It knows no hook and not which memory is fit: whoever publishes
//! ranges vouches that only calls that are announced here can take them away.
//! What is reachable from trampolines does not allocate, lock, panic or call
//! libc.
//!
//! **Readers** look an address up in a published table and copy ([`copy`]).
//! **Takers** are calls that take memory away (munmap(2) and the like): before
//! such a call is made, [`take`] cuts its range out of the table and returns
//! when nobody who found it there can still load from it. The **publisher**, one
//! thread at a time, looks at the memory and publishes what it found, if no such
//! call was under way meanwhile: table and calls are counted in one word.
//!
//! Why a taker may go on:
//! - A reader looks and copies inside a restartable sequence (rseq(2)), which
//!   begins with setting the thread's word on the board.
//! - The taker cuts, then has the kernel interrupt all sequences
//!   (membarrier(2)): a thread that was inside never executes another
//!   instruction of it; one that enters later finds the range cut.
//! - The last instruction of one that was inside may be a load in the middle of
//!   a page fault, which must find the memory. So the taker waits for threads
//!   whose word is set while the kernel still holds them inside: on the way back
//!   to user mode it clears their `rseq_cs`. No code of the reader has to run.
//! - A taker that runs in a signal handler on top of a reader: delivering the
//!   signal has interrupted the sequence, and nothing is waited for.
//! - A thread that a debugger stopped inside is no longer in a fault; it is not
//!   waited for.
//!
//! A forked child starts with an empty table, for the kernel wipes the board
//! there: not all memory is inherited (`MADV_DONTFORK`). A vfork child runs with
//! its parent's thread-local words but without its sequence: [`Sharing`].
//!
//! Not covered: a debugger that resumes a reader at an address of its choice.

mod table;
#[cfg(test)]
mod tests;
mod threads;

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use shm::sys;
use uapi::Errno;

use crate::arch::readable as sequence;
use table::{Board, Look};

/// What the copy's instructions know of the board.
pub(crate) use table::offsets as layout;

/// What libc registers threads with.
pub const RSEQ_SIGNATURE: u32 = sequence::SIGNATURE;

/// The process cannot have a table any more, nor can its forked children.
static OFF: AtomicBool = AtomicBool::new(false);

const MEMBARRIER_PRIVATE_EXPEDITED_RSEQ: usize = 1 << 7;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_RSEQ: usize = 1 << 8;

fn membarrier(command: usize) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    let result = unsafe { sys::syscall6(libc::SYS_membarrier as usize, command, 0, 0, 0, 0, 0) };
    match result {
        0.. => Ok(()),
        error => Err(Errno(-error as i32)),
    }
}

fn board() -> Option<&'static Board> {
    let board: &AtomicPtr<()> = &sequence::BOARD;
    // SAFETY: null, or what `open` stored: a mapping for ever, in which all
    // values are valid.
    unsafe { board.load(Ordering::Acquire).cast::<Board>().as_ref() }
}

/// Copies `len` bytes at `from`, if they are in the table.
///
/// # Safety
/// `to` is writable for `len` bytes.
#[inline]
pub(crate) unsafe fn copy(to: *mut u8, from: u64, len: usize) -> bool {
    // SAFETY: the caller's contract.
    match unsafe { sequence::copy(to, from, len) } {
        sequence::COPIED => true,
        // SAFETY: as above.
        why => unsafe { copy_again(to, from, len, why) },
    }
}

/// # Safety
/// As for [`copy`].
#[cold]
unsafe fn copy_again(to: *mut u8, from: u64, len: usize, why: u32) -> bool {
    let Some(board) = board() else {
        return false;
    };
    if why == sequence::UNKNOWN_THREAD && !threads::give_word(board) {
        return false;
    }
    board.learn(from, len as u64)
        // SAFETY: the caller's contract.
        && unsafe { sequence::copy(to, from, len) } == sequence::COPIED
}

/// Notes that memory could be read that is not in the table.
pub(crate) fn note_miss(address: u64) {
    if let Some(board) = board() {
        board.note_miss(address);
    }
}

/// An address that could be read but is not in the table, since the last call.
pub fn take_miss() -> Option<u64> {
    board()?.take_miss()
}

/// Prepares the process; call on the thread that will publish. `rseq` is the
/// distance of libc's rseq area from the thread pointer (`__rseq_offset`).
///
/// # Errors
/// Why programs' reads stay system calls here.
pub fn open(rseq: isize) -> Result<(), &'static str> {
    if OFF.load(Ordering::SeqCst) {
        return Err("the process has done what readable memory cannot be told after");
    }
    membarrier(MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_RSEQ)
        .and_then(|()| membarrier(MEMBARRIER_PRIVATE_EXPEDITED_RSEQ))
        .map_err(|_| "the kernel interrupts no restartable sequences")?;
    if board().is_some() {
        return Ok(());
    }
    threads::init(rseq)?;
    let board = map_board().map_err(|_| "no memory that is wiped in forked children")?;
    sequence::BOARD.store(board.cast_mut().cast(), Ordering::Release);
    Ok(())
}

/// Zeroed pages that a forked child finds zeroed.
fn map_board() -> Result<*const Board, Errno> {
    let len = size_of::<Board>().next_multiple_of(shm::PAGE as usize);
    let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    let (map, advise) = (libc::SYS_mmap as usize, libc::SYS_madvise as usize);
    let wipe = libc::MADV_WIPEONFORK as usize;
    // SAFETY: fresh private pages at an address of the kernel's choice.
    let page = unsafe { sys::syscall6(map, 0, len, access, flags, usize::MAX, 0) };
    if page < 0 {
        return Err(Errno(-page as i32));
    }
    // SAFETY: the pages were just mapped.
    match unsafe { sys::syscall6(advise, page as usize, len, wipe, 0, 0, 0) } {
        0 => Ok(page as *const Board),
        error => Err(Errno(-error as i32)),
    }
}

/// A call of this thread is about to be made that takes `gone` away. Returns
/// when nobody reads there. [`taken`] has to follow it, if the thread goes on.
pub fn take(gone: &Range<u64>) {
    let Some(board) = board() else { return };
    threads::call_begins();
    if board.begin(gone) {
        threads::interrupt_all(board);
        board.cut_is_over();
    }
}

/// Such a call has returned. Does nothing for one that [`take`] did not see.
pub fn taken() {
    let Some(board) = board() else { return };
    if threads::call_ends() {
        board.end();
    }
}

/// Empties the table. Returns when nobody reads by it.
pub fn take_all() {
    let Some(board) = board() else { return };
    if board.change(&(0..u64::MAX)) {
        threads::interrupt_all(board);
        board.cut_is_over();
    }
}

/// The same, for good.
pub fn switch_off() {
    OFF.store(true, Ordering::SeqCst);
    take_all();
}

/// A look at the memory of the process, during which no call took any away if
/// in the end it can be published.
#[expect(missing_debug_implementations, reason = "the board is large")]
pub struct Publisher {
    board: &'static Board,
    look: Look,
}

impl Publisher {
    /// Begins a look. `None` while calls are under way that take memory away,
    /// and where there is no table.
    pub fn look() -> Option<Publisher> {
        let board = board()?;
        let look = board.look().filter(|_| !OFF.load(Ordering::SeqCst))?;
        Some(Publisher { board, look })
    }

    /// Publishes `ranges`, which are sorted and do not overlap, in place of what
    /// was. False if something was taken away since the look.
    ///
    /// # Safety
    /// Only one thread publishes. The ranges were readable during the look, and
    /// nothing but calls that [`take`] is told of can make them unreadable.
    pub unsafe fn publish(self, ranges: &[Range<u64>]) -> bool {
        let published = self.board.publish(self.look, ranges);
        // Until the table before is read by nobody it is not used again.
        if published {
            threads::interrupt_all(self.board);
        }
        published
    }

    /// What is published now.
    pub fn published(&self) -> Vec<Range<u64>> {
        self.board.ranges().collect()
    }
}

/// A call that makes a child in this memory, on this thread's own thread-local
/// words.
#[derive(Debug)]
pub struct Sharing;

impl Sharing {
    /// Before vfork(2): whoever runs on these words takes the slow way, since
    /// the kernel knows the child of no sequence.
    pub fn begins() {
        threads::bar();
    }

    /// Behind it, in the parent, which has them for itself again.
    pub fn is_over() {
        threads::unbar();
    }
}
