//! Waiting for a condition with a deadline. It knows no process.

use std::thread;
use std::time::{Duration, Instant};

/// Longest time that anything in a test may take before it counts as a hang.
pub const LONG: Duration = Duration::from_secs(20);

/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(2);

/// Looks at `condition` until it gives something, and returns it with the time
/// that passed.
///
/// # Panics
/// After `limit`, with `what`.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return (value, start.elapsed());
        }
        assert!(
            start.elapsed() < limit,
            "waited {limit:?} in vain for: {what}"
        );
        thread::park_timeout(INTERVAL);
    }
}

/// [`until`] for a condition that is true or false.
///
/// # Panics
/// As [`until`].
pub fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    until(what, limit, || condition().then_some(())).1
}
