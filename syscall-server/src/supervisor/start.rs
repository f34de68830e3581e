//! How a process comes to be supervised: `bpftime load` calls
//! [`bpftime_supervise`] right before it becomes the tool. It knows no tool.
//!
//! The supervisor is nobody's child, so that wait(2) and SIGCHLD of the tool
//! know nothing of it, and has neither terminal nor signals nor a file of the
//! tool's.

use std::ffi::c_int;

use uapi::Errno;

use super::notice::Listener;
use super::{Supervised, filter, serve, table};
use crate::{fds, raw};

/// Supervises the calling process, which has one thread, and what it will
/// execute and start: 0, or an errno.
///
/// ENOSYS where the kernel is too old, EBUSY where another supervisor is there,
/// EPERM where this user may not look into processes of its own.
#[unsafe(no_mangle)]
pub extern "C" fn bpftime_supervise() -> c_int {
    match supervise() {
        Ok(()) => 0,
        Err(errno) => errno.0,
    }
}

fn supervise() -> Result<(), Errno> {
    let [ours, theirs] = sockets()?;
    let tool = shm::sys::getpid();
    // No exit signal: neither SIGCHLD nor wait(2) shows the child.
    let child = raw::checked(libc::SYS_clone, [0; 6])?;
    if child == 0 {
        // A second fork, so that the supervisor is nobody's child; by libc, whose
        // threads it uses.
        // SAFETY: there is one thread, so nobody holds a lock.
        if unsafe { libc::fork() } == 0 {
            raw::close(ours);
            become_supervisor(theirs, tool);
        }
        shm::sys::exit_group(0);
    }
    let words = [child, 0, libc::__WALL as usize, 0, 0, 0];
    while raw::checked(libc::SYS_wait4, words) == Err(Errno::EINTR) {}
    raw::close(theirs);
    let supervised = hand_over(ours);
    raw::close(ours);
    supervised
}

fn sockets() -> Result<[c_int; 2], Errno> {
    let mut ends = [0; 2];
    let kind = (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as usize;
    let to = ends.as_mut_ptr() as usize;
    raw::checked(
        libc::SYS_socketpair,
        [libc::AF_UNIX as usize, kind, 0, to, 0, 0],
    )?;
    Ok(ends)
}

/// The tool's half.
fn hand_over(socket: c_int) -> Result<(), Errno> {
    let supervisor = receive(socket)?;
    // Where Yama watches over processes only ancestors may look into others.
    let allow = [
        libc::PR_SET_PTRACER as usize,
        supervisor as usize,
        0,
        0,
        0,
        0,
    ];
    let _ = raw::checked(libc::SYS_prctl, allow);
    send(socket, 0)?;
    match receive(socket)? {
        0 => {}
        errno => return Err(Errno(errno)),
    }
    let listener = filter::install().map_err(|errno| match errno {
        Errno::EINVAL => Errno::ENOSYS,
        other => other,
    })?;
    // From here on this thread's own calls are heard.
    let sent = send_fd(socket, listener);
    raw::close(listener);
    sent
}

/// The supervisor's life.
fn become_supervisor(socket: c_int, tool: i32) -> ! {
    leave(socket);
    let ready = send(socket, shm::sys::getpid()).and_then(|()| receive(socket));
    let allowed = match may_look_into(tool) {
        true => 0,
        false => Errno::EPERM.0,
    };
    if ready.is_err() || send(socket, allowed).is_err() || allowed != 0 {
        shm::sys::exit_group(0);
    }
    let Ok(listener) = receive_fd(socket) else {
        shm::sys::exit_group(0);
    };
    raw::close(socket);
    serve(Supervised {
        listener: Listener(listener),
        first: tool,
    })
}

/// Whether this process may read another's memory, and compare its fds.
fn may_look_into(pid: i32) -> bool {
    let mut word = 0u8;
    let here = libc::iovec {
        iov_base: (&raw mut word).cast(),
        iov_len: 1,
    };
    // A copy of the same place in a copy of the same memory.
    let there = libc::iovec { ..here };
    let words = [
        pid as usize,
        &raw const here as usize,
        1,
        &raw const there as usize,
        1,
        0,
    ];
    raw::checked(libc::SYS_process_vm_readv, words) == Ok(1) && table::is_comparable(pid)
}

/// Lets go of what the fork copied: terminal, signals, directory, fds, name.
/// What fails changes nothing.
fn leave(socket: c_int) {
    const NAME: &std::ffi::CStr = c"bpftime-server";
    let all = u64::MAX;
    let block = [
        libc::SIG_SETMASK as usize,
        &raw const all as usize,
        0,
        8,
        0,
        0,
    ];
    let _ = raw::checked(libc::SYS_rt_sigprocmask, block);
    let _ = raw::checked(libc::SYS_setsid, [0; 6]);
    let name = [
        libc::PR_SET_NAME as usize,
        NAME.as_ptr() as usize,
        0,
        0,
        0,
        0,
    ];
    let _ = raw::checked(libc::SYS_prctl, name);
    runtime::session::overwrite_arguments(NAME);
    let _ = raw::checked(libc::SYS_chdir, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]);
    let close = |first: usize, last: usize| {
        let _ = raw::checked(libc::SYS_close_range, [first, last, 0, 0, 0, 0]);
    };
    if socket > 0 {
        close(0, socket as usize - 1);
    }
    close(socket as usize + 1, u32::MAX as usize);
    // No object gets a number that something writes to.
    let null = c"/dev/null".as_ptr() as usize;
    for _ in 0..3 {
        let words = [
            libc::AT_FDCWD as usize,
            null,
            libc::O_RDWR as usize,
            0,
            0,
            0,
        ];
        if raw::checked(libc::SYS_openat, words).is_ok_and(|fd| fd > 2) {
            break;
        }
    }
    // Each fd of the tool's has one here, and rings have two.
    let mut limit = [0u64; 2];
    let (files, at) = (libc::RLIMIT_NOFILE as usize, limit.as_mut_ptr() as usize);
    if raw::checked(libc::SYS_prlimit64, [0, files, 0, at, 0, 0]).is_ok() {
        let all = [limit[1]; 2];
        let _ = raw::checked(
            libc::SYS_prlimit64,
            [0, files, all.as_ptr() as usize, 0, 0, 0],
        );
    }
    fds::make_room();
}

