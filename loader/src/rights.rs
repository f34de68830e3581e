//! Why a kernel lets a process load no programs of some type: what the process
//! lacks, or what confines it. It asks the system, and knows no program.

use std::fs;
use std::io;

use libbpf_rs::ProgramType as Kind;
use libbpf_sys as sys;

use crate::open::ProgramInfo;
use crate::reason::Cause;

/// Capabilities that loading asks for (include/uapi/linux/capability.h).
const CAPABILITIES: [(u32, &str); 3] = [
    (CAP_BPF, "CAP_BPF"),
    (CAP_PERFMON, "CAP_PERFMON"),
    (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
];
const CAP_NET_ADMIN: u32 = 12;
/// It stands for all three.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// `SECCOMP_MODE_FILTER` as /proc/PID/status has it.
const FILTERED: &str = "2";

/// Why these programs, all that could be to blame, may not be loaded here, in a
/// user's words, and whether the process or the kernel is why.
pub(crate) fn why(programs: &[&ProgramInfo]) -> Option<(String, Cause)> {
    let status = Status::read()?;
    let lacks = status.lacks(programs.iter().map(|program| program.kind));
    if !lacks.is_empty() {
        let text = format!("takes {}, which this process lacks", lacks.join(" and "));
        return Some((text, Cause::NoRight));
    }
    if status.in_user_namespace {
        let text = "takes capabilities of the machine, and this process has those of a user \
                    namespace only";
        return Some((text.to_owned(), Cause::NoRight));
    }
    if status.is_filtered && is_refused(sys::BPF_PROG_TYPE_SOCKET_FILTER, 0) {
        let text = "a seccomp filter keeps bpf(2) from this process";
        return Some((text.to_owned(), Cause::NoRight));
    }
    let refused = programs
        .iter()
        .find(|program| is_refused(program.kind as u32, program.attach_type))?;
    let locked =
        lockdown().map_or_else(String::new, |mode| format!(" (it is locked down: {mode})"));
    let text = format!(
        "this kernel refuses all {} programs before it looks at them{locked}",
        family(&refused.section)
    );
    Some((text, Cause::Kernel))
}

/// Why programs of the BPF LSM would be loaded, attached, and never run.
pub(crate) fn no_lsm() -> Option<String> {
    is_missing_in(&active_lsms()?).then(|| {
        "this kernel has no BPF LSM, so nothing would call it: boot with bpf in lsm=".to_owned()
    })
}

/// `LSM_ID_BPF` (include/uapi/linux/lsm.h).
const LSM_ID_BPF: u64 = 109;

fn is_missing_in(lsms: &[u64]) -> bool {
    !lsms.contains(&LSM_ID_BPF)
}

/// What lsm_list_modules(2) tells, since Linux 6.8. Older kernels tell it in a
/// file system that hardly anybody mounts in containers.
fn active_lsms() -> Option<Vec<u64>> {
    const SYS_LSM_LIST_MODULES: libc::c_long = 461;
    let mut ids = [0_u64; 64];
    let mut size = size_of_val(&ids) as u32;
    // SAFETY: the kernel writes as many bytes as `size` says, and the size.
    let count = unsafe { libc::syscall(SYS_LSM_LIST_MODULES, ids.as_mut_ptr(), &raw mut size, 0) };
    let known = ids.get(..usize::try_from(count).ok()?)?;
    Some(known.to_vec())
}

/// What a section asks for, in its own words: `fentry`, `lsm`, `xdp`.
fn family(section: &str) -> &str {
    let family = section.split(['/', '.']).next().unwrap_or(section);
    family.trim_start_matches('?')
}

/// How the kernel is locked down, if it can be seen.
fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let mode = modes.split(['[', ']']).nth(1)?;
    (mode != "none").then(|| mode.to_owned())
}

