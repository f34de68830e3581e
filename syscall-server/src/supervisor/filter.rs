//! The seccomp filter of a supervised process: which of its calls wait for
//! our answer. All others stay the kernel's, most at no cost. It knows no
//! answer.

use std::ffi::c_long;
use std::mem::offset_of;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET,
    BPF_RSH, BPF_W, seccomp_data, sock_filter, sock_fprog,
};
use uapi::Errno;

use crate::raw;

/// When a call waits for an answer.
enum When {
    Always,
    /// A request of perf events: ioctl(2)s whose letter is `$`.
    PerfRequest,
    /// mmap(2) of a file.
    OfFile,
    /// An argument is this number.
    Is(usize, u32),
    /// An argument is another number.
    IsNot(usize, u32),
    /// None of these bits is in an argument.
    Without(usize, u32),
}

/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
/// `__X32_SYSCALL_BIT`.
const X32: u32 = 0x4000_0000;
/// How many events Go's runtime waits for at a time: it does so whenever a
/// goroutine waits for anything, and its set has no fds of ours (cilium/ebpf
/// has a set of its own).
const OF_GO_RUNTIME: u32 = 128;

use When::{Always, Is, IsNot, OfFile, PerfRequest, Without};

/// The calls.
const CALLS: &[(c_long, When)] = &[
    (libc::SYS_bpf, Always),
    (libc::SYS_perf_event_open, Always),
    (libc::SYS_ioctl, PerfRequest),
    (libc::SYS_mmap, OfFile),
    // When the last fd of a link goes, the link does.
    (libc::SYS_close, Always),
    (libc::SYS_close_range, Always),
    (libc::SYS_dup2, Always),
    (libc::SYS_dup3, Always),
    (libc::SYS_execve, Always),
    (libc::SYS_execveat, Always),
    (libc::SYS_fork, Always),
    (libc::SYS_vfork, Always),
    (libc::SYS_clone, Without(0, libc::CLONE_THREAD as u32)),
    (libc::SYS_clone3, Always),
    // Files that are not there, or elsewhere.
    (libc::SYS_open, Always),
    (libc::SYS_openat, Always),
    (libc::SYS_stat, Always),
    (libc::SYS_lstat, Always),
    (libc::SYS_newfstatat, Always),
    (libc::SYS_statx, Always),
    (libc::SYS_access, Always),
    (libc::SYS_faccessat, Always),
    (libc::SYS_faccessat2, Always),
    (libc::SYS_readlink, Always),
    (libc::SYS_readlinkat, Always),
    (libc::SYS_statfs, Always),
    (libc::SYS_fstatfs, Always),
    (libc::SYS_mkdir, Always),
    (libc::SYS_mkdirat, Always),
    (libc::SYS_rmdir, Always),
    (libc::SYS_unlink, Always),
    (libc::SYS_unlinkat, Always),
    (libc::SYS_rename, Always),
    (libc::SYS_renameat, Always),
    (libc::SYS_renameat2, Always),
    // Locked memory.
    (libc::SYS_prlimit64, Is(1, libc::RLIMIT_MEMLOCK)),
    (libc::SYS_setrlimit, Is(0, libc::RLIMIT_MEMLOCK)),
    // Who the caller is, as far as few programs ask.
    (libc::SYS_geteuid, Always),
    (libc::SYS_capget, Always),
    // Before a wait, fds of rings tell the truth.
    (libc::SYS_epoll_wait, Always),
    (libc::SYS_epoll_pwait, IsNot(2, OF_GO_RUNTIME)),
    (libc::SYS_epoll_pwait2, Always),
    (libc::SYS_poll, Always),
    (libc::SYS_ppoll, Always),
    (libc::SYS_select, Always),
    (libc::SYS_pselect6, Always),
];

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// A jump over `then` instructions if the test holds, else over `other`.
const fn jump(test: u32, k: u32, then: u8, other: u8) -> sock_filter {
    sock_filter {
        code: (BPF_JMP | test | BPF_K) as u16,
        jt: then,
        jf: other,
        k,
    }
}

const fn load(at: usize) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, at as u32)
}

/// The lower half of an argument.
const fn argument(number: usize) -> sock_filter {
    load(offset_of!(seccomp_data, args) + number * 8)
}

const ALLOW: sock_filter = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW);
const ASK: sock_filter = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_USER_NOTIF);

