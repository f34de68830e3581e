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
    // Queues have no keys, and the first of all keys comes after none.
    let no_key = map.key_size == 0 || (command == NEXT_KEY && arguments.key == 0);
    let key = match no_key {
        true => Vec::new(),
        false => memory::read(caller, arguments.key, map.key_size)?,
    };
    let key = match no_key {
        true => std::ptr::null(),
        false => key.as_ptr(),
    }
    .cast();
    let flags = arguments.flags;
    let status = match command {
        LOOKUP => {
            let mut value = vec![0u8; map.value_size];
            memory::check(caller, arguments.value, value.len())?;
            // SAFETY: the map's own key and value sizes; both buffers outlive the call.
            let status = unsafe {
                sys::bpf_map_lookup_elem_flags(map.host, key, value.as_mut_ptr().cast(), flags)
            };
            if status == 0 {
                memory::write(caller, arguments.value, &value)?;
            }
            status
        }
        UPDATE => {
            let value = memory::read(caller, arguments.value, map.value_size)?;
            let (value, _open) = with_fds(caller.data(), map.kind, value)?;
            // SAFETY: as above.
            unsafe { sys::bpf_map_update_elem(map.host, key, value.as_ptr().cast(), flags) }
        }
        // SAFETY: as above.
        DELETE => unsafe { sys::bpf_map_delete_elem_flags(map.host, key, flags) },
        _ => {
            let mut next = vec![0u8; map.key_size];
            memory::check(caller, arguments.next_key, next.len())?;
            // SAFETY: as above.
            let status =
                unsafe { sys::bpf_map_get_next_key(map.host, key, next.as_mut_ptr().cast()) };
            if status == 0 {
                memory::write(caller, arguments.next_key, &next)?;
            }
            status
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

/// A value with the host's fds in place of the guest's, and what has to stay
/// open until it is stored. Of fds that a guest cannot have there are none.
fn with_fds(state: &State, kind: MapType, value: Vec<u8>) -> Result<(Vec<u8>, Option<File>)> {
    let fd = |value: &[u8]| {
        let word = value.first_chunk().ok_or(-libc::EINVAL)?;
        Ok::<i32, i32>(i32::from_le_bytes(*word))
    };
    match kind {
        MapType::ArrayOfMaps | MapType::HashOfMaps => {
            let inner = state.guest.map(fd(&value)?)?.host;
            Ok((inner.to_le_bytes().to_vec(), None))
        }
        MapType::CgroupArray => {
            let group = File::open(objects::directory(state, fd(&value)?)?);
            let group = group.map_err(|error| -error.raw_os_error().unwrap_or(libc::EIO))?;
            Ok((group.as_raw_fd().to_le_bytes().to_vec(), Some(group)))
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
        _ => Ok((value, None)),
    }
}
