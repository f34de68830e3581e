//! Who the calling thread is, without a system call on most hits. It knows no
//! session. Callable from trampolines: no allocation, no lock, no libc, no panic.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use shm::sys;

use crate::arch;
use crate::guest;

/// Process and thread id in the pid namespace of the tools, which is the
/// process's own unless it is a [`guest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadIds {
    /// The process (kernel: tgid).
    pub pid: i32,
    /// The thread (kernel: pid).
    pub tid: i32,
}

impl ThreadIds {
    /// In the id of a thread of which only the process is known.
    pub const NAMELESS: i32 = 1 << 30;

    /// Whether the thread can still run, as far as can be told from here.
    pub fn can_run(self) -> bool {
        if guest::is_guest() {
            // It sees nobody else.
            return true;
        }
        match self.tid & Self::NAMELESS == 0 {
            true => sys::can_run(self.pid, self.tid),
            false => sys::process_can_run(self.pid),
        }
    }

    /// As `bpf_get_current_pid_tgid` returns it.
    #[inline]
    pub fn pid_tgid(self) -> u64 {
        (u64::from(self.pid as u32) << 32) | u64::from(self.tid as u32)
    }

    /// From a word made by [`ThreadIds::pid_tgid`].
    #[inline]
    pub fn from_pid_tgid(word: u64) -> ThreadIds {
        ThreadIds {
            pid: (word >> 32) as i32,
            tid: word as u32 as i32,
        }
    }
}

/// A page that the kernel clears in a forked child (`MADV_WIPEONFORK`): what
/// threads remember of themselves is valid while it holds the epoch they noted.
static EPOCH: OnceLock<EpochPage> = OnceLock::new();

struct EpochPage(*const AtomicU64);

// SAFETY: points to a page that is never unmapped, used atomically only.
unsafe impl Send for EpochPage {}
// SAFETY: as above.
unsafe impl Sync for EpochPage {}

/// Prepares the cache. Without it (or when the kernel refuses the page) every
/// [`ids`] asks the kernel. Call outside of trampolines.
pub fn init() {
    EPOCH.get_or_init(|| EpochPage(epoch_page().unwrap_or(core::ptr::null())));
}

fn epoch_page() -> Option<*const AtomicU64> {
    // SAFETY: a fresh private page at an address of the kernel's choice.
    let page = unsafe {
        sys::syscall6(
            libc::SYS_mmap as usize,
            0,
            shm::PAGE as usize,
            (libc::PROT_READ | libc::PROT_WRITE) as usize,
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize,
            usize::MAX,
            0,
        )
    };
    if page < 0 {
        return None;
    }
    // SAFETY: the page was just mapped.
    let wiped = unsafe {
        sys::syscall6(
            libc::SYS_madvise as usize,
            page as usize,
            shm::PAGE as usize,
            libc::MADV_WIPEONFORK as usize,
            0,
            0,
            0,
        )
    };
    (wiped == 0).then_some(page as *const AtomicU64)
}

/// The calling thread's ids.
///
/// A `vfork` child shares its parent's memory and is taken for its parent
/// until it executes another program.
#[inline]
pub fn ids() -> ThreadIds {
    match known() {
        Some(ids) => ids,
        // SAFETY: the words live as long as the thread.
        None => ask(unsafe { &*arch::thread_words() }),
    }
}

/// The same, if the thread remembers them.
#[inline(always)]
pub fn known() -> Option<ThreadIds> {
    #[cfg(feature = "model")]
    if let Some(id) = shm::sync::model::thread_id() {
        return Some(ThreadIds { pid: id, tid: id });
    }
    let page = EPOCH.get().filter(|page| !page.0.is_null())?;
    // SAFETY: the words live as long as the thread.
    let words = unsafe { &*arch::thread_words() };
    // SAFETY: the page is never unmapped.
    let epoch = unsafe { &*page.0 }.load(Ordering::Relaxed);
    (epoch != 0 && words[1].load(Ordering::Relaxed) == epoch)
        .then(|| ThreadIds::from_pid_tgid(words[0].load(Ordering::Relaxed)))
}

/// A number that tells threads apart well enough to spread their counters.
#[inline]
pub fn spread() -> usize {
    // Thread control blocks are pages apart.
    arch::thread_words() as usize >> 12
}