impl When {
    fn program(&self) -> Vec<sock_filter> {
        match *self {
            Always => vec![ASK],
            PerfRequest => vec![
                argument(1),
                statement(BPF_ALU | BPF_RSH | BPF_K, 8),
                statement(BPF_ALU | BPF_AND | BPF_K, 0xff),
                jump(BPF_JEQ, u32::from(b'$'), 0, 1),
                ASK,
                ALLOW,
            ],
            OfFile => Without(3, libc::MAP_ANONYMOUS as u32).program(),
            Is(number, value) => vec![argument(number), jump(BPF_JEQ, value, 0, 1), ASK, ALLOW],
            IsNot(number, value) => vec![argument(number), jump(BPF_JEQ, value, 1, 0), ASK, ALLOW],
            Without(number, bits) => {
                vec![argument(number), jump(BPF_JSET, bits, 1, 0), ASK, ALLOW]
            }
        }
    }
}

fn program() -> Vec<sock_filter> {
    let mut program = vec![
        load(offset_of!(seccomp_data, arch)),
        jump(BPF_JEQ, ARCH, 1, 0),
        ALLOW,
        load(offset_of!(seccomp_data, nr)),
        jump(BPF_JGE, X32, 0, 1),
        ALLOW,
    ];
    for (number, when) in CALLS {
        let asked = when.program();
        program.push(jump(BPF_JEQ, *number as u32, 0, asked.len() as u8));
        program.extend(asked);
    }
    program.push(ALLOW);
    program
}

/// Supervises the calling thread, and what it will start and execute, from now
/// on: the fd where its calls are heard, closed on exec.
///
/// # Errors
/// EINVAL where the kernel lets signals interrupt such calls (before Linux
/// 5.19), so that they would be made twice; EBUSY where someone else hears them
/// already; others where seccomp(2) is forbidden.
pub fn install() -> Result<i32, Errno> {
    let privileges = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0];
    raw::checked(libc::SYS_prctl, privileges)?;
    let mut program = program();
    let filter = sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
    let words = [mode, flags as usize, &raw const filter as usize, 0, 0, 0];
    raw::checked(libc::SYS_seccomp, words).map(|fd| fd as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says of a call.
    fn verdict(number: c_long, args: [u32; 6]) -> u32 {
        let program = program();
        let (mut at, mut word) = (0, 0);
        loop {
            let insn = program[at];
            at += 1;
            let test = match u32::from(insn.code) & 0xf0 {
                BPF_JEQ => word == insn.k,
                BPF_JGE => word >= insn.k,
                _ => word & insn.k != 0,
            };
            match u32::from(insn.code) {
                code if code & 7 == BPF_RET => return insn.k,
                code if code & 7 == BPF_JMP => {
                    at += usize::from(if test { insn.jt } else { insn.jf })
                }
                code if code & 0xf0 == BPF_RSH => word >>= insn.k,
                code if code & 7 == BPF_ALU => word &= insn.k,
                _ if insn.k as usize == offset_of!(seccomp_data, nr) => word = number as u32,
                _ if insn.k as usize == offset_of!(seccomp_data, arch) => word = ARCH,
                _ => word = args[(insn.k as usize - offset_of!(seccomp_data, args)) / 8],
            }
        }
    }

    #[test]
    fn asks_about_what_could_be_ours() {
        let (ask, allow) = (libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_ALLOW);
        let check =
            |number, args, expected| assert_eq!(verdict(number, args), expected, "{number}");
        check(libc::SYS_bpf, [0; 6], ask);
        check(libc::SYS_read, [0; 6], allow);
        check(libc::SYS_write, [0; 6], allow);
        check(libc::SYS_futex, [0; 6], allow);
        check(libc::SYS_ioctl, [3, 0x5401, 0, 0, 0, 0], allow);
        check(libc::SYS_ioctl, [3, 0x2400, 0, 0, 0, 0], ask);
        check(libc::SYS_ioctl, [3, 0x4004_2408, 0, 0, 0, 0], ask);
        let (private, shared) = (libc::MAP_PRIVATE as u32, libc::MAP_SHARED as u32);
        let anonymous = private | libc::MAP_ANONYMOUS as u32;
        check(libc::SYS_mmap, [0, 0, 0, anonymous, u32::MAX, 0], allow);
        check(libc::SYS_mmap, [0, 0, 0, shared, 3, 0], ask);
        check(
            libc::SYS_clone,
            [libc::CLONE_THREAD as u32, 0, 0, 0, 0, 0],
            allow,
        );
        check(libc::SYS_clone, [libc::SIGCHLD as u32, 0, 0, 0, 0, 0], ask);
        check(
            libc::SYS_prlimit64,
            [0, libc::RLIMIT_NOFILE, 0, 0, 0, 0],
            allow,
        );
        check(
            libc::SYS_prlimit64,
            [0, libc::RLIMIT_MEMLOCK, 0, 0, 0, 0],
            ask,
        );
        check(libc::SYS_epoll_pwait, [4, 0, 128, 0, 0, 0], allow);
        check(libc::SYS_epoll_pwait, [4, 0, 1, 0, 0, 0], ask);
    }
}
