//! The end of the first thread by pthread_exit(3): libc ends the process with
//! its last thread, and must not count ours. Preloaded, this library stands
//! before libc's function and notices; injected, a hook does ([`probe`]).
//!
//! The end of the process by _exit(2), which runs no handlers: the hits since
//! the last round would be forgotten.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use attach::{Hit, Kind, Point, Probe};
use uapi::PtRegs;

use crate::agent;
use crate::errno::preserved;
use crate::modules::{Image, Modules};

type PthreadExit = unsafe extern "C-unwind" fn(*mut c_void) -> !;

static LIBC_PTHREAD_EXIT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Finds libc's function. Takes the loader's lock: not on the agent's thread.
pub fn find() {
    // SAFETY: looks a name up in the modules after this one.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"pthread_exit".as_ptr()) };
    LIBC_PTHREAD_EXIT.store(found, Ordering::Release);
}

/// The hook for a process that did not preload this library.
pub fn probe(image: &Image, modules: &mut Modules) -> Result<(Point, Probe), String> {
    let addr = LIBC_PTHREAD_EXIT.load(Ordering::Acquire) as usize;
    let mapping = image.holding(addr).ok_or("libc is not mapped")?;
    let point = Point {
        addr,
        kind: Kind::Entry,
        module: modules.of(mapping, image)?,
    };
    Ok((point, Probe::new(on_exit, std::ptr::null())))
}

unsafe extern "C" fn on_exit(_regs: *mut PtRegs, _data: *const (), _hit: *mut Hit) -> u64 {
    notice();
    0
}

/// Tells the agent if the calling thread is the first.
fn notice() {
    if shm::sys::gettid() == shm::sys::getpid()
        && let Some(agent) = agent::get()
    {
        preserved(|| agent.first_thread_leaves());
    }
}

/// pthread_exit(3), for a program that has the agent preloaded.
///
/// # Safety
/// As pthread_exit(3).
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_exit(value: *mut c_void) -> ! {
    notice();
    let mut function = LIBC_PTHREAD_EXIT.load(Ordering::Acquire);
    if function.is_null() {
        // Called by a constructor that runs before ours.
        find();
        function = LIBC_PTHREAD_EXIT.load(Ordering::Acquire);
    }
    if function.is_null() {
        // SAFETY: ends the process: there is no libc to end only the thread.
        unsafe { libc::_exit(127) }
    }
    // SAFETY: libc's pthread_exit has this type; the caller's contract is its.
    unsafe { std::mem::transmute::<*mut c_void, PthreadExit>(function)(value) }
}

/// _exit(2), for a program that has the agent preloaded.
///
/// # Safety
/// As _exit(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _exit(status: c_int) -> ! {
    // Our call is not seen; the target's is.
    attach::Engine::syscall_made(libc::SYS_exit_group, status as u64);
    if let Some(agent) = agent::get() {
        agent.process_ends_at_once();
    }
    shm::sys::exit_group(status)
}

/// C's name of [`_exit`].
///
/// # Safety
/// As _exit(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Exit(status: c_int) -> ! {
    // SAFETY: the caller's contract.
    unsafe { _exit(status) }
}
