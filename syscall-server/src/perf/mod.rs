//! Decodes perf_event_open(2) and the ioctls of its fds. It knows no
//! program's meaning and no hook.
//!
//! Ours are events of the uprobe PMU and of `BPF_OUTPUT`; trace events,
//! clocks and dummies are ours in a process that has used bpf(2). Everything else is the
//! kernel's.

pub mod place;
pub mod ring;
pub mod sampling;

use std::ffi::c_int;
use std::sync::Arc;

use runtime::command::Object;
use runtime::command::kprobe::Kprobe;
use runtime::command::perf::{EventKind, PerfEvent, Probe, Used};
use runtime::command::sampling::Sampling;
use runtime::session::LinkKind;
use uapi::Errno;
use uapi::perf::{
    PERF_ATTR_BYTES, PERF_ATTR_SIZE_VER0, PERF_COUNT_SW_BPF_OUTPUT, PERF_COUNT_SW_DUMMY,
    PERF_EVENT_IOC_DISABLE, PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_ID, PERF_EVENT_IOC_PAUSE_OUTPUT,
    PERF_EVENT_IOC_PERIOD, PERF_EVENT_IOC_REFRESH, PERF_EVENT_IOC_RESET, PERF_EVENT_IOC_SET_BPF,
    PERF_FLAG_FD_CLOEXEC, PERF_FLAG_FD_NO_GROUP, PERF_FLAG_FD_OUTPUT, PERF_FLAG_PID_CGROUP,
    PERF_TYPE_HARDWARE, PERF_TYPE_HW_CACHE, PERF_TYPE_SOFTWARE, PERF_TYPE_TRACEPOINT,
    PerfEventAttr,
};

use crate::bridge::Waker;
use crate::fds::{self, FDS, File, PrivateFd, Rights};
use crate::kernel::placement::Obstacle;
use crate::server::{self, Server};
use crate::targets::{self, Named};
use crate::tracefs::{self, Event};
use crate::{caller, files, log, own_process, raw, user};

/// Types of events that C++ bpftime has made up: an uprobe whose program may
/// call `bpf_override_return` (any uprobe's may here), and one whose program
/// gives what the function returns.
const PERF_TYPE_UPROBE_OVERRIDE: u32 = 1008;
const PERF_TYPE_UPROBE_REPLACE: u32 = 1009;
/// Bit of `config` that asks for a return probe (format/retprobe).
const RETPROBE: u64 = 1;
/// Where `config` has the offset of the reference count
/// (format/ref_ctr_offset).
const REF_CTR_SHIFT: u32 = 32;
/// Longest name of a kernel function, with its terminating zero.
const KSYM_NAME_LEN: usize = 512;
/// Largest `perf_event_attr` of whatever future kernel.
const MAX_ATTR_BYTES: usize = 4096;

/// The arguments of perf_event_open(2).
#[derive(Clone, Copy)]
pub struct Request {
    /// Address of the attribute.
    pub attr: u64,
    /// Process, 0 for the caller's, -1 for all.
    pub pid: i32,
    /// CPU, -1 for all.
    pub cpu: i32,
    /// Leader of the group, or -1.
    pub group_fd: i32,
    /// `PERF_FLAG_*`.
    pub flags: u64,
}

