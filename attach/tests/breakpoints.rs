//! Breakpoints: what runs through them computes what it did before, and what a
//! program does with SIGTRAP, and blocks of it, is what it always was.
#![cfg(target_arch = "x86_64")]

mod common;
#[path = "common/image.rs"]
mod image;

use std::ffi::CStr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bpftime_attach::breakpoints::{self, Breakpoints};
use bpftime_attach::syscalls::Text;
use bpftime_attach::{Backend, Engine, HookId, Kind, Point, Tactic};
use common::{Recorder, module_of};

/// An engine that places breakpoints everywhere, in a process that sees its own
/// system calls.
struct Armed {
    engine: Engine,
    _alone: MutexGuard<'static, ()>,
}

impl Armed {
    fn new() -> Armed {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock();
        let _alone = alone.unwrap_or_else(std::sync::PoisonError::into_inner);
        let engine = Engine::new().expect("an engine");
        // The engine's own calls are in this program: never hooked.
        let libc = libc::getppid as *const () as usize;
        let mut probes = Vec::new();
        breakpoints::surround(&mut probes);
        let libc = Text::of_module(module_of(libc));
        engine.trace_syscalls(&[Arc::new(libc)], &probes);
        assert!(engine.syscall_sites().iter().all(|site| site.is_patched));
        breakpoints::arm().expect("armed");
        engine.place_breakpoints(Breakpoints::Everywhere);
        Armed { engine, _alone }
    }

    fn attach(&self, addrs: &[usize], kind: Kind, recorder: &'static Recorder) -> Vec<HookId> {
        let point = |addr: &usize| Point {
            addr: *addr,
            kind,
            module: module_of(*addr),
        };
        let batch: Vec<_> = addrs.iter().map(|a| (point(a), recorder.probe())).collect();
        let results = self.engine.attach(&batch);
        let ids: Vec<HookId> = results.into_iter().filter_map(Result::ok).collect();
        let sites = self.engine.sites();
        assert!(sites.iter().all(|site| site.tactic == Tactic::Breakpoint));
        ids
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        assert!(!breakpoints::has_escaped());
        self.engine.place_breakpoints(Breakpoints::Never);
        breakpoints::disarm();
        self.engine.trace_syscalls(&[], &[]);
    }
}

fn address(name: &CStr) -> usize {
    // SAFETY: looks a name up.
    let addr = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) } as usize;
    assert_ne!(addr, 0, "{name:?}");
    addr
}

/// A number that each call changes by its argument, and that no compiler knows.
#[inline(never)]
extern "C" fn probed(argument: u64) -> u64 {
    std::hint::black_box(argument).wrapping_mul(3) ^ 0x5a5a
}

fn call_probed(times: u64) {
    for n in 0..times {
        assert_eq!(probed(n), n.wrapping_mul(3) ^ 0x5a5a);
    }
}

/// Formatting, sorting, memory, time, files, a process.
fn work() -> String {
    let mut numbers: Vec<u64> = (0..300).map(|n| n * 7919 % 1009).collect();
    numbers.sort_unstable();
    let text: String = numbers.iter().map(u64::to_string).collect();
    let mut out = [0_u8; 64];
    // SAFETY: the buffer is as long as is said; the format fits the arguments.
    let len = unsafe {
        libc::snprintf(
            out.as_mut_ptr().cast(),
            out.len(),
            c"%.6f %d %s".as_ptr(),
            2.5_f64 / 3.0,
            -17,
            c"text".as_ptr(),
        )
    };
    let said = Command::new("/bin/echo").arg("said").output();
    let said = String::from_utf8(said.expect("echo").stdout).expect("text");
    format!(
        "{text} {} {said}",
        String::from_utf8_lossy(&out[..len as usize])
    )
}

#[test]
fn every_instruction_of_libc_functions_can_be_a_breakpoint() {
    let expected = work();
    let image = image::of_loaded(address(c"snprintf"), module_of(address(c"snprintf")));
    let functions: Vec<_> = image.functions.iter().step_by(37).collect();
    let addrs: Vec<usize> = functions
        .iter()
        .flat_map(|function| image.code(function))
        .map(|(addr, _)| addr)
        .collect();
    let armed = Armed::new();
    let text = |(addr, instruction): (usize, &[u8])| common::text(addr, instruction.len());
    let whole = || functions.iter().flat_map(|function| image.code(function));
    // With the jumps at system calls.
    let before: Vec<_> = whole().map(text).collect();
    let recorder = Recorder::leaked();
    let ids = armed.attach(&addrs[..addrs.len().min(4000)], Kind::Entry, recorder);
    assert!(ids.len() > 3000, "{} of {}", ids.len(), addrs.len());
    assert_eq!(work(), expected);
    armed.engine.detach(&ids);
    let hits = recorder.hits();
    assert_eq!(work(), expected);
    assert_eq!(recorder.hits(), hits, "detached");
    assert!(whole().map(text).eq(before), "the same text");
}

