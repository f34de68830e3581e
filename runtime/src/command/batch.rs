//! `BPF_MAP_{LOOKUP,LOOKUP_AND_DELETE,UPDATE,DELETE}_BATCH`. It knows no
//! storage and copies no user memory.
//!
//! Most types go from key to key, and the cursor is the last key. The kernel's
//! cursor through a hash map is a bucket number; ours names a list of keys
//! taken when the batch began, so that an element is met once however the map
//! changes meanwhile. Both are four opaque bytes.

use std::collections::VecDeque;

use uapi::Errno;
use uapi::map::{
    BPF_F_LOCK, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH,
    BPF_MAP_TYPE_HASH_OF_MAPS, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_LRU_HASH,
    BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH,
};

use super::elem::{NewValue, may_lock, may_write, value_size};
use super::map::Elements;
use super::object::locked;
use super::{Bpf, MapObject};

/// Bytes of a hash map's cursor.
const CURSOR_BYTES: usize = 4;

/// Batches under way at a time in one map; the oldest is forgotten beyond it.
const MAX_CURSORS: usize = 16;

/// The batches under way in a map.
#[derive(Default)]
pub(super) struct Cursors {
    last: u32,
    open: VecDeque<(u32, VecDeque<Vec<u8>>)>,
}

/// A batch command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// `BPF_MAP_LOOKUP_BATCH`.
    Lookup,
    /// `BPF_MAP_LOOKUP_AND_DELETE_BATCH`.
    LookupAndDelete,
    /// `BPF_MAP_UPDATE_BATCH`.
    Update,
    /// `BPF_MAP_DELETE_BATCH`.
    Delete,
}

/// What a lookup batch found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Keys, one after the other.
    pub keys: Vec<u8>,
    /// Values, one after the other, each of [`value_size`] bytes.
    pub values: Vec<u8>,
    /// Number of elements.
    pub count: u32,
    /// The cursor to go on from; empty when none is to be written.
    pub cursor: Vec<u8>,
    /// Whether the map has no more elements: the command returns ENOENT, with
    /// what it found.
    pub ended: bool,
}

/// A batch that stopped at an error, with the number of elements before it.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Elements that were done.
    pub count: u32,
    /// Why not more.
    pub errno: Errno,
}

/// Bytes of `in_batch` and `out_batch` of a map.
pub fn cursor_size(map: &MapObject) -> usize {
    if is_hash(map) {
        return CURSOR_BYTES;
    }
    map.map().spec().key_size as usize
}

