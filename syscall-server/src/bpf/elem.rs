//! `BPF_MAP_{LOOKUP,UPDATE,DELETE,LOOKUP_AND_DELETE}_ELEM` and
//! `BPF_MAP_GET_NEXT_KEY`.

use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use runtime::command::elem::{NewValue, value_size};
use runtime::command::map::Elements;
use runtime::command::{MapObject, Object};
use uapi::Errno;
use uapi::attr::MapElem;
use uapi::cmd::BPF_MAP_UPDATE_ELEM;
use uapi::map::{BPF_F_LOCK, BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_TASK_STORAGE};

use super::call::{self, Call};
use crate::fds::Rights;
use crate::user::{self, Buffer};
use crate::{caller, kernel, log};

/// One past the last byte that a deletion reads.
pub const KEY_END: usize = 16;
/// One past the last byte that a walk reads.
pub const VALUE_END: usize = 24;

/// A key; where that is an fd of another process, a duplicate stands for it.
struct Key(
    Buffer,
    #[expect(dead_code, reason = "held meanwhile")] Option<OwnedFd>,
);

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Key {
    fn of(map: &MapObject, mut bytes: Buffer) -> Result<Key, Errno> {
        let is_fd = map.map().spec().map_type == BPF_MAP_TYPE_TASK_STORAGE;
        let theirs = bytes
            .first_chunk()
            .filter(|_| is_fd && caller::supervised().is_some());
        let Some(theirs) = theirs else {
            return Ok(Key(bytes, None));
        };
        let own = caller::duplicate(i32::from_le_bytes(*theirs))?;
        bytes[..4].copy_from_slice(&own.as_raw_fd().to_le_bytes());
        Ok(Key(bytes, Some(own)))
    }
}

/// The map and key of a call; a map without keys wants a null pointer.
fn map_and_key(attr: &MapElem, needed: Rights) -> Result<(Arc<MapObject>, Key), Errno> {
    let map = call::map_with(attr.map_fd, needed)?;
    let spec = map.map().spec();
    if attr.flags & BPF_F_LOCK != 0 && spec.lock().is_none() {
        return Err(Errno::EINVAL);
    }
    let key_size = spec.key_size as usize;
    if key_size == 0 && attr.key != 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(&map, user::read_buffer(attr.key, key_size)?)?;
    Ok((map, key))
}

