//! Ctrl-C, and other requests to end.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn ask(_: i32) {
    ASKED.store(true, Ordering::Relaxed);
}

/// From now on these signals ask, and end waits (no `SA_RESTART`), instead of
/// ending the process.
pub fn listen() {
    let action = SigAction::new(SigHandler::Handler(ask), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores to an atomic and does nothing else.
        // Fails for no signal that can be handled.
        let _ = unsafe { sigaction(signal, &action) };
    }
    // Who reads stderr may go away; children have it as it was (std resets it).
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &ignore) };
}

/// Ends as who writes for nobody does.
pub fn by_broken_pipe() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
    let _ = nix::sys::signal::raise(Signal::SIGPIPE);
}

/// Whether one of them came.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
