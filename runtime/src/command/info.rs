//! `BPF_OBJ_GET_INFO_BY_FD`: what objects tell about themselves, as the bytes
//! of the kernel's `struct bpf_*_info`. Fields that are user pointers stay
//! zero here; whoever copies to a tool fills what they point to. It knows no
//! user pointer.

use uapi::cmd::{
    BPF_F_UPROBE_MULTI_RETURN, BPF_PERF_EVENT_EVENT, BPF_PERF_EVENT_KPROBE,
    BPF_PERF_EVENT_KRETPROBE, BPF_PERF_EVENT_TRACEPOINT, BPF_PERF_EVENT_UPROBE,
    BPF_PERF_EVENT_URETPROBE,
};

use super::link::Target;
use super::perf::EventKind;
use super::{BtfObject, LinkObject, MapObject, ProgObject};
use crate::session::LinkKind;

/// Bytes of `struct bpf_map_info` in Linux 6.18.
pub const MAP_INFO_BYTES: usize = 104;
/// Bytes of `struct bpf_prog_info`.
pub const PROG_INFO_BYTES: usize = 232;
/// Bytes of `struct bpf_btf_info`.
pub const BTF_INFO_BYTES: usize = 32;
/// Bytes of `struct bpf_link_info`.
pub const LINK_INFO_BYTES: usize = 64;

/// Byte offsets of fields in the info structures.
#[expect(missing_docs, reason = "structure and field are the kernel's names")]
pub mod at {
    pub const PROG_XLATED_LEN: usize = 20;
    pub const PROG_XLATED_INSNS: usize = 32;
    pub const PROG_NR_MAP_IDS: usize = 52;
    pub const PROG_MAP_IDS: usize = 56;
    pub const PROG_FUNC_INFO: usize = 136;
    pub const PROG_NR_FUNC_INFO: usize = 144;
    pub const PROG_NR_LINE_INFO: usize = 148;
    pub const PROG_LINE_INFO: usize = 152;
    pub const BTF_BTF: usize = 0;
    pub const BTF_SIZE: usize = 8;
    pub const BTF_NAME: usize = 16;
    pub const BTF_NAME_LEN: usize = 24;
    pub const LINK_RAW_TRACEPOINT_NAME: usize = 16;
    pub const LINK_RAW_TRACEPOINT_NAME_LEN: usize = 24;
    pub const LINK_PERF_FILE_NAME: usize = 24;
    pub const LINK_PERF_NAME_LEN: usize = 32;
    pub const LINK_MULTI_PATH: usize = 16;
    pub const LINK_MULTI_OFFSETS: usize = 24;
    pub const LINK_MULTI_REF_CTRS: usize = 32;
    pub const LINK_MULTI_COOKIES: usize = 40;
    pub const LINK_MULTI_PATH_SIZE: usize = 48;
    pub const LINK_MULTI_COUNT: usize = 52;
}

/// Bytes of a structure that are filled field by field.
struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Bytes<N> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }
}

/// `struct bpf_map_info`.
pub fn map_info(map: &MapObject) -> [u8; MAP_INFO_BYTES] {
    let spec = map.map().spec();
    let mut info = Bytes([0; MAP_INFO_BYTES]);
    info.put_u32(0, spec.map_type);
    info.put_u32(4, map.id());
    info.put_u32(8, spec.key_size);
    info.put_u32(12, spec.value_size);
    info.put_u32(16, spec.max_entries);
    info.put_u32(20, spec.map_flags);
    info.put(24, &spec.name);
    if let Some(btf) = map.btf() {
        info.put_u32(64, btf.id());
        info.put_u32(68, spec.btf_key_type_id);
        info.put_u32(72, spec.btf_value_type_id);
    }
    info.put_u64(80, spec.map_extra);
    info.0
}

