//! dlopen(3): a hook on the function that the dynamic loader calls when the
//! list of modules has changed, so that probes are in place before a new
//! module's constructors run. It knows no session.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use attach::{Hit, Kind, Point, Probe};
use uapi::PtRegs;

use crate::agent;
use crate::errno::preserved;
use crate::log::debug;
use crate::maps::Mapping;
use crate::modules::{Image, Modules};

/// How long dlopen(3) waits for probes.
const TIMEOUT: Duration = Duration::from_millis(100);
/// `RT_CONSISTENT` of link.h: the change is complete.
const RT_CONSISTENT: u32 = 0;

/// `struct r_debug` of link.h: the loader's rendezvous with debuggers.
#[repr(C)]
struct RDebug {
    r_version: i32,
    r_map: *const (),
    /// The function it calls.
    r_brk: usize,
    r_state: u32,
}

static R_DEBUG: AtomicPtr<RDebug> = AtomicPtr::new(std::ptr::null_mut());

/// Finds the rendezvous. Takes the loader's lock: not on the agent's thread.
pub fn find() {
    const NAME: &CStr = c"_r_debug";
    // SAFETY: looks a name up among the loaded modules.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, NAME.as_ptr()) };
    R_DEBUG.store(found.cast(), Ordering::Release);
}

/// The hook to attach, once; `None` where the loader has no such function.
pub fn probe(image: &Image, modules: &mut Modules) -> Option<(Point, Probe)> {
    // SAFETY: null or the loader's structure, which lives as long as the
    // process; `r_brk` is set before any of our code runs.
    let addr = unsafe { R_DEBUG.load(Ordering::Acquire).as_ref() }?.r_brk;
    let mapping: &Mapping = image.holding(addr)?;
    let module = modules
        .of(mapping, image)
        .inspect_err(|error| debug!("dlopen is not followed: {error}"))
        .ok()?;
    let point = Point {
        addr,
        kind: Kind::Entry,
        module,
    };
    Some((point, Probe::new(on_change, std::ptr::null())))
}

/// Runs on the thread in dlopen(3) or dlclose(3), with the loader's lock held.
unsafe extern "C" fn on_change(_regs: *mut PtRegs, _data: *const (), _hit: *mut Hit) -> u64 {
    let r_debug = R_DEBUG.load(Ordering::Acquire);
    // SAFETY: the hook is only there when the structure was found; the lock
    // that this thread holds keeps others from writing it.
    if unsafe { (&raw const (*r_debug).r_state).read_volatile() } != RT_CONSISTENT {
        return 0;
    }
    if let Some(agent) = agent::get() {
        preserved(|| agent.follow_now(TIMEOUT));
    }
    0
}
