//! Tools that probe themselves: in the kernel a tool is a target like any
//! other, so it gets the agent when it asks for probes of its own process or
//! program. It knows no hook; the agent follows the session by itself.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Once};

use runtime::command::perf::EventKind;
use runtime::command::{MapObject, PerfEvent, ProgObject};
use uapi::map::BPF_MAP_TYPE_ARRAY;

use crate::environment::AGENT;
use crate::perf::place;
use crate::{caller, log, server};

/// Larger values, or more of them, are no variables.
const MOST_BYTES: usize = 1 << 14;
const MOST: u32 = 64;

/// By this name the agent knows a tool, and which text is the server's.
#[unsafe(no_mangle)]
extern "C" fn bpftime_server() {}

/// Loads the agent, once, if a probe in `file` (device and inode) of process
/// `pid` (-1: of all) concerns this very process.
pub fn meet(file: (u64, u64), pid: i32) {
    let is_own_file = || place::file(b"/proc/self/exe").is_ok_and(|own| (own.dev, own.ino) == file);
    if pid == shm::sys::getpid() || (pid == -1 && is_own_file()) {
        join();
    }
}

/// Loads the agent, once, if a program that looks at the system calls of all
/// processes seems to look for those of this one: a global variable, or an
/// element of another array, is its process id. Other tools are not made
/// targets for that, which would cost each of them a look at all its text.
pub fn meet_calls(prog: &ProgObject) {
    let pid = shm::sys::getpid().to_ne_bytes();
    let names_it = |map: &Arc<MapObject>| {
        let spec = map.map().spec();
        let bytes = spec.value_size as usize;
        if spec.map_type != BPF_MAP_TYPE_ARRAY || bytes > MOST_BYTES || spec.max_entries > MOST {
            return false;
        }
        let mut value = vec![0; bytes];
        (0..spec.max_entries).any(|index| {
            map.map()
                .lookup(&index.to_ne_bytes(), &mut value, 0)
                .is_ok()
                && value.chunks_exact(pid.len()).any(|word| word == pid)
        })
    };
    if prog.maps().iter().any(names_it) {
        join();
    }
}

/// The same for a program that is put on an event.
pub fn meet_event(event: &PerfEvent, prog: &ProgObject) {
    if matches!(
        event.kind(),
        EventKind::Tracepoint(_) | EventKind::Kprobe(_)
    ) {
        meet_calls(prog);
    }
}

/// Loads the agent, once.
pub fn join() {
    static ONCE: Once = Once::new();
    // Into a supervised tool nothing can be loaded.
    if caller::supervised().is_none() {
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
