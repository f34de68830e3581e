//! System calls straight to the kernel: never through a libc function that a
//! preloaded library intercepts or a probe sits on. Usable from trampolines:
//! nothing here allocates, blocks longer than its call, or touches `errno`.

use crate::arch;

/// Any system call; the result is the kernel's (`-errno` on failure).
///
/// # Safety
/// The arguments must be what system call `nr` demands.
#[inline(always)]
pub unsafe fn syscall6(
    nr: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    // SAFETY: passed on to our caller.
    unsafe { arch::syscall6(nr, [a, b, c, d, e, f]) }
}

fn simple(nr: libc::c_long, a: usize, b: usize, c: usize) -> isize {
    // SAFETY: used below only for calls that take plain numbers.
    unsafe { arch::syscall6(nr as usize, [a, b, c, 0, 0, 0]) }
}

/// The process id in its own pid namespace.
#[inline]
pub fn getpid() -> i32 {
    simple(libc::SYS_getpid, 0, 0, 0) as i32
}

/// The parent's process id in the own pid namespace; 0 if it has none there.
pub fn getppid() -> i32 {
    simple(libc::SYS_getppid, 0, 0, 0) as i32
}

/// Ends the process.
pub fn exit_group(status: i32) -> ! {
    loop {
        simple(libc::SYS_exit_group, status as usize, 0, 0);
    }
}

/// The thread id in its own pid namespace.
#[inline]
pub fn gettid() -> i32 {
    simple(libc::SYS_gettid, 0, 0, 0) as i32
}

/// Real user id.
pub fn getuid() -> u32 {
    simple(libc::SYS_getuid, 0, 0, 0) as u32
}

/// Real group id.
pub fn getgid() -> u32 {
    simple(libc::SYS_getgid, 0, 0, 0) as u32
}

/// Effective user id.
pub fn geteuid() -> u32 {
    simple(libc::SYS_geteuid, 0, 0, 0) as u32
}

/// Lets another thread run.
pub fn sched_yield() {
    #[cfg(feature = "model")]
    if crate::sync::model::sched_yield() {
        return;
    }
    simple(libc::SYS_sched_yield, 0, 0, 0);
}

/// Whether thread `tid` of process `pid` exists; one that we may not signal does.
pub fn alive(pid: i32, tid: i32) -> bool {
    #[cfg(feature = "model")]
    if let Some(alive) = crate::sync::model::is_alive(tid) {
        return alive;
    }
    pid > 0
        && tid > 0
        && simple(libc::SYS_tgkill, pid as usize, tid as usize, 0) != -(libc::ESRCH as isize)
}

/// Whether thread `tid` of process `pid` can still run: [`alive`], and no
/// zombie that waits for its parent.
pub fn can_run(pid: i32, tid: i32) -> bool {
    alive(pid, tid) && thread_can_run(tid)
}

/// Whether some thread of process `pid` can still run: one that was killed and
/// waits for its parent is a process, but not one that does anything.
pub fn process_can_run(pid: i32) -> bool {
    alive(pid, pid) && (thread_can_run(pid) || has_other_threads(pid))
}

/// Whether a process whose first thread has ended consists of others.
#[cold]
fn has_other_threads(pid: i32) -> bool {
    // A directory has a link from each below it: "task", ".", and the threads,
    // with the first (`proc_task_getattr`). It needs no fd.
    const NOT_THREADS: libc::nlink_t = 2;
    let path = proc_path(pid, b"/task");
    // SAFETY: all zeroes is a valid stat.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel reads `path` up to its zero and writes one stat.
    let ret = unsafe {
        let [path, stat] = [path.as_ptr() as usize, &raw mut stat as usize];
        arch::syscall6(libc::SYS_stat as usize, [path, stat, 0, 0, 0, 0])
    };
    match ret {
        0 => stat.st_nlink > NOT_THREADS + 1,
        // Where /proc cannot be seen.
        _ => !has_ended(pid),
    }
}

