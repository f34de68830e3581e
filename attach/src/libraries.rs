//! Keeping libraries where they are while their text is read and written. It
//! knows no text.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

use std::time::{Duration, Instant};

use crate::lock::Lock;

/// How long fork(2) waits for who holds libc's list.
const FORK_WAITS: Duration = Duration::from_secs(1);

/// Whoever holds libc's list holds this first: libc gives a forked child the
/// list as it is, and one that another thread held there would be held for ever.
static HOLDER: Lock<()> = Lock::new(());
/// Whether the thread that forks has it.
static IS_FORKERS: AtomicBool = AtomicBool::new(false);

/// A body to run and, afterwards, what it gave.
struct Run<F, T> {
    body: Option<F>,
    result: Option<T>,
}

/// Runs `body` while no dlclose(3) can unmap a library: libc calls back with
/// its list of libraries locked, and unmaps with the list locked, too
/// (`__dl_iterate_phdr` and `_dl_close_worker`, glibc 2.36). `body` loads no
/// library and does not unwind.
pub(crate) fn held<F: FnOnce() -> T, T>(body: F) -> T {
    let _holder = HOLDER.lock();
    let mut run = Run {
        body: Some(body),
        result: None,
    };
    // SAFETY: the callback gets the `run` that lives here, and follows nothing
    // else.
    unsafe { libc::dl_iterate_phdr(Some(on_first::<F, T>), (&raw mut run).cast()) };
    match (run.result, run.body) {
        (Some(result), _) => result,
        // There was no library to be called for.
        (None, Some(body)) => body(),
        (None, None) => unreachable!("the body has run and gave nothing"),
    }
}

/// Before fork(2): nobody holds libc's list for us. Waits for a moment only,
/// for a thread that forks while it holds that list is waited for by who has
/// [`HOLDER`]. Whether nobody does is for [`after_fork`].
pub(crate) fn before_fork() -> bool {
    let begun = Instant::now();
    // One wait may be as short as another's turn.
    while begun.elapsed() < FORK_WAITS {
        if HOLDER.acquire_soon() {
            return true;
        }
    }
    false
}

/// Notes what [`before_fork`] said. One thread at a time may be between here
/// and [`after_fork`].
pub(crate) fn note_fork(is_ours: bool) {
    IS_FORKERS.store(is_ours, Ordering::Relaxed);
}

/// After fork(2), on both sides.
pub(crate) fn after_fork() {
    if IS_FORKERS.swap(false, Ordering::Relaxed) {
        // SAFETY: `before_fork` has acquired it on this thread, or on the one
        // that became it.
        unsafe { HOLDER.release() };
    }
}

/// Called for the first library; its answer ends the walk.
unsafe extern "C" fn on_first<F: FnOnce() -> T, T>(
    _library: *mut libc::dl_phdr_info,
    _size: usize,
    run: *mut c_void,
) -> c_int {
    // SAFETY: what `held` gave, of these types, and nobody else uses it now.
    let run = unsafe { &mut *run.cast::<Run<F, T>>() };
    if let Some(body) = run.body.take() {
        run.result = Some(body());
    }
    1
}
