//! `BPF_*_GET_NEXT_ID` and `BPF_*_GET_FD_BY_ID`.

use runtime::command::ids::Kind;
use uapi::attr::{GetFdById, GetNextId, out};
use uapi::{Errno, cmd};

use super::call::Call;
use crate::fds::Rights;
use crate::kernel;

/// One past the last byte that a step of the walk reads.
pub const NEXT_END: usize = 12;

fn next(call: &Call, kind: Kind) -> Result<i64, Errno> {
    let attr = GetNextId::decode(&call.bytes);
    let id = call.server.bpf.next_id(kind, attr.start_id)?;
    call.put_u32(out::NEXT_ID, id)?;
    Ok(0)
}

pub fn next_map(call: &Call) -> Result<i64, Errno> {
    next(call, Kind::Map)
}

pub fn next_prog(call: &Call) -> Result<i64, Errno> {
    next(call, Kind::Prog)
}

pub fn next_btf(call: &Call) -> Result<i64, Errno> {
    next(call, Kind::Btf)
}

pub fn next_link(call: &Call) -> Result<i64, Errno> {
    next(call, Kind::Link)
}

fn open(call: &Call, kind: Kind) -> Result<i64, Errno> {
    let attr = GetFdById::decode(&call.bytes);
    // Only those of maps are opened for half.
    let rights = match kind {
        Kind::Map => Rights::of(attr.open_flags)?,
        _ if attr.open_flags == 0 => Rights::ALL,
        _ => return Err(Errno::EINVAL),
    };
    let object = match call.server.bpf.by_id(kind, attr.id) {
        // No id of ours is one of the kernel's.
        Err(Errno::ENOENT) if call.server.kernel.may_host() => {
            let command = match kind {
                Kind::Map => cmd::BPF_MAP_GET_FD_BY_ID,
                Kind::Prog => cmd::BPF_PROG_GET_FD_BY_ID,
                Kind::Btf => cmd::BPF_BTF_GET_FD_BY_ID,
                Kind::Link => cmd::BPF_LINK_GET_FD_BY_ID,
            };
            return kernel::open(call.server, command, call.attr, call.size as u32);
        }
        other => other?,
    };
    call.new_fd_with(object, rights)
}

pub fn map(call: &Call) -> Result<i64, Errno> {
    open(call, Kind::Map)
}

pub fn prog(call: &Call) -> Result<i64, Errno> {
    open(call, Kind::Prog)
}

pub fn btf(call: &Call) -> Result<i64, Errno> {
    open(call, Kind::Btf)
}

pub fn link(call: &Call) -> Result<i64, Errno> {
    open(call, Kind::Link)
}