/// When the calling thread started, in ticks since boot: what it remembers, or
/// what `find` says.
#[inline]
pub(crate) fn start(find: impl FnOnce() -> Option<u64>) -> Option<u64> {
    // What it remembers is not of the thread that it was forked from.
    ids();
    // SAFETY: the words live as long as the thread.
    let words = unsafe { &*arch::thread_words() };
    match words[4].load(Ordering::Relaxed) {
        0 => {
            let start = find()?;
            words[4].store(start, Ordering::Relaxed);
            Some(start)
        }
        start => Some(start),
    }
}

/// The calling thread is about to end, or its whole process, with this code, as
/// wait(2) tells it.
pub fn ends(code: u32) {
    // SAFETY: the words live as long as the thread.
    let words = unsafe { &*arch::thread_words() };
    words[5].store(code.into(), Ordering::Relaxed);
}

/// The code that the calling thread ends with, 0 before its end.
pub(crate) fn exit_code() -> u64 {
    // SAFETY: the words live as long as the thread.
    let words = unsafe { &*arch::thread_words() };
    words[5].load(Ordering::Relaxed)
}

/// What was remembered of the calling thread is wrong from now on: it runs with
/// the thread-local memory of another, or did until now (vfork(2)).
#[inline]
pub fn forget() {
    // SAFETY: the words live as long as the thread.
    let words = unsafe { &*arch::thread_words() };
    words[1].store(0, Ordering::Relaxed);
}

/// Where a thread finds what it remembers of itself, for who looks by itself as
/// [`ids`] does: [`ThreadIds::pid_tgid`] is at `fs:words` if the word at
/// `fs:words + 8` is that at `epoch`, and this is not 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Remembered {
    words: usize,
    epoch: *const AtomicU64,
}

impl Remembered {
    /// Offset of the distance of a thread's words from its thread pointer.
    pub const WORDS: usize = offset_of!(Remembered, words);
    /// Offset of the epoch's address.
    pub const EPOCH: usize = offset_of!(Remembered, epoch);
    /// The distance of a thread's words from its thread pointer.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Where the epoch is.
    pub fn epoch(&self) -> *const AtomicU64 {
        self.epoch
    }

    /// For no thread.
    pub const NOTHING: Remembered = Remembered {
        words: 0,
        epoch: core::ptr::null(),
    };

    /// For every thread of this process, for good; `None` if none remembers.
    pub fn new() -> Option<Remembered> {
        init();
        let epoch = EPOCH.get()?.0;
        // The words are in the static TLS block: as far away in each thread.
        let words = (arch::thread_words() as usize).wrapping_sub(arch::thread_pointer());
        (!epoch.is_null()).then_some(Remembered { words, epoch })
    }
}

/// The calling thread in the pid namespace of its process, which is what system
/// calls take.
pub fn own_ids() -> ThreadIds {
    ThreadIds {
        pid: sys::getpid(),
        tid: sys::gettid(),
    }
}

/// The calling process in its own pid namespace.
#[inline]
pub fn own_pid() -> i32 {
    if guest::is_guest() {
        return sys::getpid();
    }
    ids().pid
}

/// Whether the process `pid` runs, as far as can be told from here. One that was
/// killed does not, though its parent may not have waited for it yet.
pub fn exists(pid: i32) -> bool {
    guest::is_guest() || sys::process_can_run(pid)
}

#[cold]
fn ask(words: &[AtomicU64; arch::WORDS]) -> ThreadIds {
    let ids = guest::ids().unwrap_or_else(own_ids);
    words[4].store(0, Ordering::Relaxed);
    if let Some(page) = EPOCH.get()
        && !page.0.is_null()
    {
        // The pid is a good epoch: a wiped page takes that of the child.
        let epoch = ids.pid as u64;
        // A signal between the two stores must not find a valid epoch with
        // old ids.
        words[1].store(0, Ordering::Relaxed);
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
        words[0].store(ids.pid_tgid(), Ordering::Relaxed);
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
        // SAFETY: the page is never unmapped.
        unsafe { &*page.0 }.store(epoch, Ordering::Relaxed);
        words[1].store(epoch, Ordering::Relaxed);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_and_forks_know_themselves() {
        init();
        let here = ids();
        assert_eq!(here, ids());
        assert_eq!((here.pid, here.tid), (sys::getpid(), sys::gettid()));
        let there = std::thread::spawn(|| (ids(), ids(), sys::gettid()))
            .join()
            .unwrap();
        assert_eq!(there.0, there.1);
        assert_eq!((there.0.pid, there.0.tid), (here.pid, there.2));
        // SAFETY: the child only makes raw system calls.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let right = ids().pid == sys::getpid() && ids().tid == sys::gettid();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
    }
}
