//! Memory that becomes text while the process runs: what it brings is hooked
//! before the program goes on. It knows no program of a link.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use attach::{Engine, Module, SyscallEvent, SyscallProbe, When};
use uapi::PtRegs;

use super::{observers, sight};
use crate::agent;
use crate::errno::preserved;
use crate::log::debug;
use crate::maps;

/// How long a call that maps text waits for it to be hooked.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Calls that may bring text.
const TEXT: [i64; 3] = [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect];
/// Calls after which text may be anywhere, or change, or that make other
/// memory text.
const ODD: [i64; 3] = [
    libc::SYS_shmat,
    libc::SYS_remap_file_pages,
    libc::SYS_personality,
];

/// What the agent itself has to see of them.
pub fn probes(is_observed: bool) -> impl Iterator<Item = SyscallProbe> {
    let probe = |when, callback| move |nr| observers::probe(when, nr, callback, std::ptr::null());
    let behind = TEXT.map(probe(When::Exit, on_text as attach::SyscallCallback));
    let before = TEXT.map(probe(When::Enter, on_text_comes));
    let odd = ODD.map(probe(When::Enter, on_odd));
    let observed = before.into_iter().chain(odd).filter(move |_| is_observed);
    let moves = [
        probe(When::Enter, on_move as attach::SyscallCallback)(libc::SYS_mremap),
        probe(When::Exit, on_moved)(libc::SYS_mremap),
    ];
    behind.into_iter().chain(observed).chain(moves)
}

/// Whether it is one of these calls.
pub fn brings_text(nr: i64) -> bool {
    TEXT.contains(&nr) || ODD.contains(&nr)
}

/// Memory that has become text in calls that wait for a round; an empty place
/// has length 0. The address of memory that was moved is odd.
static NEW_TEXT: [[AtomicU64; 2]; 16] = [const { [const { AtomicU64::new(0) }; 2] }; 16];
/// Text that is writable, too, was seen: its bytes may change at any time.
static WRITABLE: AtomicBool = AtomicBool::new(false);

/// Memory became text in a way that is not followed.
static ODD_SEEN: AtomicBool = AtomicBool::new(false);

/// Whether text that is writable, too, was made.
pub fn is_writable_seen() -> bool {
    WRITABLE.load(Ordering::Relaxed)
}

/// Whether all text that is there now and that no file vouches for makes no
/// calls that are not hooked. `looked_at` was, `own` is this library's.
/// With `but_changing`, text whose bytes may change does not count.
pub fn is_known(looked_at: &[Range<usize>], own: &[Range<usize>], but_changing: bool) -> bool {
    let within = |range: &Range<usize>, all: &[Range<usize>]| {
        // Neighbours are shown as one.
        let mut at = range.start;
        while let Some(next) = all.iter().find(|one| one.contains(&at)) {
            at = next.end;
        }
        at >= range.end
    };
    let is_known = |text: &maps::OddText| {
        let range = &text.range;
        let (start, len) = (range.start as u64, range.len() as u64);
        within(range, own)
            || text.changes && but_changing
            || !text.changes
                && (within(range, looked_at)
                    || !may_hold_calls(start, len, attach::syscalls::may_hold_any))
    };
    !ODD_SEEN.load(Ordering::Relaxed) && maps::odd_text().is_ok_and(|odd| odd.iter().all(is_known))
}

/// Whether there is text, but for `own`, whose bytes may change.
pub fn has_changing(own: &[Range<usize>]) -> bool {
    let is_own = |range: &Range<usize>| own.iter().any(|own| own.contains(&range.start));
    let odd = maps::odd_text().unwrap_or_default();
    odd.iter().any(|text| text.changes && !is_own(&text.range))
}

/// Longest memory that is looked at for system calls.
const LONGEST_TEXT: u64 = 64 << 20;

/// Notes memory for the next round; false without a place for it.
fn note_text(start: u64, len: u64) -> bool {
    NEW_TEXT.iter().any(|[at, length]| {
        // A place is taken by its address and ready with its length.
        let taken = at.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            length.store(len, Ordering::Release);
        }
        taken.is_ok()
    })
}

