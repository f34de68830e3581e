//! Maps that are the kernel's alone: of types that only it has, and of types
//! that the two worlds cannot share, once a program that goes there uses them.
//! The tool's fds are then the kernel's own, and so are the programs that use
//! such a map. It knows no program's code.

use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use runtime::command::ids::Kind;
use runtime::command::map::Elements;
use runtime::command::{BtfObject, MapObject, Object};
use runtime::kernel::{self, Attr};
use uapi::attr::{AttrBytes, MapElem};
use uapi::insn::{
    BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_IDX, BPF_PSEUDO_MAP_IDX_VALUE,
    BPF_PSEUDO_MAP_VALUE,
};
use uapi::map::{
    BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_HASH_OF_MAPS,
    BPF_MAP_TYPE_PROG_ARRAY, BPF_MAP_TYPE_TASK_STORAGE,
};
use uapi::{Errno, Insn, cmd};

use super::{is_map, maps, program};
use crate::fds::FDS;
use crate::server::Server;
use crate::user;

/// Offsets in the attribute of `BPF_MAP_CREATE`.
mod at {
    pub const BTF_FD: usize = 48;
    pub const BTF_KEY: usize = 52;
    pub const BTF_VALUE: usize = 56;
}

/// Makes a map of a type that only the kernel has, as the tool asks for it, but
/// with the kernel's description of types in the place of ours.
///
/// # Errors
/// The kernel's.
pub fn create(
    server: &Server,
    attr: AttrBytes,
    btf: Option<&Arc<BtfObject>>,
) -> Result<i64, Errno> {
    let mut attr = Attr::of(attr);
    if let Some(btf) = btf {
        attr = match maps::btf(btf) {
            Some(theirs) => attr.fd(at::BTF_FD, theirs.as_fd()),
            None => [at::BTF_FD, at::BTF_KEY, at::BTF_VALUE]
                .into_iter()
                .fold(attr, |attr, at| attr.u32(at, 0)),
        };
    }
    let fd = attr.open(cmd::BPF_MAP_CREATE)?;
    server.kernel.note_use();
    Ok(i64::from(fd.into_raw_fd()))
}

/// Gives the kernel a map that cannot be shared with it, and that no program
/// of ours uses.
///
/// # Errors
/// The kernel's; ENOTSUPP when a program of ours or another tool uses it, when it
/// is pinned, or when what it holds cannot be taken along.
pub fn give(server: &Server, map: &Arc<MapObject>) -> Result<OwnedFd, Errno> {
    if map.is_foreign() || server.bpf.is_claimed(map)? || is_used(server, map)? {
        return Err(Errno::ENOTSUPP);
    }
    let spec = *map.map().spec();
    let inner = spec.template();
    let template = inner.map(|inner| {
        let inner = maps::kernel_spec(&inner).unwrap_or(inner);
        kernel::map_create(&inner, None, None)
    });
    let template = template.transpose()?;
    let theirs = maps::create_as(map, &spec, template.as_ref().map(AsFd::as_fd))?;
    take_along(server, map, theirs.as_fd())?;
    for (fd, rights) in FDS.of_map(map) {
        maps::replace(fd, theirs.as_fd(), rights)?;
        FDS.remove(fd);
    }
    server.kernel.note_use();
    Ok(theirs)
}

