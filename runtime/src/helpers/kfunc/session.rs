//! Sessions: where in a call a program runs, and what it keeps until the
//! function returns.

use vm::Run;

use crate::run::RunState;

/// `bool bpf_session_is_return()`.
pub(super) unsafe extern "C" fn is_return(
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    run: *mut Run,
) -> u64 {
    // SAFETY: helpers get the run that they are called in.
    u64::from(unsafe { RunState::of(run) }.at_return)
}

/// `__u64 *bpf_session_cookie()`.
pub(super) unsafe extern "C" fn cookie(
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    _: u64,
    run: *mut Run,
) -> u64 {
    // SAFETY: as above.
    unsafe { RunState::of(run) }.session_cookie() as u64
}