/// perf_event_open(2): an fd, or None when the event is the kernel's.
///
/// # Errors
/// The kernel's: E2BIG for an attribute it does not know, EINVAL, EFAULT,
/// ESRCH for a process, ENOENT for a tracepoint; EOPNOTSUPP for rings that
/// are written backward, which no target writes.
pub fn open(request: Request) -> Result<Option<i64>, Errno> {
    // Below this size the kernel refuses whatever the type; it shall say so.
    let Ok(attr) = copy_attr(request.attr) else {
        return Ok(None);
    };
    let kind = match attr.kind {
        PERF_TYPE_SOFTWARE if attr.config == PERF_COUNT_SW_BPF_OUTPUT => Kind::Output,
        PERF_TYPE_SOFTWARE if server::existing().is_some() => match attr.config {
            PERF_COUNT_SW_DUMMY => Kind::Dummy,
            _ if attr.sample_period > 0 => Kind::Samples,
            _ => return Ok(None),
        },
        PERF_TYPE_HARDWARE | PERF_TYPE_HW_CACHE
            if server::existing().is_some() && attr.sample_period > 0 =>
        {
            Kind::Samples
        }
        PERF_TYPE_TRACEPOINT if server::existing().is_some() => {
            let kernel = &server::server()?.kernel;
            // It sees every end of a task, targets only those that they make.
            let is_better_there =
                |event: &Event| event.is_kernels_task(attr.config) && kernel.may_load();
            let found = tracefs::by_id(attr.config).filter(|event| !is_better_there(event));
            let Some(event) = found else {
                let place = Obstacle::Place(format!("tracepoint {}", attr.config));
                return match server::server()?.kernel.hosts("", &place) {
                    true => Ok(None),
                    false => Err(Errno::ENOENT),
                };
            };
            Kind::Trace(event)
        }
        PERF_TYPE_UPROBE_OVERRIDE => Kind::Probe,
        PERF_TYPE_UPROBE_REPLACE => Kind::Replace,
        other if other == files::uprobe_pmu_type() => Kind::Probe,
        other if other == files::kprobe_pmu_type() => Kind::Kprobe,
        _ => return Ok(None),
    };
    check(&request)?;
    let mut used: Option<Used> = None;
    let event = match kind {
        Kind::Output if attr.write_backward => return Err(Errno::EOPNOTSUPP),
        Kind::Output => EventKind::Output {
            // A watermark counts bytes: any record may reach it.
            wakeup_events: if attr.watermark {
                1
            } else {
                attr.wakeup_events
            },
        },
        Kind::Samples => match samples(&attr, &request)? {
            Some(what) => EventKind::Samples(what),
            None => return Ok(None),
        },
        Kind::Dummy => EventKind::Dummy,
        Kind::Probe => probe(&attr, request.pid)?,
        Kind::Replace => match probe(&attr, request.pid)? {
            EventKind::Probe(probe) => EventKind::Probe(Probe {
                kind: LinkKind::Replace,
                ..probe
            }),
            other => other,
        },
        Kind::Trace(event) => {
            let (event, file) = trace_event(event, request.pid)?;
            used = file.map(|file| -> Used { Box::new(file) });
            event
        }
        Kind::Kprobe => match kprobe(&attr)? {
            Ok(kprobe) => EventKind::Kprobe(kprobe),
            // No kernel has it: loaders try this name first.
            Err(function) if Kprobe::find(&format!("__x64_{function}"), false).is_some() => {
                return Err(Errno::ENOENT);
            }
            Err(function) => {
                let place = Obstacle::Place(format!("a kprobe at {function}"));
                return match server::server()?.kernel.hosts("", &place) {
                    true => Ok(None),
                    false => Err(Errno::ENOENT),
                };
            }
        },
    };
    let server = server::server()?;
    if let EventKind::Probe(probe) = &event {
        own_process::meet((probe.dev, probe.ino), probe.pid);
    }
    match &event {
        EventKind::Output { .. } | EventKind::Dummy => {}
        // A timer of the tool's own, or a thread that needs no agent.
        EventKind::Samples(what) if what.may_be_a_timer() || what.pid != -1 => {}
        _ => targets::reach(server, Named::by_event(request.pid))?,
    }
    let event = server.bpf.perf_event_using(event, !attr.disabled, used)?;
    new_fd(server, event, request.flags).map(Some)
}

enum Kind {
    Output,
    Samples,
    Dummy,
    Probe,
    Replace,
    Trace(Event),
    Kprobe,
}

/// `perf_copy_attr`.
fn copy_attr(address: u64) -> Result<PerfEventAttr, Errno> {
    let size = match user::read_u32(address + 4)? as usize {
        0 => PERF_ATTR_SIZE_VER0,
        size => size,
    };
    if !(PERF_ATTR_SIZE_VER0..=MAX_ATTR_BYTES).contains(&size) {
        return Err(Errno::E2BIG);
    }
    let all = user::read_vec(address, size)?;
    let (known, unknown) = all.split_at(size.min(PERF_ATTR_BYTES));
    if unknown.iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; PERF_ATTR_BYTES];
    bytes[..known.len()].copy_from_slice(known);
    Ok(PerfEventAttr::decode(&bytes))
}

