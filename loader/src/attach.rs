//! Puts programs on places. Which place was decided before.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

use libbpf_rs::{
    KprobeMultiOpts, Link, ProgramMut, TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder,
    TracepointCategory, UprobeOpts,
};
use libbpf_sys as sys;

use crate::error::Error;
use crate::iterator::{self, Listing};
use crate::network::{self, InSockets};
use crate::reason::{self, Cause};
use crate::target::{Clock, Place, XdpMode};

/// What failed, before it is known for which program.
pub(crate) struct Refused {
    what: String,
    errno: i32,
    cause: Cause,
}

impl Refused {
    /// The object has no such map.
    pub(crate) fn of_map(name: &str) -> Refused {
        Refused {
            what: format!("the object has no map {name}"),
            errno: libc::ENOENT,
            cause: Cause::Target,
        }
    }

    pub(crate) fn last(what: impl Into<String>) -> Refused {
        let error = std::io::Error::last_os_error();
        Refused {
            what: what.into(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            cause: Cause::System,
        }
    }

    /// libbpf has just refused to attach to this place.
    fn at(place: &Place) -> Refused {
        let mut refused = Refused::last(format!("cannot be attached to {place}"));
        let lacks = |path: &str, what: String| {
            let there = Path::new(path).exists() || !path.contains('/');
            there.then(|| format!("{path} has no {what}"))
        };
        let lacking = match place {
            Place::Uprobe { path, function, .. } if !function.is_empty() => {
                lacks(path, format!("function {function}"))
            }
            Place::UprobeMulti { path, pattern, .. } => lacks(path, format!("functions {pattern}")),
            Place::Usdt {
                path,
                provider,
                name,
            } => lacks(path, format!("static probe {provider}:{name}")),
            _ => None,
        };
        let no_group = match place {
            Place::Cgroup { path } if refused.errno == libc::EBADF => {
                let others = match groups() {
                    Some(at) => format!("; those are below {at}"),
                    None => "; none are mounted".to_owned(),
                };
                Some(format!("{path} is no control group of version 2{others}"))
            }
            _ => None,
        };
        if let Some(text) = no_group {
            refused.what = text;
            refused.cause = Cause::Target;
        }
        if let Some(lacking) = lacking.filter(|_| refused.errno == libc::ENOENT) {
            refused.what = lacking;
            refused.cause = Cause::Target;
        }
        refused
    }

    pub(crate) fn of(self, program: &str) -> Error {
        let mut error = Error::new(program, self.what, self.errno).caused(self.cause);
        let said = reason::of_attachment(&error.messages);
        if let Some(said) = said.filter(|_| self.cause == Cause::System) {
            error.what = format!("{}: {said}", error.what);
        }
        error
    }
}

/// What keeps a program in its place until it is dropped.
pub(crate) enum Attached {
    Listing(Listing),
    Sockets(#[expect(dead_code, reason = "it detaches when it is dropped")] InSockets),
    Link(#[expect(dead_code, reason = "it detaches when it is dropped")] Link),
    Fd(#[expect(dead_code, reason = "it detaches when it is closed")] OwnedFd),
    Filter(TcHook),
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Attached::Filter(filter) = self {
            // It may have been taken away by others, or with its interface.
            let _ = filter.detach();
        }
    }
}

/// Attaches a program.
pub(crate) fn attach(
    program: &ProgramMut<'_>,
    place: &Place,
    pid: i32,
    map: Option<BorrowedFd<'_>>,
) -> Result<Vec<Attached>, Refused> {
    let link = match place {
        Place::Iterator { over } => return iterator::attach(program, over, pid, map),
        Place::Tcx { interface } => network::tcx(program, index_of(interface)?),
        Place::Netkit { interface } => network::netkit(program, index_of(interface)?),
        Place::Netfilter {
            family,
            hook,
            priority,
        } => network::netfilter(program, *family, *hook, *priority),
        Place::Socket { interface } => return network::socket(program, index_of(interface)?),
        Place::Sockets { map: name } => {
            let map = map.ok_or_else(|| Refused::of_map(name))?;
            return network::sockets(program, map);
        }
        Place::NetworkNamespace { path } => {
            let namespace = open(path)?;
            program.attach_netns(namespace.as_raw_fd())
        }
        Place::Nowhere => return Ok(Vec::new()),
        Place::PerfEvent { clock, hertz } => return sample(program, *clock, *hertz, pid),
        Place::Auto => program.attach(),
        Place::Uprobe {
            path,
            function,
            offset,
            ret,
        } => {
            let options = UprobeOpts {
                retprobe: *ret,
                func_name: (!function.is_empty()).then(|| function.clone()),
                ..UprobeOpts::default()
            };
            program.attach_uprobe_with_opts(pid, path, *offset, options)
        }
        Place::UprobeMulti {
            path,
            pattern,
            ret,
            session,
        } => program.attach_uprobe_multi(pid, path, pattern, *ret, *session),
        Place::Usdt {
            path,
            provider,
            name,
        } => program.attach_usdt(pid, path, provider, name),
        Place::Kprobe { function, ret } if function.contains('*') => {
            let options = KprobeMultiOpts {
                symbols: vec![function.clone()],
                retprobe: *ret,
                ..KprobeMultiOpts::default()
            };
            program.attach_kprobe_multi_with_opts(options)
        }
        Place::Kprobe { function, ret } => program.attach_kprobe(*ret, function),
        Place::Ksyscall { name, ret } => program.attach_ksyscall(*ret, name),
        Place::Tracepoint { category, name } => {
            program.attach_tracepoint(TracepointCategory::Custom(category.clone()), name)
        }
        Place::RawTracepoint { name } => program.attach_raw_tracepoint(name),
        Place::Xdp {
            interface,
            mode: XdpMode::Any,
        } => program.attach_xdp(index_of(interface)?),
        Place::Xdp { interface, mode } => return xdp(program, interface, *mode),
        Place::Tc {
            interface,
            ingress,
            rank,
        } => return filter(program, interface, *ingress, *rank),
        Place::Cgroup { path } => {
            let group = open(path)?;
            program.attach_cgroup(group.as_raw_fd())
        }
    };
    link.map(|link| vec![Attached::Link(link)])
        .map_err(|_| Refused::at(place))
}

/// What libbpf says of a link that it was to make.
///
/// # Safety
/// Either it is null, or it is nobody else's.
pub(crate) unsafe fn link(made: *mut sys::bpf_link) -> libbpf_rs::Result<Link> {
    match NonNull::new(made) {
        // SAFETY: the caller's.
        Some(made) => Ok(unsafe { Link::from_ptr(made) }),
        None => Err(std::io::Error::last_os_error().into()),
    }
}

/// Where control groups of version 2 are mounted.
fn groups() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| at.to_owned())
    })
}

