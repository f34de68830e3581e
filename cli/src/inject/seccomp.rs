//! Whether a process's seccomp(2) filters let an agent live there. The kernel
//! shows them to root only. It knows no process but by its stopped thread.
//!
//! A filter is a program of classic BPF without loops. It is followed along all
//! paths that it can take for a system call whose arguments are not known.

use std::collections::BTreeSet;

use nix::errno::Errno;
use nix::unistd::Pid;

/// Of linux/ptrace.h.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
/// In `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
/// Instructions looked at for one system call, on all paths together.
const MOST_STEPS: usize = 200_000;
/// Words of scratch memory.
const WORDS: usize = 16;

/// Calls that an agent needs.
const NEEDED: &[i64] = &[
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sched_yield,
    libc::SYS_socketpair,
];

/// Calls that it makes and that may fail, or that others stand in for.
const MADE: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit_group,
    libc::SYS_fchmodat,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcpu,
    libc::SYS_getgid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_pread64,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_pwrite64,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill,
    libc::SYS_uname,
    libc::SYS_unlinkat,
    libc::SYS_unshare,
    libc::SYS_write,
];

/// Whether no filter of the stopped thread `tid` would end its process, or lead
/// it elsewhere, for what an agent does.
pub fn lets_an_agent_live(tid: Pid) -> bool {
    (0..)
        .map(|index| filter(tid, index))
        .take_while(|filter| *filter != Err(Errno::ENOENT))
        .all(|filter| filter.is_ok_and(|filter| is_harmless(&filter)))
}

/// The filter of this index, newest first; `ENOENT` behind the last.
fn filter(tid: Pid, index: usize) -> Result<Vec<libc::sock_filter>, Errno> {
    let get = |to: *mut libc::sock_filter| {
        let request = PTRACE_SECCOMP_GET_FILTER;
        // SAFETY: the kernel writes as many instructions as it said there are.
        Errno::result(unsafe { libc::ptrace(request, tid.as_raw(), index, to) })
    };
    let length = usize::try_from(get(std::ptr::null_mut())?).map_err(|_| Errno::EINVAL)?;
    let none = libc::sock_filter {
        code: 0,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let mut filter = vec![none; length];
    get(filter.as_mut_ptr())?;
    Ok(filter)
}

fn is_harmless(filter: &[libc::sock_filter]) -> bool {
    let is_allowed =
        |answer: &u32| [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG].contains(answer);
    let answers = |number: &i64| answers(filter, *number as u32);
    let survives = |answers: &BTreeSet<u32>| {
        let harmless = |answer: &u32| is_allowed(answer) || *answer == libc::SECCOMP_RET_ERRNO;
        answers.iter().all(harmless)
    };
    let needed = |number: &i64| {
        answers(number).is_some_and(|answers| survives(&answers) && answers.iter().any(is_allowed))
    };
    let made = |number: &i64| answers(number).is_some_and(|answers| survives(&answers));
    NEEDED.iter().all(needed) && MADE.iter().all(made)
}

/// Where a path has come to; `None` is a value that is not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    at: usize,
    a: Option<u32>,
    x: Option<u32>,
    memory: [Option<u32>; WORDS],
}

/// All actions that a filter can answer a call of this number with; `None` if
/// that cannot be told.
fn answers(filter: &[libc::sock_filter], number: u32) -> Option<BTreeSet<u32>> {
    let start = State {
        at: 0,
        a: Some(0),
        x: Some(0),
        memory: [Some(0); WORDS],
    };
    let mut open = vec![start];
    let mut seen = BTreeSet::new();
    let mut found = BTreeSet::new();
    while let Some(state) = open.pop() {
        if seen.len() > MOST_STEPS {
            return None;
        }
        if !seen.insert(state) {
            continue;
        }
        match step(state, filter.get(state.at)?, number)? {
            Next::Answer(answer) => {
                found.insert(answer & libc::SECCOMP_RET_ACTION_FULL);
            }
            Next::States(next) => open.extend(next),
        }
    }
    Some(found)
}

enum Next {
    Answer(u32),
    States(Vec<State>),
}

/// What the kernel's checker lets through (seccomp_check_filter), and nothing else.
fn step(mut state: State, insn: &libc::sock_filter, number: u32) -> Option<Next> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let (code, k) = (u32::from(insn.code), insn.k);
    let word = usize::try_from(k).ok()?;
    state.at += 1;
    match code & 0x07 {
        libc::BPF_RET => {
            return match code & 0x18 {
                libc::BPF_K => Some(Next::Answer(k)),
                _ => state.a.map(Next::Answer),
            };
        }
        libc::BPF_JMP => return jump(state, insn),
        libc::BPF_LD if code == LOAD => {
            state.a = match k {
                NUMBER_AT => Some(number),
                ARCH_AT => Some(ARCH),
                _ => None,
            }
        }
        libc::BPF_LD => state.a = load(&state, code, k, word)?,
        libc::BPF_LDX => state.x = load(&state, code, k, word)?,
        libc::BPF_ST => *state.memory.get_mut(word)? = state.a,
        libc::BPF_STX => *state.memory.get_mut(word)? = state.x,
        libc::BPF_ALU => {
            let operand = if code & libc::BPF_X == 0 {
                Some(k)
            } else {
                state.x
            };
            state.a = calculate(code & 0xf0, state.a, operand);
        }
        _ if code & 0xf8 == libc::BPF_TXA => state.a = state.x,
        _ => state.x = state.a,
    }
    Some(Next::States(vec![state]))
}

