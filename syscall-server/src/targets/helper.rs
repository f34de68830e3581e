//! Runs `bpftime attach PID` for the tool, who must not notice: not as its child
//! (no SIGCHLD, nothing for wait(2)), with none of its fds, in a session and with
//! an environment of its own. It knows no process but by its id.
//!
//! Why a process of its own: whoever attaches blocks signals and waits for the
//! threads that it traces, which would meet the tool's own waits. Why not one
//! that `bpftime load` leaves behind: it would be the tool's child, or outlive it.
//!
//! Two processes are made. The first has no exit signal, so that only we can
//! wait for it, but whoever executes a program gets SIGCHLD for one; so it makes
//! the second, which becomes the command, and waits. Both run in our memory
//! on stacks of their own, as children of vfork(2) do, while the caller sleeps.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, Ordering};

use runtime::command::timer::with_signals_blocked;
use runtime::session::Dirs;
use uapi::Errno;

use crate::{raw, server};

/// The command's name beside this library: a symbolic link to what unpacked it.
const COMMAND: &str = "bpftime";
/// Variable that the command shares with the tool.
const SHARED: &str = "BPFTIME_LOG";
const STACK_BYTES: usize = 64 << 10;
/// Highest signal.
const SIGNALS: c_int = 64;
/// The kernel's `struct sigaction`, of zeros: the default action.
static DEFAULT_ACTION: [u64; 4] = [0; 4];

/// What the two processes need; nothing in them allocates.
struct Orders {
    command: CString,
    arguments: [*const c_char; 4],
    environment: Vec<*const c_char>,
    /// Top of the second one's stack.
    stack: *mut c_void,
    /// Where the command's stderr goes.
    said: RawFd,
    /// errno of what went wrong.
    failed: AtomicI32,
}

/// Attaches to a process, and returns when that is done or was refused; then with
/// what the command says of it.
///
/// # Errors
/// ENOENT without the command; EAGAIN or ENOMEM without processes or memory.
pub fn attach(dirs: &Dirs, pid: i32) -> Result<String, Errno> {
    let path = server::own_path().ok_or(Errno::ENOENT)?;
    let path = path.with_file_name(COMMAND);
    if !path.exists() {
        return Err(Errno::ENOENT);
    }
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::EINVAL);
    let variable = |name: &str, value: &[u8]| text(&[name.as_bytes(), b"=", value].concat());
    let mut variables = vec![
        variable("BPFTIME_STATE_DIR", dirs.state.as_os_str().as_bytes())?,
        variable("BPFTIME_SESSION_DIR", dirs.sessions.as_os_str().as_bytes())?,
    ];
    if let Some(value) = std::env::var_os(SHARED) {
        variables.push(variable(SHARED, value.as_bytes())?);
    }
    let number = text(pid.to_string().as_bytes())?;
    let pointers = variables.iter().map(|variable| variable.as_ptr());
    let stacks = Stacks::map()?;
    let mut said = memory_file()?;
    let orders = Orders {
        command: text(path.as_os_str().as_bytes())?,
        arguments: [
            c"bpftime".as_ptr(),
            c"attach".as_ptr(),
            number.as_ptr(),
            std::ptr::null(),
        ],
        environment: pointers.chain([std::ptr::null()]).collect(),
        stack: stacks.top(1),
        said: said.as_raw_fd(),
        failed: AtomicI32::new(0),
    };
    // The tool's handlers must not run in them.
    with_signals_blocked(|| {
        // SAFETY: `first` makes raw system calls only, on a stack of its own, and
        // this thread sleeps until it has ended: what it is given lives.
        let child = unsafe { make(first, stacks.top(0), 0, &orders) }?;
        wait(child);
        match orders.failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            errno => Err(Errno(errno)),
        }
    })?;
    let mut text = String::new();
    // What cannot be read is not told.
    let _ = said.rewind().and_then(|()| said.read_to_string(&mut text));
    Ok(text)
}

fn memory_file() -> Result<File, Errno> {
    let name = c"bpftime-attach".as_ptr() as usize;
    let flags = libc::MFD_CLOEXEC as usize;
    let fd = raw::checked(libc::SYS_memfd_create, [name, flags, 0, 0, 0, 0])?;
    // SAFETY: a new fd, which nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd as RawFd) })
}

