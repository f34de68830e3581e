//! bpf(2) of the running kernel, for what lives there: maps that kernel
//! programs and ours share, and the programs themselves. It knows no session.
//!
//! Nothing here allocates but [`prog_load`] and [`map_create`]'s callers: the
//! calls on elements are made by programs, too.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use uapi::attr::{ATTR_BYTES, AttrBytes};
use uapi::{Errno, Insn, cmd};

use crate::maps::MapSpec;
use crate::session::file;

/// An attribute that is filled field by field.
pub struct Attr(AttrBytes);

impl Attr {
    /// All zero.
    pub const fn new() -> Attr {
        Attr([0; ATTR_BYTES])
    }

    /// As a tool passed it.
    pub const fn of(bytes: AttrBytes) -> Attr {
        Attr(bytes)
    }

    /// With these bytes at an offset; what does not fit is left out.
    #[must_use]
    pub fn bytes(mut self, at: usize, bytes: &[u8]) -> Attr {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
        self
    }

    /// With a word of four bytes.
    #[must_use]
    pub fn u32(self, at: usize, value: u32) -> Attr {
        self.bytes(at, &value.to_le_bytes())
    }

    /// With a word of eight bytes.
    #[must_use]
    pub fn u64(self, at: usize, value: u64) -> Attr {
        self.bytes(at, &value.to_le_bytes())
    }

    /// With an fd.
    #[must_use]
    pub fn fd(self, at: usize, fd: BorrowedFd<'_>) -> Attr {
        self.u32(at, fd.as_raw_fd() as u32)
    }

    /// With an address.
    #[must_use]
    pub fn pointer<T>(self, at: usize, pointer: *const T) -> Attr {
        self.u64(at, pointer.addr() as u64)
    }

    /// The system call.
    ///
    /// # Errors
    /// The kernel's.
    pub fn call(&mut self, command: u32) -> Result<usize, Errno> {
        let at = self.0.as_mut_ptr() as usize;
        // SAFETY: the attribute is ours; the addresses in it are of what the
        // caller has borrowed for the call, or a tool's own affair.
        unsafe { file::call(libc::SYS_bpf, [command as usize, at, ATTR_BYTES, 0, 0, 0]) }
    }

    /// The system call, for commands that make an fd.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&mut self, command: u32) -> Result<OwnedFd, Errno> {
        let fd = self.call(command)?;
        // SAFETY: the kernel just gave us this fd.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

impl Default for Attr {
    fn default() -> Attr {
        Attr::new()
    }
}

/// `BPF_MAP_CREATE`. `btf` describes key and value by the ids in `spec`; `inner`
/// is the template of a map of maps.
///
/// # Errors
/// The kernel's; EPERM for who may not.
pub fn map_create(
    spec: &MapSpec,
    btf: Option<BorrowedFd<'_>>,
    inner: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Errno> {
    let attr = Attr::new()
        .u32(0, spec.map_type)
        .u32(4, spec.key_size)
        .u32(8, spec.value_size)
        .u32(12, spec.max_entries)
        .u32(16, spec.map_flags)
        .bytes(28, &spec.name)
        .u64(64, spec.map_extra);
    let attr = match inner {
        Some(inner) => attr.fd(20, inner),
        None => attr,
    };
    let mut attr = match btf {
        Some(btf) => attr
            .fd(48, btf)
            .u32(52, spec.btf_key_type_id)
            .u32(56, spec.btf_value_type_id),
        None => attr,
    };
    attr.open(cmd::BPF_MAP_CREATE)
}

/// `BPF_BTF_LOAD`.
///
/// # Errors
/// The kernel's.
pub fn btf_load(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    Attr::new()
        .pointer(0, bytes.as_ptr())
        .u32(16, bytes.len() as u32)
        .open(cmd::BPF_BTF_LOAD)
}

/// `BPF_PROG_LOAD`: the program's attribute but for the instructions.
///
/// # Errors
/// The kernel's.
pub fn prog_load(attr: Attr, insns: &[Insn]) -> Result<OwnedFd, Errno> {
    let bytes: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
    attr.u32(4, insns.len() as u32)
        .pointer(8, bytes.as_ptr())
        .open(cmd::BPF_PROG_LOAD)
}

/// `BPF_PROG_TEST_RUN` of a system call program on `ctx`, which it may change.
///
/// # Errors
/// The kernel's.
pub fn run(prog: BorrowedFd<'_>, ctx: &mut [u8]) -> Result<(), Errno> {
    Attr::new()
        .fd(0, prog)
        .u32(40, ctx.len() as u32)
        .pointer(48, ctx.as_mut_ptr())
        .call(cmd::BPF_PROG_TEST_RUN)
        .map(drop)
}

/// `BPF_MAP_LOOKUP_ELEM`.
///
/// # Errors
/// The kernel's.
pub fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8], flags: u64) -> Result<(), Errno> {
    elem(map, key, value.as_mut_ptr(), flags)
        .call(cmd::BPF_MAP_LOOKUP_ELEM)
        .map(drop)
}

