//! What a process gets that sees other files or other process ids than we: in a
//! container, or with a root of its own. The borrowed thread makes a pair of
//! sockets, we borrow one of them and send what is needed. No file of ours can
//! be reached from it but the sessions: their directory goes as a mount of its
//! own. What it does with all that is [`runtime::guest`]'s.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use runtime::guest::{self, Handed, Ids};
use runtime::session::{self, Dirs, Roster};

use super::arch::errand::{HANDED, STRING};
use super::permission;
use super::target::in_its_root;
use crate::libraries::reason;
use crate::problem::Problem;

const _: () = assert!(size_of::<Handed>() <= STRING as usize);
/// Of linux/mount.h.
const OPEN_TREE_CLONE: libc::c_uint = 1;

/// Files for one process, in the order in which they are handed over.
pub struct Guest {
    files: [OwnedFd; HANDED],
    library: PathBuf,
    dirs: Dirs,
    pid: Pid,
}

/// Whether the process `pid` needs to be handed what others open.
pub fn is_one(pid: Pid, library: &Path, sessions: &Path) -> bool {
    // The directory itself is made with the first session.
    let paths = [library, sessions.parent().unwrap_or(sessions)];
    permission::other_namespace(pid, "pid") || !paths.iter().all(|path| sees(pid, path))
}

/// Whether a file or directory of ours is the same for the process.
fn sees(pid: Pid, path: &Path) -> bool {
    match (fs::metadata(path), fs::metadata(in_its_root(pid, path))) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        // Where nothing can be, nothing needs to be seen.
        (Err(_), _) => true,
        _ => false,
    }
}

/// Says so if the agent could not live in the process as a guest.
pub fn check(pid: Pid) -> Result<(), Problem> {
    if permission::other_namespace(pid, "time") {
        return Err(Problem::new(
            pid,
            "runs in another time namespace, where it looks like another process",
            "run bpftime inside its container",
        ));
    }
    let proc = in_its_root(pid, Path::new("/proc"));
    let is_proc = statfs(&proc).is_ok_and(|is| is.filesystem_type() == PROC_SUPER_MAGIC);
    // Its ids, from our namespace's to its own; one is that of its /proc.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let mut ids = ids.unwrap_or_default().split_whitespace();
    if is_proc && ids.any(|id| proc.join(id).join("maps").exists()) {
        return Ok(());
    }
    Err(Problem::new(
        pid,
        "has another root directory, in which its /proc is not mounted",
        "mount it there, or start it with bpftime start inside",
    ))
}

impl Guest {
    /// Opens what the process `pid` needs, and marks the sessions directory.
    pub fn open(pid: Pid, library: &Path, dirs: &Dirs) -> Result<Self, Problem> {
        let sessions = sessions(dirs, pid).map_err(|error| {
            let why = format!("the sessions directory cannot be shown to it ({error})");
            let how = "run bpftime inside its container, or as root";
            Problem::new(pid, why, how)
        })?;
        let cannot = |error: &io::Error| {
            let why = format!("cannot be opened ({})", reason(error));
            Problem::new(library.display(), why, "see bpftime doctor")
        };
        let (roster, _) = Roster::file(dirs)?;
        let thread_self =
            guest::thread_self().map_err(|errno| cannot(&io::Error::from_raw_os_error(errno.0)))?;
        let file = fs::File::open(library).map_err(|error| cannot(&error))?;
        Ok(Self {
            files: [sessions, thread_self, roster, file.into()],
            library: library.to_owned(),
            dirs: dirs.clone(),
            pid,
        })
    }

    /// Sends the files through the socket that the process has under a number.
    pub fn send(&self, socket: RawFd) -> Result<(), Errno> {
        let process = owned(libc::SYS_pidfd_open, [self.pid.as_raw() as usize, 0, 0])?;
        let numbers = [process.as_raw_fd() as usize, socket as usize, 0];
        let socket = owned(libc::SYS_pidfd_getfd, numbers)?;
        send(&socket, &self.files.each_ref().map(AsRawFd::as_raw_fd))
    }

