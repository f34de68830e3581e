//! `BPF_OBJ_GET_INFO_BY_FD` and `BPF_TASK_FD_QUERY`: copies what objects tell
//! about themselves, and fills the tool's arrays that an info points to.

use runtime::command::info::{self, at};
use runtime::command::link::Target;
use runtime::command::perf::EventKind;
use runtime::command::{BtfObject, LinkObject, Object, ProgObject};
use runtime::session::{LinkKind, Place};
use uapi::Errno;
use uapi::attr::{self, out};
use uapi::cmd::{
    BPF_FD_TYPE_KPROBE, BPF_FD_TYPE_KRETPROBE, BPF_FD_TYPE_TRACEPOINT, BPF_FD_TYPE_UPROBE,
    BPF_FD_TYPE_URETPROBE,
};

use super::call::{self, Call};
use crate::{caller, user};

/// Most bytes of an info structure, of whatever future kernel.
const MAX_INFO_BYTES: u32 = 4096;

/// An info structure under way to the tool.
struct Info<'a> {
    /// What we say.
    bytes: &'a mut [u8],
    /// What the tool passed in: addresses and sizes of its arrays.
    asked: Vec<u8>,
}

impl Info<'_> {
    fn asked_u32(&self, at: usize) -> u32 {
        let word = self.asked.get(at..).and_then(|rest| rest.first_chunk());
        word.map_or(0, |word| u32::from_le_bytes(*word))
    }

    fn asked_u64(&self, at: usize) -> u64 {
        let word = self.asked.get(at..).and_then(|rest| rest.first_chunk());
        word.map_or(0, |word| u64::from_le_bytes(*word))
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Copies `content` to the array whose address is at `address_at` and that
    /// has `room` bytes, and keeps the address in what we say.
    fn fill(&mut self, address_at: usize, room: usize, content: &[u8]) -> Result<(), Errno> {
        let address = self.asked_u64(address_at);
        self.put_u64(address_at, address);
        if address == 0 {
            return Ok(());
        }
        user::write(address, &content[..content.len().min(room)])
    }
}

pub fn by_fd(call: &Call) -> Result<i64, Errno> {
    let attr = attr::ObjGetInfo::decode(&call.bytes);
    let mut bytes = match call::object(attr.bpf_fd).map_err(|_| Errno::EBADFD)? {
        Object::Map(map) => info::map_info(&map).to_vec(),
        Object::Prog(prog) => {
            let mut bytes = info::prog_info(&prog).to_vec();
            prog_arrays(&mut ask(&attr, &mut bytes)?, &prog)?;
            bytes
        }
        Object::Btf(btf) => {
            let mut bytes = info::btf_info(&btf).to_vec();
            btf_arrays(&mut ask(&attr, &mut bytes)?, &btf)?;
            bytes
        }
        Object::Link(link) => {
            let mut bytes = info::link_info(&link).to_vec();
            link_arrays(&mut ask(&attr, &mut bytes)?, &link)?;
            bytes
        }
        Object::Event(_) => return Err(Errno::EINVAL),
    };
    // Maps point to nothing, but the bytes beyond what we know must be zero.
    ask(&attr, &mut bytes)?;
    let len = bytes.len().min(attr.info_len as usize);
    user::write(attr.info, &bytes[..len])?;
    call.put_u32(out::INFO_LEN, len as u32)?;
    Ok(0)
}

fn ask<'a>(attr: &attr::ObjGetInfo, bytes: &'a mut [u8]) -> Result<Info<'a>, Errno> {
    if attr.info_len > MAX_INFO_BYTES {
        return Err(Errno::E2BIG);
    }
    let asked = user::read_vec(attr.info, attr.info_len as usize)?;
    if asked.iter().skip(bytes.len()).any(|&b| b != 0) {
        return Err(Errno::E2BIG);
    }
    Ok(Info { bytes, asked })
}

fn prog_arrays(info: &mut Info<'_>, prog: &ProgObject) -> Result<(), Errno> {
    let ids: Vec<u8> = prog
        .map_ids()
        .iter()
        .flat_map(|id| id.to_le_bytes())
        .collect();
    let room = info.asked_u32(at::PROG_NR_MAP_IDS) as usize * 4;
    info.fill(at::PROG_MAP_IDS, room, &ids)?;
    let insns: Vec<u8> = prog
        .spec()
        .insns
        .iter()
        .flat_map(|insn| insn.to_bytes())
        .collect();
    let room = info.asked_u32(at::PROG_XLATED_LEN) as usize;
    info.fill(at::PROG_XLATED_INSNS, room, &insns)?;
    let Some(btf) = prog.btf() else { return Ok(()) };
    let room = btf
        .functions
        .size
        .saturating_mul(info.asked_u32(at::PROG_NR_FUNC_INFO));
    info.fill(at::PROG_FUNC_INFO, room as usize, &btf.functions.bytes)?;
    let room = btf
        .lines
        .size
        .saturating_mul(info.asked_u32(at::PROG_NR_LINE_INFO));
    info.fill(at::PROG_LINE_INFO, room as usize, &btf.lines.bytes)
}

fn btf_arrays(info: &mut Info<'_>, btf: &BtfObject) -> Result<(), Errno> {
    let room = info.asked_u32(at::BTF_SIZE) as usize;
    // The kernel's is long, and most ask for its name only.
    let bytes = if room == 0 { &[] } else { btf.bytes() };
    info.fill(at::BTF_BTF, room, bytes)?;
    let room = info.asked_u32(at::BTF_NAME_LEN) as usize;
    let name = [btf.name().as_bytes(), &[0]].concat();
    info.fill(at::BTF_NAME, room, &name)
}

