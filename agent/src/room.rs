//! Whether there is room for an agent: in the address space (ulimit -v) and in
//! what of it may be written (ulimit -d). Where one of our allocations fails,
//! it ends the process, and a program with a limit may expect its own to fail.

use runtime::session::file;

/// What an agent may come to need beside its sessions, which are mapped only if
/// they fit.
const ROOM: u64 = 64 << 20;

/// Whether there is room, as far as can be told.
pub fn is_enough() -> bool {
    /// The words of statm that say how much of each is used, in pages.
    const SIZE: usize = 0;
    const DATA: usize = 5;
    has_room(libc::RLIMIT_AS, SIZE) && has_room(libc::RLIMIT_DATA, DATA)
}

fn has_room(resource: libc::__rlimit_resource_t, word: usize) -> bool {
    // SAFETY: all-zero is a valid value, and getrlimit fills it.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: `limit` lives on this stack frame.
    let known = unsafe { libc::getrlimit(resource, &raw mut limit) } == 0;
    if !known || limit.rlim_cur == libc::RLIM_INFINITY {
        return true;
    }
    used(word).is_none_or(|used| used + ROOM <= limit.rlim_cur)
}

/// Bytes of one kind that are mapped.
fn used(word: usize) -> Option<u64> {
    const PAGE: u64 = 4096;
    let statm = file::read_small(c"/proc/self/statm", 256).ok()?;
    let pages = statm.split(|byte| *byte == b' ').nth(word)?;
    Some(std::str::from_utf8(pages).ok()?.parse::<u64>().ok()? * PAGE)
}
