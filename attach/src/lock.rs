//! The lock that the engine holds while it changes text. It survives fork(2)
//! and is never held by a thread that a signal can interrupt.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::sys;

/// A value that one thread at a time reaches, with all signals blocked.
pub(crate) struct Lock<T> {
    /// Process id of the holder's process, 0 when free: what a fork without
    /// handlers left locked has another process's id.
    holder: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by the lock's holder only.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Lock<T> {
        Lock {
            holder: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let mask = sys::block_signals();
        self.acquire();
        Guard { lock: self, mask }
    }

    /// Waits for the lock, for a second or so.
    pub(crate) fn lock_soon(&self) -> Option<Guard<'_, T>> {
        let mask = sys::block_signals();
        if self.acquire_soon() {
            return Some(Guard { lock: self, mask });
        }
        sys::restore_signals(mask);
        None
    }

    /// Takes the lock without a guard, for the prepare handler of fork(2).
    pub(crate) fn acquire(&self) {
        while !self.acquire_within(usize::MAX) {}
    }

    /// The same for a second or so; whether it was had.
    pub(crate) fn acquire_soon(&self) -> bool {
        const WAITS: usize = 100;
        self.acquire_within(WAITS)
    }

    /// Whether the lock was had after so many waits.
    fn acquire_within(&self, waits: usize) -> bool {
        let me = sys::getpid();
        for _ in 0..waits {
            let free = 0;
            match self
                .holder
                .compare_exchange(free, me, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(holder) if holder != me => {
                    // Its holder is in the process that forked us.
                    let taken = Ordering::Acquire;
                    if self
                        .holder
                        .compare_exchange(holder, me, taken, Ordering::Relaxed)
                        .is_ok()
                    {
                        return true;
                    }
                }
                Err(holder) => sys::futex_wait(&self.holder, holder),
            }
        }
        false
    }

    /// Gives the lock back, for the handlers of fork(2) in parent and child.
    ///
    /// # Safety
    /// The calling thread, or the one that forked it, has called `acquire`.
    pub(crate) unsafe fn release(&self) {
        self.holder.store(0, Ordering::Release);
        sys::futex_wake(&self.holder);
    }
}

/// The value while it is locked.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    mask: u64,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard is the lock's holder.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard is the lock's holder.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: `lock` acquired it.
        unsafe { self.lock.release() };
        sys::restore_signals(self.mask);
    }
}