/// Whether bpf(2) refuses programs of this type before it looks at anything: one
/// without instructions is too short (E2BIG) for who may ask.
fn is_refused(kind: u32, attach_type: u32) -> bool {
    const BPF_PROG_LOAD: libc::c_long = 5;
    let mut attributes = sys::bpf_attr::default();
    attributes.__bindgen_anon_3.prog_type = kind;
    attributes.__bindgen_anon_3.expected_attach_type = attach_type;
    // SAFETY: attributes without addresses, which outlive the call. It makes
    // nothing, since a program needs an instruction.
    let made = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    made < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// What a process may do, and what confines it.
struct Status {
    effective: u64,
    in_user_namespace: bool,
    is_filtered: bool,
}

impl Status {
    /// Of this process; nothing without /proc.
    fn read() -> Option<Status> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let map = fs::read_to_string("/proc/self/uid_map").ok()?;
        Status::parse(&status, &map)
    }

    fn parse(status: &str, uid_map: &str) -> Option<Status> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        let whole = ["0", "0", "4294967295"];
        Some(Status {
            effective: u64::from_str_radix(field("CapEff:")?, 16).ok()?,
            in_user_namespace: !uid_map.split_whitespace().eq(whole),
            is_filtered: field("Seccomp:") == Some(FILTERED),
        })
    }

    /// The capabilities that programs of these types take and the process has not.
    fn lacks(&self, kinds: impl Iterator<Item = Kind>) -> Vec<&'static str> {
        let has = |capability: u32| self.effective >> capability & 1 != 0;
        if has(CAP_SYS_ADMIN) {
            return Vec::new();
        }
        let wanted = kinds.fold(1 << CAP_BPF, |all, kind| all | wanted(kind));
        let lacking = |capability: u32| wanted >> capability & 1 != 0 && !has(capability);
        let named = CAPABILITIES.iter().filter(|(number, _)| lacking(*number));
        named.map(|(_, name)| *name).collect()
    }
}

/// What the type takes beside `CAP_BPF`, as bits (`is_perfmon_prog_type` and
/// `is_net_admin_prog_type`, Linux 6.18, kernel/bpf/syscall.c).
fn wanted(kind: Kind) -> u64 {
    match kind {
        Kind::Kprobe
        | Kind::Tracepoint
        | Kind::PerfEvent
        | Kind::RawTracepoint
        | Kind::RawTracepointWritable
        | Kind::Tracing
        | Kind::Lsm
        | Kind::StructOps => 1 << CAP_PERFMON,
        Kind::Ext => 1 << CAP_PERFMON | 1 << CAP_NET_ADMIN,
        Kind::SchedCls
        | Kind::SchedAct
        | Kind::Xdp
        | Kind::LwtIn
        | Kind::LwtOut
        | Kind::LwtXmit
        | Kind::LwtSeg6local
        | Kind::SkSkb
        | Kind::SkMsg
        | Kind::FlowDissector
        | Kind::CgroupDevice
        | Kind::CgroupSock
        | Kind::CgroupSockAddr
        | Kind::CgroupSockopt
        | Kind::CgroupSysctl
        | Kind::SockOps
        | Kind::LircMode2
        | Kind::Netfilter => 1 << CAP_NET_ADMIN,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(capabilities: u64) -> Status {
        let status = format!("Name:\tx\nCapEff:\t{capabilities:016x}\nSeccomp:\t2\n");
        Status::parse(&status, "         0          0 4294967295\n").expect("a status")
    }

    #[test]
    fn what_is_missing_is_named() {
        let lacks =
            |capabilities, kinds: &[Kind]| status(capabilities).lacks(kinds.iter().copied());
        let none: [&str; 0] = [];
        assert_eq!(lacks(1 << 21, &[Kind::Lsm, Kind::Xdp]), none);
        assert_eq!(lacks(1 << 39, &[Kind::Xdp]), ["CAP_NET_ADMIN"]);
        assert_eq!(lacks(1 << 39, &[Kind::SocketFilter]), none);
        assert_eq!(lacks(1 << 12, &[Kind::Lsm]), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(
            lacks(0, &[Kind::Ext]),
            ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]
        );
    }

    #[test]
    fn what_confines_is_seen() {
        let outside = status(0);
        assert!(outside.is_filtered && !outside.in_user_namespace);
        let inside = Status::parse("CapEff:\t0\nSeccomp:\t0\n", "0 1000 1\n").expect("a status");
        assert!(!inside.is_filtered && inside.in_user_namespace);
    }

    #[test]
    fn sections_are_told_as_they_are_written() {
        assert_eq!(family("lsm.s/file_open"), "lsm");
        assert_eq!(family("?fentry/do_unlinkat"), "fentry");
        assert_eq!(family("freplace"), "freplace");
    }

    #[test]
    fn an_lsm_that_is_not_booted_is_seen() {
        assert!(is_missing_in(&[100, 110]));
        assert!(!is_missing_in(&[100, LSM_ID_BPF]));
    }
}
