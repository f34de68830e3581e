//! Programs that go to the kernel: what a tool loaded, with the kernel's maps
//! and types in place of ours. It knows no attachment.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use runtime::command::prog::ProgBtf;
use runtime::command::{BtfObject, MapObject, ProgObject};
use runtime::kernel::{self, Attr};
use uapi::attr::AttrBytes;
use uapi::insn::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE};
use uapi::{Errno, Insn};

use super::given::Named;
use super::maps;
use crate::fds::PrivateFd;
use crate::log;
use crate::server::Server;

/// Offsets in the attribute of `BPF_PROG_LOAD`.
mod at {
    pub const LICENSE: usize = 16;
    pub const LOG_LEVEL: usize = 24;
    pub const LOG_SIZE: usize = 28;
    pub const LOG_BUF: usize = 32;
    pub const PROG_BTF_FD: usize = 72;
    pub const FUNC_INFO_REC_SIZE: usize = 76;
    pub const FUNC_INFO: usize = 80;
    pub const FUNC_INFO_CNT: usize = 88;
    pub const LINE_INFO_REC_SIZE: usize = 92;
    pub const LINE_INFO: usize = 96;
    pub const LINE_INFO_CNT: usize = 104;
    pub const CORE_RELO_CNT: usize = 116;
    pub const FD_ARRAY: usize = 120;
    pub const CORE_RELOS: usize = 128;
    pub const FD_ARRAY_CNT: usize = 148;
}

/// Room for what the kernel says of a program that it refuses.
const LOG_BYTES: usize = 64 << 10;

/// A program as a tool loaded it.
pub struct Loaded {
    /// The tool's attribute, of which the plain numbers are good.
    attr: AttrBytes,
    /// With object ids in place of fds.
    insns: Vec<Insn>,
    /// Those that name maps which are the kernel's alone.
    theirs: Named,
    /// With its terminating zero.
    license: Vec<u8>,
    functions: (Vec<u8>, u32),
    lines: (Vec<u8>, u32),
    btf: Option<Arc<BtfObject>>,
    /// What the kernel made of it.
    fd: Mutex<Option<PrivateFd>>,
}

impl Loaded {
    /// Keeps what a load asks; the instructions name maps by object id, but for
    /// those in `theirs`.
    pub fn new(
        attr: AttrBytes,
        insns: &[Insn],
        theirs: Named,
        license: &[u8],
        btf: Option<&ProgBtf>,
    ) -> Loaded {
        let records = |records: Option<&runtime::types::Records>| {
            records.map_or_else(Default::default, |known| (known.bytes.clone(), known.size))
        };
        Loaded {
            attr,
            insns: insns.to_vec(),
            theirs,
            license: [license, &[0]].concat(),
            functions: records(btf.map(|btf| &btf.functions)),
            lines: records(btf.map(|btf| &btf.lines)),
            btf: btf.map(|btf| Arc::clone(&btf.object)),
            fd: Mutex::new(None),
        }
    }

    /// Loads it into the kernel, and moves the maps that it uses there.
    ///
    /// # Errors
    /// The kernel's, ENOTSUPP for a map that cannot go.
    pub fn load(&self, server: &Server, maps: &[Arc<MapObject>]) -> Result<OwnedFd, Errno> {
        maps::bring(server, maps)?;
        let insns = self.insns_with(maps)?;
        let btf = self.btf.as_ref().and_then(maps::btf);
        let loaded = kernel::prog_load(self.attr(btf.as_ref().map(AsFd::as_fd)), &insns);
        match loaded {
            // What describes a program is not needed to run most.
            Err(_) if btf.is_some() => kernel::prog_load(self.attr(None), &insns),
            other => other,
        }
        .inspect_err(|errno| say_why(self.attr(None), &insns, *errno))
    }

    /// What the kernel says of it when it refuses it; nothing if a map is why.
    pub fn refusal(&self, maps: &[Arc<MapObject>]) -> String {
        let insns = self.insns_with(maps);
        insns.map_or_else(|_| String::new(), |insns| refusal(self.attr(None), &insns))
    }

