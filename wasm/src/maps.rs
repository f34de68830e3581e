//! Operations on elements of maps.

use std::fs::File;
use std::os::fd::AsRawFd;

use libbpf_rs::MapType;
use libbpf_sys as sys;
use wasmtime::Caller;

use crate::guest::{MapFd, State};
use crate::memory::{self, Result};
use crate::objects;

/// Commands of `wasm_bpf_map_operate`, numbered as those of bpf(2).
const LOOKUP: i32 = 1;
const UPDATE: i32 = 2;
const DELETE: i32 = 3;
const NEXT_KEY: i32 = 4;

/// Where a guest says that its arguments lie.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// The key; 0 where there may be none.
    pub key: u64,
    /// The value.
    pub value: u64,
    /// Where the next key goes.
    pub next_key: u64,
    /// `BPF_ANY` and its like.
    pub flags: u64,
}

/// `wasm_bpf_map_operate`.
pub fn operate(
    caller: &mut Caller<'_, State>,
    fd: i32,
    command: i32,
    arguments: Arguments,
) -> Result<i32> {
    let map = Map::of(caller.data().guest.map(fd)?);
    if !(LOOKUP..=NEXT_KEY).contains(&command) {
        return Err(-libc::EINVAL);
    }
    // The kernel and the syscall server copy a key before they write a value,
    // so places may overlap, and lie where the guest says.
    // Queues have no keys, and the first of all keys comes after none.
    let no_key = map.key_size == 0 || (command == NEXT_KEY && arguments.key == 0);
    let key = match no_key {
        true => std::ptr::null(),
        false => memory::place(caller, arguments.key, map.key_size)?.cast_const(),
    }
    .cast();
    let flags = arguments.flags;
    let status = match command {
        LOOKUP => {
            let value = memory::place(caller, arguments.value, map.value_size)?;
            // SAFETY: key and value are of the map's own sizes, and stay in their
            // places: the guest waits for this call.
            unsafe { sys::bpf_map_lookup_elem_flags(map.host, key, value.cast(), flags) }
        }
        UPDATE => {
            let value = memory::place(caller, arguments.value, map.value_size)?;
            let fd = fd_in(caller, map.kind, arguments.value)?;
            let value = match &fd {
                Some((fd, _open)) => std::ptr::from_ref(fd).cast(),
                None => value.cast_const().cast(),
            };
            // SAFETY: as above; values of maps that hold fds have four bytes.
            unsafe { sys::bpf_map_update_elem(map.host, key, value, flags) }
        }
        // SAFETY: as above.
        DELETE => unsafe { sys::bpf_map_delete_elem_flags(map.host, key, flags) },
        _ => {
            let next = memory::place(caller, arguments.next_key, map.key_size)?;
            // SAFETY: as above.
            unsafe { sys::bpf_map_get_next_key(map.host, key, next.cast()) }
        }
    };
    // libbpf gives negated errnos.
    match status {
        0.. => Ok(0),
        errno => Err(errno),
    }
}

/// What is needed of a map while the guest's memory is changed.
struct Map {
    kind: MapType,
    key_size: usize,
    value_size: usize,
    host: i32,
}

impl Map {
    fn of(map: &MapFd) -> Map {
        Map {
            kind: map.kind,
            key_size: map.key_size,
            value_size: map.value_size,
            host: map.host,
        }
    }
}

/// The host's fd in place of the guest's in a value of a map that holds fds,
/// and what has to stay open until it is stored. Of fds that a guest cannot
/// have there are none.
fn fd_in(
    caller: &mut Caller<'_, State>,
    kind: MapType,
    value: u64,
) -> Result<Option<(i32, Option<File>)>> {
    let fd = |caller: &mut Caller<'_, State>| {
        let bytes = memory::range(memory::all(caller)?.0, value, size_of::<i32>())?;
        let word = bytes.first_chunk().ok_or(-libc::EFAULT)?;
        Ok::<i32, i32>(i32::from_le_bytes(*word))
    };
    match kind {
        MapType::ArrayOfMaps | MapType::HashOfMaps => {
            let fd = fd(caller)?;
            Ok(Some((caller.data().guest.map(fd)?.host, None)))
        }
        MapType::CgroupArray => {
            let fd = fd(caller)?;
            let group = File::open(objects::directory(caller.data(), fd)?);
            let group = group.map_err(|error| -error.raw_os_error().unwrap_or(libc::EIO))?;
            Ok(Some((group.as_raw_fd(), Some(group))))
        }
        MapType::ProgArray
        | MapType::PerfEventArray
        | MapType::Sockmap
        | MapType::Sockhash
        | MapType::Devmap
        | MapType::DevmapHash
        | MapType::Cpumap
        | MapType::Xskmap
        | MapType::ReuseportSockarray
        | MapType::StructOps => Err(-libc::EPERM),
        _ => Ok(None),
    }
}
