//! seccomp's notifications: calls of supervised threads that wait for an
//! answer (seccomp_unotify(2)). It knows no call's meaning.

use std::ffi::c_int;

use uapi::Errno;

use crate::raw;

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Notice {
    /// Names this call of this thread.
    pub id: u64,
    /// The thread, as we see it.
    pub tid: u32,
    flags: u32,
    /// The call.
    pub nr: i32,
    arch: u32,
    instruction_pointer: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

/// `SECCOMP_IOCTL_NOTIF_RECV` and its kin: `_IOWR('!', N, TYPE)`.
const RECV: usize = request(3, 0, size_of::<Notice>());
const SEND: usize = request(3, 1, size_of::<Response>());
const ID_VALID: usize = request(1, 2, size_of::<u64>());
const ADDFD: usize = request(1, 3, size_of::<AddFd>());
const SET_FLAGS: usize = request(1, 4, size_of::<u64>());

const fn request(direction: usize, number: usize, size: usize) -> usize {
    direction << 30 | size << 16 | (b'!' as usize) << 8 | number
}

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`: the call returns the new fd.
const ADD_AND_SEND: u32 = 2;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: caller and supervisor take turns on
/// one processor.
const SYNC_WAKE_UP: usize = 1;

/// The end of the filter where its calls are heard.
#[derive(Clone, Copy)]
pub struct Listener(pub c_int);

impl Listener {
    fn ioctl(self, request: usize, argument: usize) -> Result<usize, Errno> {
        let words = [self.0 as usize, request, argument, 0, 0, 0];
        raw::checked(libc::SYS_ioctl, words)
    }

    /// Makes turns quick where the kernel can (Linux 6.6).
    pub fn take_turns(self) {
        let _ = self.ioctl(SET_FLAGS, SYNC_WAKE_UP);
    }

    /// Waits for the next call.
    ///
    /// # Errors
    /// ENOENT when nobody is left, or its caller is gone; EINTR.
    pub fn next(self) -> Result<Notice, Errno> {
        let mut notice = Notice::default();
        self.ioctl(RECV, &raw mut notice as usize)?;
        Ok(notice)
    }

    fn send(self, id: u64, val: i64, error: i32, flags: u32) -> Result<(), Errno> {
        let response = Response {
            id,
            val,
            error,
            flags,
        };
        self.ioctl(SEND, &raw const response as usize).map(drop)
    }

    /// Has the kernel make the call.
    ///
    /// # Errors
    /// ENOENT when the caller is gone.
    pub fn pass(self, notice: &Notice) -> Result<(), Errno> {
        self.send(notice.id, 0, 0, CONTINUE)
    }

    /// The call's answer.
    ///
    /// # Errors
    /// As [`Listener::pass`].
    pub fn answer(self, notice: &Notice, answer: Result<i64, Errno>) -> Result<(), Errno> {
        match answer {
            Ok(value) => self.send(notice.id, value, 0, 0),
            Err(errno) => self.send(notice.id, 0, -errno.0, 0),
        }
    }

    /// Gives the caller the file behind `own`; its number there.
    ///
    /// # Errors
    /// EMFILE where it has no room; ENOENT when it is gone.
    pub fn give(self, notice: &Notice, own: c_int, flags: c_int) -> Result<c_int, Errno> {
        self.add(notice, own, flags, 0)
    }

    /// The same, and the number is the call's answer.
    ///
    /// # Errors
    /// As [`Listener::give`].
    pub fn answer_fd(self, notice: &Notice, own: c_int, flags: c_int) -> Result<c_int, Errno> {
        self.add(notice, own, flags, ADD_AND_SEND)
    }

    fn add(self, notice: &Notice, own: c_int, of_fd: c_int, flags: u32) -> Result<c_int, Errno> {
        let add = AddFd {
            id: notice.id,
            flags,
            srcfd: own as u32,
            newfd: 0,
            newfd_flags: (of_fd & libc::O_CLOEXEC) as u32,
        };
        self.ioctl(ADDFD, &raw const add as usize)
            .map(|fd| fd as c_int)
    }

    /// Whether the caller still waits: its thread id is not somebody else's.
    pub fn waits(self, id: u64) -> bool {
        self.ioctl(ID_VALID, &raw const id as usize).is_ok()
    }
}
