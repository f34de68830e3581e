//! `BPF_LINK_CREATE`, `_UPDATE`, `_DETACH` and `BPF_RAW_TRACEPOINT_OPEN`.

use runtime::command::link::{MAX_UPROBE_MULTI_CNT, check_attach_type, is_uprobe_multi};
use runtime::command::{Object, ProgObject};
use runtime::session::{LinkKind, LinkSpec, Place};
use uapi::Errno;
use uapi::attr;
use uapi::cmd::{BPF_F_REPLACE, BPF_F_UPROBE_MULTI_RETURN};
use uapi::prog::{
    BPF_MODIFY_RETURN, BPF_PERF_EVENT, BPF_TRACE_UPROBE_MULTI, BPF_TRACE_UPROBE_SESSION,
};

use super::call::{self, Call};
use crate::perf::place;
use crate::{log, own_process, user};

pub fn create(call: &Call) -> Result<i64, Errno> {
    let attr = attr::LinkCreate::decode(&call.bytes);
    let prog = call::prog(attr.prog_fd)?;
    check_attach_type(&prog, attr.attach_type)?;
    match attr.attach_type {
        BPF_PERF_EVENT => {
            if attr.flags != 0 {
                return Err(Errno::EINVAL);
            }
            let event = match call::object(attr.target_fd)? {
                Object::Event(event) => event,
                _ => return Err(Errno::EINVAL),
            };
            let link = call
                .server
                .bpf
                .link_perf_event(&prog, &event, attr.bpf_cookie)?;
            call.new_fd(Object::Link(link))
        }
        BPF_TRACE_UPROBE_MULTI | BPF_TRACE_UPROBE_SESSION => {
            if !is_uprobe_multi(&prog) {
                return Err(Errno::EINVAL);
            }
            let spec = uprobe_multi(call, &prog)?;
            own_process::meet((spec.dev, spec.ino), spec.pid);
            let link = call.server.bpf.link_uprobe_multi(&prog, spec)?;
            call.new_fd(Object::Link(link))
        }
        other => {
            log::debug(format_args!(
                "links of attach type {other} are the kernel's"
            ));
            Err(Errno::EOPNOTSUPP)
        }
    }
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
    let file = place::file(&path)?;
    if !file.is_regular {
        return Err(Errno::EBADF);
    }
    let pid = match attr.pid {
        0 => -1,
        pid => place::tgid(pid)?,
    };
    let count = attr.cnt as usize;
    let words = |address: u64| match address {
        0 => Ok(vec![0; count]),
        address => user::read_u64s(address, count),
    };
    let (cookies, ref_ctrs) = (words(attr.cookies)?, words(attr.ref_ctr_offsets)?);
    let kind = if attr.flags & BPF_F_UPROBE_MULTI_RETURN != 0 {
        LinkKind::Uretprobe
    } else if prog.spec().is_session() {
        LinkKind::Session
    } else {
        LinkKind::Uprobe
    };
    let mut places = Vec::with_capacity(count);
    for ((offset, cookie), ref_ctr_offset) in user::read_u64s(attr.offsets, count)?
        .into_iter()
        .zip(cookies)
        .zip(ref_ctrs)
    {
        if (offset as i64) < 0 || (ref_ctr_offset as i64) < 0 || offset > file.size {
            return Err(Errno::EINVAL);
        }
        places.push(Place {
            offset,
            cookie,
            ref_ctr_offset,
        });
    }
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
    let prog = call::prog(attr.attach_bpf_fd)?;
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
    let prog = call::prog(attr.prog_fd)?;
    if attr.name == 0 {
        return Err(Errno::EINVAL);
    }
    let name = user::read_string(attr.name, MAX_TRACEPOINT_NAME)?;
    let name = String::from_utf8_lossy(&name);
    let link = call.server.bpf.raw_tracepoint(&prog, &name, attr.cookie);
    if link.is_err() {
        log::debug(format_args!("raw tracepoint {name} is the kernel's"));
    }
    call.new_fd(Object::Link(link?))
}