/// Whether a thread runs, or waits for a processor or a page: not one that was
/// stopped or sleeps. `false` if that cannot be known. Opens a file.
#[cold]
pub fn thread_wants_to_run(tid: i32) -> bool {
    let path = proc_path(tid, b"/stat");
    let (here, flags) = (libc::AT_FDCWD as usize, libc::O_RDONLY | libc::O_CLOEXEC);
    // SAFETY: the kernel reads `path` up to its zero.
    let fd = unsafe {
        let path = path.as_ptr() as usize;
        arch::syscall6(
            libc::SYS_openat as usize,
            [here, path, flags as usize, 0, 0, 0],
        )
    };
    if fd < 0 {
        return false;
    }
    let mut text = [0u8; 128];
    let len = simple(
        libc::SYS_read,
        fd as usize,
        text.as_mut_ptr() as usize,
        text.len(),
    );
    simple(libc::SYS_close, fd as usize, 0, 0);
    let text = text.get(..len.max(0) as usize).unwrap_or_default();
    // Behind the name, which may be any bytes.
    let state = text
        .iter()
        .rposition(|byte| *byte == b')')
        .and_then(|at| text.get(at + 2));
    matches!(state, Some(b'R' | b'D'))
}

/// `/proc/ID` and what follows, with a zero.
fn proc_path(id: i32, rest: &[u8]) -> [u8; 32] {
    let mut path = [0u8; 32];
    let name = b"/proc/".iter().copied().chain(digits(id));
    let name = name.chain(rest.iter().copied());
    path.iter_mut().zip(name).for_each(|(to, byte)| *to = byte);
    path
}

/// The digits of a positive number.
fn digits(number: i32) -> impl Iterator<Item = u8> {
    let places = (0..10u32).rev().map(|place| 10i32.pow(place));
    let first = places.skip_while(move |place| *place > number.max(1));
    first.map(move |place| b'0' + (number / place % 10) as u8)
}

/// Whether all threads of a process have ended (pidfd_open(2)); `false` if that
/// cannot be known.
fn has_ended(pid: i32) -> bool {
    let fd = simple(libc::SYS_pidfd_open, pid as usize, 0, 0);
    if fd < 0 {
        return fd == -(libc::ESRCH as isize);
    }
    let mut poll = libc::pollfd {
        fd: fd as i32,
        events: libc::POLLIN,
        revents: 0,
    };
    let now = simple(libc::SYS_poll, &raw mut poll as usize, 1, 0);
    simple(libc::SYS_close, fd as usize, 0, 0);
    now == 1
}

/// Whether thread `tid` can still run, of whatever process.
pub fn thread_can_run(tid: i32) -> bool {
    #[cfg(feature = "model")]
    if let Some(alive) = crate::sync::model::is_alive(tid) {
        return alive;
    }
    let mut byte = 0u8;
    // A thread gives its memory back when it ends, and then there is nothing
    // to read at any address (`mm_access`). Whether this address can be read
    // does not matter.
    // SAFETY: one byte, into `byte`.
    let ret = unsafe { read_own(tid, &raw mut byte, 0, 1) };
    tid > 0 && ret != -(libc::ESRCH as isize)
}

