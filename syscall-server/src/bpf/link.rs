//! `BPF_LINK_CREATE`, `_UPDATE`, `_DETACH` and `BPF_RAW_TRACEPOINT_OPEN`.

use std::collections::HashMap;
use std::sync::Arc;

use runtime::command::link::{MAX_UPROBE_MULTI_CNT, check_attach_type, is_uprobe_multi};
use runtime::command::{Object, ProgObject};
use runtime::session::{LinkKind, LinkSpec, Place};
use uapi::Errno;
use uapi::attr;
use uapi::cmd::{self, BPF_F_REPLACE, BPF_F_UPROBE_MULTI_RETURN};
use uapi::prog::{
    BPF_MODIFY_RETURN, BPF_PERF_EVENT, BPF_TRACE_UPROBE_MULTI, BPF_TRACE_UPROBE_SESSION,
};

use super::call::{self, Call};
use crate::kernel::placement::Obstacle;
use crate::perf::place;
use crate::targets::{self, Named};
use crate::{kernel, own_process, user};

pub fn create(call: &Call) -> Result<i64, Errno> {
    let attr = attr::LinkCreate::decode(&call.bytes);
    let prog = call::own_prog(attr.prog_fd)?;
    check_attach_type(&prog, attr.attach_type)?;
    match attr.attach_type {
        BPF_PERF_EVENT => {
            if attr.flags != 0 {
                return Err(Errno::EINVAL);
            }
            let event = match call::object(attr.target_fd) {
                Ok(Object::Event(event)) => event,
                Ok(_) => return Err(Errno::EINVAL),
                Err(_) if kernel::is_perf_event(attr.target_fd) => {
                    let place = "this perf event".to_owned();
                    let link = in_kernel(call, &prog, &Obstacle::Place(place))?;
                    kernel::followed(call.server, &prog)?;
                    return Ok(link);
                }
                Err(errno) => return Err(errno),
            };
            own_process::meet_event(&event, &prog);
            let link = call
                .server
                .bpf
                .link_perf_event(&prog, &event, attr.bpf_cookie)?;
            call.new_fd(Object::Link(link))
        }
        BPF_TRACE_UPROBE_MULTI | BPF_TRACE_UPROBE_SESSION => {
            if attr.flags != 0 || !is_uprobe_multi(&prog) {
                return Err(Errno::EINVAL);
            }
            let spec = uprobe_multi(call, &prog)?;
            own_process::meet((spec.dev, spec.ino), spec.pid);
            targets::reach(call.server, Named::by_event(spec.pid))?;
            let link = call.server.bpf.link_uprobe_multi(&prog, spec)?;
            call.new_fd(Object::Link(link))
        }
        other => in_kernel(call, &prog, &Obstacle::Link(other)),
    }
}

/// `BPF_LINK_CREATE` where only the kernel runs programs.
fn in_kernel(call: &Call, prog: &Arc<ProgObject>, obstacle: &Obstacle) -> Result<i64, Errno> {
    let server = call.server;
    if !server.kernel.hosts(&prog.spec().name, obstacle) {
        return Err(Errno::EOPNOTSUPP);
    }
    kernel::with_program(server, prog, cmd::BPF_LINK_CREATE, call.bytes, 0)
}

/// The checks of `bpf_uprobe_multi_link_attach`, in its order.
fn uprobe_multi(call: &Call, prog: &ProgObject) -> Result<LinkSpec, Errno> {
    let attr = attr::LinkCreateUprobeMulti::decode(&call.bytes);
    if attr.flags & !BPF_F_UPROBE_MULTI_RETURN != 0
        || attr.path == 0
        || attr.offsets == 0
        || attr.cnt == 0
        || attr.pid < 0
    {
        return Err(Errno::EINVAL);
    }
    if attr.cnt > MAX_UPROBE_MULTI_CNT {
        return Err(Errno::E2BIG);
    }
    let path = user::read_string(attr.path, user::PATH_MAX)?;
    // For `kern_path` the empty path is the working directory.
    let file = place::file(if path.is_empty() { b"." } else { &path })?;
    if !file.is_regular {
        return Err(Errno::EBADF);
    }
    let pid = match attr.pid {
        0 => -1,
        // A thread that leads no process is none.
        pid if place::tgid(pid)? != pid => return Err(Errno::ESRCH),
        pid => pid,
    };
    let places = places(&attr)?;
    check_places(&places, file.size)?;
    file.check(places.iter().map(|place| place.offset), pid)?;
    let kind = if attr.flags & BPF_F_UPROBE_MULTI_RETURN != 0 {
        LinkKind::Uretprobe
    } else if prog.spec().is_session() {
        LinkKind::Session
    } else {
        LinkKind::Uprobe
    };
    Ok(LinkSpec {
        kind,
        prog: prog.id(),
        dev: file.dev,
        ino: file.ino,
        path: file.path,
        pid,
        enabled: true,
        places,
    })
}