    /// The attribute but for the instructions, without a log.
    fn attr(&self, btf: Option<BorrowedFd<'_>>) -> Attr {
        let cleared = [
            at::LOG_BUF,
            at::FUNC_INFO,
            at::LINE_INFO,
            at::FD_ARRAY,
            at::CORE_RELOS,
        ];
        let attr = cleared
            .into_iter()
            .fold(Attr::of(self.attr), |attr, at| attr.u64(at, 0));
        let words = [
            at::LOG_LEVEL,
            at::LOG_SIZE,
            at::PROG_BTF_FD,
            at::FUNC_INFO_REC_SIZE,
            at::FUNC_INFO_CNT,
            at::LINE_INFO_REC_SIZE,
            at::LINE_INFO_CNT,
            at::CORE_RELO_CNT,
            at::FD_ARRAY_CNT,
        ];
        let attr = words.into_iter().fold(attr, |attr, at| attr.u32(at, 0));
        let attr = attr.pointer(at::LICENSE, self.license.as_ptr());
        let Some(btf) = btf else { return attr };
        let count = |(bytes, size): &(Vec<u8>, u32)| bytes.len() as u32 / (*size).max(1);
        attr.fd(at::PROG_BTF_FD, btf)
            .pointer(at::FUNC_INFO, self.functions.0.as_ptr())
            .u32(at::FUNC_INFO_REC_SIZE, self.functions.1)
            .u32(at::FUNC_INFO_CNT, count(&self.functions))
            .pointer(at::LINE_INFO, self.lines.0.as_ptr())
            .u32(at::LINE_INFO_REC_SIZE, self.lines.1)
            .u32(at::LINE_INFO_CNT, count(&self.lines))
    }

    fn insns_with(&self, maps: &[Arc<MapObject>]) -> Result<Vec<Insn>, Errno> {
        const LD_IMM64: u8 = BPF_LD | BPF_IMM | BPF_DW;
        let mut insns = self.insns.clone();
        let mut at = 0;
        while let Some(insn) = insns.get_mut(at) {
            at += 1;
            if insn.code != LD_IMM64 {
                continue;
            }
            at += 1;
            if ![BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE].contains(&insn.src()) {
                continue;
            }
            let named = maps.iter().find(|map| map.id() as i32 == insn.imm);
            let fd = named.and_then(|map| maps::kernel_fd(map));
            insn.imm = fd.ok_or(Errno::EBADF)?;
        }
        self.theirs.put_back(&mut insns);
        Ok(insns)
    }
}

/// Tells who asked for it why the kernel refuses a program.
pub fn say_why(attr: Attr, insns: &[Insn], errno: Errno) {
    if log::is_on() {
        let text = refusal(attr, insns);
        log::debug(format_args!("the kernel refuses it, {errno}: {text}"));
    }
}

/// What the kernel says of a program that it refuses.
fn refusal(attr: Attr, insns: &[Insn]) -> String {
    let mut text = vec![0; LOG_BYTES];
    let attr = attr
        .u32(at::LOG_LEVEL, 1)
        .u32(at::LOG_SIZE, LOG_BYTES as u32)
        .pointer(at::LOG_BUF, text.as_mut_ptr());
    // It fails again, for its log.
    let _ = kernel::prog_load(attr, insns);
    let end = text.iter().position(|&b| b == 0).unwrap_or(0);
    String::from_utf8_lossy(text.get(..end).unwrap_or_default()).into_owned()
}

/// The fd of a program of ours in the kernel, where it is loaded when it is
/// first needed there.
///
/// # Errors
/// As [`Loaded::load`].
pub fn in_kernel(server: &Server, prog: &ProgObject) -> Result<c_int, Errno> {
    let extra = prog.extra.get();
    let loaded = extra.and_then(|extra| extra.downcast_ref::<Loaded>());
    let loaded = loaded.ok_or(Errno::EINVAL)?;
    let mut fd = loaded.fd.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(fd) = &*fd {
        return Ok(fd.raw());
    }
    let made = loaded.load(server, &prog.maps())?;
    let private = PrivateFd::duplicate(made.as_raw_fd())?;
    server.kernel.note_use();
    Ok(fd.insert(private).raw())
}
