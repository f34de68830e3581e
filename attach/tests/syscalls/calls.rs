//! What probes and programs see of calls, and who may change what.

use std::sync::atomic::Ordering;

use bpftime_attach::{Engine, SyscallEvent, SyscallProbe, When};

use crate::world::*;

#[test]
fn arguments_and_results() {
    let _alone = alone();
    let counted = traced(Some(libc::SYS_getppid), libc::SYS_getppid, || {
        // SAFETY: getppid(2) takes no argument.
        let result = unsafe { test_constant(11, 22, 33) };
        assert_eq!(result, i64::from(unsafe_getppid()));
        // SAFETY: as above.
        unsafe { test_constant(11, 22, 33) };
        let seen: Vec<u64> = ARGS.iter().map(|a| a.load(Ordering::Relaxed)).collect();
        assert_eq!(seen[..3], [11, 22, 33]);
        assert_eq!(RESULT.load(Ordering::Relaxed), result);
    });
    assert_eq!(counted, (3, 3));
}

#[test]
fn numbers_that_come_at_run_time() {
    let _alone = alone();
    for wanted in [Some(libc::SYS_getuid), None] {
        let counted = traced(wanted, libc::SYS_getuid, || {
            // SAFETY: calls without effect.
            unsafe {
                for _ in 0..10 {
                    assert_eq!(test_variable(libc::SYS_getuid, 0), libc::getuid().into());
                    assert_eq!(test_variable(libc::SYS_getgid, 0), libc::getgid().into());
                    assert_eq!(test_variable(-1, 0), -i64::from(libc::ENOSYS));
                    assert_eq!(test_variable(100_000, 0), -i64::from(libc::ENOSYS));
                    libc::syscall(libc::SYS_getuid);
                }
            }
        });
        assert_eq!(counted, (30, 30), "{wanted:?}");
    }
}

#[test]
fn other_numbers_are_left_alone() {
    let _alone = alone();
    let counted = traced(Some(libc::SYS_getuid), libc::SYS_getppid, || {
        // SAFETY: calls without effect.
        unsafe {
            test_constant(0, 0, 0);
            test_variable(libc::SYS_getppid, 0);
        }
        let sites = Engine::new().expect("an engine").syscall_sites();
        let constant = test_constant as *const () as usize + 5;
        assert!(sites.iter().all(|site| site.addr != constant), "not hooked");
    });
    assert_eq!(counted, (0, 0));
}

#[test]
fn bytes_inside_other_instructions_stay() {
    let _alone = alone();
    traced(None, libc::SYS_getppid, || {
        let hidden = test_hidden as *const () as usize;
        let sites = Engine::new().expect("an engine").syscall_sites();
        assert!(
            sites
                .iter()
                .all(|site| !(hidden..hidden + 16).contains(&site.addr))
        );
        // SAFETY: only adds.
        assert_eq!(unsafe { test_hidden() }, 0x050f_0a1e);
    });
}

#[test]
fn registers_flags_and_red_zone_stay() {
    let _alone = alone();
    // SAFETY: restores what it changes.
    assert_eq!(unsafe { test_state() }, 0, "without hooks");
    let counted = traced(Some(libc::SYS_getppid), libc::SYS_getppid, || {
        // SAFETY: as above.
        assert_eq!(unsafe { test_state() }, 0);
    });
    assert_eq!(counted, (1, 1));
}

#[test]
fn every_instruction_of_libc_is_hooked() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    engine.trace_syscalls(&modules(), &[probe(When::Enter, None)]);
    let sites = engine.syscall_sites();
    engine.trace_syscalls(&modules(), &[]);
    let refused: Vec<_> = sites.iter().filter(|site| site.tactic.is_err()).collect();
    assert!(sites.len() > 300);
    // That of `test_int80`.
    assert_eq!(engine.other_syscalls(), 1);
    assert!(refused.is_empty(), "{refused:x?}");
}

#[test]
fn eight_threads_while_hooks_come_and_go() {
    let _alone = alone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let engine = Engine::new().expect("an engine");
    let modules = modules();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let stop = &stop;
                scope.spawn(move || {
                    // SAFETY: calls without effect.
                    let (parent, me) = unsafe { (libc::getppid(), libc::getpid()) };
                    let mut rounds = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        // SAFETY: as above.
                        unsafe {
                            assert_eq!(libc::getppid(), parent);
                            assert_eq!(test_constant(i, 2, 3), parent.into());
                            assert_eq!(test_variable(libc::SYS_getpid, i), me.into());
                            assert_eq!(libc::syscall(libc::SYS_getpid), me.into());
                            assert_eq!(test_state(), 0);
                        }
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for _ in 0..8 {
            engine.trace_syscalls(
                &modules,
                &[probe(When::Enter, None), probe(When::Exit, None)],
            );
            let twice = [probe(When::Exit, Some(libc::SYS_getppid))];
            engine.trace_syscalls(&modules, &twice);
            engine.trace_syscalls(&modules, &[]);
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            assert!(thread.join().expect("no difference") > 0);
        }
    });
}

unsafe extern "C" fn deny(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event, valid during the call.
    unsafe {
        (*event).is_answered = true;
        (*event).answer = -i64::from(libc::EPERM);
    }
}

#[test]
fn a_probe_may_answer_in_the_place_of_the_kernel() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let denies = SyscallProbe {
        callback: deny,
        ..probe(When::Enter, Some(libc::SYS_getppid))
    };
    let before = counts(libc::SYS_getppid);
    let exit = probe(When::Exit, Some(libc::SYS_getppid));
    engine.trace_syscalls(&modules(), &[denies, exit]);
    // SAFETY: calls without effect.
    let results = unsafe { (test_constant(0, 0, 0), test_variable(libc::SYS_getppid, 0)) };
    engine.trace_syscalls(&modules(), &[]);
    let denied = -i64::from(libc::EPERM);
    assert_eq!(results, (denied, denied));
    assert_eq!(RESULT.load(Ordering::Relaxed), denied);
    assert_eq!(counts(libc::SYS_getppid), (before.0, before.1 + 2));
    // SAFETY: as above.
    assert_eq!(unsafe { test_constant(0, 0, 0) }, unsafe_getppid().into());
}
