//! Maps whose elements are a kernel map's, so that programs in the kernel and
//! programs here meet in one map. It knows no session and no program.
//!
//! An array is the kernel's memory, mapped: programs here use it as any array.
//! Elements of other types have no address here: programs get copies, and what
//! they write to them is brought to the elements before the next operation of
//! the run on such a map, and when the run ends ([`end_run`]).

mod copies;
mod relay;
mod relayed;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use shm::{Access, Segment};
use uapi::Errno;
use uapi::map::{
    BPF_F_RDONLY_PROG, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH,
    BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH,
};

use super::array;
use super::kind::{MapKind, Start};
use super::spec::MapSpec;
use crate::kernel;

pub use relay::{fits as fits_relay, program as relay_program};
use relayed::Relayed;
pub use relayed::end_run;

/// The kernel's objects behind a map, by their ids there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelObjects {
    /// The map.
    pub map: u32,
    /// The program that does what programs here ask of it; 0 for an array.
    pub relay: u32,
}

impl KernelObjects {
    /// As one word of a record.
    pub fn pack(self) -> u64 {
        u64::from(self.relay) << 32 | u64::from(self.map)
    }

    /// From [`KernelObjects::pack`].
    pub fn unpack(word: u64) -> KernelObjects {
        KernelObjects {
            map: word as u32,
            relay: (word >> 32) as u32,
        }
    }
}

pub(super) fn open(
    spec: &MapSpec,
    objects: KernelObjects,
    nr_cpus: u32,
) -> Result<Box<dyn MapKind>, Errno> {
    let map = kernel::map_by_id(objects.map, 0)?;
    if !kernel::is_like(map.as_fd(), spec)? {
        return Err(Errno::EINVAL);
    }
    match spec.map_type {
        BPF_MAP_TYPE_ARRAY => array_over(spec, &map, nr_cpus),
        _ if is_relayed(spec) && objects.relay != 0 => Ok(Box::new(Relayed::new(spec, objects))),
        _ => Err(Errno::ENOTSUPP),
    }
}

/// Whether programs here use a kernel map of this kind by [`relay_program`].
pub fn is_relayed(spec: &MapSpec) -> bool {
    let types = [
        BPF_MAP_TYPE_HASH,
        BPF_MAP_TYPE_LRU_HASH,
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_LRU_PERCPU_HASH,
        BPF_MAP_TYPE_PERCPU_ARRAY,
    ];
    types.contains(&spec.map_type) && spec.field_count == 0
}

/// An array in the kernel's memory; the fd is not needed any more.
fn array_over(spec: &MapSpec, map: &OwnedFd, nr_cpus: u32) -> Result<Box<dyn MapKind>, Errno> {
    let bytes = (array::TYPE.storage_size)(spec, nr_cpus)?;
    let access = match spec.has(BPF_F_RDONLY_PROG) {
        true => Access::ReadOnly,
        false => Access::ReadWrite,
    };
    let memory = Segment::of_kernel(map.as_raw_fd(), 0, bytes, access)
        .map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::ENOMEM)))?;
    let storage = memory.region(0, bytes).ok_or(Errno::ENOMEM)?;
    (array::TYPE.over)(spec, storage, nr_cpus, Start::Open)
}
