//! Before a tool waits for its fds, those of rings must say whether there is
//! data: level semantics on eventfds that nobody reads. It knows no event
//! loop; loops that mix our fds and others work because all are real.

use runtime::barrier;

use crate::server;

/// Makes the fds of all rings tell the truth.
pub fn settle() {
    let Some(server) = server::existing() else {
        return;
    };
    let wakers = server.bridge.wakers_now();
    // All of them, so no search.
    let calm = wakers.iter().filter(|waker| !waker.calm()).count();
    if calm > 0 {
        // Who writes a record from now on sees that it was waited for.
        barrier::heavy();
    }
    // Data may have come meanwhile, and the bridge saw a ready fd then.
    for waker in wakers {
        waker.raise();
    }
}
