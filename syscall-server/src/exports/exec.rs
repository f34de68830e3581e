//! `exec`, `posix_spawn`, `system` and their kin: programs inherit what
//! [`crate::children`] says. Most of this runs between fork and exec, where
//! nothing may allocate, lock or call libc.

use std::ffi::{CStr, c_char, c_int, c_void};

use libc::{FILE, pid_t};
use uapi::Errno;

use super::next::{Next, next_function};
use crate::arch::Words;
use crate::children::{self, Who, room, variables};
use crate::raw::{self, fail};

static EXECVPE: Next = Next::new(c"execvpe");
static POSIX_SPAWN: Next = Next::new(c"posix_spawn");
static POSIX_SPAWNP: Next = Next::new(c"posix_spawnp");

/// Runs when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

extern "C" fn on_load() {
    // Looked up now: later is in a child, where other threads' locks are held.
    for next in [&EXECVPE, &POSIX_SPAWN, &POSIX_SPAWNP] {
        let _ = next.address();
    }
    // Without it programs inherit what the environment says.
    let _ = std::panic::catch_unwind(children::begin);
}

type Strings = *const usize;

/// A C string, or nothing for null.
fn string<'a>(text: *const c_char) -> Option<&'a CStr> {
    // SAFETY: by the contract of the function that was called, null or a string
    // that lives as long as the call.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
}

fn at(directory: c_int, path: *const c_char, argv: usize, envp: Strings, flags: c_int) -> c_int {
    let execute = |envp: Strings| {
        let (directory, path) = (directory as usize, path as usize);
        let arguments = [directory, path, argv, envp as usize, flags as usize, 0];
        raw::pass(libc::SYS_execveat, arguments) as c_int
    };
    // SAFETY: the caller's array, as execve(2) takes it.
    unsafe { children::with_environment(Who::Caller, directory, string(path), envp, execute) }
}

/// execve(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn execve(path: *const c_char, argv: usize, envp: Strings) -> c_int {
    let execute = |envp: Strings| {
        let arguments = [path as usize, argv, envp as usize, 0, 0, 0];
        raw::pass(libc::SYS_execve, arguments) as c_int
    };
    let directory = libc::AT_FDCWD;
    // SAFETY: the caller's array, as execve(2) takes it.
    unsafe { children::with_environment(Who::Caller, directory, string(path), envp, execute) }
}

/// execv(3).
#[unsafe(no_mangle)]
extern "C" fn execv(path: *const c_char, argv: usize) -> c_int {
    execve(path, argv, variables::now())
}

/// execveat(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn execveat(
    directory: c_int,
    path: *const c_char,
    argv: usize,
    envp: Strings,
    flags: c_int,
) -> c_int {
    at(directory, path, argv, envp, flags)
}

/// fexecve(3).
#[unsafe(no_mangle)]
extern "C" fn fexecve(fd: c_int, argv: usize, envp: Strings) -> c_int {
    if fd < 0 || argv == 0 || envp.is_null() {
        return fail(Errno::EINVAL) as c_int;
    }
    at(fd, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH)
}

/// execvpe(3).
#[unsafe(no_mangle)]
extern "C" fn execvpe(file: *const c_char, argv: usize, envp: Strings) -> c_int {
    type Function = unsafe extern "C" fn(*const c_char, usize, Strings) -> c_int;
    let Some(address) = EXECVPE.address() else {
        return fail(Errno::ENOSYS) as c_int;
    };
    // SAFETY: libc defines the function with this signature.
    let next = unsafe { std::mem::transmute::<*mut c_void, Function>(address) };
    with_found(file, |path| {
        // SAFETY: the caller's contract; the environment is one like the caller's.
        let execute = |envp| unsafe { next(file, argv, envp) };
        // SAFETY: the caller's array, as execve(2) takes it.
        unsafe { children::with_environment(Who::Caller, libc::AT_FDCWD, path, envp, execute) }
    })
}

/// execvp(3).
#[unsafe(no_mangle)]
extern "C" fn execvp(file: *const c_char, argv: usize) -> c_int {
    execvpe(file, argv, variables::now())
}

/// Calls `work` with the program that execvp(3) would find.
fn with_found<R>(file: *const c_char, work: impl FnOnce(Option<&CStr>) -> R) -> R {
    /// libc's own, without a variable.
    const DEFAULT: &[u8] = b"/bin:/usr/bin";
    let Some(name) = string(file) else {
        return work(None);
    };
    if name.to_bytes().contains(&b'/') {
        return work(Some(name));
    }
    let list = variables::get(b"PATH=").unwrap_or(DEFAULT);
    let mut path = [0u8; libc::PATH_MAX as usize];
    let found = list.split(|&byte| byte == b':').any(|directory| {
        let directory = if directory.is_empty() {
            b"."
        } else {
            directory
        };
        let parts = [directory, b"/", name.to_bytes_with_nul()];
        if parts.iter().map(|part| part.len()).sum::<usize>() > path.len() {
            return false;
        }
        for (to, from) in path.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        let arguments = [path.as_ptr() as usize, libc::X_OK as usize, 0, 0, 0, 0];
        raw::checked(libc::SYS_access, arguments).is_ok()
    });
    let path = CStr::from_bytes_until_nul(&path).ok().filter(|_| found);
    work(path)
}

