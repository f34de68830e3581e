//! What only the kernel can host of a tool: programs go there, with their
//! maps, if this process may load programs there. Objects that the kernel has
//! made are the tool's own fds, and commands on them are the kernel's to
//! answer. It knows no map's contents.
//!
//! The type of a program does not say where it will be put (a tracepoint
//! program may be for system calls or for the scheduler), so one that user space
//! can run stays here until it is put where only the kernel runs programs.
//!
//! Reading order: [`placement`] (who hosts a program), [`program`], [`maps`], [`given`],
//! [`iterator`], [`drain`], [`perf`].

pub mod drain;
pub mod given;
pub mod iterator;
pub mod maps;
pub mod perf;
pub mod placement;
pub mod program;

use std::collections::HashSet;
use std::ffi::c_int;
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use runtime::command::ProgObject;
use runtime::kernel::Attr;
use uapi::attr::AttrBytes;
use uapi::perf::PERF_EVENT_IOC_SET_BPF;
use uapi::prog::BPF_PROG_TYPE_PERF_EVENT;
use uapi::{Errno, cmd};

use crate::fds::FDS;
use crate::log;
use crate::raw;
use crate::server::{self, Server};
use drain::Drain;
use placement::{Host, Obstacle, Runtime};

/// `CAP_SYS_ADMIN`, which suffices, or `CAP_PERFMON` and `CAP_BPF`.
const ADMIN: u64 = 1 << 21;
const BPF_AND_PERFMON: u64 = 1 << 39 | 1 << 38;

/// What the kernel hosts.
pub struct Kernel {
    runtime: Runtime,
    may_load: bool,
    /// It gives this process its maps by id, as targets need them.
    may_share: bool,
    /// It has made an object for the tool.
    in_use: AtomicBool,
    /// The rings that programs there write.
    pub drain: Drain,
    /// What the user was told that nobody hosts.
    told: Mutex<HashSet<String>>,
}

impl Kernel {
    /// As the user and the process's capabilities allow.
    pub fn new(runtime: Runtime) -> Kernel {
        let caps = effective_capabilities();
        let may_load = caps & ADMIN != 0 || caps & BPF_AND_PERFMON == BPF_AND_PERFMON;
        Kernel {
            runtime,
            may_load,
            may_share: caps & ADMIN != 0,
            in_use: AtomicBool::new(false),
            drain: Drain::default(),
            told: Mutex::default(),
        }
    }

    /// Nothing.
    pub fn none(runtime: Runtime) -> Kernel {
        Kernel {
            runtime,
            may_load: false,
            may_share: false,
            in_use: AtomicBool::new(false),
            drain: Drain::default(),
            told: Mutex::default(),
        }
    }

    /// Whether the kernel may be asked to host what user space could, too.
    pub fn may_load(&self) -> bool {
        placement::host(self.runtime, self.may_load, Some(&Obstacle::Type(0))) == Host::Kernel
    }

    /// Whether the kernel hosts what user space has this against; says where
    /// it goes, or what is missing.
    pub fn hosts(&self, program: &str, obstacle: &Obstacle) -> bool {
        let named = match program {
            "" => String::new(),
            program => format!("program \"{program}\": "),
        };
        match placement::host(self.runtime, self.may_load, Some(obstacle)) {
            Host::Kernel => {
                log::debug(format_args!("{named}{obstacle}: the kernel's"));
                true
            }
            _ => {
                let missing = placement::missing(self.runtime);
                let line = format!("{named}only the kernel hosts {obstacle}, {missing}");
                match obstacle {
                    Obstacle::Place(_) => self.tell(line),
                    // Loaders find out by these what there is.
                    _ => log::debug(format_args!("{line}")),
                }
                false
            }
        }
    }

    /// What a program is told that has maps which cannot go to the kernel for
    /// want of a right; `None` if that is not why.
    pub fn not_shared(&self, obstacle: &Obstacle, errno: Errno, maps: usize) -> Option<String> {
        let is_why = errno == Errno::EPERM && maps > 0 && !self.may_share;
        is_why.then(|| {
            format!(
                "only the kernel hosts {obstacle}, and to share maps with it takes CAP_SYS_ADMIN, \
                 unless all is there (--runtime kernel)\n"
            )
        })
    }

    /// Whether programs may go to the kernel that do better there.
    pub fn may_host(&self) -> bool {
        let there = Obstacle::Place(String::new());
        placement::host(self.runtime, self.may_load, Some(&there)) == Host::Kernel
    }

    /// Tells the user once.
    fn tell(&self, line: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(line.clone()) {
            log::problem(format_args!("{line}"));
        }
    }

    /// Whether the kernel has made an object for the tool.
    pub fn is_used(&self) -> bool {
        self.in_use.load(Ordering::Acquire)
    }

    /// The kernel has made an object for the tool.
    pub fn note_use(&self) {
        self.in_use.store(true, Ordering::Release);
    }
}

fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|caps| u64::from_str_radix(caps.trim(), 16).ok())
        .unwrap_or(0)
}

