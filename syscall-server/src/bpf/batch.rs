//! `BPF_MAP_{LOOKUP,LOOKUP_AND_DELETE,UPDATE,DELETE}_BATCH`.

use runtime::command::batch::{CURSOR_BYTES, Stopped};
use runtime::command::elem::value_size;
use uapi::Errno;
use uapi::attr::{MapBatch, out};

use super::call::{self, Call};
use crate::user;

pub fn lookup(call: &Call) -> Result<i64, Errno> {
    walk(call, false)
}

pub fn lookup_and_delete(call: &Call) -> Result<i64, Errno> {
    walk(call, true)
}

fn walk(call: &Call, delete: bool) -> Result<i64, Errno> {
    let attr = MapBatch::decode(&call.bytes);
    let map = call::map(attr.map_fd)?;
    if attr.flags != 0 {
        return Err(Errno::EINVAL);
    }
    // The kernel writes 0 first, so that a failure reports no elements.
    call.put_u32(out::BATCH_COUNT, 0)?;
    if attr.count == 0 {
        return Ok(0);
    }
    let cursor = match attr.in_batch {
        0 => None,
        address => {
            let mut cursor = [0; CURSOR_BYTES];
            user::read(address, &mut cursor)?;
            Some(cursor)
        }
    };
    let batch =
        call.server
            .bpf
            .map_lookup_batch(&map, cursor, attr.count, attr.elem_flags, delete)?;
    user::write(attr.keys, &batch.keys)?;
    user::write(attr.values, &batch.values)?;
    user::write(attr.out_batch, &batch.cursor)?;
    call.put_u32(out::BATCH_COUNT, batch.count)?;
    if batch.ended {
        return Err(Errno::ENOENT);
    }
    Ok(0)
}

pub fn update(call: &Call) -> Result<i64, Errno> {
    let attr = MapBatch::decode(&call.bytes);
    let map = call::map(attr.map_fd)?;
    if attr.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let keys = array(attr.keys, attr.count, map.map().spec().key_size as usize)?;
    let values = array(attr.values, attr.count, value_size(&map))?;
    let done = call
        .server
        .bpf
        .map_update_batch(&map, &keys, &values, attr.elem_flags);
    report(call, done)
}

pub fn delete(call: &Call) -> Result<i64, Errno> {
    let attr = MapBatch::decode(&call.bytes);
    let map = call::map(attr.map_fd)?;
    if attr.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let keys = array(attr.keys, attr.count, map.map().spec().key_size as usize)?;
    let done = call
        .server
        .bpf
        .map_delete_batch(&map, &keys, attr.elem_flags);
    report(call, done)
}

fn array(address: u64, count: u32, size: usize) -> Result<Vec<u8>, Errno> {
    // Before so much is allocated, see whether its end is there at all.
    let bytes = size.checked_mul(count as usize).ok_or(Errno::EINVAL)?;
    if let Some(last) = bytes.checked_sub(1) {
        user::read(address.wrapping_add(last as u64), &mut [0])?;
    }
    user::read_vec(address, bytes)
}

fn report(call: &Call, done: Result<u32, Stopped>) -> Result<i64, Errno> {
    let (count, result) = match done {
        Ok(count) => (count, Ok(0)),
        Err(stopped) => (stopped.count, Err(stopped.errno)),
    };
    call.put_u32(out::BATCH_COUNT, count)?;
    result
}
