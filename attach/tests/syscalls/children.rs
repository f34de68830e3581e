//! Children of every kind, and signals: calls that do not come back as they went.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::world::*;

#[test]
fn children_of_every_kind_come_back() {
    let _alone = alone();
    // Memory that children share.
    // SAFETY: a new mapping.
    let shared = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0)
    };
    // SAFETY: the page is there and zero.
    let in_child = unsafe { &*shared.cast::<AtomicU64>() };
    let clone = traced(None, libc::SYS_clone, || {
        for _ in 0..50 {
            // SAFETY: the child makes one call and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                in_child.fetch_add(
                    EXITED[libc::SYS_clone as usize].load(Ordering::Relaxed),
                    Ordering::Relaxed,
                );
                // SAFETY: ends the child.
                unsafe { libc::_exit(3) };
            }
            assert_eq!(wait_for(child) >> 8, 3);
        }
    });
    // In the i-th child, i exits of parents were counted, and its own.
    assert_eq!(clone, (50, 50));
    let before = EXITED[libc::SYS_clone as usize].load(Ordering::Relaxed) - 50;
    assert_eq!(
        in_child.load(Ordering::Relaxed),
        (1..=50).map(|i| before + i).sum()
    );
    let vfork = traced(None, libc::SYS_execve, || {
        for _ in 0..20 {
            // SAFETY: the child executes another program at once.
            let child = unsafe { vfork() };
            if child == 0 {
                let nothing: [*const libc::c_char; 1] = [std::ptr::null()];
                // SAFETY: ends the child, one way or the other.
                unsafe {
                    libc::execve(c"/bin/true".as_ptr(), nothing.as_ptr(), nothing.as_ptr());
                    libc::_exit(1);
                }
            }
            assert_eq!(wait_for(child), 0);
        }
    });
    assert_eq!(vfork, (20, 0), "a program that is executed does not return");
    let spawned = traced(None, libc::SYS_wait4, || {
        for _ in 0..20 {
            let status = std::process::Command::new("/bin/sh")
                .args(["-c", "exit 5"])
                .status();
            assert_eq!(status.expect("a shell").code(), Some(5));
        }
    });
    assert!(spawned.0 >= 20);
    let threads = traced(None, libc::SYS_clone3, || {
        for _ in 0..50 {
            let result = std::thread::spawn(|| std::thread::spawn(|| 7).join());
            assert_eq!(result.join().expect("no panic").expect("no panic"), 7);
        }
    });
    assert_eq!(threads, (100, 200), "the threads come back from it too");
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static FRAMES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

unsafe extern "C" {
    fn vfork() -> libc::pid_t;
    fn backtrace(buffer: *mut *mut libc::c_void, size: libc::c_int) -> libc::c_int;
}

extern "C" fn on_signal(_signal: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
    let mut frames = [std::ptr::null_mut(); 64];
    // SAFETY: the buffer has 64 places.
    let count = unsafe { backtrace(frames.as_mut_ptr(), 64) };
    if let Ok(mut seen) = FRAMES.try_lock() {
        seen.clear();
        seen.extend(frames.iter().take(count as usize).map(|f| *f as usize));
    }
}

fn handle(signal: libc::c_int, flags: libc::c_int) {
    // SAFETY: zeros are a valid sigaction, the handler is async-signal-safe
    // once backtrace(3) has been called before.
    unsafe {
        let mut frames = [std::ptr::null_mut(); 4];
        backtrace(frames.as_mut_ptr(), 4);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = flags;
        assert_eq!(
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()),
            0
        );
    }
}

/// Sends `signal` to the calling thread soon, once.
fn alarm_soon() -> std::thread::JoinHandle<()> {
    // SAFETY: the calling thread's own id.
    let (me, pid) = unsafe { (libc::gettid(), libc::getpid()) };
    std::thread::spawn(move || {
        // Sleeping inside pause(2) or read(2): `S`, in that very call.
        let path = format!("/proc/self/task/{me}/syscall");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::time::Instant::now() < deadline {
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            if now.starts_with("34 ") || now.starts_with("0 ") {
                break;
            }
            std::thread::yield_now();
        }
        // SAFETY: a signal to a thread that handles it.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, me, libc::SIGUSR1) };
    })
}

#[test]
fn signals_interrupt_calls_and_unwinders_get_through() {
    let _alone = alone();
    handle(libc::SIGUSR1, 0);
    let handled = HANDLED.load(Ordering::Relaxed);
    let counted = traced(None, libc::SYS_pause, || {
        let waker = alarm_soon();
        // SAFETY: waits for the signal.
        let result = unsafe { libc::pause() };
        assert_eq!(result, -1);
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EINTR)
        );
        waker.join().expect("no panic");
    });
    assert_eq!(counted, (1, 1));
    assert_eq!(HANDLED.load(Ordering::Relaxed), handled + 1);
    let frames = FRAMES.lock().expect("no handler runs").clone();
    let pause = libc::pause as *const () as usize;
    let inside = |frame: &usize| (pause..pause + 256).contains(frame);
    let at = frames
        .iter()
        .position(inside)
        .expect("libc's pause is among the frames");
    assert!(frames.len() > at + 3, "and its callers: {frames:x?}");
}

#[test]
fn restarted_calls_go_on() {
    let _alone = alone();
    handle(libc::SIGUSR1, libc::SA_RESTART);
    let mut fds = [0; 2];
    // SAFETY: room for two.
    assert_eq!(unsafe { libc::pipe(fds.as_mut_ptr()) }, 0);
    let handled = HANDLED.load(Ordering::Relaxed);
    traced(None, libc::SYS_read, || {
        let waker = alarm_soon();
        let [_, write_end] = fds;
        let writer = std::thread::spawn(move || {
            while HANDLED.load(Ordering::Relaxed) == handled {
                std::thread::yield_now();
            }
            // SAFETY: one byte that is there.
            unsafe { libc::write(write_end, c"x".as_ptr().cast(), 1) };
        });
        let mut byte = 0_u8;
        // SAFETY: room for one.
        let read = unsafe { libc::read(fds[0], (&raw mut byte).cast(), 1) };
        assert_eq!((read, byte), (1, b'x'));
        waker.join().expect("no panic");
        writer.join().expect("no panic");
    });
    assert_eq!(HANDLED.load(Ordering::Relaxed), handled + 1);
}
