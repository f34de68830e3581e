//! Decodes bpf(2): attribute bytes, user pointers and fds in, calls of
//! [`runtime::command`] out. One file per command family; to add a command,
//! write its function and enter it in [`COMMANDS`]. It knows no session.

mod batch;
mod btf;
mod call;
mod elem;
mod ids;
mod info;
mod link;
mod map;
mod pin;
mod prog;

use uapi::attr::{self, AttrBytes};
use uapi::{Errno, cmd};

use crate::kernel::iterator;
use crate::server::server;
use crate::{kernel, log};
use call::Call;
pub use call::own_map;

/// What answers a command: the value that the system call returns.
type Answer = fn(&Call) -> Result<i64, Errno>;

/// For each command: its number, one past the last attribute byte it reads,
/// and what answers it.
const COMMANDS: &[(u32, usize, Answer)] = &[
    (cmd::BPF_MAP_CREATE, attr::MapCreate::END, map::create),
    (cmd::BPF_MAP_FREEZE, attr::MapFreeze::END, map::freeze),
    (cmd::BPF_MAP_LOOKUP_ELEM, attr::MapElem::END, elem::lookup),
    (cmd::BPF_MAP_UPDATE_ELEM, attr::MapElem::END, elem::update),
    (cmd::BPF_MAP_DELETE_ELEM, elem::KEY_END, elem::delete),
    (cmd::BPF_MAP_GET_NEXT_KEY, elem::VALUE_END, elem::next_key),
    (
        cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM,
        attr::MapElem::END,
        elem::lookup_and_delete,
    ),
    (
        cmd::BPF_MAP_LOOKUP_BATCH,
        attr::MapBatch::END,
        batch::lookup,
    ),
    (
        cmd::BPF_MAP_LOOKUP_AND_DELETE_BATCH,
        attr::MapBatch::END,
        batch::lookup_and_delete,
    ),
    (
        cmd::BPF_MAP_UPDATE_BATCH,
        attr::MapBatch::END,
        batch::update,
    ),
    (
        cmd::BPF_MAP_DELETE_BATCH,
        attr::MapBatch::END,
        batch::delete,
    ),
    (cmd::BPF_PROG_LOAD, attr::ProgLoad::END, prog::load),
    (
        cmd::BPF_PROG_TEST_RUN,
        attr::ProgTestRun::END,
        prog::test_run,
    ),
    (
        cmd::BPF_PROG_BIND_MAP,
        attr::ProgBindMap::END,
        prog::bind_map,
    ),
    (
        cmd::BPF_PROG_ATTACH,
        attr::ProgAttach::END,
        link::prog_attach,
    ),
    (cmd::BPF_BTF_LOAD, attr::BtfLoad::END, btf::load),
    (cmd::BPF_LINK_CREATE, attr::LinkCreate::END, link::create),
    (cmd::BPF_LINK_UPDATE, attr::LinkUpdate::END, link::update),
    (cmd::BPF_LINK_DETACH, attr::LinkDetach::END, link::detach),
    (
        cmd::BPF_RAW_TRACEPOINT_OPEN,
        attr::RawTracepointOpen::END,
        link::raw_tracepoint,
    ),
    (
        cmd::BPF_OBJ_GET_INFO_BY_FD,
        attr::ObjGetInfo::END,
        info::by_fd,
    ),
    (
        cmd::BPF_TASK_FD_QUERY,
        attr::TaskFdQuery::END,
        info::task_fd,
    ),
    (cmd::BPF_MAP_GET_NEXT_ID, ids::NEXT_END, ids::next_map),
    (cmd::BPF_PROG_GET_NEXT_ID, ids::NEXT_END, ids::next_prog),
    (cmd::BPF_BTF_GET_NEXT_ID, ids::NEXT_END, ids::next_btf),
    (cmd::BPF_LINK_GET_NEXT_ID, ids::NEXT_END, ids::next_link),
    (cmd::BPF_MAP_GET_FD_BY_ID, attr::GetFdById::END, ids::map),
    (cmd::BPF_PROG_GET_FD_BY_ID, attr::GetFdById::END, ids::prog),
    (cmd::BPF_BTF_GET_FD_BY_ID, attr::GetFdById::END, ids::btf),
    (cmd::BPF_LINK_GET_FD_BY_ID, attr::GetFdById::END, ids::link),
    (cmd::BPF_OBJ_PIN, attr::ObjPin::END, pin::pin),
    (cmd::BPF_OBJ_GET, attr::ObjPin::END, pin::get),
    (cmd::BPF_TOKEN_CREATE, attr::ATTR_BYTES, refuse_token),
    (cmd::BPF_ENABLE_STATS, attr::EnableStats::END, refuse_stats),
];

/// bpf(2).
///
/// # Errors
/// The command's; EINVAL for an unknown command or bytes it does not know,
/// E2BIG for bytes that no command of the kernel we play knows, EFAULT.
pub fn bpf(command: u32, attr: u64, size: u32) -> Result<i64, Errno> {
    let bytes = call::copy_attr(attr, size)?;
    if let Some(server) = crate::server::existing()
        && kernel::is_kernels(server, command, &bytes)
    {
        if command == cmd::BPF_MAP_UPDATE_ELEM
            && let Some(answer) = kernel::given::update(server, &bytes)
        {
            return answer.map(|()| 0);
        }
        let made = kernel::bpf(command, attr, size);
        return match made {
            Err(errno) if command == cmd::BPF_LINK_CREATE && iterator::may_be_over_ours(errno) => {
                iterator::link(server, &bytes).unwrap_or(made)
            }
            _ => made,
        };
    }
    let Some((_, end, answer)) = COMMANDS.iter().find(|(number, ..)| *number == command) else {
        log::debug(format_args!("bpf(2) command {command} is not supported"));
        return Err(Errno::EINVAL);
    };
    if bytes[*end..].iter().any(|&b| b != 0) {
        return Err(Errno::EINVAL);
    }
    answer(&Call {
        server: server()?,
        bytes,
        attr,
        size: size as usize,
    })
}

/// `BPF_TOKEN_CREATE`: what the kernel says when bpffs delegates nothing.
fn refuse_token(_: &Call) -> Result<i64, Errno> {
    Err(Errno::EOPNOTSUPP)
}

/// `BPF_ENABLE_STATS`: there is no run time statistics; EPERM is what the
/// kernel says to who may not have it.
fn refuse_stats(_: &Call) -> Result<i64, Errno> {
    Err(Errno::EPERM)
}

const _: () = assert!(size_of::<AttrBytes>() == attr::ATTR_BYTES);
