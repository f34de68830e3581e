//! fork(2) while text changes: alone in its process, for any thread that loads
//! or closes a library would leave its locks to the children.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use bpftime_attach::{Kind, Point};
use common::{Recorder, module_of};

/// libc's list of libraries, which is locked while text changes, is free in a
/// child that is forked meanwhile.
#[test]
fn a_child_forked_in_the_middle_of_a_change_knows_its_libraries() {
    const FORKS: usize = 300;
    unsafe extern "C" fn stop(_: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> i32 {
        1
    }
    let engine = common::engine();
    let addr = changed_while_forking as *const () as usize;
    let module = module_of(addr);
    let done = AtomicBool::new(false);
    let alive = std::thread::scope(|scope| {
        scope.spawn(|| {
            let probe = Recorder::leaked().probe();
            while !done.load(Ordering::Relaxed) {
                let (kind, module) = (Kind::Entry, module.clone());
                let ids = engine.attach(&[(Point { addr, kind, module }, probe)]);
                engine.detach(
                    &ids.into_iter()
                        .collect::<Result<Vec<_>, _>>()
                        .expect("a hook"),
                );
            }
        });
        let alive = (0..FORKS).take_while(|_| {
            // SAFETY: the child asks libc for its libraries, or is ended, and exits.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: as above; the callback looks at nothing.
                unsafe {
                    libc::alarm(5);
                    libc::_exit(libc::dl_iterate_phdr(Some(stop), std::ptr::null_mut()) - 1);
                }
            }
            let mut status = -1;
            // SAFETY: `status` is valid to write.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            status == 0
        });
        let alive = alive.count();
        done.store(true, Ordering::Relaxed);
        alive
    });
    assert_eq!((alive, changed_while_forking(2)), (FORKS, 8));
}

#[inline(never)]
extern "C" fn changed_while_forking(n: u64) -> u64 {
    std::hint::black_box(n) * 4
}
