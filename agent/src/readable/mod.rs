//! Which memory programs read by plain loads ([`runtime::readable`]): what the
//! process has that only its own system calls can take away. It sees those
//! calls before they are made, and tells; while it does not see all of them,
//! nothing is published. It knows no program.
//!
//! Calls were looked at up to Linux 6.18. What a call takes away may be told too
//! large, never too small.

mod memory;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use runtime::readable::{self, Publisher, Sharing};

use crate::log::debug;
use crate::syscalls::observers::{self, Call, Observer};
use crate::syscalls::sees_all;

/// `__rseq_offset` of libc, if it has one.
static RSEQ_OFFSET: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// The kernel knows guard regions, which io_uring can make, too.
static HAS_GUARDS: AtomicBool = AtomicBool::new(false);

/// Finds what libc tells. Takes the loader's lock: not on the agent's thread.
pub fn find() {
    // SAFETY: looks a name up.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    RSEQ_OFFSET.store(found, Ordering::Release);
}

static OBSERVER: Observer = Observer {
    numbers: &[
        libc::SYS_munmap,
        libc::SYS_mmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_pkey_mprotect,
        libc::SYS_brk,
        libc::SYS_shmat,
        libc::SYS_remap_file_pages,
        libc::SYS_madvise,
        libc::SYS_process_madvise,
        libc::SYS_userfaultfd,
        libc::SYS_ioctl,
        libc::SYS_io_uring_setup,
        libc::SYS_prctl,
        libc::SYS_seccomp,
        libc::SYS_rseq,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_vfork,
    ],
    before: Some(before),
    after: Some(after),
    blind: Some(blind),
};

/// What a call does to what is readable.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Effect {
    Nothing,
    /// Takes away at most this.
    Takes(Range<u64>),
    /// Makes a child in this memory, which runs on this thread's thread-local
    /// words while the thread waits.
    Shares,
    /// From then on nobody can tell.
    SwitchesOff,
}

const EVERYTHING: Range<u64> = 0..u64::MAX;
/// The heap that brk(2) moves is below, libraries and stacks above.
const BEHIND_HEAP: u64 = 0x7e00_0000_0000;

/// Whole pages that `len` bytes at `start` touch. With linear address masking
/// the kernel ignores bits 57 to 62.
fn pages(start: u64, len: u64) -> Range<u64> {
    const TAG: u64 = 0x3f << 57;
    const IN_PAGE: u64 = shm::PAGE - 1;
    let start = start & !TAG;
    let end = start.saturating_add(len).saturating_add(IN_PAGE);
    start & !IN_PAGE..end & !IN_PAGE
}

/// Advice of madvise(2) after which everything can be read as before.
fn is_harmless(advice: u64) -> bool {
    /// `MADV_GUARD_REMOVE` (uapi/asm-generic/mman-common.h).
    const GUARD_REMOVE: i32 = 103;
    matches!(
        advice as i32,
        libc::MADV_NORMAL
            ..=libc::MADV_DONTNEED
                | libc::MADV_FREE
                | libc::MADV_DONTFORK..=libc::MADV_COLLAPSE
                | GUARD_REMOVE
    )
}

fn effect(call: &Call) -> Effect {
    /// `USERFAULTFD_IOC_NEW`.
    const NEW_USERFAULTFD: u64 = 0xaa00;
    const RSEQ_UNREGISTER: u64 = 1;
    let [a, b, c, d, ..] = call.arguments;
    let has = |word: u64, flag: i32| word & u64::from(flag as u32) != 0;
    let range = match call.nr {
        libc::SYS_munmap | libc::SYS_remap_file_pages => pages(a, b),
        libc::SYS_mmap if has(d, libc::MAP_FIXED) => pages(a, b),
        libc::SYS_mremap if has(d, libc::MREMAP_FIXED) => EVERYTHING,
        libc::SYS_mremap => pages(a, b),
        libc::SYS_pkey_mprotect if d as i32 > 0 => return Effect::SwitchesOff,
        libc::SYS_mprotect | libc::SYS_pkey_mprotect if has(c, GROWS) => EVERYTHING,
        libc::SYS_mprotect | libc::SYS_pkey_mprotect if !has(c, libc::PROT_READ) => pages(a, b),
        libc::SYS_brk if a != 0 => match pages(a, 0).end {
            start @ ..BEHIND_HEAP => start..BEHIND_HEAP,
            start => start..u64::MAX,
        },
        libc::SYS_shmat if has(c, libc::SHM_REMAP) => EVERYTHING,
        libc::SYS_madvise if !is_harmless(c) => pages(a, b),
        libc::SYS_process_madvise if !is_harmless(d) => EVERYTHING,
        libc::SYS_userfaultfd | libc::SYS_seccomp => return Effect::SwitchesOff,
        libc::SYS_ioctl if b as u32 as u64 == NEW_USERFAULTFD => return Effect::SwitchesOff,
        libc::SYS_io_uring_setup if HAS_GUARDS.load(Ordering::Relaxed) => {
            return Effect::SwitchesOff;
        }
        libc::SYS_prctl if matches!(a as i32, libc::PR_SET_MM | libc::PR_SET_SECCOMP) => {
            return Effect::SwitchesOff;
        }
        // With another signature it fails.
        libc::SYS_rseq if c & RSEQ_UNREGISTER != 0 && d as u32 == readable::RSEQ_SIGNATURE => {
            return Effect::SwitchesOff;
        }
        libc::SYS_vfork => return Effect::Shares,
        libc::SYS_clone => return effect_of_clone(a),
        libc::SYS_clone3 => return clone3_flags(a).map_or(Effect::Nothing, effect_of_clone),
        _ => return Effect::Nothing,
    };
    Effect::Takes(range)
}