/// A file or directory of the user's.
pub(crate) fn open(path: &str) -> Result<File, Refused> {
    File::open(path).map_err(|error| Refused {
        what: format!("cannot open {path}"),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        cause: Cause::System,
    })
}

fn index_of(interface: &str) -> Result<i32, Refused> {
    let unknown = || Refused {
        what: format!("there is no network interface {interface}"),
        errno: libc::ENODEV,
        cause: Cause::Target,
    };
    let name = CString::new(interface).map_err(|_| unknown())?;
    // SAFETY: a terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    i32::try_from(index)
        .ok()
        .filter(|&index| index > 0)
        .ok_or_else(unknown)
}

/// libbpf's own function knows no modes.
fn xdp(program: &ProgramMut<'_>, interface: &str, mode: XdpMode) -> Result<Vec<Attached>, Refused> {
    let index = index_of(interface)?;
    let options = sys::bpf_link_create_opts {
        sz: size_of::<sys::bpf_link_create_opts>() as _,
        flags: match mode {
            XdpMode::Any => 0,
            XdpMode::Generic => sys::XDP_FLAGS_SKB_MODE,
            XdpMode::Native => sys::XDP_FLAGS_DRV_MODE,
            XdpMode::Offload => sys::XDP_FLAGS_HW_MODE,
        },
        ..Default::default()
    };
    let program = program.as_fd().as_raw_fd();
    // SAFETY: options that outlive the call; the rest are numbers.
    let link = unsafe { sys::bpf_link_create(program, index, sys::BPF_XDP, &raw const options) };
    if link < 0 {
        return Err(Refused::last(format!("cannot be attached to {interface}")));
    }
    // SAFETY: just made, and nobody else's.
    Ok(vec![Attached::Fd(unsafe { OwnedFd::from_raw_fd(link) })])
}

fn filter(
    program: &ProgramMut<'_>,
    interface: &str,
    ingress: bool,
    (priority, handle): (u32, u32),
) -> Result<Vec<Attached>, Refused> {
    let refuse = |_| Refused::last(format!("cannot be attached to {interface}"));
    let point = if ingress { TC_INGRESS } else { TC_EGRESS };
    let mut hook = TcHookBuilder::new(program.as_fd())
        .ifindex(index_of(interface)?)
        .replace(false)
        .priority(priority)
        .handle(handle)
        .hook(point);
    hook.create().map_err(refuse)?;
    let hook = hook.attach().map_err(refuse)?;
    Ok(vec![Attached::Filter(hook)])
}

/// A sampling event: of one process, or of every processor.
fn sample(
    program: &ProgramMut<'_>,
    clock: Clock,
    hertz: u64,
    pid: i32,
) -> Result<Vec<Attached>, Refused> {
    let one = |cpu: i32| {
        let event = open_clock(clock, hertz, pid, cpu)?;
        // libbpf's link owns the event from here on.
        let link = program.attach_perf_event(event.as_raw_fd());
        let link = link.map_err(|_| Refused::last("cannot be attached to a perf event"))?;
        std::mem::forget(event);
        Ok(Attached::Link(link))
    };
    if pid >= 0 {
        return Ok(vec![one(-1)?]);
    }
    let cpus =
        libbpf_rs::num_possible_cpus().map_err(|_| Refused::last("cannot count processors"))?;
    let mut links = Vec::new();
    for cpu in 0..cpus as i32 {
        match one(cpu) {
            // A processor that is possible may be off.
            Err(refused) if refused.errno == libc::ENODEV => {}
            link => links.push(link?),
        }
    }
    Ok(links)
}

fn open_clock(clock: Clock, hertz: u64, pid: i32, cpu: i32) -> Result<OwnedFd, Refused> {
    let mut attributes = sys::perf_event_attr {
        size: size_of::<sys::perf_event_attr>() as u32,
        ..Default::default()
    };
    (attributes.type_, attributes.config) = match clock {
        Clock::CpuClock => (
            sys::PERF_TYPE_SOFTWARE,
            u64::from(sys::PERF_COUNT_SW_CPU_CLOCK),
        ),
        Clock::CpuCycles => (
            sys::PERF_TYPE_HARDWARE,
            u64::from(sys::PERF_COUNT_HW_CPU_CYCLES),
        ),
    };
    attributes.__bindgen_anon_1.sample_freq = hertz;
    attributes.set_freq(1);
    // Through libc's function and not as an instruction, so that what is
    // preloaded sees it as it sees libbpf's.
    // SAFETY: attributes that outlive the call; the rest are numbers.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            pid,
            cpu,
            -1,
            sys::PERF_FLAG_FD_CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(Refused::last("cannot open a perf event"));
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
