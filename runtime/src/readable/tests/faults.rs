//! Readers that are in a page fault when their memory is to go: userfaultfd(2)
//! holds them there.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::time::Duration;

use super::*;

/// A page whose first reader waits for [`Held::give`].
struct Held {
    fd: i32,
    at: usize,
}

/// ioctl(2) numbers and structures of linux/userfaultfd.h.
const API: libc::Ioctl = 0xc018_aa3f;
const REGISTER: libc::Ioctl = 0xc020_aa00;
const ZEROPAGE: libc::Ioctl = 0xc020_aa04;
const VERSION: u64 = 0xaa;
const MISSING: u64 = 1;

impl Held {
    fn new() -> Held {
        // Only without blocking can it be polled.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: takes a number.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } as i32;
        assert!(fd >= 0, "userfaultfd(2), as root");
        let at = map(0, PAGE, ACCESS);
        let held = Held { fd, at };
        held.control(API, [VERSION, 0, 0, 0]);
        held.control(REGISTER, [at as u64, PAGE as u64, MISSING, 0]);
        held
    }

    fn control(&self, request: libc::Ioctl, mut argument: [u64; 4]) {
        // SAFETY: each of the structures has at most four words.
        let result = unsafe { libc::ioctl(self.fd, request, argument.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Waits until somebody waits for the page.
    fn await_reader(&self) {
        let mut poll = libc::pollfd {
            fd: self.fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one element.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1);
        assert_eq!(poll.revents, libc::POLLIN);
    }

    fn give(&self) {
        self.control(ZEROPAGE, [self.at as u64, PAGE as u64, 0, 0]);
    }
}

#[test]
fn a_reader_in_a_page_fault_is_waited_for() {
    open_here();
    let held = Held::new();
    assert!(publish(&[range(held.at, PAGE)]));
    let is_taken = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| copied::<16>(held.at));
        held.await_reader();
        let taker = scope.spawn(|| {
            take(&range(held.at, PAGE));
            is_taken.store(true, SeqCst);
            // SAFETY: the test's own page.
            assert_eq!(unsafe { libc::munmap(held.at as *mut _, PAGE) }, 0);
            taken();
        });
        // Nobody can wait for something not to happen.
        std::thread::sleep(Duration::from_millis(100));
        let is_too_early = is_taken.load(SeqCst);
        held.give();
        assert!(!is_too_early);
        assert_eq!(reader.join().unwrap(), None, "the sequence was interrupted");
        taker.join().unwrap();
    });
    assert!(is_taken.load(SeqCst));
}

/// The child's part of the test below: 0 if all went well.
fn take_from_a_stopped_reader(tell: i32, hear: i32) -> i32 {
    open_here();
    let held = Held::new();
    let mut result = i32::from(!publish(&[range(held.at, PAGE)]));
    static READER: AtomicI32 = AtomicI32::new(0);
    let at = held.at;
    std::thread::spawn(move || {
        READER.store(sys::gettid(), SeqCst);
        copied::<16>(at)
    });
    held.await_reader();
    let mut message = READER.load(SeqCst).to_ne_bytes();
    // SAFETY: pipes and a buffer of the message's length.
    unsafe {
        result |= i32::from(libc::write(tell, message.as_ptr().cast(), 4) != 4) * 2;
        result |= i32::from(libc::read(hear, message.as_mut_ptr().cast(), 4) != 4) * 4;
    }
    take(&range(at, PAGE));
    // SAFETY: the test's own page.
    result |= unsafe { libc::munmap(at as *mut _, PAGE) } * 8;
    taken();
    result
}

#[test]
fn a_stopped_reader_is_not_waited_for() {
    let mut ends = [[0; 2]; 2];
    // SAFETY: room for two fds each.
    ends.iter_mut().for_each(|ends| unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
    });
    let [up, down] = ends;
    // SAFETY: the child is a copy of a thread that holds no lock of libc.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let result = take_from_a_stopped_reader(up[1], down[0]);
        // SAFETY: ends the child, its reader too.
        unsafe { libc::_exit(result) };
    }
    let mut message = [0; 4];
    let mut status = 0;
    // SAFETY: pipes, buffers, and the child's thread.
    unsafe {
        assert_eq!(libc::read(up[0], message.as_mut_ptr().cast(), 4), 4);
        let reader = i32::from_ne_bytes(message);
        for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
            assert_eq!(libc::ptrace(request, reader, 0usize, 0usize), 0);
        }
        assert_eq!(libc::waitpid(reader, &raw mut status, libc::__WALL), reader);
        assert!(libc::WIFSTOPPED(status));
        assert_eq!(libc::write(down[1], message.as_ptr().cast(), 4), 4);
        // The end of the process ends the stopped thread, too.
        let mut ended = 0;
        while ended != child {
            ended = libc::waitpid(-1, &raw mut status, libc::__WALL);
            assert!(ended > 0);
        }
    }
    assert_eq!(status, 0, "exited with its result");
}
