//! Keeping libraries where they are while their text is read and written. It
//! knows no text.

use core::ffi::{c_int, c_void};

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