/// A constant, a word of memory, or the size of `struct seccomp_data`.
fn load(state: &State, code: u32, k: u32, word: usize) -> Option<Option<u32>> {
    match code & 0xe0 {
        libc::BPF_IMM => Some(Some(k)),
        libc::BPF_MEM => state.memory.get(word).copied(),
        libc::BPF_LEN => Some(Some(64)),
        _ => None,
    }
}

fn jump(mut state: State, insn: &libc::sock_filter) -> Option<Next> {
    let code = u32::from(insn.code);
    if code & 0xf0 == libc::BPF_JA {
        state.at += usize::try_from(insn.k).ok()?;
        return Some(Next::States(vec![state]));
    }
    let operand = if code & libc::BPF_X == 0 {
        Some(insn.k)
    } else {
        state.x
    };
    let holds = state.a.zip(operand).map(|(a, b)| match code & 0xf0 {
        libc::BPF_JEQ => a == b,
        libc::BPF_JGT => a > b,
        libc::BPF_JGE => a >= b,
        _ => a & b != 0,
    });
    let to = move |offset: u8| {
        let mut there = state;
        there.at += usize::from(offset);
        there
    };
    Some(Next::States(match holds {
        Some(true) => vec![to(insn.jt)],
        Some(false) => vec![to(insn.jf)],
        None => vec![to(insn.jt), to(insn.jf)],
    }))
}

fn calculate(operation: u32, a: Option<u32>, operand: Option<u32>) -> Option<u32> {
    let a = a?;
    if operation == libc::BPF_NEG {
        return Some(a.wrapping_neg());
    }
    let b = operand?;
    match operation {
        libc::BPF_ADD => Some(a.wrapping_add(b)),
        libc::BPF_SUB => Some(a.wrapping_sub(b)),
        libc::BPF_MUL => Some(a.wrapping_mul(b)),
        libc::BPF_DIV => a.checked_div(b),
        libc::BPF_OR => Some(a | b),
        libc::BPF_AND => Some(a & b),
        libc::BPF_XOR => Some(a ^ b),
        libc::BPF_LSH => a.checked_shl(b),
        libc::BPF_RSH => a.checked_shr(b),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        let code = code as u16;
        libc::sock_filter { code, jt, jf, k }
    }

    const LD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JEQ: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RET: u32 = libc::BPF_RET | libc::BPF_K;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

    /// As container runtimes make them: another architecture is killed, some
    /// calls get an error, one depending on its first argument.
    fn like_a_runtime(mount: u32, clone: u32) -> Vec<libc::sock_filter> {
        vec![
            insn(LD, 0, 0, ARCH_AT),
            insn(JEQ, 1, 0, ARCH),
            insn(RET, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
            insn(LD, 0, 0, NUMBER_AT),
            insn(JEQ, 0, 1, libc::SYS_mount as u32),
            insn(RET, 0, 0, mount),
            insn(JEQ, 0, 3, libc::SYS_clone as u32),
            insn(LD, 0, 0, 16),
            insn(
                libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
                0,
                1,
                0x7e02_0000,
            ),
            insn(RET, 0, 0, clone),
            insn(RET, 0, 0, libc::SECCOMP_RET_ALLOW),
        ]
    }

    #[test]
    fn errors_are_harmless_and_ends_are_not() {
        let filter = like_a_runtime(libc::SECCOMP_RET_KILL_THREAD, ENOSYS);
        assert!(is_harmless(&filter));
        let mount = answers(&filter, libc::SYS_mount as u32).expect("an answer");
        assert_eq!(mount, BTreeSet::from([libc::SECCOMP_RET_KILL_THREAD]));
        let clone = answers(&filter, libc::SYS_clone as u32).expect("an answer");
        let both = [libc::SECCOMP_RET_ERRNO, libc::SECCOMP_RET_ALLOW];
        assert_eq!(clone, BTreeSet::from(both));
        for answer in [
            libc::SECCOMP_RET_KILL_PROCESS,
            libc::SECCOMP_RET_KILL_THREAD,
            libc::SECCOMP_RET_TRAP,
            libc::SECCOMP_RET_TRACE,
            libc::SECCOMP_RET_USER_NOTIF,
        ] {
            assert!(!is_harmless(&like_a_runtime(ENOSYS, answer)));
        }
    }

    #[test]
    fn what_is_needed_must_be_allowed() {
        let mut filter = like_a_runtime(ENOSYS, ENOSYS);
        filter[4].k = libc::SYS_process_vm_writev as u32;
        assert!(!is_harmless(&filter));
    }

    /// Memory, arithmetic, and an answer that is not known.
    #[test]
    fn calculated_answers() {
        let answer = |operation: u32, k: u32| {
            let filter = [
                insn(libc::BPF_LD | libc::BPF_IMM, 0, 0, libc::SECCOMP_RET_ALLOW),
                insn(libc::BPF_ST, 0, 0, 3),
                insn(LD, 0, 0, 16),
                insn(libc::BPF_LD | libc::BPF_MEM, 0, 0, 3),
                insn(libc::BPF_ALU | operation | libc::BPF_K, 0, 0, k),
                insn(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
                insn(libc::BPF_MISC | libc::BPF_TXA, 0, 0, 0),
                insn(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
            ];
            answers(&filter, 0)
        };
        let allow = libc::SECCOMP_RET_ALLOW;
        assert_eq!(answer(libc::BPF_ADD, 1), Some(BTreeSet::from([allow])));
        assert_eq!(answer(libc::BPF_AND, 0), Some(BTreeSet::from([0])));
        assert_eq!(answer(libc::BPF_DIV, 0), None);
        let unknown = [
            insn(LD, 0, 0, 16),
            insn(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
        ];
        assert_eq!(answers(&unknown, 0), None);
    }
}
