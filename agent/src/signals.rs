//! Signal masks. It knows no signal's meaning.

/// Calls `body` with every signal blocked on this thread, so that a thread it
/// starts has them blocked from its first instruction. By libc's call, not the
/// kernel's: it leaves the two signals alone that libc itself needs in every
/// thread (thread cancellation, setuid(2) of all threads). Where there are
/// breakpoints any thread may hit one, so SIGTRAP is left alone, too.
pub fn with_all_blocked<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: an all-zero set is a valid value, and sigfillset fills it.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: both sets live on this stack frame.
    let blocked = unsafe {
        libc::sigfillset(&raw mut all);
        if attach::breakpoints::is_armed() {
            libc::sigdelset(&raw mut all, libc::SIGTRAP);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before)
    } == 0;
    let result = body();
    if blocked {
        // SAFETY: puts back what the call above stored.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut())
        };
    }
    result
}
