//! The kernel's own maps, through bpf(2).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use bpftime_runtime::maps::MapSpec;
use uapi::{Errno, Insn};

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_LOOKUP_ELEM: i64 = 1;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_MAP_DELETE_ELEM: i64 = 3;
const BPF_MAP_GET_NEXT_KEY: i64 = 4;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: i64 = 21;
const BPF_MAP_FREEZE: i64 = 22;
pub const BPF_MAP_LOOKUP_BATCH: i64 = 24;
pub const BPF_MAP_LOOKUP_AND_DELETE_BATCH: i64 = 25;
pub const BPF_MAP_UPDATE_BATCH: i64 = 26;
pub const BPF_MAP_DELETE_BATCH: i64 = 27;

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
    btf: [u32; 4],
    map_extra: u64,
}

/// The attribute of the batch commands.
#[repr(C)]
#[derive(Default)]
pub struct BatchAttr {
    pub in_batch: u64,
    pub out_batch: u64,
    pub keys: u64,
    pub values: u64,
    pub count: u32,
    pub map_fd: u32,
    pub elem_flags: u64,
    pub flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u64,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(cmd: i64, attr: &T) -> Result<i64, Errno> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr`, and what its
    // addresses point to is as long as the map's keys and values.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_ref(attr), size_of::<T>()) };
    if ret < 0 {
        return Err(Errno(
            std::io::Error::last_os_error().raw_os_error().unwrap(),
        ));
    }
    Ok(ret)
}

/// A program of the kernel.
pub fn program(prog_type: u32, insns: &[Insn]) -> Result<OwnedFd, Errno> {
    const BPF_PROG_LOAD: i64 = 5;
    #[repr(C)]
    struct LoadAttr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }
    let bytes: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
    let attr = LoadAttr {
        prog_type,
        insn_cnt: insns.len() as u32,
        insns: bytes.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    let fd = bpf(BPF_PROG_LOAD, &attr)?;
    // SAFETY: the kernel just gave us this fd.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A map of the kernel.
pub struct KernelMap {
    fd: OwnedFd,
    key_size: u32,
}

impl KernelMap {
    pub fn create(spec: &MapSpec) -> Result<KernelMap, Errno> {
        let attr = CreateAttr {
            map_type: spec.map_type,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            map_flags: spec.map_flags,
            map_extra: spec.map_extra,
            ..CreateAttr::default()
        };
        let fd = bpf(BPF_MAP_CREATE, &attr)?;
        // SAFETY: the kernel just gave us this fd.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(KernelMap {
            fd,
            key_size: spec.key_size,
        })
    }

    fn elem(&self, cmd: i64, key: u64, value: u64, flags: u64) -> Result<(), Errno> {
        // A map without keys takes a null pointer only.
        let key = if self.key_size == 0 { 0 } else { key };
        let attr = ElemAttr {
            map_fd: self.fd.as_raw_fd() as u64,
            key,
            value,
            flags,
        };
        bpf(cmd, &attr).map(drop)
    }

    pub fn lookup(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let value = value.as_mut_ptr() as u64;
        self.elem(BPF_MAP_LOOKUP_ELEM, key.as_ptr() as u64, value, flags)
    }

    pub fn update(&self, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
        let value = value.as_ptr() as u64;
        self.elem(BPF_MAP_UPDATE_ELEM, key.as_ptr() as u64, value, flags)
    }

    pub fn delete(&self, key: &[u8]) -> Result<(), Errno> {
        self.elem(BPF_MAP_DELETE_ELEM, key.as_ptr() as u64, 0, 0)
    }

    pub fn lookup_and_delete(&self, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
        let value = value.as_mut_ptr() as u64;
        self.elem(
            BPF_MAP_LOOKUP_AND_DELETE_ELEM,
            key.as_ptr() as u64,
            value,
            flags,
        )
    }

    pub fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
        let key = key.map_or(0, |key| key.as_ptr() as u64);
        self.elem(BPF_MAP_GET_NEXT_KEY, key, next.as_mut_ptr() as u64, 0)
    }

    /// A batch command; the attribute holds the count afterwards.
    pub fn batch(&self, cmd: i64, attr: &mut BatchAttr) -> Result<(), Errno> {
        attr.map_fd = self.fd.as_raw_fd() as u32;
        let at = std::ptr::from_mut(attr);
        // SAFETY: the attribute is ours, and what its addresses point to is as
        // long as `count` keys and values (the caller).
        let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd, at, size_of::<BatchAttr>()) };
        match ret {
            0 => Ok(()),
            _ => Err(Errno(
                std::io::Error::last_os_error().raw_os_error().unwrap(),
            )),
        }
    }

    pub fn freeze(&self) -> Result<(), Errno> {
        let attr = ElemAttr {
            map_fd: self.fd.as_raw_fd() as u64,
            ..ElemAttr::default()
        };
        // The command takes 4 bytes of attributes.
        bpf(BPF_MAP_FREEZE, &(attr.map_fd as u32)).map(drop)
    }
}