#[test]
fn entries_and_returns_are_those_of_any_place() {
    let armed = Armed::new();
    let [entry, back] = [Recorder::leaked(), Recorder::leaked()];
    let addr = probed as *const () as usize;
    let mut ids = armed.attach(&[addr], Kind::Entry, entry);
    ids.extend(armed.attach(&[addr], Kind::Return, back));
    assert_eq!(ids.len(), 2);
    call_probed(100);
    assert_eq!((entry.hits(), back.hits()), (100, 100));
    let (before, after) = (entry.last(), back.last());
    assert_eq!((before.ip, before.di), (addr as u64, 99));
    assert_eq!(after.ax, (99 * 3) ^ 0x5a5a);
    assert_eq!(after.sp, before.sp + 8);
    armed.engine.detach(&ids);
    call_probed(10);
    assert_eq!((entry.hits(), back.hits()), (100, 100));
    // Known as a breakpoint, and now there is no handler.
    armed.engine.place_breakpoints(Breakpoints::Never);
    assert_eq!(armed.attach(&[addr], Kind::Entry, entry), []);
}

/// Signals that the program's handler got, and of those the breakpoints of its
/// own.
static GOT: AtomicU64 = AtomicU64::new(0);
static TRAPPED: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel's structure.
    if signal == libc::SIGTRAP && unsafe { (*info).si_code } > 0 {
        TRAPPED.fetch_add(1, Ordering::Relaxed);
    }
    GOT.fetch_add(1, Ordering::Relaxed);
    call_probed(1);
}

fn set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: zeros are a valid value.
    let mut set = unsafe { std::mem::zeroed() };
    for signal in signals {
        // SAFETY: a set of ours.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    set
}

fn has_trap(set: &libc::sigset_t) -> bool {
    // SAFETY: a set of ours.
    unsafe { libc::sigismember(set, libc::SIGTRAP) == 1 }
}

fn handle(signal: i32, handler: usize, flags: i32, mask: &[i32]) -> libc::sigaction {
    let new = libc::sigaction {
        sa_sigaction: handler,
        sa_mask: set(mask),
        sa_flags: flags,
        sa_restorer: None,
    };
    // SAFETY: zeros are a valid value.
    let mut old = unsafe { std::mem::zeroed() };
    // SAFETY: the handler is one, and the structures are ours.
    assert_eq!(unsafe { libc::sigaction(signal, &new, &raw mut old) }, 0);
    old
}

/// What the program is told of an action.
fn action_of(signal: i32) -> (usize, i32, bool) {
    // SAFETY: zeros are a valid value; the structure is ours.
    let action = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        assert_eq!(
            libc::sigaction(signal, std::ptr::null(), &raw mut action),
            0
        );
        action
    };
    const RESTORER: i32 = 0x0400_0000;
    let flags = action.sa_flags & !RESTORER;
    (action.sa_sigaction, flags, has_trap(&action.sa_mask))
}

/// Changes the mask; gives whether SIGTRAP was blocked.
fn mask(how: i32, signals: &[i32]) -> bool {
    let (new, mut old) = (set(signals), set(&[]));
    // SAFETY: the sets are ours.
    assert_eq!(unsafe { libc::pthread_sigmask(how, &new, &raw mut old) }, 0);
    has_trap(&old)
}

/// What the kernel has for this thread, of `SigBlk`.
fn is_blocked_in_kernel() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("SigBlk:"));
    let mask = line.and_then(|line| u64::from_str_radix(line[7..].trim(), 16).ok());
    mask.expect("a mask") & 1 << (libc::SIGTRAP - 1) != 0
}

