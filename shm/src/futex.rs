//! Waiting on a word of shared memory. It knows nothing of what the word means.

use std::time::Duration;

use crate::sync::AtomicU32;
use crate::sys;

/// Why [`wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitResult {
    /// Woken, or the word no longer had the expected value, or a signal came.
    Look,
    /// The time was up.
    TimedOut,
}

/// Sleeps while `word` holds `expected`, at most `timeout`. The futex is
/// shared between processes. Pairs with [`wake`] after a store to `word`.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> WaitResult {
    #[cfg(feature = "model")]
    if crate::sync::model::futex_wait(word, expected, timeout.is_some()) {
        return WaitResult::Look;
    }
    let time = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs() as i64,
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    let time = time.as_ref().map_or(0, |t| core::ptr::from_ref(t) as usize);
    // SAFETY: `word` and `time` outlive the call.
    let ret = unsafe {
        sys::syscall6(
            libc::SYS_futex as usize,
            word.as_ptr() as usize,
            libc::FUTEX_WAIT as usize,
            expected as usize,
            time,
            0,
            0,
        )
    };
    if ret == -(libc::ETIMEDOUT as isize) {
        WaitResult::TimedOut
    } else {
        WaitResult::Look
    }
}

/// Wakes up to `count` sleepers of `word`; returns how many.
#[cfg_attr(feature = "model", track_caller)]
pub fn wake(word: &AtomicU32, count: u32) -> u32 {
    #[cfg(feature = "model")]
    if crate::sync::model::futex_wake(word.as_ptr().addr(), count) {
        return 0;
    }
    // SAFETY: `word` is valid for the call; FUTEX_WAKE only uses its address.
    let ret = unsafe {
        sys::syscall6(
            libc::SYS_futex as usize,
            word.as_ptr() as usize,
            libc::FUTEX_WAKE as usize,
            count as usize,
            0,
            0,
            0,
        )
    };
    ret.max(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn waits_and_wakes() {
        let word = AtomicU32::new(0);
        assert_eq!(wait(&word, 1, None), WaitResult::Look);
        let short = Some(Duration::from_millis(1));
        assert_eq!(wait(&word, 0, short), WaitResult::TimedOut);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                word.store(1, Ordering::Release);
                wake(&word, 1);
            });
            while word.load(Ordering::Acquire) == 0 {
                wait(&word, 0, None);
            }
        });
    }
}
