//! What the kernel would let this user do with its own eBPF. bpftime needs
//! none of it; tools with programs for kernel events do.

use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::finding::Finding;

const NOT_NEEDED: &str = "not needed for programs that run in user space";

/// Everything, from types to events.
pub fn all() -> Vec<Finding> {
    vec![btf(), kernel_bpf(), perf_events(), kernel_uprobes()]
}

fn btf() -> Finding {
    const WHAT: &str = "BTF";
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match File::open(PATH) {
        Ok(_) => Finding::ok(WHAT, format!("{PATH} is readable")),
        Err(error) => Finding::limited(
            WHAT,
            format!("{PATH}: {}", crate::libraries::reason(&error)),
            "tools that read kernel structures cannot load",
        ),
    }
}

fn kernel_bpf() -> Finding {
    const WHAT: &str = "kernel BPF";
    let switch = number("/proc/sys/kernel/unprivileged_bpf_disabled");
    let switch = switch.map_or_else(String::new, |value| {
        format!(" (kernel.unprivileged_bpf_disabled is {value})")
    });
    match create_map() {
        Ok(_) => Finding::ok(WHAT, format!("bpf(2) is allowed{switch}")),
        Err(errno) => Finding::limited(
            WHAT,
            format!("bpf(2): {}{switch}", errno.desc()),
            NOT_NEEDED,
        ),
    }
}

/// Asks the kernel for the smallest map.
fn create_map() -> Result<OwnedFd, Errno> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    // map_type, key_size, value_size, max_entries of union bpf_attr.
    let attributes: [u32; 4] = [uapi::map::BPF_MAP_TYPE_ARRAY, 4, 4, 1];
    // SAFETY: the kernel reads as many bytes of `attributes` as the last argument says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_CREATE,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    let fd = i32::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just gave us this descriptor, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn perf_events() -> Finding {
    const WHAT: &str = "perf events";
    match number("/proc/sys/kernel/perf_event_paranoid") {
        Some(level) if level < 2 || nix::unistd::geteuid().is_root() => {
            Finding::ok(WHAT, format!("kernel.perf_event_paranoid is {level}"))
        }
        Some(level) => Finding::limited(
            WHAT,
            format!("kernel.perf_event_paranoid is {level}"),
            NOT_NEEDED,
        ),
        None => Finding::limited(WHAT, "the kernel has none", NOT_NEEDED),
    }
}

fn kernel_uprobes() -> Finding {
    const WHAT: &str = "kernel uprobes";
    match number("/sys/bus/event_source/devices/uprobe/type") {
        Some(kind) => Finding::ok(WHAT, format!("perf event type {kind}")),
        None => Finding::limited(WHAT, "the kernel has none", NOT_NEEDED),
    }
}

fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
