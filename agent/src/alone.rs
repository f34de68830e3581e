//! Calls that behave differently in a process of several threads: unshare(2)
//! and setns(2) refuse, the setuid(2) family changes all threads that libc
//! knows and aborts when one has other capabilities. Preloaded, this library
//! stands before them in libc; injected, hooks do ([`probes`]). Our thread is
//! away while they run; its hooks stay. It knows nothing of what the calls do.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use attach::{Hit, Kind, Point, Probe};
use uapi::PtRegs;

use crate::agent;
use crate::errno::preserved;
use crate::modules::{Image, Modules};

/// A function of libc that one of ours stands before.
struct Behind {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Behind {
    const fn new(name: &'static CStr) -> Behind {
        Behind {
            name,
            found: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Its address; null when there is none.
    fn get(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Acquire);
        if !found.is_null() {
            return found;
        }
        // SAFETY: looks a name up in the modules after this one.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Release);
        found
    }
}

macro_rules! alone {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        /// The functions, with their zero.
        const NAMES: &[&str] = &[$(concat!(stringify!($name), "\0")),*];
    $(
        #[doc = concat!(stringify!($name), "(2 or 3), for a program that has the agent preloaded.")]
        ///
        /// # Safety
        /// As the function of libc.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            const NAME: &CStr = match CStr::from_bytes_with_nul(
                concat!(stringify!($name), "\0").as_bytes(),
            ) {
                Ok(name) => name,
                Err(_) => c"",
            };
            static BEHIND: Behind = Behind::new(NAME);
            let agent = agent::get();
            preserved(|| agent.map(|agent| agent.step_aside()));
            let function = BEHIND.get();
            let result = if function.is_null() {
                // SAFETY: the location is this thread's.
                unsafe { *libc::__errno_location() = libc::ENOSYS };
                -1
            } else {
                // SAFETY: libc's function of this name has this type.
                let function = unsafe {
                    std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> c_int>(
                        function,
                    )
                };
                // SAFETY: the caller's contract is the function's.
                unsafe { function($($argument),*) }
            };
            preserved(|| agent.map(|agent| agent.come_back()));
            result
        }
    )*};
}

alone! {
    unshare(flags: c_int);
    setns(fd: c_int, kind: c_int);
    setuid(uid: libc::uid_t);
    setgid(gid: libc::gid_t);
    seteuid(uid: libc::uid_t);
    setegid(gid: libc::gid_t);
    setreuid(real: libc::uid_t, effective: libc::uid_t);
    setregid(real: libc::gid_t, effective: libc::gid_t);
    setresuid(real: libc::uid_t, effective: libc::uid_t, saved: libc::uid_t);
    setresgid(real: libc::gid_t, effective: libc::gid_t, saved: libc::gid_t);
    setgroups(count: libc::size_t, list: *const libc::gid_t);
    initgroups(user: *const libc::c_char, group: libc::gid_t);
}

/// Where libc has them.
static FOUND: [AtomicPtr<c_void>; NAMES.len()] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; NAMES.len()];

/// Finds the functions for [`probes`]. Takes the loader's lock: not on the
/// agent's thread.
pub fn find() {
    for (name, found) in NAMES.iter().zip(&FOUND) {
        // SAFETY: looks a name up, which ends with a zero, in the modules after this one.
        let address = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr().cast()) };
        found.store(address, Ordering::Release);
    }
}

/// The hooks for a process that did not preload this library, and why some
/// cannot be.
pub fn probes(image: &Image, modules: &mut Modules) -> Result<Vec<(Point, Probe)>, String> {
    let mut probes = Vec::new();
    for found in &FOUND {
        let address = found.load(Ordering::Acquire);
        if address.is_null() {
            continue;
        }
        let mapping = image
            .holding(address as usize)
            .ok_or("libc is not mapped")?;
        let module = modules.of(mapping, image)?;
        let at = |kind, callback| {
            let point = Point {
                addr: address as usize,
                kind,
                module: module.clone(),
            };
            (point, Probe::new(callback, std::ptr::null()))
        };
        probes.push(at(Kind::Entry, on_entry));
        probes.push(at(Kind::Return, on_return));
    }
    Ok(probes)
}

/// Runs where a preloaded library's function would: the caller expects a call,
/// so what it may change need not be saved.
unsafe extern "C" fn on_entry(_regs: *mut PtRegs, _data: *const (), _hit: *mut Hit) -> u64 {
    preserved(|| agent::get().map(|agent| agent.step_aside()));
    0
}

unsafe extern "C" fn on_return(_regs: *mut PtRegs, _data: *const (), _hit: *mut Hit) -> u64 {
    preserved(|| agent::get().map(|agent| agent.come_back()));
    0
}
