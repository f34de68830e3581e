//! Tools that probe themselves: in the kernel a tool is a target like any
//! other, so it gets the agent when it asks for probes of its own process or
//! program. It knows no hook; the agent follows the session by itself.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::sync::Once;

use crate::environment::AGENT;
use crate::perf::place;
use crate::{log, server};

/// Loads the agent, once, if a probe in `file` (device and inode) of process
/// `pid` (-1: of all) concerns this very process.
pub fn meet(file: (u64, u64), pid: i32) {
    static ONCE: Once = Once::new();
    let is_own_file = || place::file(b"/proc/self/exe").is_ok_and(|own| (own.dev, own.ino) == file);
    if pid == shm::sys::getpid() || (pid == -1 && is_own_file()) {
        ONCE.call_once(load_agent);
    }
}

/// The agent's entry for processes that it was not preloaded into: the
/// sessions directory, or null for the user's own.
type Start = unsafe extern "C" fn(*const c_char) -> c_int;

fn load_agent() {
    const START: &CStr = c"bpftime_agent_start";
    let Some(path) = server::own_path() else {
        return;
    };
    let Ok(path) = CString::new(path.with_file_name(AGENT).as_os_str().as_bytes()) else {
        return;
    };
    // SAFETY: a terminated path; the library's constructors are made to run in
    // any process.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        log::debug(format_args!("no agent for the tool itself: {path:?}"));
        return;
    }
    // SAFETY: a live library and a terminated name.
    let start = unsafe { libc::dlsym(library, START.as_ptr()) };
    if start.is_null() {
        log::debug(format_args!("{path:?} is no agent"));
        return;
    }
    // SAFETY: the agent defines the function so.
    let start = unsafe { std::mem::transmute::<*mut libc::c_void, Start>(start) };
    // SAFETY: null is allowed.
    if unsafe { start(std::ptr::null()) } != 0 {
        log::debug(format_args!("the tool itself cannot be hooked"));
    }
}