    /// The name by which the process loads the library, and what it tells the
    /// agent, when it has received the files as `fds`.
    pub fn orders(&self, fds: [RawFd; HANDED]) -> Option<(CString, Handed)> {
        let [.., library] = fds;
        let name = CString::new(format!("/proc/thread-self/fd/{library}")).ok()?;
        let ids = ["uid_map", "gid_map"].map(|name| {
            let text = fs::read_to_string(format!("/proc/{}/{name}", self.pid));
            Ids::parse(&text.unwrap_or_default())
        });
        Some((name, Handed::new(fds, &self.library, ids)?))
    }

    /// It did not become one.
    pub fn forget(self) {
        guest::unmark(&self.dirs.sessions, self.pid.as_raw());
        session::sweep(&self.dirs);
    }
}

/// The sessions directory as a mount of its own, marked for the guest.
fn sessions(dirs: &Dirs, pid: Pid) -> Result<OwnedFd, String> {
    const ATTEMPTS: u32 = 10;
    for _ in 0..ATTEMPTS {
        dirs.ensure_sessions().map_err(|error| error.to_string())?;
        // It may vanish with another tool's last session; not once it is marked.
        guest::mark(&dirs.sessions, pid.as_raw());
        match mount_of(&dirs.sessions) {
            Ok(mount) => return Ok(mount),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.desc().to_owned()),
        }
    }
    Err("it comes and goes".to_owned())
}

/// A mount of `path` in no place. Who may not make one does so in a user
/// namespace of its own.
fn mount_of(path: &Path) -> Result<OwnedFd, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::ENOENT)?;
    match clone_tree(&path) {
        Err(Errno::EPERM) => {}
        other => return other,
    }
    let (ours, theirs) = pair()?;
    // SAFETY: the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: plain numbers.
        let alone = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } == 0;
        let sent =
            alone && clone_tree(&path).is_ok_and(|tree| send(&theirs, &[tree.as_raw_fd()]).is_ok());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!sent)) };
    }
    if child < 0 {
        return Err(Errno::last());
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 && Errno::last() == Errno::EINTR {
    }
    if status != 0 {
        return Err(Errno::EPERM);
    }
    receive(&ours)
}

fn clone_tree(path: &CString) -> Result<OwnedFd, Errno> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    let here = libc::AT_FDCWD as usize;
    owned(
        libc::SYS_open_tree,
        [here, path.as_ptr() as usize, flags as usize],
    )
}

/// A call of three arguments that opens an fd: numbers, or a path.
fn owned(number: libc::c_long, [first, second, third]: [usize; 3]) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel reads a path up to its zero, and writes nothing.
    let fd = unsafe { libc::syscall(number, first, second, third) };
    // SAFETY: the kernel just gave us this fd.
    Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two numbers.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    // SAFETY: the kernel just gave us these.
    Errno::result(made)
        .map(|_| unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Room for the control message of a few fds.
#[repr(C)]
struct Control {
    head: libc::cmsghdr,
    fds: [RawFd; HANDED],
}

impl Control {
    fn of(fds: &[RawFd]) -> Self {
        let mut room = [-1; HANDED];
        for (to, fd) in room.iter_mut().zip(fds) {
            *to = *fd;
        }
        let head = libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of_val(fds),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        Self { head, fds: room }
    }

    /// A message of nothing but this, valid as long as it stays where it is.
    fn message(&mut self) -> libc::msghdr {
        // SAFETY: all-zero is a valid message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_controllen = self.head.cmsg_len;
        message.msg_control = std::ptr::from_mut(self).cast();
        message
    }
}

/// Sends fds and nothing else. Allocates nothing.
fn send(socket: &OwnedFd, fds: &[RawFd]) -> Result<(), Errno> {
    let mut control = Control::of(fds);
    let message = control.message();
    // SAFETY: the kernel reads the message.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    Errno::result(sent).map(drop)
}

/// One fd that was sent.
fn receive(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut control = Control::of(&[-1]);
    let mut message = control.message();
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes the message, whose room is `control`.
    Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;
    let [fd, ..] = control.fds;
    // SAFETY: the kernel just gave us this fd, if any.
    (fd >= 0)
        .then(|| unsafe { OwnedFd::from_raw_fd(fd) })
        .ok_or(Errno::EIO)
}