/// `BPF_MAP_UPDATE_ELEM`.
///
/// # Errors
/// The kernel's.
pub fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
    elem(map, key, value.as_ptr(), flags)
        .call(cmd::BPF_MAP_UPDATE_ELEM)
        .map(drop)
}

fn elem(map: BorrowedFd<'_>, key: &[u8], value: *const u8, flags: u64) -> Attr {
    // A null pointer where the map has no keys.
    let key = match key {
        [] => std::ptr::null(),
        key => key.as_ptr(),
    };
    Attr::new()
        .fd(0, map)
        .pointer(8, key)
        .pointer(16, value)
        .u64(24, flags)
}

/// `BPF_MAP_FREEZE`.
///
/// # Errors
/// The kernel's.
pub fn freeze(map: BorrowedFd<'_>) -> Result<(), Errno> {
    Attr::new().fd(0, map).call(cmd::BPF_MAP_FREEZE).map(drop)
}

/// The id of a map or program: `BPF_OBJ_GET_INFO_BY_FD`.
///
/// # Errors
/// The kernel's.
pub fn id(object: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut info = [0u32; 2];
    Attr::new()
        .fd(0, object)
        .u32(4, size_of_val(&info) as u32)
        .pointer(8, info.as_mut_ptr())
        .call(cmd::BPF_OBJ_GET_INFO_BY_FD)?;
    Ok(info[1])
}

/// An fd of the map with this id, with `flags` of opening.
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`, ENOENT.
pub fn map_by_id(id: u32, flags: u32) -> Result<OwnedFd, Errno> {
    Attr::new()
        .u32(0, id)
        .u32(8, flags)
        .open(cmd::BPF_MAP_GET_FD_BY_ID)
}

/// An fd of the program with this id.
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`, ENOENT.
pub fn prog_by_id(id: u32) -> Result<OwnedFd, Errno> {
    Attr::new().u32(0, id).open(cmd::BPF_PROG_GET_FD_BY_ID)
}

/// Type, id, key size, value size and entries of a map: the first words of
/// `struct bpf_map_info`.
///
/// # Errors
/// The kernel's.
pub fn map_info(map: BorrowedFd<'_>) -> Result<[u32; 5], Errno> {
    let mut info = [0u32; 5];
    Attr::new()
        .fd(0, map)
        .u32(4, size_of_val(&info) as u32)
        .pointer(8, info.as_mut_ptr())
        .call(cmd::BPF_OBJ_GET_INFO_BY_FD)?;
    Ok(info)
}

/// Whether a map has the type and sizes of this spec.
///
/// # Errors
/// The kernel's.
pub fn is_like(map: BorrowedFd<'_>, spec: &MapSpec) -> Result<bool, Errno> {
    let [map_type, _, key, value, entries] = map_info(map)?;
    let wanted = (
        spec.map_type,
        spec.key_size,
        spec.value_size,
        spec.max_entries,
    );
    Ok((map_type, key, value, entries) == wanted)
}

/// `BPF_MAP_DELETE_ELEM`.
///
/// # Errors
/// The kernel's.
pub fn delete(map: BorrowedFd<'_>, key: &[u8]) -> Result<(), Errno> {
    elem(map, key, std::ptr::null(), 0)
        .call(cmd::BPF_MAP_DELETE_ELEM)
        .map(drop)
}

/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`.
///
/// # Errors
/// The kernel's.
pub fn lookup_and_delete(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> Result<(), Errno> {
    elem(map, key, value.as_mut_ptr(), 0)
        .call(cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM)
        .map(drop)
}

/// `BPF_MAP_GET_NEXT_KEY`.
///
/// # Errors
/// The kernel's.
pub fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> Result<(), Errno> {
    elem(map, key.unwrap_or_default(), next.as_mut_ptr(), 0)
        .call(cmd::BPF_MAP_GET_NEXT_KEY)
        .map(drop)
}
