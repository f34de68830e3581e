//! What happens at fork(2): the fd table is whole in the child, and the child
//! knows that it is not the tool. It knows no object.

use std::cell::RefCell;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::fds::{FDS, Locked};

/// The process whose table [`FDS`] is: a child of vfork(2) shares memory with
/// the tool, and must not change the tool's table when it closes its fds.
static OWNER: AtomicI32 = AtomicI32::new(0);

thread_local! {
    static HELD: RefCell<Option<Locked>> = const { RefCell::new(None) };
}

/// Begins to watch for forks.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(begin);
}

fn begin() {
    OWNER.store(shm::sys::getpid() as i32, Ordering::Release);
    // SAFETY: the three functions live as long as this library, which is
    // never unloaded.
    let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    if failed != 0 {
        crate::log::debug(format_args!("no memory to watch for forks"));
    }
}

/// Whether the caller runs in the memory of the process that owns it, not in
/// a child of vfork(2).
pub fn memory_is_ours() -> bool {
    // Pairs with the stores in `watch` and `in_child`.
    shm::sys::getpid() as i32 == OWNER.load(Ordering::Acquire)
}

extern "C" fn before() {
    HELD.with_borrow_mut(|held| *held = Some(FDS.lock()));
}

extern "C" fn in_parent() {
    HELD.with_borrow_mut(|held| *held = None);
}

extern "C" fn in_child() {
    OWNER.store(shm::sys::getpid() as i32, Ordering::Release);
    HELD.with_borrow_mut(|held| *held = None);
}