#[test]
fn the_programs_own_traps_reach_its_own_handler() {
    let info = libc::SA_SIGINFO;
    handle(
        libc::SIGTRAP,
        on_signal as *const () as usize,
        info,
        &[libc::SIGUSR1],
    );
    let armed = Armed::new();
    let recorder = Recorder::leaked();
    let ids = armed.attach(&[probed as *const () as usize], Kind::Entry, recorder);
    let handler = on_signal as *const () as usize;
    assert_eq!(action_of(libc::SIGTRAP), (handler, info, false));
    call_probed(5);
    assert_eq!(GOT.load(Ordering::Relaxed), 0);
    // SAFETY: a breakpoint of the program's own, and a signal to itself.
    unsafe {
        std::arch::asm!("int3");
        libc::raise(libc::SIGTRAP);
    }
    assert_eq!(GOT.load(Ordering::Relaxed), 2);
    assert_eq!(TRAPPED.load(Ordering::Relaxed), 1);
    // Another handler, set while breakpoints are there.
    let old = handle(libc::SIGTRAP, libc::SIG_IGN, 0, &[]);
    assert_eq!(old.sa_sigaction, handler);
    assert_eq!(action_of(libc::SIGTRAP), (libc::SIG_IGN, 0, false));
    // SAFETY: it is ignored.
    unsafe { libc::raise(libc::SIGTRAP) };
    assert_eq!(GOT.load(Ordering::Relaxed), 2);
    let once = info | libc::SA_RESETHAND | libc::SA_ONSTACK;
    handle(libc::SIGTRAP, handler, once, &[libc::SIGTRAP]);
    assert_eq!(action_of(libc::SIGTRAP), (handler, once, true));
    // SAFETY: the handler takes it.
    unsafe { libc::raise(libc::SIGTRAP) };
    assert_eq!(GOT.load(Ordering::Relaxed), 3);
    assert_eq!(action_of(libc::SIGTRAP).0, libc::SIG_DFL);
    handle(libc::SIGTRAP, handler, info, &[]);
    let hits = recorder.hits();
    call_probed(5);
    assert_eq!(recorder.hits(), hits + 5);
    armed.engine.detach(&ids);
    drop(armed);
    assert_eq!(action_of(libc::SIGTRAP), (handler, info, false));
    // SAFETY: the handler takes it.
    unsafe { libc::raise(libc::SIGTRAP) };
    assert_eq!(GOT.load(Ordering::Relaxed), 4);
}

#[test]
fn a_thread_that_blocks_all_signals_hits_breakpoints() {
    let armed = Armed::new();
    let recorder = Recorder::leaked();
    let ids = armed.attach(&[probed as *const () as usize], Kind::Entry, recorder);
    assert!(!mask(libc::SIG_BLOCK, &[libc::SIGTRAP, libc::SIGUSR2]));
    call_probed(3);
    assert!(mask(libc::SIG_BLOCK, &[]));
    assert!(!is_blocked_in_kernel());
    assert!(mask(libc::SIG_UNBLOCK, &[libc::SIGUSR2]));
    assert!(mask(libc::SIG_SETMASK, &[libc::SIGTRAP]));
    call_probed(3);
    // A signal is kept until it is unblocked, and its handler is as it is set.
    handle(
        libc::SIGTRAP,
        on_signal as *const () as usize,
        libc::SA_SIGINFO,
        &[],
    );
    // SAFETY: it is blocked.
    unsafe { libc::raise(libc::SIGTRAP) };
    assert_eq!(GOT.load(Ordering::Relaxed), 0);
    assert!(mask(libc::SIG_UNBLOCK, &[libc::SIGTRAP]));
    assert_eq!(GOT.load(Ordering::Relaxed), 1);
    assert!(!mask(libc::SIG_SETMASK, &[]));
    // The children of a program that blocks it do so, too, as do new programs.
    for blocks in [true, false] {
        mask(
            if blocks {
                libc::SIG_BLOCK
            } else {
                libc::SIG_UNBLOCK
            },
            &[libc::SIGTRAP],
        );
        let sees = |command: &mut Command| {
            let out = command.output().expect("grep").stdout;
            let line = String::from_utf8(out).expect("text");
            u64::from_str_radix(line[7..].trim(), 16).expect("a mask") & 1 << 4 != 0
        };
        let mut command = Command::new("/bin/grep");
        command.args(["SigBlk", "/proc/self/status"]);
        // By posix_spawn(3).
        assert_eq!(sees(&mut command), blocks);
        // By fork(2), in whose child breakpoints are hit.
        use std::os::unix::process::CommandExt;
        // SAFETY: the child calls what may be called there.
        unsafe {
            command.pre_exec(move || {
                mask(
                    if blocks {
                        libc::SIG_BLOCK
                    } else {
                        libc::SIG_UNBLOCK
                    },
                    &[libc::SIGTRAP],
                );
                call_probed(2);
                Ok(())
            })
        };
        assert_eq!(sees(&mut command), blocks);
    }
    let hits = recorder.hits();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                mask(libc::SIG_BLOCK, &(1..32).collect::<Vec<_>>());
                call_probed(200);
            });
        }
    });
    assert_eq!(recorder.hits(), hits + 800);
    armed.engine.detach(&ids);
}

