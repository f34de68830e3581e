//! `BPF_MAP_{LOOKUP,LOOKUP_AND_DELETE,UPDATE,DELETE}_BATCH`. It knows no
//! storage and copies no user memory.
//!
//! The kernel's cursor through a hash map is a bucket number; ours names a
//! list of keys taken when the batch began, so that an element is met once
//! however the map changes meanwhile. Both are four opaque bytes.

use std::collections::VecDeque;

use uapi::Errno;
use uapi::map::{BPF_F_LOCK, BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_STACK};

use super::elem::{NewValue, value_size};
use super::map::Elements;
use super::object::locked;
use super::{Bpf, MapObject};

/// Bytes of `in_batch` and `out_batch`.
pub const CURSOR_BYTES: usize = 4;

/// Batches under way at a time in one map; the oldest is forgotten beyond it.
const MAX_CURSORS: usize = 16;

/// The batches under way in a map.
#[derive(Default)]
pub(super) struct Cursors {
    last: u32,
    open: VecDeque<(u32, VecDeque<Vec<u8>>)>,
}

/// What a lookup batch found.
pub struct Batch {
    /// Keys, one after the other.
    pub keys: Vec<u8>,
    /// Values, one after the other, each of [`value_size`] bytes.
    pub values: Vec<u8>,
    /// Number of elements.
    pub count: u32,
    /// The cursor to go on from.
    pub cursor: [u8; CURSOR_BYTES],
    /// Whether the map has no more elements: the command returns ENOENT, with
    /// what it found.
    pub ended: bool,
}

/// A batch that stopped at an error, with the number of elements before it.
pub struct Stopped {
    /// Elements that were done.
    pub count: u32,
    /// Why not more.
    pub errno: Errno,
}

impl Bpf {
    /// `BPF_MAP_LOOKUP_BATCH`, or `BPF_MAP_LOOKUP_AND_DELETE_BATCH` when
    /// `delete`: at most `count` elements after `cursor`, `None` to begin.
    ///
    /// # Errors
    /// ENOTSUPP for maps without batches, EINVAL for unknown flags, ENOENT for
    /// a cursor of a batch that has ended.
    pub fn map_lookup_batch(
        &self,
        map: &MapObject,
        cursor: Option<[u8; CURSOR_BYTES]>,
        count: u32,
        elem_flags: u64,
        delete: bool,
    ) -> Result<Batch, Errno> {
        check(map, elem_flags)?;
        let mut keys = match cursor {
            // To the kernel 0 is the first bucket: some tools begin with that.
            None | Some([0, 0, 0, 0]) => self.all_keys(map)?,
            Some(cursor) => take_cursor(map, u32::from_le_bytes(cursor))?,
        };
        let mut batch = Batch {
            keys: Vec::new(),
            values: Vec::new(),
            count: 0,
            cursor: [0; CURSOR_BYTES],
            ended: false,
        };
        let mut value = vec![0; value_size(map)];
        while batch.count < count {
            let Some(key) = keys.pop_front() else { break };
            let found = if delete {
                self.map_lookup_and_delete(map, &key, &mut value, elem_flags)
            } else {
                self.map_lookup(map, &key, &mut value, elem_flags)
            };
            match found {
                Ok(()) => {
                    batch.keys.extend_from_slice(&key);
                    batch.values.extend_from_slice(&value);
                    batch.count += 1;
                }
                // Deleted since the batch began.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        batch.ended = keys.is_empty();
        batch.cursor = keep_cursor(map, keys).to_le_bytes();
        Ok(batch)
    }

    /// `BPF_MAP_UPDATE_BATCH`: keys and values one after the other.
    ///
    /// # Errors
    /// The first update that failed, with the number of those before it.
    pub fn map_update_batch(
        &self,
        map: &MapObject,
        keys: &[u8],
        values: &[u8],
        elem_flags: u64,
    ) -> Result<u32, Stopped> {
        check(map, elem_flags).map_err(|errno| Stopped { count: 0, errno })?;
        let mut count = 0;
        let keys = keys.chunks_exact(map.map().spec().key_size as usize);
        for (key, value) in keys.zip(values.chunks_exact(value_size(map))) {
            self.map_update(map, key, NewValue::Bytes(value), elem_flags)
                .map_err(|errno| Stopped { count, errno })?;
            count += 1;
        }
        Ok(count)
    }

    /// `BPF_MAP_DELETE_BATCH`: keys one after the other.
    ///
    /// # Errors
    /// The first deletion that failed, with the number of those before it.
    pub fn map_delete_batch(
        &self,
        map: &MapObject,
        keys: &[u8],
        elem_flags: u64,
    ) -> Result<u32, Stopped> {
        check(map, elem_flags).map_err(|errno| Stopped { count: 0, errno })?;
        let mut count = 0;
        for key in keys.chunks_exact(map.map().spec().key_size as usize) {
            self.map_delete(map, key)
                .map_err(|errno| Stopped { count, errno })?;
            count += 1;
        }
        Ok(count)
    }

    fn all_keys(&self, map: &MapObject) -> Result<VecDeque<Vec<u8>>, Errno> {
        let key_size = map.map().spec().key_size as usize;
        // A map that grows while it is walked may yield more than it holds at
        // any moment, never endlessly many.
        let limit = (map.map().spec().max_entries as usize).saturating_mul(2);
        let mut keys = VecDeque::new();
        let mut next = vec![0; key_size];
        let mut previous: Option<Vec<u8>> = None;
        while keys.len() < limit {
            match self.map_next_key(map, previous.as_deref(), &mut next) {
                Ok(()) => {
                    keys.push_back(next.clone());
                    previous = Some(next.clone());
                }
                Err(Errno::ENOENT) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(keys)
    }
}

fn check(map: &MapObject, elem_flags: u64) -> Result<(), Errno> {
    let spec = map.map().spec();
    let keyless = [BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK, BPF_MAP_TYPE_RINGBUF];
    if map.elements() != Elements::Bytes || keyless.contains(&spec.map_type) {
        return Err(Errno::ENOTSUPP);
    }
    if elem_flags & !BPF_F_LOCK != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn take_cursor(map: &MapObject, token: u32) -> Result<VecDeque<Vec<u8>>, Errno> {
    let mut cursors = locked(&map.cursors);
    let at = cursors
        .open
        .iter()
        .position(|(open, _)| *open == token)
        .ok_or(Errno::ENOENT)?;
    let (_, keys) = cursors.open.remove(at).ok_or(Errno::ENOENT)?;
    Ok(keys)
}

fn keep_cursor(map: &MapObject, keys: VecDeque<Vec<u8>>) -> u32 {
    let mut cursors = locked(&map.cursors);
    cursors.last = cursors.last.wrapping_add(1).max(1);
    let token = cursors.last;
    if !keys.is_empty() {
        if cursors.open.len() == MAX_CURSORS {
            cursors.open.pop_front();
        }
        cursors.open.push_back((token, keys));
    }
    token
}