impl Bpf {
    /// What a batch command checks before it looks at its count.
    ///
    /// # Errors
    /// EPERM for a frozen map or one without the right, ENOTSUPP for maps
    /// without such a batch, EINVAL for unknown flags.
    pub fn map_batch_check(
        &self,
        map: &MapObject,
        kind: BatchKind,
        elem_flags: u64,
        flags: u64,
    ) -> Result<(), Errno> {
        use BatchKind::{Lookup, LookupAndDelete, Update};
        if kind != Lookup {
            may_write(map)?;
        }
        let has = match map.map().spec().map_type {
            _ if is_hash(map) => true,
            BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_PERCPU_ARRAY | BPF_MAP_TYPE_ARRAY_OF_MAPS => {
                matches!(kind, Lookup | Update)
            }
            BPF_MAP_TYPE_LPM_TRIE => kind != LookupAndDelete,
            _ => false,
        };
        if !has {
            return Err(Errno::ENOTSUPP);
        }
        if elem_flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        may_lock(map, elem_flags)?;
        let own_walk = is_hash(map) && matches!(kind, Lookup | LookupAndDelete);
        if own_walk && flags != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// `BPF_MAP_LOOKUP_BATCH`, or `BPF_MAP_LOOKUP_AND_DELETE_BATCH` when
    /// `delete`: at most `count` elements after `cursor`, `None` to begin,
    /// after [`Bpf::map_batch_check`].
    ///
    /// # Errors
    /// ENOENT for a cursor of a batch that has ended, EINVAL for one of
    /// another length.
    pub fn map_lookup_batch(
        &self,
        map: &MapObject,
        cursor: Option<&[u8]>,
        count: u32,
        elem_flags: u64,
        delete: bool,
    ) -> Result<Batch, Errno> {
        if cursor.is_some_and(|cursor| cursor.len() != cursor_size(map)) {
            return Err(Errno::EINVAL);
        }
        match is_hash(map) {
            true => self.hash_batch(map, cursor, count, elem_flags, delete),
            false => self.key_batch(map, cursor, count, elem_flags),
        }
    }

    fn hash_batch(
        &self,
        map: &MapObject,
        cursor: Option<&[u8]>,
        count: u32,
        elem_flags: u64,
        delete: bool,
    ) -> Result<Batch, Errno> {
        let mut keys = match cursor.and_then(|cursor| cursor.first_chunk()) {
            // To the kernel 0 is the first bucket: some tools begin with that.
            None | Some([0, 0, 0, 0]) => self.all_keys(map)?,
            Some(cursor) => take_cursor(map, u32::from_le_bytes(*cursor))?,
        };
        let mut batch = Batch::default();
        let mut value = vec![0; value_size(map)];
        while batch.count < count {
            let Some(key) = keys.pop_front() else { break };
            let found = match (delete, map.elements()) {
                (false, _) => self.map_lookup(map, &key, &mut value, elem_flags),
                (true, Elements::Bytes) => {
                    self.map_lookup_and_delete(map, &key, &mut value, elem_flags)
                }
                // The command for one element leaves these out.
                (true, _) => self
                    .map_lookup(map, &key, &mut value, elem_flags)
                    .and_then(|()| self.map_delete(map, &key)),
            };
            match found {
                Ok(()) => batch.push(&key, &value),
                // Deleted since the batch began.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        batch.ended = keys.is_empty();
        batch.cursor = keep_cursor(map, keys).to_le_bytes().to_vec();
        Ok(batch)
    }

    /// `generic_map_lookup_batch` (kernel/bpf/syscall.c).
    fn key_batch(
        &self,
        map: &MapObject,
        cursor: Option<&[u8]>,
        count: u32,
        elem_flags: u64,
    ) -> Result<Batch, Errno> {
        let mut batch = Batch::default();
        let mut value = vec![0; value_size(map)];
        let mut next = vec![0; map.map().spec().key_size as usize];
        let mut previous = cursor.map(<[u8]>::to_vec);
        while batch.count < count {
            match self.map_next_key(map, previous.as_deref(), &mut next) {
                Ok(()) => {}
                Err(Errno::ENOENT) => {
                    batch.ended = true;
                    break;
                }
                Err(errno) => return Err(errno),
            }
            match self.map_lookup(map, &next, &mut value, elem_flags) {
                Ok(()) => batch.push(&next, &value),
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
            previous = Some(next.clone());
        }
        if batch.count > 0 {
            batch.cursor = previous.unwrap_or_default();
        }
        Ok(batch)
    }

    /// `BPF_MAP_UPDATE_BATCH` of `count` elements, after
    /// [`Bpf::map_batch_check`]; `element` copies one by its index from the
    /// caller's memory to key and value, and `object` knows what is behind an
    /// fd in a value.
    ///
    /// # Errors
    /// The first update that failed, with the number of those before it.
    pub fn map_update_batch(
        &self,
        map: &MapObject,
        count: u32,
        elem_flags: u64,
        mut element: impl FnMut(u32, &mut [u8], &mut [u8]) -> Result<(), Errno>,
        object: impl Fn(&[u8]) -> NewValue<'static>,
    ) -> Result<u32, Stopped> {
        let mut key = vec![0; map.map().spec().key_size as usize];
        let mut value = vec![0; value_size(map)];
        for done in 0..count {
            element(done, &mut key, &mut value)
                .and_then(|()| {
                    let value = match map.elements() {
                        Elements::Bytes => NewValue::Bytes(&value),
                        _ => object(&value),
                    };
                    self.map_update(map, &key, value, elem_flags)
                })
                .map_err(|errno| Stopped { count: done, errno })?;
        }
        Ok(count)
    }

    /// `BPF_MAP_DELETE_BATCH`, as [`Bpf::map_update_batch`].
    ///
    /// # Errors
    /// The first deletion that failed, with the number of those before it.
    pub fn map_delete_batch(
        &self,
        map: &MapObject,
        count: u32,
        mut element: impl FnMut(u32, &mut [u8]) -> Result<(), Errno>,
    ) -> Result<u32, Stopped> {
        let mut key = vec![0; map.map().spec().key_size as usize];
        for done in 0..count {
            element(done, &mut key)
                .and_then(|()| self.map_delete(map, &key))
                .map_err(|errno| Stopped { count: done, errno })?;
        }
        Ok(count)
    }

    fn all_keys(&self, map: &MapObject) -> Result<VecDeque<Vec<u8>>, Errno> {
        // From key to key a walk begins anew whenever the last one was deleted.
        if let Some(keys) = map.map().keys() {
            return Ok(keys.into_iter().map(Vec::from).collect());
        }
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

impl Batch {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(value);
        self.count += 1;
    }
}

/// Has the map the batch operations of kernel/bpf/hashtab.c?
pub fn is_hash(map: &MapObject) -> bool {
    matches!(
        map.map().spec().map_type,
        BPF_MAP_TYPE_HASH
            | BPF_MAP_TYPE_PERCPU_HASH
            | BPF_MAP_TYPE_LRU_HASH
            | BPF_MAP_TYPE_LRU_PERCPU_HASH
            | BPF_MAP_TYPE_HASH_OF_MAPS
    )
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
