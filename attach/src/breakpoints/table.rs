//! Where breakpoints lead. Reachable from a signal handler: no allocation, no
//! lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Places; half of them are used at most.
const PLACES: usize = 8192;
/// What an address becomes that is no breakpoint any more.
const GONE: u64 = 1;

/// One breakpoint: its address, 0 for none, and its trampoline's entry.
struct Place {
    addr: AtomicU64,
    entry: AtomicU64,
}

static TABLE: [Place; PLACES] = [const {
    Place {
        addr: AtomicU64::new(0),
        entry: AtomicU64::new(0),
    }
}; PLACES];

/// The places where an address may be, in order.
fn places(addr: u64) -> impl Iterator<Item = &'static Place> {
    let start = (addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % PLACES;
    let (before, after) = TABLE.split_at(start);
    after.iter().chain(before)
}

/// Where the breakpoint at `addr` leads. It does so for ever: a thread may have
/// hit it before it was taken away.
pub(super) fn find(addr: u64) -> Option<u64> {
    for place in places(addr) {
        // Pairs with the store in `insert`.
        match place.addr.load(Ordering::Acquire) {
            0 => return None,
            at if at == addr => return Some(place.entry.load(Ordering::Relaxed)),
            _ => {}
        }
    }
    None
}

/// Notes where the breakpoint at `addr` will lead; false if there are too many.
/// With the engine's lock held.
pub(crate) fn insert(addr: u64, entry: u64) -> bool {
    let mut free = None;
    for (n, place) in places(addr).enumerate() {
        match place.addr.load(Ordering::Relaxed) {
            at if at == addr => {
                place.entry.store(entry, Ordering::Relaxed);
                return true;
            }
            GONE => free = free.or(Some(place)),
            0 => {
                free = free.or(Some(place));
                break;
            }
            _ if n > PLACES / 2 => break,
            _ => {}
        }
    }
    let Some(place) = free else { return false };
    place.entry.store(entry, Ordering::Relaxed);
    place.addr.store(addr, Ordering::Release);
    true
}

/// The text in `range` is gone: other code may be there later.
pub(crate) fn forget_range(range: &Range<u64>) {
    for place in &TABLE {
        if range.contains(&place.addr.load(Ordering::Relaxed)) {
            place.addr.store(GONE, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_is_found_until_its_text_goes() {
        let addr = |n: u64| 0x7000_0000_0000 + n * 3;
        for n in 0..3000 {
            assert!(insert(addr(n), n + 10));
        }
        assert!(insert(addr(7), 70));
        forget_range(&(addr(1000)..addr(1500)));
        for n in 0..3000 {
            let expected = match n {
                7 => Some(70),
                1000..1500 => None,
                _ => Some(n + 10),
            };
            assert_eq!(find(addr(n)), expected, "{n}");
        }
        assert_eq!(find(addr(0) + 1), None);
        assert!(insert(addr(1200), 5));
        assert_eq!(find(addr(1200)), Some(5));
        forget_range(&(addr(0)..addr(3000)));
        assert_eq!(find(addr(0)), None);
    }
}