/// Interrupts the calling thread by SIGUSR1 whenever it sleeps, until `wait` is
/// over.
fn interrupted(wait: impl FnOnce()) {
    // SAFETY: both name the calling thread.
    let (thread, id) = unsafe { (libc::pthread_self(), libc::gettid()) };
    let stat = format!("/proc/self/task/{id}/stat");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                if std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S ")) {
                    // SAFETY: that thread waits for this one.
                    unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                }
                std::thread::yield_now();
            }
        });
        wait();
        is_over.store(true, Ordering::Release);
    });
}

#[test]
fn handlers_hit_breakpoints_whatever_they_and_waits_block() {
    let handler = on_signal as *const () as usize;
    let all = [libc::SIGTRAP, libc::SIGUSR2];
    // Set before, and again behind.
    handle(libc::SIGUSR1, handler, libc::SA_SIGINFO, &all);
    let armed = Armed::new();
    let recorder = Recorder::leaked();
    let ids = armed.attach(&[probed as *const () as usize], Kind::Entry, recorder);
    assert_eq!(action_of(libc::SIGUSR1), (handler, libc::SA_SIGINFO, true));
    // SAFETY: a signal to itself.
    unsafe { libc::raise(libc::SIGUSR1) };
    assert_eq!(recorder.hits(), 1);
    let old = handle(libc::SIGUSR1, handler, libc::SA_SIGINFO, &[]);
    assert!(has_trap(&old.sa_mask));
    assert!(!action_of(libc::SIGUSR1).2);
    let old = handle(libc::SIGUSR1, handler, libc::SA_SIGINFO, &all);
    assert!(!has_trap(&old.sa_mask));
    assert!(action_of(libc::SIGUSR1).2);

    let blocked = set(&all);
    let moment = libc::timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    // SAFETY: a new epoll.
    let epoll = unsafe { libc::epoll_create1(0) };
    let waits: [(&str, &dyn Fn() -> i32); 4] = [
        ("sigsuspend", &|| {
            // SAFETY: the set is ours.
            unsafe { libc::sigsuspend(&blocked) }
        }),
        ("ppoll", &|| {
            // SAFETY: no fds; the set and the time are ours.
            unsafe { libc::ppoll(std::ptr::null_mut(), 0, &moment, &blocked) }
        }),
        ("pselect", &|| {
            let none = std::ptr::null_mut();
            // SAFETY: as above.
            unsafe { libc::pselect(0, none, none, none, &moment, &blocked) }
        }),
        ("epoll_pwait", &|| {
            // SAFETY: zeros are a valid value.
            let mut event: libc::epoll_event = unsafe { std::mem::zeroed() };
            // SAFETY: room for one event; the set is ours.
            unsafe { libc::epoll_pwait(epoll, &raw mut event, 1, 5000, &blocked) }
        }),
    ];
    for (name, wait) in waits {
        let (hits, got) = (recorder.hits(), GOT.load(Ordering::Relaxed));
        interrupted(|| {
            let result = wait();
            let error = std::io::Error::last_os_error().raw_os_error();
            assert_eq!((result, error), (-1, Some(libc::EINTR)), "{name}");
        });
        let got = GOT.load(Ordering::Relaxed) - got;
        assert!(got > 0, "{name}");
        assert_eq!(recorder.hits() - hits, got, "{name}");
    }
    armed.engine.detach(&ids);
    drop(armed);
    assert_eq!(action_of(libc::SIGUSR1), (handler, libc::SA_SIGINFO, true));
    // SAFETY: ours.
    unsafe { libc::close(epoll) };
}

#[test]
fn toggling_under_running_threads() {
    let armed = Armed::new();
    let [entry, back] = [Recorder::leaked(), Recorder::leaked()];
    let addr = probed as *const () as usize;
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) == 0 {
                    call_probed(50);
                }
            });
        }
        for _ in 0..150 {
            let mut ids = armed.attach(&[addr], Kind::Entry, entry);
            ids.extend(armed.attach(&[addr], Kind::Return, back));
            let hits = entry.hits();
            while entry.hits() == hits {
                call_probed(1);
            }
            armed.engine.detach(&ids);
        }
        done.store(1, Ordering::Relaxed);
    });
    assert!(entry.hits() >= 150 && back.hits() > 0);
    let hits = entry.hits();
    call_probed(10);
    assert_eq!(entry.hits(), hits);
}
