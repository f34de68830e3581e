//! A lock that may be taken before fork(2) and released in the child, which
//! `std`'s guards do not allow. It knows nothing of what it protects.

use std::sync::atomic::{AtomicU32, Ordering};

use shm::futex;

const FREE: u32 = 0;
const HELD: u32 = 1;
const WAITED_FOR: u32 = 2;

/// A futex lock without owner and without poisoning.
#[derive(Debug, Default)]
pub struct ForkLock(AtomicU32);

impl ForkLock {
    /// A free lock.
    pub const fn new() -> ForkLock {
        ForkLock(AtomicU32::new(FREE))
    }

    /// Takes the lock.
    pub fn lock(&self) {
        let taken = self
            .0
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_ok() {
            return;
        }
        while self.0.swap(WAITED_FOR, Ordering::Acquire) != FREE {
            futex::wait(&self.0, WAITED_FOR, None);
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> bool {
        self.0
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Releases the lock; only whoever took it may, or its forked child.
    pub fn unlock(&self) {
        if self.0.swap(FREE, Ordering::Release) == WAITED_FOR {
            futex::wake(&self.0, 1);
        }
    }

    /// Calls `body` with the lock held, also when it unwinds.
    pub fn with<T>(&self, body: impl FnOnce() -> T) -> T {
        struct Release<'a>(&'a ForkLock);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.unlock();
            }
        }
        self.lock();
        let _release = Release(self);
        body()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Shared(ForkLock, Cell<u32>);
    // SAFETY: the test touches the cell with the lock held only.
    unsafe impl Sync for Shared {}

    #[test]
    fn excludes() {
        let shared = Shared(ForkLock::new(), Cell::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let shared = &shared;
                    for _ in 0..10_000 {
                        shared.0.with(|| shared.1.set(shared.1.get() + 1));
                    }
                });
            }
        });
        assert_eq!(shared.1.get(), 40_000);
    }
}