/// `PROT_GROWSDOWN` and `PROT_GROWSUP`: the call goes on beyond its range.
const GROWS: i32 = 0x0300_0000;

fn effect_of_clone(flags: u64) -> Effect {
    let has = |flag: i32| flags & u64::from(flag as u32) != 0;
    if !has(libc::CLONE_VM) || has(libc::CLONE_SETTLS) {
        return Effect::Nothing;
    }
    match has(libc::CLONE_VFORK) {
        true => Effect::Shares,
        // Two threads at once on the same words.
        false => Effect::SwitchesOff,
    }
}

/// The first word of `struct clone_args`; a bad pointer fails in the kernel.
fn clone3_flags(arguments: u64) -> Option<u64> {
    let mut flags = [0; 8];
    let pid = shm::sys::getpid();
    // SAFETY: eight bytes into `flags`.
    let read = unsafe { shm::sys::read_own(pid, flags.as_mut_ptr(), arguments, flags.len()) };
    (read == flags.len() as isize).then(|| u64::from_ne_bytes(flags))
}

unsafe extern "C" fn before(call: &Call) {
    match effect(call) {
        Effect::Nothing => {}
        Effect::Takes(range) => readable::take(&range),
        Effect::Shares => Sharing::begins(),
        Effect::SwitchesOff => readable::switch_off(),
    }
}

unsafe extern "C" fn after(call: &Call) {
    match effect(call) {
        Effect::Takes(_) => readable::taken(),
        // Not in the child.
        Effect::Shares if call.result != 0 => Sharing::is_over(),
        _ => {}
    }
}

unsafe extern "C" fn blind() {
    readable::take_all();
}

/// What is done about it in this process.
#[derive(Default)]
pub struct Readable {
    is_on: bool,
    /// The process that was looked at, and what was found: whether there can be
    /// a table.
    prepared: Option<(i32, bool)>,
    /// Rounds until the memory is looked at again, and how many it was the last
    /// time: a program may go on reading what cannot be published.
    rest: u32,
    patience: u32,
    has_published: bool,
}

/// Looks at the memory in one round: others may be changing it.
const TRIES: u32 = 8;
/// Most rounds between looks that find nothing new.
const PATIENCE: u32 = 64;

impl Readable {
    /// Before system calls are hooked: whether a program reads memory.
    pub fn want(&mut self, wanted: bool) {
        if wanted == self.is_on {
            return;
        }
        self.is_on = wanted;
        if wanted {
            self.is_on = observers::add(&OBSERVER);
        } else {
            readable::take_all();
            observers::remove(&OBSERVER);
        }
    }

    /// When system calls are hooked: publishes what is readable, if that is of
    /// use. On the agent's thread only.
    pub fn follow(&mut self) {
        if !self.is_on || !sees_all() || !self.is_prepared() {
            return;
        }
        let is_empty = Publisher::look().is_some_and(|look| look.published().is_empty());
        if is_empty && self.has_published {
            // All was taken away; it will be as useful again.
            self.has_published = false;
        }
        if self.has_published {
            self.rest = self.rest.saturating_sub(1);
            if self.rest > 0 || readable::take_miss().is_none() {
                return;
            }
        }
        let before = Publisher::look().map(|look| look.published());
        let published = (0..TRIES).any(|_| publish());
        self.has_published |= published;
        let after = Publisher::look().map(|look| look.published());
        self.patience = match published && before == after {
            true => (self.patience * 2).clamp(1, PATIENCE),
            false => 1,
        };
        self.rest = self.patience;
    }

    fn is_prepared(&mut self) -> bool {
        let pid = shm::sys::getpid();
        if let Some((prepared, fit)) = self.prepared
            && prepared == pid
        {
            return fit;
        }
        self.has_published = false;
        let fit = prepare();
        if let Err(reason) = fit {
            debug!("memory is read by system calls: {reason}");
        }
        self.prepared = Some((pid, fit.is_ok()));
        fit.is_ok()
    }
}

fn prepare() -> Result<(), &'static str> {
    let offset = RSEQ_OFFSET.load(Ordering::Acquire).cast::<isize>();
    // SAFETY: null, or a constant of libc, which stays loaded.
    let offset = unsafe { offset.as_ref() }.ok_or("libc knows no restartable sequences")?;
    let guards = memory::find_guards()?;
    HAS_GUARDS.store(guards, Ordering::Relaxed);
    memory::is_fit(guards)?;
    readable::open(*offset)
}

/// One look; whether what it found is published.
fn publish() -> bool {
    let Some(look) = Publisher::look() else {
        return false;
    };
    // What it may have seen unhooked is over: see `sees_all`.
    if !sees_all() {
        return false;
    }
    let Some(ranges) = memory::readable(HAS_GUARDS.load(Ordering::Relaxed)) else {
        return false;
    };
    // SAFETY: only the agent's thread gets here. The ranges are private memory
    // and the running program's file; what takes those away is in `effect`.
    let published = unsafe { look.publish(&ranges) };
    if published {
        debug!("readable: {ranges:x?}");
    }
    published
}
