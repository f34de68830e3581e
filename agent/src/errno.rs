//! The target's errno, and panics, at the edge between the target and us.

use std::panic::{AssertUnwindSafe, catch_unwind};

use attach::Engine;

/// Calls `body` from code of the target: errno is afterwards what it was, and
/// a panic ends here. Returns nothing of a body that panicked.
pub fn preserved<T>(body: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: the location is this thread's and valid while it runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    // What we do on its thread is not the target's doing.
    let result = Engine::exempted(|| catch_unwind(AssertUnwindSafe(body)));
    // SAFETY: as above.
    unsafe { errno.write(before) };
    result.ok()
}
