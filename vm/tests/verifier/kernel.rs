//! The kernel's verdict on a pack, by bpf(2). It knows no verifier of ours.

use std::cell::OnceCell;
use std::collections::HashMap;

use uapi::insn::{BPF_PSEUDO_KFUNC_CALL, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE};
use uapi::map::*;
use vm::helper::kfunc;
use vm::verifier::MapInfo;

use super::pack::Pack;
use super::vmlinux;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_MAP_FREEZE: libc::c_long = 22;
/// Added to the errno of making a map: the program was not even looked at.
pub const NO_MAP: i32 = 10_000;
/// Bytes of the attributes that we fill; the kernel takes the rest as 0.
const ATTR: usize = 128;

/// The attributes of one bpf(2) call, by byte offset (include/uapi/linux/bpf.h).
struct Attr([u8; ATTR]);

impl Attr {
    fn new() -> Attr {
        Attr([0; ATTR])
    }
    fn u32(&mut self, at: usize, n: u32) -> &mut Attr {
        self.0[at..at + 4].copy_from_slice(&n.to_le_bytes());
        self
    }
    fn pointer<T>(&mut self, at: usize, bytes: &[T]) -> &mut Attr {
        let address = bytes.as_ptr() as u64;
        self.0[at..at + 8].copy_from_slice(&address.to_le_bytes());
        self
    }
    fn call(&self, command: libc::c_long) -> Result<i32, i32> {
        // SAFETY: bpf(2) reads ATTR bytes and the buffers that the caller put
        // into the attributes, all alive for the call; the log buffer is the
        // only one it writes, and it is borrowed mutably by the caller.
        let got = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), ATTR) };
        if got < 0 {
            return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        Ok(got as i32)
    }
}

fn close(fd: i32) {
    // SAFETY: the descriptor came from bpf(2) and is used nowhere else.
    unsafe { libc::close(fd) };
}

/// Maps made for packs, kept between programs because most packs look alike.
#[derive(Default)]
pub struct Kernel {
    maps: HashMap<([u32; 5], Option<Vec<u8>>), i32>,
    /// Ids of kernel functions, once one was asked for.
    functions: OnceCell<HashMap<String, u32>>,
}

impl Kernel {
    /// The kernel, if this process may load programs.
    pub fn open() -> Option<Kernel> {
        let insns: [u64; 2] = [0xb7, 0x95];
        let mut attr = Attr::new();
        attr.u32(0, 2)
            .u32(4, 2)
            .pointer(8, &insns)
            .pointer(16, c"GPL".to_bytes_with_nul());
        attr.call(BPF_PROG_LOAD).ok().map(|fd| {
            close(fd);
            Kernel::default()
        })
    }

    /// Whether it is the version whose helpers and contexts we have written
    /// down; what others differ in is no fault of ours.
    pub fn is_catalogued() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let same = release.starts_with("6.18.");
        if !same {
            eprintln!("skipped: the tables are those of Linux 6.18, not of {release}");
        }
        same
    }

    /// A map like `info`; errno when the kernel has none such.
    fn map(&mut self, info: &MapInfo) -> Result<i32, i32> {
        let ring = info.map_type == BPF_MAP_TYPE_RINGBUF;
        // Entries are not what is tested, but for what an array's index proves.
        let entries = if ring {
            4096
        } else {
            info.max_entries.min(1024)
        };
        let flags = info.map_flags;
        let shape = [
            info.map_type,
            info.key_size,
            info.value_size,
            entries,
            flags,
        ];
        let key = (shape, info.rodata.clone());
        if let Some(&fd) = self.maps.get(&key) {
            return Ok(fd);
        }
        let mut attr = Attr::new();
        attr.u32(0, info.map_type)
            .u32(4, info.key_size)
            .u32(8, info.value_size);
        attr.u32(12, entries).u32(16, flags);
        let fd = attr.call(BPF_MAP_CREATE)?;
        if let Some(bytes) = &info.rodata {
            let zero = [0u8; 4];
            let mut attr = Attr::new();
            attr.u32(0, fd as u32).pointer(8, &zero).pointer(16, bytes);
            attr.call(BPF_MAP_UPDATE_ELEM)?;
            let mut attr = Attr::new();
            attr.u32(0, fd as u32);
            attr.call(BPF_MAP_FREEZE)?;
        }
        self.maps.insert(key, fd);
        Ok(fd)
    }

    /// Errno of loading the pack, 0 when the kernel accepts it.
    pub fn verdict(&mut self, pack: &Pack) -> i32 {
        self.load(pack, 0, &mut [])
    }

    /// As [`Kernel::verdict`], with the last lines of the verifier's log.
    pub fn explain(&mut self, pack: &Pack) -> (i32, String) {
        let (errno, text) = self.load_with_log(pack, 1);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        (errno, tail)
    }

    /// The whole log at a level.
    pub fn log(&mut self, pack: &Pack, level: u32) -> String {
        self.load_with_log(pack, level).1
    }

    fn load_with_log(&mut self, pack: &Pack, level: u32) -> (i32, String) {
        let mut log = vec![0u8; 1 << 20];
        let errno = self.load(pack, level, &mut log);
        let end = log.iter().position(|&b| b == 0).unwrap_or(0);
        (errno, String::from_utf8_lossy(&log[..end]).into_owned())
    }

    fn load(&mut self, pack: &Pack, level: u32, log: &mut [u8]) -> i32 {
        let mut insns = pack.spec.insns.clone();
        for insn in &mut insns {
            if insn.code == 0x85 && insn.src() == BPF_PSEUDO_KFUNC_CALL {
                let name = kfunc::lookup(insn.imm as u32).map_or("", |row| row.name);
                let ids = self.functions.get_or_init(vmlinux::functions);
                insn.imm = ids.get(name).map_or(insn.imm, |&id| id as i32);
                continue;
            }
            let names_map =
                insn.code == 0x18 && matches!(insn.src(), BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE);
            if !names_map {
                continue;
            }
            let id = insn.imm as u32;
            insn.imm = match pack.maps.iter().find(|m| m.id == id) {
                Some(info) => match self.map(info) {
                    Ok(fd) => fd,
                    Err(errno) => return NO_MAP + errno,
                },
                None => -1,
            };
        }
        let licence = if pack.spec.gpl { c"GPL" } else { c"none" };
        let mut attr = Attr::new();
        attr.u32(0, pack.spec.prog_type)
            .u32(4, insns.len() as u32)
            .pointer(8, &insns);
        attr.pointer(16, licence.to_bytes_with_nul());
        if !log.is_empty() {
            attr.u32(24, level)
                .u32(28, log.len() as u32)
                .pointer(32, log);
        }
        // prog_flags at 44; expected_attach_type at 68.
        attr.u32(44, pack.spec.prog_flags)
            .u32(68, pack.spec.expected_attach_type);
        match attr.call(BPF_PROG_LOAD) {
            Ok(fd) => {
                close(fd);
                0
            }
            Err(errno) => errno,
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for &fd in self.maps.values() {
            close(fd);
        }
    }
}
