//! Who a process is: its pid and start time together name it until the next
//! boot. It knows no session.

use std::ffi::CString;

use uapi::Errno;

use super::file;
use crate::guest;

/// A process, distinguishable from a later one that got the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Process id (tgid).
    pub pid: i32,
    /// Start time in clock ticks since boot, its low 40 bits.
    pub start: u64,
}

/// Bits of a packed id that hold the start time: 348 years at 100 Hz. The
/// remaining 24 hold a pid, of which the kernel uses 22 (`PID_MAX_LIMIT`).
const START_BITS: u32 = 40;

impl ProcessId {
    /// The calling process.
    ///
    /// # Errors
    /// As [`ProcessId::of`].
    pub fn current() -> Result<ProcessId, Errno> {
        #[cfg(feature = "model")]
        if let Some(pid) = shm::sync::model::thread_id() {
            return Ok(ProcessId { pid, start: 1 });
        }
        let Some(ids) = guest::ids() else {
            return ProcessId::of(file::pid());
        };
        let stat = own_stat().ok_or(Errno::EINVAL)?;
        Ok(ProcessId {
            pid: ids.pid,
            start: stat.start & ((1 << START_BITS) - 1),
        })
    }

    /// The process that has `pid` now.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` without one; `EINVAL` when /proc is not as known.
    pub fn of(pid: i32) -> Result<ProcessId, Errno> {
        let path = CString::new(format!("/proc/{pid}/stat")).map_err(|_| Errno::EINVAL)?;
        let stat = Stat::parse(&file::read_small(&path, 4096)?).ok_or(Errno::EINVAL)?;
        // The first thread may have ended before the others.
        if stat.first_thread_ended && stat.threads <= 1 {
            return Err(Errno::ESRCH);
        }
        Ok(ProcessId {
            pid,
            start: stat.start & ((1 << START_BITS) - 1),
        })
    }

    /// Whether this very process still runs, as far as can be told from here.
    pub fn alive(self) -> bool {
        #[cfg(feature = "model")]
        if shm::sync::model::thread_id().is_some() {
            return shm::sys::can_run(self.pid, self.pid);
        }
        if guest::is_guest() {
            // It sees nobody else.
            return true;
        }
        match ProcessId::of(self.pid) {
            Ok(now) => now == self,
            // A process in a chroot(2) may not see any /proc.
            Err(Errno::ENOENT | Errno::ESRCH) => {
                file::stat(c"/proc/self").is_err() && shm::sys::process_can_run(self.pid)
            }
            // /proc cannot be read: better a stale entry than a lost one.
            Err(_) => true,
        }
    }

    /// One word that is never 0 for a real process.
    pub(crate) fn pack(self) -> u64 {
        (self.pid as u64) << START_BITS | self.start
    }

    /// The process a word names.
    pub(crate) fn unpack(word: u64) -> ProcessId {
        ProcessId {
            pid: (word >> START_BITS) as i32,
            start: word & ((1 << START_BITS) - 1),
        }
    }
}

/// What `/proc/PID/stat` says, as far as we look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    /// The state (field 3) is that of the first thread.
    first_thread_ended: bool,
    /// Field 20; counts an ended first thread.
    threads: u32,
    /// Field 22.
    start: u64,
    /// Field 52, of the first thread, as wait(2) has it; 0 where it is hidden.
    status: i32,
}

impl Stat {
    /// The command name in field 2 may hold any byte, so fields count from
    /// the last `)`.
    fn parse(line: &[u8]) -> Option<Stat> {
        let name_end = line.iter().rposition(|&b| b == b')')?;
        let fields = std::str::from_utf8(line.get(name_end + 1..)?).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        Some(Stat {
            first_thread_ended: matches!(fields.next()?, "Z" | "X" | "x"),
            threads: fields.nth(20 - 4)?.parse().ok()?,
            start: fields.nth(22 - 21)?.parse().ok()?,
            status: fields
                .nth(52 - 23)
                .and_then(|word| word.parse().ok())
                .unwrap_or(0),
        })
    }
}

/// If the calling process consists of the calling thread and a first thread
/// that has ended: the number that the first thread gave to exit(2).
pub fn is_last_thread() -> Option<i32> {
    let stat = own_stat()?;
    (stat.first_thread_ended && stat.threads <= 2).then_some(stat.status >> 8 & 0xff)
}

/// Whether the first thread of the calling process has ended.
pub fn is_first_thread_gone() -> bool {
    own_stat().is_some_and(|stat| stat.first_thread_ended)
}

fn own_stat() -> Option<Stat> {
    let line = file::read_small(c"/proc/self/stat", 4096).ok()?;
    Stat::parse(&line)
}

/// Whether the calling process has a thread with this id.
pub fn has_thread(tid: i32) -> bool {
    CString::new(format!("/proc/self/task/{tid}")).is_ok_and(|path| file::stat(&path).is_ok())
}

/// Gives the calling thread a root and working directory of its own: the
/// others may chroot(2) or change their mount namespace as if it was not there.
pub fn keep_own_root() {
    // Without it things are as for any thread.
    // SAFETY: a plain number; changes what this thread shares, not memory.
    let _ = unsafe { file::call(libc::SYS_unshare, [libc::CLONE_FS as usize, 0, 0, 0, 0, 0]) };
}

/// Number of possible CPUs, as libbpf's `libbpf_num_possible_cpus` counts
/// them: per-CPU values have this many copies.
pub fn possible_cpus() -> u32 {
    file::read_small(c"/sys/devices/system/cpu/possible", 4096)
        .ok()
        .and_then(|text| parse_cpu_list(&text))
        .or_else(|| {
            std::thread::available_parallelism()
                .ok()
                .map(|n| n.get() as u32)
        })
        .unwrap_or(1)
        .clamp(1, super::data::MAX_CPUS)
}

/// One above the highest CPU of a list like `0-3,8`.
fn parse_cpu_list(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let mut highest = None;
    for range in text.split(',') {
        let last: u32 = range.rsplit('-').next()?.parse().ok()?;
        highest = highest.max(Some(last));
    }
    highest?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_itself_and_survives_packing() {
        let me = ProcessId::current().unwrap();
        assert_eq!(me.pid as u32, std::process::id());
        assert!(me.start > 0);
        assert!(me.alive());
        assert_eq!(ProcessId::unpack(me.pack()), me);
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = ProcessId::current().unwrap();
        let earlier = ProcessId {
            start: me.start - 1,
            ..me
        };
        assert!(!earlier.alive());
    }

    #[test]
    fn command_name_with_parenthesis() {
        let line = b"12 (a) (b)) S 1 12 12 0 -1 4194560 95 0 0 0 0 0 0 0 20 0 1 0 77 2 3";
        let stat = Stat {
            first_thread_ended: false,
            threads: 1,
            start: 77,
            status: 0,
        };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse(b"12 (a"), None);
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list(b"0-3\n"), Some(4));
        assert_eq!(parse_cpu_list(b"0"), Some(1));
        assert_eq!(parse_cpu_list(b"0-1,8-11\n"), Some(12));
        assert_eq!(parse_cpu_list(b""), None);
    }
}
