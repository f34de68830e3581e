//! What the fields of a task hold. Called from trampolines: no allocation, no
//! lock, no libc, no panic.

use shm::sys;
use uapi::Errno;

use super::fields::{ROWS, Row, TaskFields, Value};
use super::proc::{self, Who};
use super::{Object, address};
use crate::maps::bytes;
use crate::{guest, thread};

/// The longest field: a string of `struct new_utsname`.
const LONGEST: usize = 72;
/// Bytes of a string of `struct new_utsname`.
const UTS: usize = 65;
/// `TASK_COMM_LEN`.
const COMM: usize = 16;
/// Nanoseconds of a clock tick in /proc (`USER_HZ`).
const TICK: u64 = 10_000_000;
/// Fields of `stat` behind the command name, from 0.
const STAT_PPID: usize = 1;
const STAT_START: usize = 19;

/// Copies `len` bytes from an address that [`super::holds`]; bytes between the
/// fields that are known are zeros. EFAULT where none is, or its value cannot
/// be found out.
///
/// # Safety
/// `to` is writable for `len` bytes.
#[cold]
pub(crate) unsafe fn read(
    fields: Option<&TaskFields>,
    to: *mut u8,
    from: u64,
    len: usize,
) -> Result<(), Errno> {
    let ((object, tid, at), fields) = Object::at(from).zip(fields).ok_or(Errno::EFAULT)?;
    let end = at + len as u64;
    let mut known = false;
    // SAFETY: the caller's contract.
    unsafe { bytes::zero(to, len) };
    for (number, row) in ROWS.iter().enumerate() {
        let Some((offset, size)) = fields.place(number).filter(|_| row.object == object) else {
            continue;
        };
        let (first, last) = (at.max(offset), end.min(offset + size));
        if first >= last {
            continue;
        }
        known = true;
        let mut value = [0u8; LONGEST];
        answer(row, tid, &mut value).ok_or(Errno::EFAULT)?;
        let there = value.get((first - offset) as usize..).unwrap_or_default();
        let count = there.len().min((last - first) as usize);
        // SAFETY: `first` to `last` is within the `len` bytes from `at`.
        unsafe {
            bytes::copy(
                to.wrapping_add((first - at) as usize),
                there.as_ptr(),
                count,
            )
        };
    }
    known.then_some(()).ok_or(Errno::EFAULT)
}

/// The value of a field of thread `tid`; `None` if there is no such thread or
/// nothing tells.
fn answer(row: &Row, tid: i32, to: &mut [u8; LONGEST]) -> Option<()> {
    let number = match row.value {
        Value::Zero => 0,
        // Others' is not known, and that of who has no end yet is 0.
        Value::ExitCode if tid == thread::ids().tid => thread::exit_code(),
        Value::ExitCode => 0,
        Value::Pid => u64::from(tid as u32),
        Value::The(object) => object.address(tid),
        // The idle task, which has started everything.
        _ if tid == 0 => return idle(row.value, to),
        Value::Tgid => u64::from(tgid(tid)? as u32),
        Value::Leader => address(tgid(tid)?),
        Value::Parent => address(parent(tid)?),
        Value::StartBoottime => start(tid)?,
        Value::StartTime => {
            let asleep = sys::clock_ns(libc::CLOCK_BOOTTIME)
                .saturating_sub(sys::clock_ns(libc::CLOCK_MONOTONIC));
            // Of two clocks read one after the other; sleep takes seconds.
            let asleep = if asleep < TICK { 0 } else { asleep };
            start(tid)?.saturating_sub(asleep)
        }
        Value::User(which) => u64::from(id(tid, b"Uid:", which, false)?),
        Value::Group(which) => u64::from(id(tid, b"Gid:", which, true)?),
        Value::Inum(name) => u64::from(proc::namespace(who(tid)?, name)?),
        Value::Comm => return comm(tid, to),
        Value::Uts(which) => return uts(tid, which, to),
    };
    put(to, &number.to_le_bytes());
    Some(())
}