fn send(socket: c_int, word: i32) -> Result<(), Errno> {
    let bytes = word.to_ne_bytes();
    let words = [
        socket as usize,
        bytes.as_ptr() as usize,
        bytes.len(),
        libc::MSG_NOSIGNAL as usize,
        0,
        0,
    ];
    raw::checked(libc::SYS_sendto, words).map(drop)
}

fn receive(socket: c_int) -> Result<i32, Errno> {
    let mut bytes = [0; 4];
    let words = [
        socket as usize,
        bytes.as_mut_ptr() as usize,
        bytes.len(),
        0,
        0,
        0,
    ];
    match retried(libc::SYS_recvfrom, words)? {
        4 => Ok(i32::from_ne_bytes(bytes)),
        _ => Err(Errno::ESRCH),
    }
}

fn retried(number: std::ffi::c_long, words: [usize; 6]) -> Result<usize, Errno> {
    loop {
        match raw::checked(number, words) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// A message with room for one fd: `struct cmsghdr` and the number.
#[repr(C, align(8))]
struct Ancillary {
    len: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
}

/// `CMSG_LEN(sizeof(int))`.
const ANCILLARY_LEN: usize = 16 + size_of::<c_int>();

fn with_message<T>(ancillary: &mut Ancillary, act: impl FnOnce(usize) -> T) -> T {
    let mut byte = 0u8;
    let mut data = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: a structure of numbers and pointers, for which zeros are values.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = std::ptr::from_mut(ancillary).cast();
    message.msg_controllen = size_of::<Ancillary>();
    act(&raw mut message as usize)
}

fn send_fd(socket: c_int, fd: c_int) -> Result<(), Errno> {
    let mut ancillary = Ancillary {
        len: ANCILLARY_LEN,
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        fd,
    };
    with_message(&mut ancillary, |message| {
        let flags = libc::MSG_NOSIGNAL as usize;
        retried(
            libc::SYS_sendmsg,
            [socket as usize, message, flags, 0, 0, 0],
        )
        .map(drop)
    })
}

fn receive_fd(socket: c_int) -> Result<c_int, Errno> {
    let mut ancillary = Ancillary {
        len: 0,
        level: 0,
        kind: 0,
        fd: -1,
    };
    with_message(&mut ancillary, |message| {
        let flags = libc::MSG_CMSG_CLOEXEC as usize;
        retried(
            libc::SYS_recvmsg,
            [socket as usize, message, flags, 0, 0, 0],
        )
    })?;
    match ancillary.len == ANCILLARY_LEN {
        true => Ok(ancillary.fd),
        false => Err(Errno::ESRCH),
    }
}