/// The memory that was noted, as it is now.
pub fn new_text() -> Vec<Arc<Module>> {
    let mut modules = Vec::new();
    for [at, length] in &NEW_TEXT {
        let len = length.swap(0, Ordering::Acquire);
        if len == 0 {
            continue;
        }
        let start = at.swap(0, Ordering::Relaxed);
        if start & MOVED != 0 {
            let start = (start & !MOVED) as usize;
            // Of more than one mapping some may be no text.
            let text = maps::odd_text().unwrap_or_default();
            let text = text.into_iter().filter(|text| !text.changes);
            let (from, to) = (start, start + len as usize);
            let parts = text.map(|text| text.range.start.max(from)..text.range.end.min(to));
            modules.extend(parts.filter_map(|part| of_memory(part.start, part.len())));
        } else {
            modules.extend(of_memory(start as usize, len as usize));
        }
    }
    modules
}

fn of_memory(start: usize, len: usize) -> Option<Arc<Module>> {
    let mut bytes = vec![0; len];
    let is_there = len != 0 && read(start as u64, &mut bytes);
    is_there.then(|| Arc::new(Module::of_memory(start, &bytes)))
}

/// Text without a file that was there before anything was traced, but for
/// `own` memory of this library.
pub fn text_before(own: &[Range<usize>]) -> Vec<Arc<Module>> {
    let odd = maps::odd_text().unwrap_or_default();
    let is_own = |range: &Range<usize>| own.iter().any(|own| own.contains(&range.start));
    let before = odd
        .into_iter()
        .filter(|text| !text.changes && !is_own(&text.range));
    let read = before.filter_map(|text| {
        let mut bytes = vec![0; text.range.len().min(LONGEST_TEXT as usize)];
        let start = text.range.start;
        let holds = read(start as u64, &mut bytes) && attach::syscalls::may_hold(&bytes);
        holds.then(|| Arc::new(Module::of_memory(start, &bytes)))
    });
    read.collect()
}

/// Copies this process's memory; false where there is none.
fn read(from: u64, to: &mut [u8]) -> bool {
    let local = [to.as_mut_ptr() as usize, to.len()];
    let remote = [from as usize, to.len()];
    // SAFETY: the kernel writes to `to` only and checks the other side.
    let copied = unsafe {
        shm::sys::syscall6(
            libc::SYS_process_vm_readv as usize,
            shm::sys::getpid() as usize,
            local.as_ptr() as usize,
            1,
            remote.as_ptr() as usize,
            1,
            0,
        )
    };
    copied as usize == to.len()
}

/// Whether memory that has become text may make system calls.
fn may_hold_calls(start: u64, len: u64, looks: fn(&[u8]) -> bool) -> bool {
    /// What an instruction may lie across.
    const OVERLAP: u64 = 16;
    const CHUNK: u64 = 1024;
    let mut bytes = [0; (CHUNK + OVERLAP) as usize];
    let mut at = 0;
    while at < len {
        let size = (len - at).min(CHUNK + OVERLAP) as usize;
        let Some(bytes) = bytes.get_mut(..size) else {
            return false;
        };
        if read(start + at, bytes) && looks(bytes) {
            return true;
        }
        at += CHUNK;
    }
    false
}

/// The registers of a call that makes text, if the program makes it.
///
/// # Safety
/// The engine's event.
unsafe fn text_call<'a>(event: *const SyscallEvent) -> Option<&'a PtRegs> {
    // SAFETY: the caller's contract.
    let event = unsafe { &*event };
    // SAFETY: valid during the engine's call.
    let regs = unsafe { &*event.regs };
    (!event.is_own && regs.dx & libc::PROT_EXEC as u64 != 0).then_some(regs)
}

/// Text is about to be mapped, or made of memory.
unsafe extern "C" fn on_text_comes(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event.
    if let Some(regs) = unsafe { text_call(event) } {
        if regs.dx & libc::PROT_WRITE as u64 != 0 {
            WRITABLE.store(true, Ordering::Relaxed);
        }
        sight::text_comes();
    }
}

