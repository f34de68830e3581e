//! The library in traced processes: it follows the sessions of its user,
//! hooks what their links ask for and runs their programs there. Only here do
//! programs and hooks meet; it knows no tool.
//!
//! It never disturbs the process it lives in: nothing is printed, no fd is
//! kept, no signal disposition changes, errno is preserved, and every failure
//! ends as a probe that is not there, with its reason in the roster.
//!
//! Reading order: this file (how it gets in), [`agent`] (its thread),
//! [`state`] (what a round does), [`hooks`] (what is hooked), [`joined`] (one session), [`hit`] (what a hook runs), [`modules`],
//! [`maps`], [`stacks`] and [`readable`] (where things are), [`breakpoints`], [`fork`], [`exit`], [`alone`] and [`loader`]
//! (what the process does meanwhile).

mod agent;
mod alone;
mod arch;
mod breakpoints;
mod dispatch;
mod errno;
mod exit;
mod fork;
mod hit;
mod hooks;
mod joined;
mod loader;
mod lock;
mod log;
mod maps;
mod modules;
mod quiet;
mod readable;
mod room;
mod sandbox;
mod semaphores;
mod signals;
mod stacks;
mod state;
mod syscalls;
mod threads;
mod valgrind;

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use runtime::guest::{self, Handed};
use runtime::session::{Dirs, Roster};

use crate::errno::preserved;
use crate::log::debug;

/// How long the start of a program waits for its probes.
const START_TIMEOUT: Duration = Duration::from_secs(1);
/// How long leaving takes at most.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

/// Runs when the process exits.
#[used]
#[unsafe(link_section = ".fini_array")]
static ON_EXIT: extern "C" fn() = on_exit;

/// Loaded by dlopen(3): it stands before nothing in libc.
static INJECTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_load() {
    // A panic of ours is caught and must not be told on the target's stderr.
    std::panic::set_hook(Box::new(|info| debug!("{info}")));
    let started = preserved(|| {
        let own_path = own_path();
        if is_preloaded(own_path.as_deref()) {
            if std::env::var_os(breakpoints::VARIABLE).is_some_and(|value| value == "1") {
                breakpoints::want();
            }
            return start(Dirs::for_library(own_path.as_deref()));
        }
        INJECTED.store(true, Ordering::Release);
        false
    });
    if started == Some(true) {
        syscalls::executed();
    }
}

extern "C" fn on_exit() {
    if let Some(agent) = agent::get() {
        preserved(|| agent.process_ends());
    }
}

/// See [`server`]; 0 if there is none.
static SERVER: AtomicUsize = AtomicUsize::new(0);

/// Looks for the server. Takes the loader's lock, which who loads a library
/// holds while it waits for the agent's thread: not on that.
fn find_server() {
    const NAME: &CStr = c"bpftime_server";
    // SAFETY: looks for a terminated name in what is loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, NAME.as_ptr()) };
    SERVER.store(found as usize, Ordering::Relaxed);
}

/// An address in the text of the server, if this process is a tool.
fn server() -> Option<usize> {
    let found = SERVER.load(Ordering::Relaxed);
    (found != 0).then_some(found)
}

/// Whether the loader was told to load this library into every program. An
/// injected copy waits for [`bpftime_agent_start`]; so does that of a tool,
/// where the server has put this library in its place for children.
fn is_preloaded(own_path: Option<&std::path::Path>) -> bool {
    find_server();
    if server().is_some() {
        return false;
    }
    let (Some(own_path), Some(preload)) = (own_path, std::env::var_os("LD_PRELOAD")) else {
        return false;
    };
    preload
        .as_bytes()
        .split(|&b| b == b':' || b == b' ')
        .any(|path| path == own_path.as_os_str().as_bytes())
}

