//! What answers each call: the very functions that answer it in a tool that
//! has this library preloaded. It knows no path.

use std::ffi::c_int;

use uapi::perf::PERF_FLAG_FD_CLOEXEC;
use uapi::{Errno, cmd};

use super::notice::{Listener, Notice};
use super::{Answer, closing, paths, remote};
use crate::mapping::{self, Plan};
use crate::perf::{self, Request};
use crate::{bpf, caller, capabilities, kernel, raw, readiness, user};

/// The commands whose answer is an fd.
const MAKE_FDS: &[u32] = &[
    cmd::BPF_MAP_CREATE,
    cmd::BPF_PROG_LOAD,
    cmd::BPF_OBJ_GET,
    cmd::BPF_RAW_TRACEPOINT_OPEN,
    cmd::BPF_BTF_LOAD,
    cmd::BPF_MAP_GET_FD_BY_ID,
    cmd::BPF_PROG_GET_FD_BY_ID,
    cmd::BPF_BTF_GET_FD_BY_ID,
    cmd::BPF_LINK_GET_FD_BY_ID,
    cmd::BPF_LINK_CREATE,
];

/// Whether others should not wait for the end of this call.
pub fn may_take_long(notice: &Notice) -> bool {
    // Targets follow links, and mappings are made by calls that are heard, too.
    let calls = [
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_ioctl,
        libc::SYS_mmap,
        libc::SYS_close,
    ];
    calls.contains(&i64::from(notice.nr))
}

/// Answers a call of the thread that this one answers.
pub fn answer(listener: Listener, notice: &Notice) -> Answer {
    let [a, b, c, ..] = notice.args;
    match i64::from(notice.nr) {
        libc::SYS_bpf => bpf(a as u32, b, c as u32),
        libc::SYS_perf_event_open => perf_event_open(notice),
        libc::SYS_ioctl => ioctl(a as c_int, b as u32, c),
        libc::SYS_mmap => mmap(listener, notice),
        libc::SYS_close => {
            closing::close(a as c_int);
            Answer::Pass
        }
        libc::SYS_dup2 | libc::SYS_dup3 => {
            if a != b {
                closing::close(b as c_int);
            }
            Answer::Pass
        }
        libc::SYS_close_range | libc::SYS_execve | libc::SYS_execveat => {
            closing::look_soon();
            Answer::Pass
        }
        libc::SYS_clone | libc::SYS_fork | libc::SYS_vfork => {
            closing::expect_children();
            Answer::Pass
        }
        libc::SYS_clone3 => {
            let flags = user::read_u32(a).unwrap_or(0);
            if flags & libc::CLONE_THREAD as u32 == 0 {
                closing::expect_children();
            }
            Answer::Pass
        }
        libc::SYS_prlimit64 => {
            let pid = if a == 0 { caller::pid() } else { a as i32 };
            lock_memory(pid, c, notice.args[3])
        }
        // As in `exports::identity`.
        libc::SYS_geteuid if caller::program() == b"bpftrace" => Answer::Value(Ok(0)),
        libc::SYS_geteuid => Answer::Pass,
        libc::SYS_capget => capget(a, b),
        libc::SYS_setrlimit => lock_memory(caller::pid(), b, 0),
        libc::SYS_epoll_wait
        | libc::SYS_epoll_pwait
        | libc::SYS_epoll_pwait2
        | libc::SYS_poll
        | libc::SYS_ppoll
        | libc::SYS_select
        | libc::SYS_pselect6 => {
            readiness::settle();
            Answer::Pass
        }
        _ => paths::answer(notice),
    }
}

fn bpf(command: u32, attr: u64, size: u32) -> Answer {
    match bpf::bpf(command, attr, size) {
        Ok(own) if MAKE_FDS.contains(&command) => Answer::Object(own as c_int, libc::O_CLOEXEC),
        other => Answer::Value(other),
    }
}

fn perf_event_open(notice: &Notice) -> Answer {
    let [attr, pid, cpu, group_fd, flags, _] = notice.args;
    let request = Request {
        attr,
        pid: pid as i32,
        cpu: cpu as i32,
        group_fd: group_fd as i32,
        flags,
    };
    let close_on_exec = match flags & PERF_FLAG_FD_CLOEXEC {
        0 => 0,
        _ => libc::O_CLOEXEC,
    };
    match perf::open(request) {
        Ok(Some(own)) => Answer::Object(own as c_int, close_on_exec),
        Ok(None) => Answer::Pass,
        Err(errno) => Answer::Value(Err(errno)),
    }
}

fn ioctl(fd: c_int, request: u32, argument: u64) -> Answer {
    let own = perf::ioctl(fd, request, argument);
    match own.or_else(|| kernel::ioctl(fd, request, argument)) {
        Some(answer) => Answer::Value(answer),
        None => Answer::Pass,
    }
}

fn mmap(listener: Listener, notice: &Notice) -> Answer {
    let [address, len, prot, flags, fd, offset] = notice.args;
    let request = mapping::Request {
        address: address as usize,
        len: len as usize,
        prot: prot as c_int,
        flags: flags as c_int,
        fd: fd as c_int,
        offset,
    };
    match mapping::plan(request) {
        None | Some(Ok(Plan::Native)) => Answer::Pass,
        Some(Err(errno)) => Answer::Value(Err(errno)),
        Some(Ok(Plan::Pieces(storage, pieces))) => {
            match remote::map(listener, notice, request, &storage, &pieces) {
                Ok(()) => Answer::Done,
                Err(errno) => Answer::Value(Err(errno)),
            }
        }
    }
}

/// What the kernel says of the caller, and the capabilities that are counted.
fn capget(header: u64, data: u64) -> Answer {
    if data == 0 || !capabilities::are_counted_by(&caller::program()) {
        return Answer::Pass;
    }
    let told = || {
        // The version, and a process.
        let [version, pid] = [user::read_u32(header)?, user::read_u32(header + 4)?];
        let of = if pid == 0 { caller::pid() as u32 } else { pid };
        let mut sets = [0u8; 2 * capabilities::SET_BYTES];
        let asked = [version, of];
        let words = [
            asked.as_ptr() as usize,
            sets.as_mut_ptr() as usize,
            0,
            0,
            0,
            0,
        ];
        raw::checked(libc::SYS_capget, words)?;
        user::write(data, &sets)?;
        capabilities::add(data)
    };
    match told() {
        // An old version: the kernel tells the right one.
        Err(_) => Answer::Pass,
        told => Answer::Value(told),
    }
}

/// A limit on locked memory that may not be raised stands in nobody's way:
/// maps are files.
fn lock_memory(pid: i32, new: u64, old: u64) -> Answer {
    if new == 0 || pid != caller::pid() {
        return Answer::Pass;
    }
    let set = || {
        let new = user::read_u64s(new, 2)?;
        let mut before = [0u64; 2];
        let words = [
            pid as usize,
            libc::RLIMIT_MEMLOCK as usize,
            new.as_ptr() as usize,
            before.as_mut_ptr() as usize,
            0,
            0,
        ];
        match raw::checked(libc::SYS_prlimit64, words) {
            Ok(_) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(errno),
        }
        if old != 0 {
            user::write(old, &before.map(u64::to_le_bytes).concat())?;
        }
        Ok(0)
    };
    Answer::Value(set())
}