/// The checks of perf_event_open(2) that do not look at the event.
fn check(request: &Request) -> Result<(), Errno> {
    let known =
        PERF_FLAG_FD_NO_GROUP | PERF_FLAG_FD_OUTPUT | PERF_FLAG_PID_CGROUP | PERF_FLAG_FD_CLOEXEC;
    if request.flags & !known != 0 || request.flags & PERF_FLAG_PID_CGROUP != 0 {
        return Err(Errno::EINVAL);
    }
    if request.pid == -1 && request.cpu == -1 || request.cpu < -1 {
        return Err(Errno::EINVAL);
    }
    if request.cpu >= 0 && request.cpu as u32 >= runtime::session::possible_cpus() {
        return Err(Errno::EINVAL);
    }
    if request.group_fd != -1 && FDS.get(request.group_fd).is_none() {
        return Err(Errno::EBADF);
    }
    Ok(())
}

fn probe(attr: &PerfEventAttr, pid: i32) -> Result<EventKind, Errno> {
    if attr.config1 == 0 {
        return Err(Errno::EINVAL);
    }
    let path = user::read_string(attr.config1, user::PATH_MAX)?;
    if path.is_empty() {
        return Err(Errno::EINVAL);
    }
    let file = place::file(&path)?;
    if !file.is_regular || attr.config2 > file.size {
        return Err(Errno::EINVAL);
    }
    let kind = if attr.config & RETPROBE != 0 {
        LinkKind::Uretprobe
    } else {
        LinkKind::Uprobe
    };
    let pid = process(pid)?;
    // bcc passes whatever is on its stack here (always 6): whether it is a
    // count at all shows where the file is mapped, in the target.
    let ref_ctr_offset = attr.config >> REF_CTR_SHIFT;
    if !ref_ctr_offset.is_multiple_of(2) {
        return Err(Errno::EINVAL);
    }
    file.check([attr.config2], pid)?;
    let probe = file.probe(kind, attr.config2, pid, ref_ctr_offset);
    Ok(EventKind::Probe(probe))
}

/// A trace event, and what keeps it from being removed while it is open.
fn trace_event(event: Event, pid: i32) -> Result<(EventKind, Option<PrivateFd>), Errno> {
    let (places, at_return, used) = match event {
        Event::Tracepoint(tracepoint) => return Ok((EventKind::Tracepoint(tracepoint), None)),
        Event::Kprobe { kprobe, used } => return Ok((EventKind::Kprobe(kprobe), Some(used))),
        Event::Uprobe {
            places,
            at_return,
            used,
        } => (places, at_return, used),
    };
    let pid = process(pid)?;
    let (path, dev, ino, offset, ref_ctr_offset) = places.first().ok_or(Errno::ENOENT)?.clone();
    if places.iter().any(|place| (place.1, place.2) != (dev, ino)) {
        log::problem(format_args!(
            "a trace event with probes in several files cannot be opened: make one for each file"
        ));
        return Err(Errno::EOPNOTSUPP);
    }
    let others = places.iter().skip(1).map(|place| (place.3, place.4));
    let probe = Probe {
        kind: match at_return {
            true => LinkKind::Uretprobe,
            false => LinkKind::Uprobe,
        },
        dev,
        ino,
        path,
        offset,
        pid,
        ref_ctr_offset,
        others: others.collect(),
    };
    Ok((EventKind::Probe(probe), Some(used)))
}

/// The process that an event is for, or -1 for all.
fn process(pid: i32) -> Result<i32, Errno> {
    match pid {
        -1 => Ok(-1),
        0 => Ok(caller::pid()),
        pid => place::tgid(pid),
    }
}

/// A kprobe at a function by name or by address (`perf_kprobe_init`), or the
/// function where only the kernel can have one.
fn kprobe(attr: &PerfEventAttr) -> Result<Result<Kprobe, String>, Errno> {
    let at_return = attr.config & RETPROBE != 0;
    if attr.config1 == 0 {
        let address = attr.config2;
        return Ok(Kprobe::at(address, at_return).ok_or(format!("{address:#x}")));
    }
    let name = user::read_string(attr.config1, KSYM_NAME_LEN).map_err(|errno| match errno {
        Errno::E2BIG => Errno::EINVAL,
        other => other,
    })?;
    let name = String::from_utf8_lossy(&name);
    let found = Kprobe::find(&name, at_return).filter(|_| attr.config2 == 0);
    Ok(found.ok_or_else(|| name.into_owned()))
}

