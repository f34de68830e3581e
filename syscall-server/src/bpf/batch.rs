//! `BPF_MAP_{LOOKUP,LOOKUP_AND_DELETE,UPDATE,DELETE}_BATCH`.

use std::sync::Arc;

use runtime::command::MapObject;
use runtime::command::batch::{BatchKind, Stopped, cursor_size, is_hash};
use uapi::Errno;
use uapi::attr::{MapBatch, out};

use super::call::{self, Call};
use super::elem;
use crate::fds::Rights;
use crate::user;

pub fn lookup(call: &Call) -> Result<i64, Errno> {
    walk(call, BatchKind::Lookup)
}

pub fn lookup_and_delete(call: &Call) -> Result<i64, Errno> {
    walk(call, BatchKind::LookupAndDelete)
}

/// The map, after the checks; `None` when there is nothing to do. Once they
/// are through the kernel writes 0, so that a failure reports no elements.
fn begin(call: &Call, attr: &MapBatch, kind: BatchKind) -> Result<Option<Arc<MapObject>>, Errno> {
    let needed = Rights {
        read: matches!(kind, BatchKind::Lookup | BatchKind::LookupAndDelete),
        write: kind != BatchKind::Lookup,
    };
    let map = call::map_with(attr.map_fd, needed)?;
    call.server
        .bpf
        .map_batch_check(&map, kind, attr.elem_flags, attr.flags)?;
    if attr.count == 0 {
        return Ok(None);
    }
    call.put_u32(out::BATCH_COUNT, 0)?;
    Ok(Some(map))
}

fn walk(call: &Call, kind: BatchKind) -> Result<i64, Errno> {
    let attr = MapBatch::decode(&call.bytes);
    let Some(map) = begin(call, &attr, kind)? else {
        return Ok(0);
    };
    let cursor = match attr.in_batch {
        0 => None,
        address => Some(user::read_vec(address, cursor_size(&map))?),
    };
    let delete = kind == BatchKind::LookupAndDelete;
    let batch = call.server.bpf.map_lookup_batch(
        &map,
        cursor.as_deref(),
        attr.count,
        attr.elem_flags,
        delete,
    )?;
    user::write(attr.keys, &batch.keys)?;
    user::write(attr.values, &batch.values)?;
    // Which of the two is written before the other fails, differs.
    if !is_hash(&map) {
        call.put_u32(out::BATCH_COUNT, batch.count)?;
    }
    user::write(attr.out_batch, &batch.cursor)?;
    call.put_u32(out::BATCH_COUNT, batch.count)?;
    if batch.ended {
        return Err(Errno::ENOENT);
    }
    Ok(0)
}

pub fn update(call: &Call) -> Result<i64, Errno> {
    let attr = MapBatch::decode(&call.bytes);
    let Some(map) = begin(call, &attr, BatchKind::Update)? else {
        return Ok(0);
    };
    let done = call.server.bpf.map_update_batch(
        &map,
        attr.count,
        attr.elem_flags,
        |index, key, value| {
            read_nth(attr.keys, index, key)?;
            read_nth(attr.values, index, value)
        },
        |value| elem::object(map.elements(), value),
    );
    report(call, done)
}

pub fn delete(call: &Call) -> Result<i64, Errno> {
    let attr = MapBatch::decode(&call.bytes);
    let Some(map) = begin(call, &attr, BatchKind::Delete)? else {
        return Ok(0);
    };
    let done = call
        .server
        .bpf
        .map_delete_batch(&map, attr.count, |index, key| {
            read_nth(attr.keys, index, key)
        });
    report(call, done)
}

/// Copies element `index` of a row of them.
fn read_nth(row: u64, index: u32, element: &mut [u8]) -> Result<(), Errno> {
    let offset = u64::from(index).wrapping_mul(element.len() as u64);
    user::read(row.wrapping_add(offset), element)
}

fn report(call: &Call, done: Result<u32, Stopped>) -> Result<i64, Errno> {
    let (count, result) = match done {
        Ok(count) => (count, Ok(0)),
        Err(stopped) => (stopped.count, Err(stopped.errno)),
    };
    call.put_u32(out::BATCH_COUNT, count)?;
    result
}