/// `struct bpf_prog_info`.
pub fn prog_info(prog: &ProgObject) -> [u8; PROG_INFO_BYTES] {
    let spec = prog.spec();
    let mut info = Bytes([0; PROG_INFO_BYTES]);
    info.put_u32(0, spec.prog_type);
    info.put_u32(4, prog.id());
    info.put_u32(at::PROG_XLATED_LEN, (spec.insns.len() * 8) as u32);
    let load_time = u64::try_from(prog.load_time().as_nanos()).unwrap_or(u64::MAX);
    info.put_u64(40, load_time);
    info.put_u32(48, shm::sys::getuid());
    info.put_u32(at::PROG_NR_MAP_IDS, prog.map_ids().len() as u32);
    let name = spec.name.as_bytes();
    info.put(64, &name[..name.len().min(15)]);
    info.put_u32(84, u32::from(spec.gpl));
    if let Some(btf) = prog.btf() {
        info.put_u32(128, btf.object.id());
        info.put_u32(132, btf.functions.size);
        info.put_u32(at::PROG_NR_FUNC_INFO, btf.functions.count());
        info.put_u32(at::PROG_NR_LINE_INFO, btf.lines.count());
        info.put_u32(172, btf.lines.size);
    }
    info.put_u32(216, prog.verified_insns());
    info.0
}

/// `struct bpf_btf_info`.
pub fn btf_info(btf: &BtfObject) -> [u8; BTF_INFO_BYTES] {
    let mut info = Bytes([0; BTF_INFO_BYTES]);
    info.put_u32(at::BTF_SIZE, btf.size());
    info.put_u32(12, btf.id());
    info.put_u32(at::BTF_NAME_LEN, btf.name().len() as u32);
    info.put_u32(28, u32::from(btf.is_kernels()));
    info.0
}

/// A link's type as /proc tells it.
pub fn link_type_name(link: &LinkObject) -> &'static str {
    match link.target() {
        Target::Event { .. } => "perf",
        Target::RawTracepoint { .. } => "raw_tracepoint",
        Target::Places { .. } => "uprobe_multi",
    }
}

/// `struct bpf_link_info`.
pub fn link_info(link: &LinkObject) -> [u8; LINK_INFO_BYTES] {
    let mut info = Bytes([0; LINK_INFO_BYTES]);
    info.put_u32(0, link.link_type());
    info.put_u32(4, link.id());
    info.put_u32(8, link.prog().id());
    match link.target() {
        Target::Event { event, cookie } => match event.kind() {
            EventKind::Probe(probe) => {
                let kind = match probe.kind {
                    LinkKind::Uretprobe => BPF_PERF_EVENT_URETPROBE,
                    _ => BPF_PERF_EVENT_UPROBE,
                };
                info.put_u32(16, kind);
                info.put_u32(at::LINK_PERF_NAME_LEN, probe.path.len() as u32 + 1);
                info.put_u32(36, probe.offset as u32);
                info.put_u64(40, *cookie);
                info.put_u64(48, probe.ref_ctr_offset);
            }
            EventKind::Tracepoint(tracepoint) => {
                info.put_u32(16, BPF_PERF_EVENT_TRACEPOINT);
                let name_len = tracepoint.name().len() as u32 + 1;
                info.put_u32(at::LINK_PERF_NAME_LEN, name_len);
                info.put_u64(40, *cookie);
            }
            EventKind::Kprobe(kprobe) => {
                let kind = match kprobe.at_return {
                    true => BPF_PERF_EVENT_KRETPROBE,
                    false => BPF_PERF_EVENT_KPROBE,
                };
                info.put_u32(16, kind);
                let name_len = kprobe.function().len() as u32 + 1;
                info.put_u32(at::LINK_PERF_NAME_LEN, name_len);
                info.put_u64(40, kprobe.address());
                info.put_u64(56, *cookie);
            }
            _ => {
                info.put_u32(16, BPF_PERF_EVENT_EVENT);
                info.put_u64(40, *cookie);
            }
        },
        Target::RawTracepoint { spec, .. } => {
            info.put_u32(at::LINK_RAW_TRACEPOINT_NAME_LEN, spec.path.len() as u32 + 1);
        }
        Target::Places { spec, .. } => {
            info.put_u32(at::LINK_MULTI_PATH_SIZE, spec.path.len() as u32 + 1);
            info.put_u32(at::LINK_MULTI_COUNT, spec.places.len() as u32);
            if spec.kind == LinkKind::Uretprobe {
                info.put_u32(56, BPF_F_UPROBE_MULTI_RETURN);
            }
            info.put_u32(60, spec.pid.max(0) as u32);
        }
    }
    info.0
}