/// What samples, or ticks in this process ([`runtime::command::sampling`]);
/// `None` where the kernel, which sees all processes and itself, does it for
/// this tool.
fn samples(attr: &PerfEventAttr, request: &Request) -> Result<Option<Sampling>, Errno> {
    let what = Sampling {
        kind: attr.kind,
        config: attr.config,
        period: attr.sample_period,
        freq: attr.freq,
        pid: match request.pid {
            0 => caller::supervised().unwrap_or_else(shm::sys::gettid),
            pid => pid,
        },
        cpu: request.cpu,
        inherit: attr.inherit,
    };
    if !what.may_be_a_timer() {
        if server::server()?.kernel.may_host() {
            return Ok(None);
        }
        sampling::check(&what)?;
    }
    Ok(Some(what))
}

fn new_fd(server: &'static Server, event: Arc<PerfEvent>, flags: u64) -> Result<i64, Errno> {
    let fd = fds::eventfd()?;
    if flags & PERF_FLAG_FD_CLOEXEC == 0 {
        raw::call(
            libc::SYS_fcntl,
            [fd as usize, libc::F_SETFD as usize, 0, 0, 0, 0],
        );
    }
    let object = Object::Event(Arc::clone(&event));
    // An event that does not wake its reader still is readable when polled.
    let waker = if matches!(event.kind(), EventKind::Output { .. }) {
        let watched = Waker::new(object.clone(), fd)
            .and_then(|waker| server.bridge.watch(&waker).map(|()| waker));
        match watched {
            Ok(waker) => Some(waker),
            Err(errno) => {
                raw::close(fd);
                return Err(errno);
            }
        }
    } else {
        None
    };
    let rights = Rights::ALL;
    FDS.insert(
        fd,
        Arc::new(File {
            object,
            rights,
            waker,
        }),
    )?;
    Ok(i64::from(fd))
}

/// ioctl(2) of an fd of ours; None when the fd is not.
///
/// # Errors
/// The kernel's: ENOTTY for an unknown request, EINVAL for a program that
/// cannot be put there, EEXIST when there is one, EBADF.
pub fn ioctl(fd: c_int, request: u32, argument: u64) -> Option<Result<i64, Errno>> {
    let file = FDS.get(fd)?;
    let Object::Event(event) = &file.object else {
        // eventfds and arrays' files: what those answer.
        return None;
    };
    Some(match request {
        PERF_EVENT_IOC_ENABLE => event.enable(true).map(|()| 0),
        PERF_EVENT_IOC_DISABLE => event.enable(false).map(|()| 0),
        // Nobody reads our events' counts.
        PERF_EVENT_IOC_RESET | PERF_EVENT_IOC_REFRESH | PERF_EVENT_IOC_PAUSE_OUTPUT => Ok(0),
        PERF_EVENT_IOC_PERIOD => user::read_u64s(argument, 1)
            .and_then(|words| event.set_period(words.first().copied().unwrap_or(0)))
            .map(|()| 0),
        PERF_EVENT_IOC_SET_BPF => set_bpf(event, argument),
        PERF_EVENT_IOC_ID => user::write(argument, &(fd as u64).to_le_bytes()).map(|()| 0),
        _ => Err(Errno::ENOTTY),
    })
}

fn set_bpf(event: &runtime::command::PerfEvent, argument: u64) -> Result<i64, Errno> {
    let Some(file) = FDS.get(argument as c_int) else {
        return Err(Errno::EBADF);
    };
    let Object::Prog(prog) = &file.object else {
        return Err(Errno::EINVAL);
    };
    let server = crate::server::existing();
    let own = server.map_or_else(|| Ok(prog.clone()), |server| server.bpf.own_prog(prog));
    let own = own?;
    own_process::meet_event(event, &own);
    event.attach(&own, 0)?;
    if let Some(server) = server {
        // Without it what dead targets held comes back when it is missed.
        let _ = server.bridge.start();
    }
    Ok(0)
}
