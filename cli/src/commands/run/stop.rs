//! Ctrl-C, and other requests to end.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTS: AtomicU32 = AtomicU32::new(0);
/// The signal that the application has not got by itself, or 0.
static TO_PASS_ON: AtomicI32 = AtomicI32::new(0);

extern "C" fn ask(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's record of the signal, for the length of the call.
    let from_terminal = unsafe { (*info).si_code } > 0;
    if !from_terminal {
        TO_PASS_ON.store(signal, Ordering::Relaxed);
    }
    REQUESTS.fetch_add(1, Ordering::Relaxed);
}

/// From now on these signals ask, and end waits (no `SA_RESTART`), instead of
/// ending the process. What the user has chosen to ignore (`nohup`) stays so.
pub fn listen() {
    let flags = SaFlags::SA_SIGINFO;
    let action = SigAction::new(SigHandler::SigAction(ask), flags, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler reads its argument and stores to atomics.
        let before = unsafe { sigaction(signal, &action) };
        if let Ok(before) = before
            && matches!(before.handler(), SigHandler::SigIgn)
        {
            // SAFETY: no handler.
            let _ = unsafe { sigaction(signal, &before) };
        }
    }
    // Who reads stderr may go away; children have it as it was (std resets it).
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &ignore) };
}

/// How often one of them came.
pub fn requests() -> u32 {
    REQUESTS.load(Ordering::Relaxed)
}

/// The signal that came to this process alone since the last call. A terminal
/// gives its signals to the application, too.
pub fn to_pass_on() -> Option<Signal> {
    Signal::try_from(TO_PASS_ON.swap(0, Ordering::Relaxed)).ok()
}

/// Ends as who writes for nobody does.
pub fn by_broken_pipe() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
    let _ = nix::sys::signal::raise(Signal::SIGPIPE);
}