fn link_arrays(info: &mut Info<'_>, link: &LinkObject) -> Result<(), Errno> {
    match link.target() {
        Target::Event { event, .. } => match event.kind() {
            EventKind::Probe(probe) => {
                let room = info.asked_u32(at::LINK_PERF_NAME_LEN) as usize;
                let name = [probe.path.as_bytes(), &[0]].concat();
                info.fill(at::LINK_PERF_FILE_NAME, room, &name)
            }
            EventKind::Tracepoint(tracepoint) => {
                let room = info.asked_u32(at::LINK_PERF_NAME_LEN) as usize;
                let name = [tracepoint.name().as_bytes(), &[0]].concat();
                info.fill(at::LINK_PERF_FILE_NAME, room, &name)
            }
            EventKind::Kprobe(kprobe) => {
                let room = info.asked_u32(at::LINK_PERF_NAME_LEN) as usize;
                let name = [kprobe.function().as_bytes(), &[0]].concat();
                info.fill(at::LINK_PERF_FILE_NAME, room, &name)
            }
            _ => Ok(()),
        },
        Target::RawTracepoint { spec, .. } => {
            let room = info.asked_u32(at::LINK_RAW_TRACEPOINT_NAME_LEN) as usize;
            let name = [spec.path.as_bytes(), &[0]].concat();
            info.fill(at::LINK_RAW_TRACEPOINT_NAME, room, &name)
        }
        Target::Places { spec, .. } => {
            let count = info.asked_u32(at::LINK_MULTI_COUNT) as usize;
            let room = info.asked_u32(at::LINK_MULTI_PATH_SIZE) as usize;
            let arrays = [
                at::LINK_MULTI_OFFSETS,
                at::LINK_MULTI_REF_CTRS,
                at::LINK_MULTI_COOKIES,
            ];
            let has_arrays = arrays.iter().any(|&array| info.asked_u64(array) != 0);
            let has_path = info.asked_u64(at::LINK_MULTI_PATH) != 0;
            if has_path != (room != 0) || has_arrays && count == 0 {
                return Err(Errno::EINVAL);
            }
            let words = |word: fn(&Place) -> u64| -> Vec<u8> {
                let words = spec.places.iter().map(word);
                words.flat_map(u64::to_le_bytes).collect()
            };
            let path = [spec.path.as_bytes(), &[0]].concat();
            if has_path && room < path.len() {
                return Err(Errno::ENAMETOOLONG);
            }
            info.fill(at::LINK_MULTI_PATH, room, &path)?;
            let offsets = words(|place| place.offset);
            info.fill(at::LINK_MULTI_OFFSETS, count * 8, &offsets)?;
            let ref_ctrs = words(|place| place.ref_ctr_offset);
            info.fill(at::LINK_MULTI_REF_CTRS, count * 8, &ref_ctrs)?;
            let cookies = words(|place| place.cookie);
            info.fill(at::LINK_MULTI_COOKIES, count * 8, &cookies)?;
            match has_arrays && count < spec.places.len() {
                true => Err(Errno::ENOSPC),
                false => Ok(()),
            }
        }
    }
}

/// `BPF_TASK_FD_QUERY` of an fd of the caller: which program is on it.
pub fn task_fd(call: &Call) -> Result<i64, Errno> {
    let attr = attr::TaskFdQuery::decode(&call.bytes);
    if attr.flags != 0 {
        return Err(Errno::EINVAL);
    }
    if attr.pid != caller::pid() {
        return Err(Errno::ENOENT);
    }
    let Object::Event(event) = call::object(attr.fd)? else {
        return Err(Errno::ENOTSUPP);
    };
    let (prog, _) = event.attached().ok_or(Errno::ENOENT)?;
    let (mut offset, mut address) = (0, 0);
    let (name, fd_type) = match event.kind() {
        EventKind::Probe(probe) => {
            let fd_type = match probe.kind {
                LinkKind::Uretprobe => BPF_FD_TYPE_URETPROBE,
                _ => BPF_FD_TYPE_UPROBE,
            };
            offset = probe.offset;
            (probe.path.clone(), fd_type)
        }
        EventKind::Tracepoint(tracepoint) => (tracepoint.name(), BPF_FD_TYPE_TRACEPOINT),
        EventKind::Kprobe(kprobe) => {
            address = kprobe.address();
            let fd_type = match kprobe.at_return {
                true => BPF_FD_TYPE_KRETPROBE,
                false => BPF_FD_TYPE_KPROBE,
            };
            (kprobe.function(), fd_type)
        }
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if attr.buf != 0 && attr.buf_len != 0 {
        let room = name.len().min(attr.buf_len as usize - 1);
        user::write(attr.buf, &[&name.as_bytes()[..room], &[0]].concat())?;
    }
    call.put_u32(out::TASK_FD_QUERY_BUF_LEN, name.len() as u32)?;
    call.put_u32(out::TASK_FD_QUERY_PROG_ID, prog.id())?;
    call.put_u32(out::TASK_FD_QUERY_FD_TYPE, fd_type)?;
    call.put(out::TASK_FD_QUERY_PROBE_OFFSET, &offset.to_le_bytes())?;
    call.put(out::TASK_FD_QUERY_PROBE_ADDR, &address.to_le_bytes())?;
    Ok(0)
}