/// The tool's three arrays.
fn places(attr: &attr::LinkCreateUprobeMulti) -> Result<Vec<Place>, Errno> {
    let count = attr.cnt as usize;
    let words = |address: u64| match address {
        0 => Ok(vec![0; count]),
        address => user::read_u64s(address, count),
    };
    let (offsets, ref_ctrs, cookies) = (
        user::read_u64s(attr.offsets, count)?,
        words(attr.ref_ctr_offsets),
        words(attr.cookies),
    );
    // What is wrong with the first place is said first.
    if offsets.first().is_some_and(|&offset| (offset as i64) < 0) {
        return Err(Errno::EINVAL);
    }
    let (ref_ctrs, cookies) = (ref_ctrs?, cookies?);
    let others = ref_ctrs.into_iter().zip(cookies);
    let places = offsets.into_iter().zip(others);
    Ok(places
        .map(|(offset, (ref_ctr_offset, cookie))| Place {
            offset,
            cookie,
            ref_ctr_offset,
        })
        .collect())
}

/// The checks of `uprobe_register`: places lie in the file, a counter does not
/// cross a page, and a place has one counter.
fn check_places(places: &[Place], file_size: u64) -> Result<(), Errno> {
    let mut counters: HashMap<u64, u64> = HashMap::with_capacity(places.len());
    let sane = |place: &Place| {
        let counter = counters.entry(place.offset).or_insert(place.ref_ctr_offset);
        (place.offset as i64) >= 0
            && place.offset <= file_size
            && place.ref_ctr_offset.is_multiple_of(2)
            && *counter == place.ref_ctr_offset
    };
    places.iter().all(sane).then_some(()).ok_or(Errno::EINVAL)
}

pub fn update(call: &Call) -> Result<i64, Errno> {
    let attr = attr::LinkUpdate::decode(&call.bytes);
    if attr.flags & !BPF_F_REPLACE != 0 {
        return Err(Errno::EINVAL);
    }
    let link = call::link(attr.link_fd)?;
    call::prog(attr.new_prog_fd)?;
    call.server.bpf.link_update(&link)?;
    Ok(0)
}

pub fn detach(call: &Call) -> Result<i64, Errno> {
    let attr = attr::LinkDetach::decode(&call.bytes);
    let link = call::link(attr.link_fd)?;
    call.server.bpf.link_detach(&link)?;
    Ok(0)
}

/// `BPF_PROG_ATTACH`: no program of ours has a target of that kind, but tools
/// of C++ bpftime put programs that override on their events so.
pub fn prog_attach(call: &Call) -> Result<i64, Errno> {
    let attr = attr::ProgAttach::decode(&call.bytes);
    if attr.attach_type != BPF_MODIFY_RETURN || attr.attach_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let prog = call::own_prog(attr.attach_bpf_fd)?;
    match call::object(attr.target_fd)? {
        Object::Event(event) => event.attach(&prog, 0).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

/// Bytes of a tracepoint's name, with its terminating zero
/// (`bpf_raw_tracepoint_open`).
const MAX_TRACEPOINT_NAME: usize = 128;

/// `BPF_RAW_TRACEPOINT_OPEN`.
pub fn raw_tracepoint(call: &Call) -> Result<i64, Errno> {
    let attr = attr::RawTracepointOpen::decode(&call.bytes);
    let prog = call::own_prog(attr.prog_fd)?;
    if attr.name == 0 {
        return Err(Errno::EINVAL);
    }
    let name = user::read_string(attr.name, MAX_TRACEPOINT_NAME)?;
    let name = String::from_utf8_lossy(&name);
    if matches!(&*name, "sys_enter" | "sys_exit") {
        own_process::meet_calls(&prog);
    }
    targets::reach(call.server, Named::All)?;
    let link = call.server.bpf.raw_tracepoint(&prog, &name, attr.cookie);
    if link.as_ref().err() == Some(&Errno::ENOENT) {
        let place = Obstacle::Place(format!("raw tracepoint {name}"));
        if call.server.kernel.hosts(&prog.spec().name, &place) {
            let command = cmd::BPF_RAW_TRACEPOINT_OPEN;
            return kernel::with_program(call.server, &prog, command, call.bytes, 8);
        }
    }
    call.new_fd(Object::Link(link?))
}