/// Calls `work` with the strings of a variadic call up to the null behind
/// them, and the number of the word behind that.
///
/// # Safety
/// The words are strings up to a null.
unsafe fn with_arguments(words: Words, work: impl FnOnce(usize, usize) -> c_int) -> c_int {
    let mut count = 0;
    // SAFETY: the caller's contract: not behind the null.
    while unsafe { words.get(count) } != 0 {
        count += 1;
    }
    room::with(count + 1, |room| {
        let Some(room) = room else {
            return fail(Errno::ENOMEM) as c_int;
        };
        for (index, to) in room.iter_mut().take(count).enumerate() {
            // SAFETY: as above.
            *to = unsafe { words.get(index) };
        }
        work(room.as_ptr() as usize, count + 1)
    })
}

/// execl(3), with the arguments behind the path at `registers` and `stack`.
pub(crate) extern "C" fn execl_words(
    path: *const c_char,
    registers: *const usize,
    stack: *const usize,
) -> c_int {
    let words = Words::new(registers, stack);
    // SAFETY: the contract of execl(3).
    unsafe { with_arguments(words, |argv, _| execv(path, argv)) }
}

/// execlp(3), as [`execl_words`].
pub(crate) extern "C" fn execlp_words(
    file: *const c_char,
    registers: *const usize,
    stack: *const usize,
) -> c_int {
    let words = Words::new(registers, stack);
    // SAFETY: the contract of execlp(3).
    unsafe { with_arguments(words, |argv, _| execvp(file, argv)) }
}

/// execle(3), as [`execl_words`]: the environment is behind the null.
pub(crate) extern "C" fn execle_words(
    path: *const c_char,
    registers: *const usize,
    stack: *const usize,
) -> c_int {
    let words = Words::new(registers, stack);
    // SAFETY: the contract of execle(3).
    unsafe {
        with_arguments(words, |argv, behind| {
            execve(path, argv, words.get(behind) as Strings)
        })
    }
}

type Spawn = unsafe extern "C" fn(
    *mut pid_t,
    *const c_char,
    *const c_void,
    *const c_void,
    usize,
    Strings,
) -> c_int;

fn spawn(
    next: &Next,
    path: Option<&CStr>,
    envp: Strings,
    call: impl Fn(Spawn, Strings) -> c_int,
) -> c_int {
    let Some(address) = next.address() else {
        return libc::ENOSYS;
    };
    // SAFETY: libc defines both functions with this signature.
    let next = unsafe { std::mem::transmute::<*mut c_void, Spawn>(address) };
    let execute = |envp| call(next, envp);
    // SAFETY: the caller's array, as execve(2) takes it.
    unsafe { children::with_environment(Who::Child, libc::AT_FDCWD, path, envp, execute) }
}

/// posix_spawn(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: usize,
    envp: Strings,
) -> c_int {
    spawn(&POSIX_SPAWN, string(path), envp, |next, envp| {
        // SAFETY: the caller's contract is passed on.
        unsafe { next(pid, path, actions, attributes, argv, envp) }
    })
}

/// posix_spawnp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_spawnp(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    argv: usize,
    envp: Strings,
) -> c_int {
    with_found(file, |path| {
        spawn(&POSIX_SPAWNP, path, envp, |next, envp| {
            // SAFETY: the caller's contract is passed on.
            unsafe { next(pid, file, actions, attributes, argv, envp) }
        })
    })
}

/// Calls `start`, which has a shell run with the process's own environment,
/// while that is what the shell shall inherit.
fn with_shell<R>(start: impl FnOnce() -> R) -> R {
    let before = variables::now();
    if children::own_environment_will_do() || before.is_null() {
        return start();
    }
    // SAFETY: libc's array of strings, of which only ours is not for ever.
    let execute = |envp: Strings| unsafe { variables::with(envp, start) };
    // SAFETY: as above.
    unsafe { children::with_environment(Who::Shell, libc::AT_FDCWD, None, before, execute) }
}

/// system(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn system(command: *const c_char) -> c_int {
    next_function! {
        /// libc's own.
        unsafe fn system(command: *const c_char) -> c_int,
        else fail(Errno::ENOSYS) as c_int
    }
    // SAFETY: the caller's contract is passed on.
    with_shell(|| unsafe { own::system(command) })
}

/// popen(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE {
    next_function! {
        /// libc's own.
        unsafe fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE,
        else std::ptr::null_mut()
    }
    // SAFETY: the caller's contract is passed on.
    with_shell(|| unsafe { own::popen(command, mode) })
}
