//! The code itself, and its points.

use std::arch::global_asm;
use std::mem::offset_of;

use super::mapping::{ANSWERS, Answers, HANDED, LENGTH, MESSAGE, Message, PATH, SESSIONS};
use super::{Interruptible, Orders};

/// Points of the code that a tracer waits for, at the system calls there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where it begins.
    Start,
    /// After the call that blocks signals.
    Blocked,
    /// After the call that makes the mapping.
    Mapped,
    /// Where the thread of a guest is sent with a mapping.
    Receive,
    /// After the call that makes the sockets.
    Paired,
    /// After the call that receives.
    Received,
    /// Where the thread is sent with a mapping that is filled in.
    Work,
    /// After the call that removes the mapping.
    Unmapped,
    /// After the last call, which unblocks signals, on either way out.
    Last,
    LastInterrupted,
}

/// Where a place is in a copy.
pub fn offset(place: Place) -> u64 {
    let label = match place {
        Place::Start => &raw const bpftime_errand_start,
        Place::Blocked => &raw const bpftime_errand_blocked,
        Place::Mapped => &raw const bpftime_errand_mapped,
        Place::Receive => &raw const bpftime_errand_receive,
        Place::Paired => &raw const bpftime_errand_paired,
        Place::Received => &raw const bpftime_errand_received,
        Place::Work => &raw const bpftime_errand_work,
        Place::Unmapped => &raw const bpftime_errand_unmapped,
        Place::Last => &raw const bpftime_errand_last,
        Place::LastInterrupted => &raw const bpftime_errand_last_interrupted,
    };
    label.addr() as u64 - (&raw const bpftime_errand).addr() as u64
}

/// Bytes that a copy takes.
pub fn size() -> usize {
    (&raw const bpftime_errand_end).addr() - (&raw const bpftime_errand).addr()
}

/// The code, with room for orders.
pub(super) fn code() -> &'static [u8] {
    // SAFETY: both labels are of one piece of read-only data, in this order.
    unsafe { std::slice::from_raw_parts(&raw const bpftime_errand, size()) }
}

unsafe extern "C" {
    static bpftime_errand: u8;
    static bpftime_errand_start: u8;
    static bpftime_errand_blocked: u8;
    static bpftime_errand_mapped: u8;
    static bpftime_errand_receive: u8;
    static bpftime_errand_paired: u8;
    static bpftime_errand_received: u8;
    static bpftime_errand_work: u8;
    static bpftime_errand_unmapped: u8;
    static bpftime_errand_last: u8;
    static bpftime_errand_last_interrupted: u8;
    static bpftime_errand_end: u8;
}

global_asm!(
    include_str!("code.s"),
    SOCKETPAIR = const libc::SYS_socketpair,
    RECVMSG = const libc::SYS_recvmsg,
    CLOSE = const libc::SYS_close,
    AF_UNIX = const libc::AF_UNIX,
    SOCK = const libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
    RECEIVE = const libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
    MESSAGE = const MESSAGE,
    CONTROL = const MESSAGE + offset_of!(Message, control) as u64,
    SOCKETS = const MESSAGE + offset_of!(Message, sockets) as u64,
    FDS = const MESSAGE + offset_of!(Message, fds) as u64,
    FDS_COUNT = const HANDED + 2,
    SIGPROCMASK = const libc::SYS_rt_sigprocmask,
    SIG_SETMASK = const libc::SIG_SETMASK,
    SIGPENDING = const libc::SYS_rt_sigpending,
    SIGACTION = const libc::SYS_rt_sigaction,
    SIG_IGN = const libc::SIG_IGN,
    SA_RESTART = const libc::SA_RESTART,
    MMAP = const libc::SYS_mmap,
    MUNMAP = const libc::SYS_munmap,
    PROT = const libc::PROT_READ | libc::PROT_WRITE,
    // Shared: nobody takes it for memory that only calls of the program give back.
    FLAGS = const libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_STACK,
    EINTR = const -(libc::EINTR as i64),
    ALWAYS = const Interruptible::Always as u64,
    STACK = const LENGTH,
    PATH = const PATH,
    SESSIONS = const SESSIONS,
    HANDLE = const ANSWERS + offset_of!(Answers, handle) as u64,
    ERROR = const ANSWERS + offset_of!(Answers, error) as u64,
    STATUS = const ANSWERS + offset_of!(Answers, status) as u64,
    ORDERS = const size_of::<Orders>(),
    LENGTH = const offset_of!(Orders, length),
    MXCSR = const offset_of!(Orders, mxcsr),
    BLOCKS = const offset_of!(Orders, blocks),
    BLOCKED = const offset_of!(Orders, blocked),
    ERRNO = const offset_of!(Orders, errno_location),
    DLOPEN = const offset_of!(Orders, dlopen),
    DLOPEN_FLAGS = const offset_of!(Orders, dlopen_flags),
    DLERROR = const offset_of!(Orders, dlerror),
    START = const offset_of!(Orders, start),
    INTERRUPTIBLE = const offset_of!(Orders, interruptible),
    INTERRUPTED_RIP = const offset_of!(Orders, interrupted_rip),
    RAX = const offset_of!(Orders, rax),
    RBX = const offset_of!(Orders, rbx),
    RCX = const offset_of!(Orders, rcx),
    RDX = const offset_of!(Orders, rdx),
    RSI = const offset_of!(Orders, rsi),
    RDI = const offset_of!(Orders, rdi),
    RBP = const offset_of!(Orders, rbp),
    RSP = const offset_of!(Orders, rsp),
    R8 = const offset_of!(Orders, r8),
    R9 = const offset_of!(Orders, r9),
    R10 = const offset_of!(Orders, r10),
    R11 = const offset_of!(Orders, r11),
    R12 = const offset_of!(Orders, r12),
    R13 = const offset_of!(Orders, r13),
    R14 = const offset_of!(Orders, r14),
    R15 = const offset_of!(Orders, r15),
    RFLAGS = const offset_of!(Orders, flags),
    RIP = const offset_of!(Orders, rip),
);
