//! What sessions keep between the entry and the return of one call. Reachable
//! from trampolines: no allocation, no lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

/// Sessions of one call that can go on to its return.
const MOST: usize = 16;

/// One session of one call.
#[derive(Clone, Copy)]
pub(crate) struct Cookie {
    /// The probe.
    pub(crate) id: u64,
    /// What its callback left at entry.
    pub(crate) value: u64,
}

/// The sessions of a hit that go on to the function's return.
pub(crate) struct Kept {
    len: usize,
    cookies: [Cookie; MOST],
}

impl Kept {
    pub(crate) fn new() -> Kept {
        Kept {
            len: 0,
            cookies: [Cookie { id: 0, value: 0 }; MOST],
        }
    }

    /// False if there is no room.
    pub(crate) fn keep(&mut self, id: u64, value: u64) -> bool {
        let Some(place) = self.cookies.get_mut(self.len) else {
            return false;
        };
        *place = Cookie { id, value };
        self.len += 1;
        true
    }

    pub(crate) fn cookies(&self) -> &[Cookie] {
        self.cookies.get(..self.len).unwrap_or_default()
    }
}