/// Memory may become text in a way that is not followed.
unsafe extern "C" fn on_odd(event: *mut SyscallEvent, _data: *const ()) {
    const READ_IMPLIES_EXEC: u64 = 0x0040_0000;
    const KEPT: u32 = u32::MAX;
    // SAFETY: the engine's event and registers, valid during the call.
    let (nr, regs) = unsafe { ((*event).nr, &*(*event).regs) };
    let is_harmless = match nr {
        libc::SYS_shmat => regs.dx & libc::SHM_EXEC as u64 == 0,
        libc::SYS_personality => regs.di as u32 == KEPT || regs.di & READ_IMPLIES_EXEC == 0,
        _ => false,
    };
    if !is_harmless {
        ODD_SEEN.store(true, Ordering::Relaxed);
        sight::lose();
    }
}

const MOVED: u64 = 1;

/// The range that mremap(2) takes, if the program calls it.
///
/// # Safety
/// The engine's event.
unsafe fn moving<'a>(event: *const SyscallEvent) -> Option<(Range<u64>, &'a PtRegs)> {
    // SAFETY: the caller's contract.
    let event = unsafe { &*event };
    // SAFETY: valid during the engine's call.
    let regs = unsafe { &*event.regs };
    let end = regs.di.checked_add(regs.si)?;
    (!event.is_own && regs.si != 0).then_some((regs.di..end, regs))
}

/// Memory is about to be moved. Hooks in it are taken back: a jump leads
/// elsewhere from another address.
unsafe extern "C" fn on_move(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event.
    if let Some((range, _)) = unsafe { moving(event) }
        && Engine::text_moves(&range)
    {
        sight::text_comes();
    }
}

/// Memory was moved, or was not.
unsafe extern "C" fn on_moved(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event.
    let Some((range, regs)) = (unsafe { moving(event) }) else {
        return;
    };
    let has_failed = (-MAX_ERRNO..0).contains(&(regs.ax as i64));
    // What is left of a file's text is as in the file.
    let is_there = has_failed || regs.r10 & libc::MREMAP_DONTUNMAP as u64 != 0;
    if !Engine::text_has_moved(&range, is_there) {
        return;
    }
    sight::text_came();
    if has_failed {
        return;
    }
    if !note_text(regs.ax | MOVED, regs.dx.min(LONGEST_TEXT)) {
        ODD_SEEN.store(true, Ordering::Relaxed);
    }
    if let Some(agent) = agent::get() {
        preserved(|| agent.follow_now(TIMEOUT));
    }
}

const MAX_ERRNO: i64 = 4095;

/// Text was mapped, or made of memory.
unsafe extern "C" fn on_text(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event.
    let Some(regs) = (unsafe { text_call(event) }) else {
        return;
    };
    sight::text_came();
    if (-MAX_ERRNO..0).contains(&(regs.ax as i64)) {
        return;
    }
    // SAFETY: as above.
    let of_file = unsafe { (*event).nr } == libc::SYS_mmap && regs.r8 as i32 >= 0;
    if !of_file {
        // SAFETY: as above.
        let is_mmap = unsafe { (*event).nr } == libc::SYS_mmap;
        let start = if is_mmap { regs.ax } else { regs.di };
        if regs.dx & libc::PROT_WRITE as u64 != 0 {
            WRITABLE.store(true, Ordering::Relaxed);
            return;
        }
        let len = regs.si.min(LONGEST_TEXT);
        if !may_hold_calls(start, len, attach::syscalls::may_hold) {
            return;
        }
        if !note_text(start, len) {
            ODD_SEEN.store(true, Ordering::Relaxed);
            return;
        }
    }
    if let Some(agent) = agent::get() {
        preserved(|| agent.follow_now(TIMEOUT));
    }
}

/// The kernel's own library in every process, whose calls fall back to real
/// ones.
pub fn vdso_module() -> Option<Arc<Module>> {
    let image = runtime::clock::vdso()?;
    let range = image.as_ptr_range();
    let range = range.start as usize..range.end as usize;
    let text = std::slice::from_ref(&range);
    let module = Module::new(image, range.start as u64, text);
    module
        .inspect_err(|error| debug!("vdso: {error}"))
        .ok()
        .map(Arc::new)
}
