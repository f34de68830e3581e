//! The kernel's own maps, through bpf(2).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use bpftime_runtime::maps::MapSpec;
use uapi::Errno;

const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_LOOKUP_ELEM: i64 = 1;
const BPF_MAP_UPDATE_ELEM: i64 = 2;
const BPF_MAP_DELETE_ELEM: i64 = 3;
const BPF_MAP_GET_NEXT_KEY: i64 = 4;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: i64 = 21;
const BPF_MAP_FREEZE: i64 = 22;

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    rest: [u32; 13],
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

/// A map of the kernel.
pub struct KernelMap {
    fd: OwnedFd,
}

impl KernelMap {
    pub fn create(spec: &MapSpec) -> Result<KernelMap, Errno> {
        let attr = CreateAttr {
            map_type: spec.map_type,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            map_flags: spec.map_flags,
            ..CreateAttr::default()
        };
        let fd = bpf(BPF_MAP_CREATE, &attr)?;
        // SAFETY: the kernel just gave us this fd.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(KernelMap { fd })
    }

    fn elem(&self, cmd: i64, key: u64, value: u64, flags: u64) -> Result<(), Errno> {
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

    pub fn freeze(&self) -> Result<(), Errno> {
        let attr = ElemAttr {
            map_fd: self.fd.as_raw_fd() as u64,
            ..ElemAttr::default()
        };
        // The command takes 4 bytes of attributes.
        bpf(BPF_MAP_FREEZE, &(attr.map_fd as u32)).map(drop)
    }
}