/// Whether a program of ours uses the map.
fn is_used(server: &Server, map: &Arc<MapObject>) -> Result<bool, Errno> {
    let mut id = 0;
    loop {
        id = match server.bpf.next_id(Kind::Prog, id) {
            Ok(next) => next,
            Err(Errno::ENOENT) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        // Of another session, or gone since.
        let Ok(prog) = server.bpf.prog_by_id(id) else {
            continue;
        };
        if prog.maps().iter().any(|used| Arc::ptr_eq(used, map)) {
            return Ok(true);
        }
    }
}

/// Copies what a map of ours holds.
fn take_along(server: &Server, map: &Arc<MapObject>, theirs: BorrowedFd<'_>) -> Result<(), Errno> {
    let spec = map.map().spec();
    if spec.map_type == BPF_MAP_TYPE_TASK_STORAGE {
        // No task has any yet: programs make it.
        return Ok(());
    }
    let mut value = vec![0; map.map().syscall_value_size()];
    if spec.key_size == 0 {
        return match spec.map_type {
            // Nobody can tell what is in it.
            BPF_MAP_TYPE_BLOOM_FILTER => Err(Errno::ENOTSUPP),
            // Queues and stacks; one that is not empty has an order.
            _ => match server.bpf.map_lookup(map, &[], &mut value, 0) {
                Err(Errno::ENOENT) => Ok(()),
                Ok(()) => Err(Errno::ENOTSUPP),
                Err(errno) => Err(errno),
            },
        };
    }
    let mut key = vec![0; spec.key_size as usize];
    let mut before: Option<Vec<u8>> = None;
    loop {
        match server.bpf.map_next_key(map, before.as_deref(), &mut key) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        match server.bpf.map_lookup(map, &key, &mut value, 0) {
            Ok(()) => copy(server, map, &key, &value, theirs)?,
            // An empty place.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        before = Some(key.clone());
    }
}

fn copy(
    server: &Server,
    map: &MapObject,
    key: &[u8],
    value: &[u8],
    theirs: BorrowedFd<'_>,
) -> Result<(), Errno> {
    if map.elements() == Elements::Bytes {
        return kernel::update(theirs, key, value, 0);
    }
    let id = value.first_chunk().map(|word| u32::from_le_bytes(*word));
    let inner = server.bpf.map_by_id(id.ok_or(Errno::EINVAL)?);
    // A program of ours, which stays here, is none the kernel can call.
    let inner = inner.map_err(|_| Errno::ENOTSUPP)?;
    maps::bring_some(server, std::slice::from_ref(&inner))?;
    let fd = maps::kernel_fd(&inner).ok_or(Errno::ENOTSUPP)?;
    kernel::update(theirs, key, &fd.to_le_bytes(), 0)
}

/// `BPF_MAP_UPDATE_ELEM` of a map of the kernel's by a map or program of ours,
/// which goes there, too; `None` for any other update.
pub fn update(server: &Server, bytes: &AttrBytes) -> Option<Result<(), Errno>> {
    let attr = MapElem::decode(bytes);
    // SAFETY: borrowed for this call; if the tool closes it meanwhile, the
    // kernel looks at whatever is there, as in the tool's own call.
    let map = unsafe { BorrowedFd::borrow_raw(attr.map_fd) };
    let [map_type, _, key_size, ..] = kernel::map_info(map).ok()?;
    let held = [
        BPF_MAP_TYPE_PROG_ARRAY,
        BPF_MAP_TYPE_ARRAY_OF_MAPS,
        BPF_MAP_TYPE_HASH_OF_MAPS,
    ];
    if !held.contains(&map_type) {
        return None;
    }
    let file = FDS.get(user::read_u32(attr.value).ok()? as c_int)?;
    let fd = match &file.object {
        Object::Map(inner) => maps::bring(server, std::slice::from_ref(inner))
            .and_then(|()| maps::kernel_fd(inner).ok_or(Errno::ENOTSUPP)),
        Object::Prog(prog) => program::in_kernel(server, prog),
        _ => return None,
    };
    Some(fd.and_then(|fd| {
        let key = user::read_vec(attr.key, key_size as usize)?;
        kernel::update(map, &key, &fd.to_le_bytes(), attr.flags)
    }))
}

/// Where instructions name maps of the kernel's, by fds of the tool's: those
/// are taken out, so that what is left names maps of ours.
#[derive(Default)]
pub struct Named(Vec<(usize, u8, c_int)>);

impl Named {
    /// Takes them out of a program; `by_index` is the fd in `fd_array`.
    ///
    /// # Errors
    /// Those of `by_index`.
    pub fn take(
        insns: &mut [Insn],
        by_index: impl Fn(u32) -> Result<c_int, Errno>,
    ) -> Result<Named, Errno> {
        const LD_IMM64: u8 = BPF_LD | BPF_IMM | BPF_DW;
        let mut named = Vec::new();
        let mut at = 0;
        while let Some(insn) = insns.get_mut(at) {
            let here = at;
            at += 1;
            if insn.code != LD_IMM64 {
                continue;
            }
            at += 1;
            let (fd, plain) = match insn.src() {
                form @ (BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE) => (insn.imm, form),
                BPF_PSEUDO_MAP_IDX => (by_index(insn.imm as u32)?, BPF_PSEUDO_MAP_FD),
                BPF_PSEUDO_MAP_IDX_VALUE => (by_index(insn.imm as u32)?, BPF_PSEUDO_MAP_VALUE),
                _ => continue,
            };
            if is_map(fd) {
                insn.regs = insn.dst();
                named.push((here, plain, fd));
            }
        }
        Ok(Named(named))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts them back, in plain form.
    pub fn put_back(&self, insns: &mut [Insn]) {
        for &(at, form, fd) in &self.0 {
            if let Some(insn) = insns.get_mut(at) {
                insn.regs = insn.dst() | form << 4;
                insn.imm = fd;
            }
        }
    }
}
