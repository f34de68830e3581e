//! Processes that restrict themselves by seccomp(2): a filter may end them for
//! a call that only we make, in our thread or in a probe. Injected, this
//! library has hooks on the calls that install one, and leaves first. It knows
//! no filter.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use attach::{Hit, Kind, Point, Probe};
use uapi::PtRegs;

use crate::agent;
use crate::errno::preserved;
use crate::modules::{Image, Modules};

/// How long the installing thread waits for us to leave.
const TIMEOUT: Duration = Duration::from_secs(5);

const PRCTL: &CStr = c"prctl";
const SYSCALL: &CStr = c"syscall";

/// Where libc has the two.
static FOUND: [AtomicPtr<c_void>; 2] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 2];

/// Finds the functions. Takes the loader's lock: not on the agent's thread.
pub fn find() {
    for (name, found) in [PRCTL, SYSCALL].into_iter().zip(&FOUND) {
        // SAFETY: looks a name up in the modules after this one.
        let address = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        found.store(address, Ordering::Release);
    }
}

/// The hooks, for a process that did not preload this library.
pub fn probes(image: &Image, modules: &mut Modules) -> Result<[(Point, Probe); 2], String> {
    let [prctl, syscall] = &FOUND;
    let mut at = |found: &AtomicPtr<c_void>, callback| {
        let addr = found.load(Ordering::Acquire) as usize;
        let mapping = image.holding(addr).ok_or("libc is not mapped")?;
        let module = modules.of(mapping, image)?;
        let kind = Kind::Entry;
        let point = Point { addr, kind, module };
        Ok::<_, String>((point, Probe::new(callback, std::ptr::null())))
    };
    Ok([at(prctl, on_prctl)?, at(syscall, on_syscall)?])
}

/// `prctl(PR_SET_SECCOMP, …)`.
unsafe extern "C" fn on_prctl(regs: *mut PtRegs, _data: *const (), _hit: *mut Hit) -> u64 {
    // SAFETY: the engine's contract: valid during the call.
    if unsafe { (*regs).di } as i32 == libc::PR_SET_SECCOMP {
        leave();
    }
    0
}

/// `syscall(SYS_seccomp, SECCOMP_SET_MODE_…, …)`.
unsafe extern "C" fn on_syscall(regs: *mut PtRegs, _data: *const (), _hit: *mut Hit) -> u64 {
    // SAFETY: as above.
    let (number, operation) = unsafe { ((*regs).di as i64, (*regs).si as libc::c_uint) };
    let installs = [libc::SECCOMP_SET_MODE_STRICT, libc::SECCOMP_SET_MODE_FILTER];
    if number == libc::SYS_seccomp && installs.contains(&operation) {
        leave();
    }
    0
}

fn leave() {
    preserved(|| agent::get().map(|agent| agent.is_running() && agent.stop(TIMEOUT)));
}