/// Path of this library, as the loader knows it.
fn own_path() -> Option<PathBuf> {
    // SAFETY: an all-zero Dl_info is a valid value, and dladdr fills it.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: asks about an address of this library.
    let found = unsafe { libc::dladdr(on_load as *const _, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's own zero-terminated string, which lives as long
    // as this library.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// Starts the agent; with a session around, returns when its probes are in place.
fn start(dirs: Dirs) -> bool {
    log::open(&dirs.state);
    start_with(dirs, None)
}

/// [`start`], with the roster if that was handed over.
fn start_with(dirs: Dirs, roster: Option<Roster>) -> bool {
    if valgrind::is_around() {
        debug!("no agent: valgrind emulates this program");
        return false;
    }
    if !room::is_enough() {
        debug!("no agent: memory is limited (ulimit -v or -d)");
        return false;
    }
    loader::find();
    exit::find();
    readable::find();
    find_server();
    runtime::thread::init();
    runtime::barrier::register();
    let agent = match agent::get_or_make(dirs.clone()) {
        Ok(agent) => agent,
        Err(error) => {
            debug!("no hooks here: {error}");
            return false;
        }
    };
    if INJECTED.load(Ordering::Acquire) {
        alone::find();
        sandbox::find();
        agent.set_injected();
    }
    if let Some(roster) = roster {
        agent.set_roster(roster, &dirs);
    }
    // First take a place in the roster: a tool that comes from now on waits for
    // us, and one that came before is seen here.
    agent.join_roster();
    let wait = dirs.have_sessions();
    let started = agent.start();
    if started && wait {
        agent.follow_now(START_TIMEOUT);
    }
    started
}

/// Starts the agent in a process that did not preload it, or starts it again
/// after it left. `session_dir` is the sessions directory, or null for the
/// user's own. Returns 0, or -1 when nothing can be hooked here.
///
/// # Safety
/// `session_dir` is null or a zero-terminated string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpftime_agent_start(session_dir: *const c_char) -> i32 {
    let started = preserved(|| {
        let mut dirs = Dirs::for_library(own_path().as_deref());
        if !session_dir.is_null() {
            // SAFETY: the caller's contract.
            let path = unsafe { CStr::from_ptr(session_dir) };
            dirs.sessions = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
        }
        start(dirs)
    });
    if started == Some(true) { 0 } else { -1 }
}

/// The beginning of a `struct link_map` of link.h.
#[repr(C)]
pub struct LinkMap {
    address: usize,
    name: *mut c_char,
}

/// [`bpftime_agent_start`] in a process that sees other files than the tools:
/// it is handed what it needs, for as long as this call takes. `own` is what
/// dlopen(3) returned.
///
/// # Safety
/// Both point to what they say, and nobody else is writing `own`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpftime_agent_start_guest(
    handed: *const Handed,
    own: *mut LinkMap,
) -> i32 {
    let started = preserved(|| {
        // SAFETY: the caller's contract.
        let (handed, own) = unsafe { (&*handed, &mut *own) };
        let adopted = guest::adopt(handed).inspect_err(|error| debug!("{error}"));
        let Ok((dirs, roster)) = adopted else {
            return false;
        };
        // The name under which it was loaded means another file soon.
        if let Some(path) = handed.path() {
            // SAFETY: a string; the loader's own are from malloc(3), too.
            let name = unsafe { libc::strdup(path.as_ptr()) };
            if !name.is_null() {
                own.name = name;
            }
        }
        start_with(dirs, Some(roster))
    });
    if started == Some(true) { 0 } else { -1 }
}

/// As [`bpftime_agent_start`], for a user who wants breakpoints where no jump
/// fits.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpftime_agent_start_with_breakpoints(session_dir: *const c_char) -> i32 {
    breakpoints::want();
    // SAFETY: the caller's contract.
    unsafe { bpftime_agent_start(session_dir) }
}

/// As [`bpftime_agent_start_guest`], for such a user.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpftime_agent_start_guest_with_breakpoints(
    handed: *const Handed,
    own: *mut LinkMap,
) -> i32 {
    breakpoints::want();
    // SAFETY: the caller's contract.
    unsafe { bpftime_agent_start_guest(handed, own) }
}

/// Removes all hooks and ends the agent; the library stays, and
/// [`bpftime_agent_start`] starts it again. Returns 0, or -1 when it did not
/// end in time.
#[unsafe(no_mangle)]
pub extern "C" fn bpftime_agent_stop() -> i32 {
    let stopped = preserved(|| agent::get().is_none_or(|agent| agent.stop(STOP_TIMEOUT)));
    if stopped == Some(true) { 0 } else { -1 }
}