/// Nanoseconds of a clock (`CLOCK_*`); 0 for a clock that does not exist.
pub fn clock_ns(clock: i32) -> u64 {
    #[cfg(feature = "model")]
    if let Some(now) = crate::sync::model::clock() {
        return now;
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec.
    let ret = unsafe {
        arch::syscall6(
            libc::SYS_clock_gettime as usize,
            [clock as usize, &raw mut time as usize, 0, 0, 0, 0],
        )
    };
    if ret != 0 {
        return 0;
    }
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

/// Whether a file of this process may grow to `end` bytes. To be asked before:
/// where it may not (`ulimit -f`) the kernel sends SIGXFSZ, which ends it.
pub fn may_grow_to(end: u64) -> bool {
    let mut limit = libc::rlimit64 {
        rlim_cur: libc::RLIM64_INFINITY,
        rlim_max: libc::RLIM64_INFINITY,
    };
    let to = &raw mut limit as usize;
    // SAFETY: the kernel writes one limit; it is given none.
    unsafe {
        arch::syscall6(
            libc::SYS_prlimit64 as usize,
            [0, libc::RLIMIT_FSIZE as usize, 0, to, 0, 0],
        )
    };
    end <= limit.rlim_cur
}

/// The CPU this thread runs on at the moment.
pub fn getcpu() -> u32 {
    let mut cpu = 0u32;
    // SAFETY: the kernel writes one u32; node and cache may be null.
    unsafe {
        arch::syscall6(
            libc::SYS_getcpu as usize,
            [&raw mut cpu as usize, 0, 0, 0, 0, 0],
        )
    };
    cpu
}

/// Copies `len` bytes from any address of this process; fails instead of
/// faulting. Returns the bytes copied (the copy stops at the first bad page)
/// or `-errno`.
///
/// # Safety
/// `to` must be writable for `len` bytes.
pub unsafe fn read_own(pid: i32, to: *mut u8, from: u64, len: usize) -> isize {
    let local = libc::iovec {
        iov_base: to.cast(),
        iov_len: len,
    };
    let remote = libc::iovec {
        iov_base: from as *mut libc::c_void,
        iov_len: len,
    };
    // SAFETY: the caller vouches for `to`; the kernel checks `from`.
    unsafe {
        arch::syscall6(
            libc::SYS_process_vm_readv as usize,
            [
                pid as usize,
                &raw const local as usize,
                1,
                &raw const remote as usize,
                1,
                0,
            ],
        )
    }
}

/// As [`read_own`], with the rights that this thread's own loads have: the
/// kernel reads at `from` on its behalf and writes to `to` as to another
/// process. Needs the process's own id.
///
/// # Safety
/// `to` must be writable for `len` bytes.
pub unsafe fn copy_own(pid: i32, to: *mut u8, from: u64, len: usize) -> isize {
    let local = libc::iovec {
        iov_base: from as *mut libc::c_void,
        iov_len: len,
    };
    let remote = libc::iovec {
        iov_base: to.cast(),
        iov_len: len,
    };
    // SAFETY: the caller vouches for `to`; the kernel checks `from`.
    unsafe {
        arch::syscall6(
            libc::SYS_process_vm_writev as usize,
            [
                pid as usize,
                &raw const local as usize,
                1,
                &raw const remote as usize,
                1,
                0,
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_agree_with_libc() {
        assert_eq!(getpid() as u32, std::process::id());
        assert_eq!(getppid() as u32, std::os::unix::process::parent_id());
        assert!(alive(getpid(), gettid()));
        assert!(thread_wants_to_run(gettid()) && !thread_wants_to_run(0x3fff_ffff));
        assert!(!alive(getpid(), 0x3fff_ffff));
        assert!(can_run(getpid(), gettid()));
        assert!(!can_run(getpid(), 0x3fff_ffff));
    }

    #[test]
    fn zombies_exist_and_cannot_run() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        // Ended, and left to be waited for.
        // SAFETY: `info` is plain data that the kernel fills in.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOWAIT;
            assert_eq!(
                libc::waitid(libc::P_PID, child.id(), &raw mut info, flags),
                0
            );
        }
        assert!(alive(pid, pid));
        assert!(!can_run(pid, pid));
        assert!(!process_can_run(pid) && has_ended(pid));
        assert!(child.wait().unwrap().success());
        assert!(!alive(pid, pid));
    }

    /// A process runs on though its first thread has ended.
    #[test]
    fn a_first_thread_may_end_before_the_others() {
        let waits = "import ctypes, threading, time, sys\n\
            threading.Thread(target=lambda: (print(flush=True), time.sleep(60))).start()\n\
            ctypes.CDLL(None).syscall(60, 0)";
        let mut command = std::process::Command::new("python3");
        command
            .args(["-c", waits])
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pid = child.id() as i32;
        while thread_can_run(pid) {
            std::thread::yield_now();
        }
        assert!(process_can_run(pid) && !has_ended(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process_can_run(pid) && has_ended(pid));
    }

    #[test]
    fn numbers_are_written_as_people_do() {
        for number in [1, 9, 10, 1205, 4_194_304, i32::MAX] {
            let text: Vec<u8> = digits(number).collect();
            assert_eq!(text, number.to_string().into_bytes());
        }
    }

    #[test]
    fn bad_addresses_are_data() {
        let mut to = [0u8; 16];
        for copy in [read_own, copy_own] {
            to.fill(0);
            // SAFETY: `to` has 16 bytes.
            let ret = unsafe { copy(getpid(), to.as_mut_ptr(), 8, 16) };
            assert_eq!(ret, -(libc::EFAULT as isize));
            let from = *b"sixteen bytes ok";
            // SAFETY: `to` has 16 bytes.
            let ret = unsafe { copy(getpid(), to.as_mut_ptr(), from.as_ptr() as u64, 16) };
            assert_eq!((ret, to), (16, from));
        }
    }

    #[test]
    fn clocks_move() {
        let before = clock_ns(libc::CLOCK_MONOTONIC);
        assert!(before > 0 && clock_ns(libc::CLOCK_MONOTONIC) >= before);
        assert_eq!(clock_ns(9999), 0);
    }
}