fn put(to: &mut [u8; LONGEST], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Fields of pid 0, whose parent it is itself.
fn idle(value: Value, to: &mut [u8; LONGEST]) -> Option<()> {
    match value {
        Value::Comm => put(to, b"swapper/0"),
        Value::Leader | Value::Parent => put(to, &address(0).to_le_bytes()),
        Value::Inum(_) | Value::Uts(_) => return None,
        _ => {}
    }
    Some(())
}

/// Where /proc tells of a thread. One that is not the caller has no directory
/// that a guest could name.
fn who(tid: i32) -> Option<Who> {
    let ids = thread::ids();
    if tid == ids.tid {
        return Some(Who::Current);
    }
    if guest::is_guest() {
        return None;
    }
    Some(match sys::alive(ids.pid, tid) {
        true => Who::Own(tid),
        false => Who::Other(tid),
    })
}

/// How many threads the calling process has, the agent's included.
pub fn threads() -> Option<u32> {
    let number = status(Who::Current, b"Threads:")?;
    u32::try_from(number).ok()
}

/// The number behind a word in `status`.
fn status(who: Who, word: &[u8]) -> Option<i32> {
    let mut text = [0u8; 512];
    let text = proc::file(who, b"/status", &mut text)?;
    let number = proc::number(proc::entry(text, word)?)?;
    i32::try_from(number).ok()
}

fn tgid(tid: i32) -> Option<i32> {
    match who(tid)? {
        Who::Current | Who::Own(_) => Some(thread::ids().pid),
        other @ Who::Other(_) => status(other, b"Tgid:"),
    }
}

/// The process that made this one, or that took it over.
fn parent(tid: i32) -> Option<i32> {
    match who(tid)? {
        Who::Current | Who::Own(_) if guest::is_guest() => None,
        Who::Current | Who::Own(_) => Some(sys::getppid()),
        other @ Who::Other(_) => {
            let number = stat_field(other, STAT_PPID)?;
            i32::try_from(number).ok()
        }
    }
}

/// A number of `stat`, by its place behind the command name.
fn stat_field(who: Who, place: usize) -> Option<u64> {
    let mut text = [0u8; 512];
    let (_, rest) = proc::stat(proc::file(who, b"/stat", &mut text)?)?;
    let field = rest.split(|&byte| byte == b' ').nth(place)?;
    proc::number(field)
}

/// Time since boot at which a thread started, in nanoseconds.
fn start(tid: i32) -> Option<u64> {
    start_of(tid)?.checked_mul(TICK)
}

/// The same, in ticks.
pub(crate) fn start_of(tid: i32) -> Option<u64> {
    stat_field(who(tid)?, STAT_START)
}

/// That of the calling thread, which remembers it.
#[inline]
pub(crate) fn own_start() -> Option<u64> {
    #[cold]
    fn find() -> Option<u64> {
        stat_field(Who::Current, STAT_START)
    }
    thread::start(find)
}

/// The thread whose task is at an address.
#[inline]
pub(crate) fn tid_at(task: u64) -> Option<i32> {
    match Object::at(task) {
        Some((Object::Task, tid, 0)) => Some(tid),
        _ => None,
    }
}

/// The thread that a pidfd of this process is for, below 1 if it is gone;
/// `None` for what is no pidfd.
pub(crate) fn of_pidfd(fd: i32) -> Option<i32> {
    let mut text = [0u8; 512];
    let pid = proc::line(proc::fdinfo(fd, &mut text)?, b"Pid:\t")?;
    Some(match pid.first() {
        Some(b'-') => -1,
        _ => i32::try_from(proc::number(pid)?).ok()?,
    })
}

/// A user or group id: real, effective, saved or for files.
fn id(tid: i32, word: &[u8], which: usize, group: bool) -> Option<u32> {
    let mut text = [0u8; 512];
    let text = proc::file(who(tid)?, b"/status", &mut text)?;
    let mut ids = proc::entry(text, word)?.split(|&byte| byte == b'\t');
    let id = u32::try_from(proc::number(ids.nth(which)?)?).ok()?;
    let (user, as_group) = guest::outside(id, id);
    Some(if group { as_group } else { user })
}

/// A thread's name.
fn comm(tid: i32, to: &mut [u8; LONGEST]) -> Option<()> {
    let who = who(tid)?;
    if who == Who::Current {
        let name = libc::PR_GET_NAME as usize;
        let at = to.as_mut_ptr() as usize;
        // SAFETY: writes 16 bytes, which `to` has.
        let done = unsafe { sys::syscall6(libc::SYS_prctl as usize, name, at, 0, 0, 0, 0) };
        return (done == 0).then_some(());
    }
    let mut text = [0u8; 512];
    let (comm, _) = proc::stat(proc::file(who, b"/stat", &mut text)?)?;
    put(to, comm.get(..COMM - 1).unwrap_or(comm));
    Some(())
}

/// A name of the system: its own process's only.
fn uts(tid: i32, which: usize, to: &mut [u8; LONGEST]) -> Option<()> {
    if matches!(who(tid)?, Who::Other(_)) {
        return None;
    }
    let mut names = [0u8; 6 * UTS];
    let at = names.as_mut_ptr() as usize;
    // SAFETY: writes six strings of 65 bytes.
    let done = unsafe { sys::syscall6(libc::SYS_uname as usize, at, 0, 0, 0, 0, 0) };
    put(to, names.get(which * UTS..(which + 1) * UTS)?);
    (done == 0).then_some(())
}
