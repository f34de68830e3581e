//! Words as core's, of the same size, whose operations on memory that a model
//! shares ([`super::model::share`]) are loom's.

use core::sync::atomic::Ordering::{self, Relaxed};

use super::model::{self, Kind, Step, Word};

macro_rules! word {
    ($name:ident, $int:ty, $word:path) => {
        #[doc = concat!("As core's `", stringify!($name), "`.")]
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub struct $name(core::sync::atomic::$name);

        #[expect(missing_docs, reason = "as core's")]
        impl $name {
            pub const fn new(value: $int) -> $name {
                $name(core::sync::atomic::$name::new(value))
            }

            /// # Safety
            /// As core's.
            pub const unsafe fn from_ptr<'a>(at: *mut $int) -> &'a $name {
                // SAFETY: the caller's contract; the representation is the same.
                unsafe { &*at.cast() }
            }

            pub const fn as_ptr(&self) -> *mut $int {
                self.0.as_ptr()
            }

            #[track_caller]
            pub fn load(&self, order: Ordering) -> $int {
                match self.step(Kind::Load, order) {
                    Step::Loom($word(word), order) => word.load(order),
                    _ => self.0.load(order),
                }
            }

            #[track_caller]
            pub fn store(&self, value: $int, order: Ordering) {
                match self.step(Kind::Store, order) {
                    Step::Loom($word(word), order) => {
                        word.store(value, order);
                        self.0.store(value, Relaxed);
                    }
                    Step::Nothing => {}
                    _ => self.0.store(value, order),
                }
            }

            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                match self.step(Kind::Change, success) {
                    Step::Loom($word(word), order) => {
                        let failure = if order == Relaxed { Relaxed } else { failure };
                        let result = word.compare_exchange(current, new, order, failure);
                        if result.is_ok() {
                            self.0.store(new, Relaxed);
                        }
                        result
                    }
                    // As if it had been done.
                    Step::Nothing => Ok(current),
                    _ => self.0.compare_exchange(current, new, success, failure),
                }
            }

            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                self.compare_exchange(current, new, success, failure)
            }

            #[track_caller]
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                match self.step(Kind::Change, order) {
                    Step::Loom($word(word), order) => {
                        let before = word.swap(value, order);
                        self.0.store(value, Relaxed);
                        before
                    }
                    Step::Nothing => self.0.load(Relaxed),
                    _ => self.0.swap(value, order),
                }
            }

            #[track_caller]
            pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                match self.step(Kind::Change, order) {
                    Step::Loom($word(word), order) => {
                        let before = word.fetch_add(value, order);
                        self.0.store(before.wrapping_add(value), Relaxed);
                        before
                    }
                    Step::Nothing => self.0.load(Relaxed),
                    _ => self.0.fetch_add(value, order),
                }
            }

            #[track_caller]
            pub fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                match self.step(Kind::Change, order) {
                    Step::Loom($word(word), order) => {
                        let before = word.fetch_sub(value, order);
                        self.0.store(before.wrapping_sub(value), Relaxed);
                        before
                    }
                    Step::Nothing => self.0.load(Relaxed),
                    _ => self.0.fetch_sub(value, order),
                }
            }

            #[track_caller]
            pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                match self.step(Kind::Change, order) {
                    Step::Loom($word(word), order) => {
                        let before = word.fetch_and(value, order);
                        self.0.store(before & value, Relaxed);
                        before
                    }
                    Step::Nothing => self.0.load(Relaxed),
                    _ => self.0.fetch_and(value, order),
                }
            }

            #[track_caller]
            pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                match self.step(Kind::Change, order) {
                    Step::Loom($word(word), order) => {
                        let before = word.fetch_or(value, order);
                        self.0.store(before | value, Relaxed);
                        before
                    }
                    Step::Nothing => self.0.load(Relaxed),
                    _ => self.0.fetch_or(value, order),
                }
            }

            #[track_caller]
            pub fn fetch_xor(&self, value: $int, order: Ordering) -> $int {
                match self.step(Kind::Change, order) {
                    Step::Loom($word(word), order) => {
                        let before = word.fetch_xor(value, order);
                        self.0.store(before ^ value, Relaxed);
                        before
                    }
                    Step::Nothing => self.0.load(Relaxed),
                    _ => self.0.fetch_xor(value, order),
                }
            }

            #[track_caller]
            pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                match self.step(Kind::Change, order) {
                    Step::Loom($word(word), order) => {
                        let before = word.fetch_max(value, order);
                        self.0.store(before.max(value), Relaxed);
                        before
                    }
                    Step::Nothing => self.0.load(Relaxed),
                    _ => self.0.fetch_max(value, order),
                }
            }

            #[track_caller]
            pub fn fetch_min(&self, value: $int, order: Ordering) -> $int {
                match self.step(Kind::Change, order) {
                    Step::Loom($word(word), order) => {
                        let before = word.fetch_min(value, order);
                        self.0.store(before.min(value), Relaxed);
                        before
                    }
                    Step::Nothing => self.0.load(Relaxed),
                    _ => self.0.fetch_min(value, order),
                }
            }

            #[track_caller]
            fn step(&self, kind: Kind, order: Ordering) -> Step {
                model::step(self.as_ptr().addr(), size_of::<$int>(), kind, order)
            }
        }
    };
}

word!(AtomicU32, u32, Word::W32);
word!(AtomicU64, u64, Word::W64);
