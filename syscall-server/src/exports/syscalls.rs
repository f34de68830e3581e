//! `syscall`, `ioctl` and `setsockopt`.

use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

use super::{exec, fds, guarded, identity, memory, paths, writes};
use crate::perf::{self, Request};
use crate::{bpf, kernel, raw, readiness, user};

/// syscall(2): bpf(2) and perf_event_open(2) have no other way in libc, and
/// libbpf makes some calls on its fds this way too.
#[unsafe(no_mangle)]
extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    match number {
        libc::SYS_bpf => guarded(|| bpf::bpf(a as u32, b as u64, c as u32)),
        libc::SYS_perf_event_open => perf_event_open(a, b, c, d, e),
        libc::SYS_ioctl => c_long::from(ioctl(a as c_int, b as c_ulong, c)),
        libc::SYS_close => c_long::from(fds::close(a as c_int)),
        libc::SYS_dup => c_long::from(fds::dup(a as c_int)),
        libc::SYS_dup2 => c_long::from(fds::dup2(a as c_int, b as c_int)),
        libc::SYS_dup3 => c_long::from(fds::dup3(a as c_int, b as c_int, c as c_int)),
        libc::SYS_fcntl => c_long::from(fds::fcntl(a as c_int, b as c_int, c)),
        libc::SYS_close_range => c_long::from(fds::close_range(a as u32, b as u32, c as c_int)),
        libc::SYS_mmap => {
            memory::mmap(a, b, c as c_int, d as c_int, e as c_int, f as i64) as c_long
        }
        libc::SYS_execve => c_long::from(exec::execve(a as _, b, c as _)),
        libc::SYS_execveat => {
            c_long::from(exec::execveat(a as c_int, b as _, c, d as _, e as c_int))
        }
        // SAFETY: the caller's contract for write(2) is passed on.
        libc::SYS_write => unsafe { writes::write(a as c_int, b as *const c_void, c) as c_long },
        libc::SYS_openat => open_at(a as c_int, b, c as c_int, number, [a, b, c, d, e, f]),
        libc::SYS_openat2 => {
            let flags = user::read_u32(c as u64).unwrap_or_default();
            open_at(a as c_int, b, flags as c_int, number, [a, b, c, d, e, f])
        }
        libc::SYS_capget => c_long::from(identity::capget(a, b)),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_poll | libc::SYS_ppoll => {
            readiness::settle();
            raw::pass(number, [a, b, c, d, e, f])
        }
        _ => raw::pass(number, [a, b, c, d, e, f]),
    }
}

/// openat(2) and openat2(2): files that stand for the kernel's have no others
/// that `resolve` could be about.
fn open_at(
    directory: c_int,
    path: usize,
    flags: c_int,
    number: c_long,
    arguments: [usize; 6],
) -> c_long {
    match paths::lead_open(directory, path as *const c_char, flags) {
        Some(led) => c_long::from(paths::open_led(led, flags, 0)),
        None => raw::pass(number, arguments),
    }
}

fn perf_event_open(attr: usize, pid: usize, cpu: usize, group_fd: usize, flags: usize) -> c_long {
    let request = Request {
        attr: attr as u64,
        pid: pid as i32,
        cpu: cpu as i32,
        group_fd: group_fd as i32,
        flags: flags as u64,
    };
    guarded(|| match perf::open(request)? {
        Some(fd) => Ok(fd),
        None => raw::checked(
            libc::SYS_perf_event_open,
            [attr, pid, cpu, group_fd, flags, 0],
        )
        .map(|fd| fd as i64),
    })
}

/// ioctl(2) of perf events.
#[unsafe(no_mangle)]
extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
    let pass = || {
        raw::pass(
            libc::SYS_ioctl,
            [fd as usize, request as usize, argument, 0, 0, 0],
        ) as c_int
    };
    let foreign = !crate::fds::FDS.may_be_ours(fd);
    if foreign && !crate::fds::FDS.may_be_ours(argument as c_int) {
        return pass();
    }
    let own = match foreign {
        true => kernel::ioctl,
        false => perf::ioctl,
    };
    let mut ours = true;
    let answer = guarded(|| match own(fd, request as u32, argument as u64) {
        Some(result) => result,
        None => {
            ours = false;
            Ok(0)
        }
    });
    if ours { answer as c_int } else { pass() }
}

/// setsockopt(2) of sockets on which programs are put.
#[unsafe(no_mangle)]
extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: usize,
    size: c_uint,
) -> c_int {
    let call = |value: usize| {
        [
            fd as usize,
            level as usize,
            option as usize,
            value,
            size as usize,
            0,
        ]
    };
    let puts = level == libc::SOL_SOCKET
        && matches!(option, libc::SO_ATTACH_BPF | libc::SO_ATTACH_REUSEPORT_EBPF);
    if !puts {
        return raw::pass(libc::SYS_setsockopt, call(value)) as c_int;
    }
    guarded(|| {
        let program = match size {
            4.. => kernel::socket_program(user::read_u32(value as u64)? as c_int)?,
            _ => None,
        };
        let own = program.as_ref().map_or(value, |fd| (&raw const *fd).addr());
        raw::checked(libc::SYS_setsockopt, call(own)).map(|result| result as i64)
    }) as c_int
}
