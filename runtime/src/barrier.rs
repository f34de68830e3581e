//! A barrier of which one side pays for both: who looks once in a while has the
//! kernel put a barrier into all other threads (membarrier(2)), so that who
//! writes all the time needs none. It knows no structure.
//!
//! The kernel does so for processes that asked for it, which costs those
//! nothing; others use an instruction. Children by fork(2) inherit it.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use shm::sync::{Ordering::SeqCst, compiler_fence, fence};
use shm::sys;

// include/uapi/linux/membarrier.h
const GLOBAL_EXPEDITED: usize = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: usize = 1 << 2;

static REGISTERED: AtomicBool = AtomicBool::new(false);

fn membarrier(command: usize) -> bool {
    // SAFETY: reads and writes no memory.
    let result = unsafe { sys::syscall6(libc::SYS_membarrier as usize, command, 0, 0, 0, 0, 0) };
    result == 0
}

/// Asks the kernel for barriers in this process from now on.
pub fn register() {
    if membarrier(REGISTER_GLOBAL_EXPEDITED) {
        REGISTERED.store(true, Relaxed);
    }
}

/// Between a store and loads: whoever calls [`heavy`] sees the store, or the
/// loads see what it stored before.
#[inline]
pub fn light() {
    // Under a model both are instructions, which promises the same.
    match REGISTERED.load(Relaxed) {
        true => compiler_fence(SeqCst),
        false => fence(SeqCst),
    }
}

/// See [`light`]; `false` where the kernel does not do that for us, so only
/// stores of processes that did not register either are sure to be seen.
pub fn heavy() -> bool {
    fence(SeqCst);
    membarrier(GLOBAL_EXPEDITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET_REGISTRATIONS: usize = 1 << 9;

    fn registrations() -> isize {
        let command = GET_REGISTRATIONS;
        // SAFETY: reads and writes no memory.
        unsafe { sys::syscall6(libc::SYS_membarrier as usize, command, 0, 0, 0, 0, 0) }
    }

    #[test]
    fn children_inherit_it() {
        register();
        assert!(heavy());
        // Linux 6.3 has it first.
        let expected = registrations();
        // SAFETY: the child calls nothing that another thread may hold a lock of.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let same = registrations() == expected;
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!same)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
        assert!(expected < 0 || expected & REGISTER_GLOBAL_EXPEDITED as isize != 0);
    }
}