/// Two stacks, below each of which nothing is mapped by us.
struct Stacks(usize);

impl Stacks {
    fn map() -> Result<Stacks, Errno> {
        let arguments = [
            0,
            2 * STACK_BYTES,
            (libc::PROT_READ | libc::PROT_WRITE) as usize,
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK) as usize,
            usize::MAX,
            0,
        ];
        raw::checked(libc::SYS_mmap, arguments).map(Stacks)
    }

    fn top(&self, index: usize) -> *mut c_void {
        (self.0 + (index + 1) * STACK_BYTES) as *mut c_void
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        raw::call(libc::SYS_munmap, [self.0, 2 * STACK_BYTES, 0, 0, 0, 0]);
    }
}

/// A process that runs `main` in this memory; the caller sleeps until it has
/// ended or executes a program.
///
/// # Safety
/// `main` makes raw system calls only, and `stack` is the top of a stack that
/// nobody else uses meanwhile.
unsafe fn make(
    main: extern "C" fn(*mut c_void) -> c_int,
    stack: *mut c_void,
    signal: c_int,
    orders: &Orders,
) -> Result<c_int, Errno> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | signal;
    let orders = (&raw const *orders).cast_mut().cast();
    // SAFETY: the caller's contract.
    match unsafe { libc::clone(main, stack, flags, orders) } {
        -1 => Err(raw::errno()),
        child => Ok(child),
    }
}

/// Waits for a process that [`make`] made.
fn wait(child: c_int) {
    let arguments = [child as usize, 0, libc::__WALL as usize, 0, 0, 0];
    while raw::checked(libc::SYS_wait4, arguments) == Err(Errno::EINTR) {}
}

/// The first process: leaves the tool and makes the second.
extern "C" fn first(orders: *mut c_void) -> c_int {
    // SAFETY: what `make` was given, which lives as long as this process.
    let orders = unsafe { &*orders.cast::<Orders>() };
    raw::call(libc::SYS_setsid, [0; 6]);
    raw::call(libc::SYS_chdir, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]);
    let stderr = 2;
    let said = orders.said as usize;
    // The same number stays open, too.
    raw::call(libc::SYS_dup3, [said, stderr, 0, 0, 0, 0]);
    let keep = [stderr, libc::F_SETFD as usize, 0, 0, 0, 0];
    raw::call(libc::SYS_fcntl, keep);
    // An fd of the session would keep that alive.
    raw::call(libc::SYS_close_range, [0, 1, 0, 0, 0, 0]);
    let rest = [3, u32::MAX as usize, 0, 0, 0, 0];
    raw::call(libc::SYS_close_range, rest);
    for _ in 0..2 {
        let (at, null) = (libc::AT_FDCWD as usize, c"/dev/null".as_ptr() as usize);
        let arguments = [at, null, libc::O_RDWR as usize, 0, 0, 0];
        raw::call(libc::SYS_openat, arguments);
    }
    // What is ignored would be ignored by the command, too.
    for signal in 1..=SIGNALS {
        let action = (&raw const DEFAULT_ACTION) as usize;
        let arguments = [signal as usize, action, 0, 8, 0, 0];
        raw::call(libc::SYS_rt_sigaction, arguments);
    }
    // SAFETY: `second` makes raw system calls only, and its stack is its own.
    match unsafe { make(second, orders.stack, libc::SIGCHLD, orders) } {
        Ok(child) => wait(child),
        Err(errno) => orders.failed.store(errno.0, Ordering::Relaxed),
    }
    0
}

/// The second process: becomes the command.
extern "C" fn second(orders: *mut c_void) -> c_int {
    // SAFETY: as in `first`.
    let orders = unsafe { &*orders.cast::<Orders>() };
    let none = 0u64;
    let how = libc::SIG_SETMASK as usize;
    let arguments = [how, &raw const none as usize, 0, 8, 0, 0];
    raw::call(libc::SYS_rt_sigprocmask, arguments);
    let command: &CStr = &orders.command;
    let (arguments, environment) = (orders.arguments.as_ptr(), orders.environment.as_ptr());
    let words = [
        command.as_ptr() as usize,
        arguments as usize,
        environment as usize,
    ];
    let failed = raw::call(libc::SYS_execve, [words[0], words[1], words[2], 0, 0, 0]);
    orders.failed.store(-failed as i32, Ordering::Relaxed);
    0
}