/// Where commands that need not be ours have the fd that says whose they are.
const FD_AT: &[(u32, usize)] = &[
    (cmd::BPF_MAP_LOOKUP_ELEM, 0),
    (cmd::BPF_MAP_UPDATE_ELEM, 0),
    (cmd::BPF_MAP_DELETE_ELEM, 0),
    (cmd::BPF_MAP_GET_NEXT_KEY, 0),
    (cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, 0),
    (cmd::BPF_MAP_LOOKUP_BATCH, 36),
    (cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH, 36),
    (cmd::BPF_MAP_UPDATE_BATCH, 36),
    (cmd::BPF_MAP_DELETE_BATCH, 36),
    (cmd::BPF_MAP_FREEZE, 0),
    (cmd::BPF_PROG_TEST_RUN, 0),
    (cmd::BPF_PROG_ATTACH, 4),
    (cmd::BPF_PROG_DETACH, 4),
    (cmd::BPF_PROG_QUERY, 0),
    (cmd::BPF_RAW_TRACEPOINT_OPEN, 8),
    (cmd::BPF_LINK_CREATE, 0),
    (cmd::BPF_LINK_UPDATE, 0),
    (cmd::BPF_LINK_DETACH, 0),
    (cmd::BPF_ITER_CREATE, 0),
    (cmd::BPF_OBJ_GET_INFO_BY_FD, 0),
    (cmd::BPF_OBJ_PIN, 8),
    (cmd::BPF_TASK_FD_QUERY, 4),
];

/// Whether a command is about an object that the kernel has made for the tool.
pub fn is_kernels(server: &Server, command: u32, attr: &AttrBytes) -> bool {
    if !server.kernel.is_used() {
        return false;
    }
    let Some((_, at)) = FD_AT.iter().find(|(number, _)| *number == command) else {
        return false;
    };
    let word = attr.get(*at..).and_then(|rest| rest.first_chunk());
    word.is_some_and(|word| FDS.get(i32::from_le_bytes(*word)).is_none())
}

/// The kernel's own bpf(2).
///
/// # Errors
/// The kernel's.
pub fn bpf(command: u32, attr: u64, size: u32) -> Result<i64, Errno> {
    let words = [command as usize, attr as usize, size as usize, 0, 0, 0];
    raw::checked(libc::SYS_bpf, words).map(|value| value as i64)
}

/// The same, for a command that opens an object of the kernel's for the tool.
///
/// # Errors
/// The kernel's.
pub fn open(server: &Server, command: u32, attr: u64, size: u32) -> Result<i64, Errno> {
    let fd = bpf(command, attr, size)?;
    server.kernel.note_use();
    Ok(fd)
}

/// A command that makes an fd, with the fd of a program of ours in the kernel
/// in the place of the tool's.
///
/// # Errors
/// The kernel's, or those of loading the program there.
pub fn with_program(
    server: &Server,
    prog: &Arc<ProgObject>,
    command: u32,
    attr: AttrBytes,
    fd_at: usize,
) -> Result<i64, Errno> {
    let fd = program::in_kernel(server, prog)?;
    let made = Attr::of(attr).u32(fd_at, fd as u32).open(command)?;
    Ok(i64::from(made.into_raw_fd()))
}

/// Whether an fd is a perf event of the kernel's.
pub fn is_perf_event(fd: c_int) -> bool {
    is_named(fd, "anon_inode:[perf_event]")
}

/// Whether an fd is of a map in the kernel, and of none of ours.
pub fn is_map(fd: c_int) -> bool {
    FDS.get(fd).is_none() && is_named(fd, "anon_inode:bpf-map")
}

/// Whether an fd is of a program in the kernel.
pub fn is_program(fd: c_int) -> bool {
    is_named(fd, "anon_inode:bpf-prog")
}

fn is_named(fd: c_int, name: &str) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    link.is_ok_and(|to| to.as_os_str() == name)
}

/// ioctl(2) of an fd that is not ours; None unless it puts a program of ours
/// on a perf event of the kernel's.
///
/// # Errors
/// The kernel's, or those of loading the program there.
pub fn ioctl(fd: c_int, request: u32, argument: u64) -> Option<Result<i64, Errno>> {
    if request != PERF_EVENT_IOC_SET_BPF {
        return None;
    }
    let file = FDS.get(argument as c_int)?;
    let runtime::command::Object::Prog(prog) = &file.object else {
        return None;
    };
    let server = server::existing()?;
    let place = Obstacle::Place("this perf event".to_owned());
    if !server.kernel.hosts(&prog.spec().name, &place) {
        return Some(Err(Errno::EPERM));
    }
    let put = put_on(server, fd, prog).and_then(|()| followed(server, prog));
    Some(put.map(|()| 0))
}

/// The kernel's fd of a program of ours that is put on a socket; `None` of one
/// that is not ours.
///
/// # Errors
/// EPERM for who may not ask the kernel; those of loading the program there.
pub fn socket_program(fd: c_int) -> Result<Option<c_int>, Errno> {
    let Some(file) = FDS.get(fd) else {
        return Ok(None);
    };
    let runtime::command::Object::Prog(prog) = &file.object else {
        return Ok(None);
    };
    let server = server::existing().ok_or(Errno::EPERM)?;
    let place = Obstacle::Place("what is put on sockets".to_owned());
    match server.kernel.hosts(&prog.spec().name, &place) {
        true => program::in_kernel(server, prog).map(Some),
        false => Err(Errno::EPERM),
    }
}

/// Puts a program of ours on a perf event of the kernel's.
///
/// # Errors
/// The kernel's, or those of loading the program there.
pub fn put_on(server: &Server, event: c_int, prog: &Arc<ProgObject>) -> Result<(), Errno> {
    let (fd, request) = (program::in_kernel(server, prog)?, PERF_EVENT_IOC_SET_BPF);
    let words = [event as usize, request as usize, fd as usize, 0, 0, 0];
    raw::checked(libc::SYS_ioctl, words).map(drop)
}

/// A program of ours is on a perf event of the kernel's: so is then what a timer
/// of this process did with it.
///
/// # Errors
/// As [`put_on`].
pub fn followed(server: &Server, prog: &Arc<ProgObject>) -> Result<(), Errno> {
    match prog.spec().prog_type {
        BPF_PROG_TYPE_PERF_EVENT => server.bpf.samples_in_kernel(prog),
        _ => Ok(()),
    }
}