/// The kernel looks at the flags of a look-up before it looks at the fd.
fn check_read_flags(attr: &MapElem) -> Result<(), Errno> {
    match attr.flags & !BPF_F_LOCK {
        0 => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

pub fn lookup(call: &Call) -> Result<i64, Errno> {
    let attr = MapElem::decode(&call.bytes);
    check_read_flags(&attr)?;
    let (map, key) = map_and_key(&attr, call::READ)?;
    // Of a bloom filter the value is what is asked for.
    let mut value = match map.map().spec().map_type {
        BPF_MAP_TYPE_BLOOM_FILTER => user::read_buffer(attr.value, value_size(&map))?,
        _ => Buffer::zeroed(value_size(&map)),
    };
    let in_kernel = kernel::maps::stacks(&map)
        .map(|stacks| runtime::kernel::lookup(stacks, &key, &mut value, attr.flags));
    if !matches!(in_kernel, Some(Ok(()))) {
        let bpf = &call.server.bpf;
        bpf.map_lookup(&map, &key, &mut value, attr.flags)?;
    }
    if map.map().spec().map_type != BPF_MAP_TYPE_BLOOM_FILTER {
        user::write(attr.value, &value)?;
    }
    Ok(0)
}

pub fn lookup_and_delete(call: &Call) -> Result<i64, Errno> {
    let attr = MapElem::decode(&call.bytes);
    check_read_flags(&attr)?;
    let (map, key) = map_and_key(&attr, Rights::ALL)?;
    let mut value = Buffer::zeroed(value_size(&map));
    call.server
        .bpf
        .map_lookup_and_delete(&map, &key, &mut value, attr.flags)?;
    user::write(attr.value, &value)?;
    Ok(0)
}

pub fn update(call: &Call) -> Result<i64, Errno> {
    let attr = MapElem::decode(&call.bytes);
    let (map, key) = map_and_key(&attr, call::WRITE)?;
    let bytes = user::read_buffer(attr.value, value_size(&map))?;
    if let Some(cgroups) = kernel::maps::cgroups(&map) {
        runtime::kernel::update(cgroups, &key, &bytes, attr.flags)?;
        return Ok(0);
    }
    if map.elements() == Elements::Progs && names_program_there(&bytes) {
        kernel::maps::bring(call.server, &[map])?;
        return kernel::bpf(BPF_MAP_UPDATE_ELEM, call.attr, call.size as u32);
    }
    let value = match map.elements() {
        Elements::Bytes => NewValue::Bytes(&bytes),
        // The kernel looks at the fd after all else.
        elements => object(elements, &bytes),
    };
    call.server.bpf.map_update(&map, &key, value, attr.flags)?;
    Ok(0)
}

/// Whether the fd in `bytes` is of a program in the kernel.
fn names_program_there(bytes: &[u8]) -> bool {
    let fd = bytes.first_chunk().map(|word| i32::from_le_bytes(*word));
    fd.is_some_and(|fd| call::object(fd).is_err() && kernel::is_program(fd))
}

/// What the fd in `bytes` stands for to a map.
pub fn object(elements: Elements, bytes: &[u8]) -> NewValue<'static> {
    behind(elements, bytes).unwrap_or_else(NewValue::Unknown)
}

fn behind(elements: Elements, bytes: &[u8]) -> Result<NewValue<'static>, Errno> {
    let fd = i32::from_le_bytes(*bytes.first_chunk().ok_or(Errno::EINVAL)?);
    match elements {
        Elements::Maps => Ok(NewValue::Map(call::own_map(fd)?)),
        Elements::Progs => Ok(NewValue::Prog(call::own_prog(fd)?)),
        Elements::Events => match call::object(fd)? {
            Object::Event(event) => Ok(NewValue::Event(event)),
            _ => Err(Errno::EINVAL),
        },
        // Only control groups could be put there, and those are the kernel's.
        Elements::Cgroups => {
            if caller::is_open(fd).is_ok() {
                log::problem(format_args!(
                    "who is below a control group is not seen from user space: leave that filter out, \
                     or run as root with --runtime kernel"
                ));
            }
            Err(Errno::EBADF)
        }
        Elements::Bytes => Err(Errno::EBADF),
    }
}

pub fn delete(call: &Call) -> Result<i64, Errno> {
    let attr = MapElem::decode(&call.bytes);
    let (map, key) = map_and_key(&attr, call::WRITE)?;
    if let Some(cgroups) = kernel::maps::cgroups(&map) {
        runtime::kernel::delete(cgroups, &key)?;
        return Ok(0);
    }
    let in_kernel = kernel::maps::stacks(&map).map(|stacks| runtime::kernel::delete(stacks, &key));
    match call.server.bpf.map_delete(&map, &key) {
        Err(_) if in_kernel == Some(Ok(())) => Ok(0),
        deleted => deleted.map(|()| 0),
    }
}

pub fn next_key(call: &Call) -> Result<i64, Errno> {
    let attr = MapElem::decode(&call.bytes);
    let map = call::map_with(attr.map_fd, call::READ)?;
    let key_size = map.map().spec().key_size as usize;
    let key = match attr.key {
        0 => None,
        _ if key_size == 0 => return Err(Errno::EINVAL),
        address => Some(user::read_buffer(address, key_size)?),
    };
    let mut next = Buffer::zeroed(key_size);
    match kernel::maps::stacks(&map) {
        Some(stacks) => runtime::kernel::next_key(stacks, key.as_deref(), &mut next)?,
        None => {
            let bpf = &call.server.bpf;
            bpf.map_next_key(&map, key.as_deref(), &mut next)?;
        }
    }
    user::write(attr.value, &next)?;
    Ok(0)
}
