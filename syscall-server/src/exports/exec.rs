//! `exec`, `posix_spawn`, `system` and their kin: programs inherit what
//! [`crate::children`] says. Most of this runs between fork and exec, where
//! nothing may allocate, lock or call libc.

use std::ffi::{CStr, c_char, c_int, c_void};

use libc::{FILE, pid_t};
use uapi::Errno;

use super::next::{Next, next_function};
use crate::arch::Words;
use crate::children::{self, Who, room, strings, variables};
use crate::fds;
use crate::raw::{self, fail};

static POSIX_SPAWN: Next = Next::new(c"posix_spawn");
static POSIX_SPAWNP: Next = Next::new(c"posix_spawnp");

/// Runs when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

extern "C" fn on_load() {
    // Without it programs inherit what the environment says.
    let _ = std::panic::catch_unwind(children::begin);
    fds::make_room();
}

/// Most bytes of a file's name.
const NAME_MAX: usize = 255;

type Strings = *const usize;

/// A C string, or nothing for a wrong address, of which the kernel shall tell.
fn string<'a>(text: *const c_char) -> Option<&'a CStr> {
    // SAFETY: a string, which lives as long as the call by the contract of the
    // function that was called.
    strings::is_there(text as u64).then(|| unsafe { CStr::from_ptr(text) })
}

fn at(directory: c_int, path: *const c_char, argv: usize, envp: Strings, flags: c_int) -> c_int {
    let execute = |envp: Strings| {
        let (directory, path) = (directory as usize, path as usize);
        let arguments = [directory, path, argv, envp as usize, flags as usize, 0];
        raw::pass(libc::SYS_execveat, arguments) as c_int
    };
    children::with_environment(Who::Caller, directory, string(path), envp, execute)
}

/// execve(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn execve(path: *const c_char, argv: usize, envp: Strings) -> c_int {
    let execute = |envp: Strings| {
        let arguments = [path as usize, argv, envp as usize, 0, 0, 0];
        raw::pass(libc::SYS_execve, arguments) as c_int
    };
    let directory = libc::AT_FDCWD;
    children::with_environment(Who::Caller, directory, string(path), envp, execute)
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

/// execvpe(3). Not libc's: looking that up takes a lock, which another thread of
/// the process that was forked may have held.
#[unsafe(no_mangle)]
extern "C" fn execvpe(file: *const c_char, argv: usize, envp: Strings) -> c_int {
    let Some(name) = string(file).filter(|name| !name.is_empty()) else {
        return fail(Errno::ENOENT) as c_int;
    };
    if name.count_bytes() > NAME_MAX && !name.to_bytes().contains(&b'/') {
        return fail(Errno(libc::ENAMETOOLONG)) as c_int;
    }
    let mut found = Errno::ENOENT;
    let done = each_place(name, |path| {
        execve(path.as_ptr(), argv, envp);
        match raw::errno() {
            // A script without a first line that says what runs it.
            Errno(libc::ENOEXEC) => {
                execute_script(path, argv, envp);
                true
            }
            Errno::EACCES => {
                found = Errno::EACCES;
                false
            }
            // There may be another one elsewhere.
            Errno(libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENODEV | libc::ETIMEDOUT) => {
                false
            }
            _ => true,
        }
    });
    match done {
        true => -1,
        false => fail(found) as c_int,
    }
}

/// Has the shell run a script, with the arguments behind its name.
fn execute_script(path: &CStr, argv: usize, envp: Strings) {
    let (shell, argv) = (c"/bin/sh", argv as *const usize);
    let mut count = 0;
    // SAFETY: not behind the null that ends the array; the kernel has just read it.
    while !argv.is_null() && unsafe { *argv.add(count) } != 0 {
        count += 1;
    }
    room::with(count.max(1) + 2, |room| {
        let Some(room) = room else {
            fail(Errno::ENOMEM);
            return;
        };
        for (index, to) in room.iter_mut().take(count).enumerate().skip(1) {
            // SAFETY: as above.
            *to = unsafe { *argv.add(index) };
        }
        room.copy_within(1..count.max(1), 2);
        room[0] = shell.as_ptr() as usize;
        room[1] = path.as_ptr() as usize;
        execve(shell.as_ptr(), room.as_ptr() as usize, envp);
    });
}

/// execvp(3).
#[unsafe(no_mangle)]
extern "C" fn execvp(file: *const c_char, argv: usize) -> c_int {
    execvpe(file, argv, variables::now())
}

/// Calls `is_it` with each place where a program of that name may be, in the
/// order of execvp(3), until it is one; whether it was.
fn each_place(name: &CStr, mut is_it: impl FnMut(&CStr) -> bool) -> bool {
    /// libc's own, without a variable.
    const DEFAULT: &[u8] = b"/bin:/usr/bin";
    if name.to_bytes().contains(&b'/') {
        return is_it(name);
    }
    let list = variables::get(b"PATH=").unwrap_or(DEFAULT);
    list.split(|&byte| byte == b':').any(|directory| {
        let mut path = [0u8; libc::PATH_MAX as usize];
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        let parts = [directory, slash, name.to_bytes()];
        if parts.iter().map(|part| part.len()).sum::<usize>() >= path.len() {
            return false;
        }
        for (to, from) in path.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        CStr::from_bytes_until_nul(&path).is_ok_and(&mut is_it)
    })
}

/// Calls `work` with the program that execvp(3) would find.
fn with_found<R>(file: *const c_char, work: impl FnOnce(Option<&CStr>) -> R) -> R {
    let mut found = [0u8; libc::PATH_MAX as usize];
    let is_found = string(file).is_some_and(|name| {
        each_place(name, |path| {
            let arguments = [path.as_ptr() as usize, libc::X_OK as usize, 0, 0, 0, 0];
            let bytes = path.to_bytes_with_nul();
            let fits = found.get_mut(..bytes.len());
            let is_it = fits.is_some() && raw::checked(libc::SYS_access, arguments).is_ok();
            if let (Some(to), true) = (fits, is_it) {
                to.copy_from_slice(bytes);
            }
            is_it
        })
    });
    let found = CStr::from_bytes_until_nul(&found).ok();
    work(found.filter(|_| is_found))
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
    children::with_environment(Who::Child, libc::AT_FDCWD, path, envp, execute)
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
    children::with_environment(Who::Shell, libc::AT_FDCWD, None, before, execute)
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
