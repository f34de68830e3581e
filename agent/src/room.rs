//! Whether the address space has room for an agent. Where one of our
//! allocations fails, it ends the process, and a program with a limit may
//! expect its own to fail.

use runtime::session::file;

/// What an agent may come to need beside its sessions, which are mapped only if
/// they fit.
const ROOM: u64 = 64 << 20;

/// Whether there is room, as far as can be told.
pub fn is_enough() -> bool {
    // SAFETY: all-zero is a valid value, and getrlimit fills it.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: `limit` lives on this stack frame.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
    if !known || limit.rlim_cur == libc::RLIM_INFINITY {
        return true;
    }
    size().is_none_or(|size| size + ROOM <= limit.rlim_cur)
}

/// Bytes that are mapped: the first word of statm, in pages.
fn size() -> Option<u64> {
    const PAGE: u64 = 4096;
    let statm = file::read_small(c"/proc/self/statm", 256).ok()?;
    let pages = statm.split(|byte| *byte == b' ').next()?;
    Some(std::str::from_utf8(pages).ok()?.parse::<u64>().ok()? * PAGE)
}
