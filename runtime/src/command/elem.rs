//! `BPF_MAP_{LOOKUP,UPDATE,DELETE,LOOKUP_AND_DELETE}_ELEM` and
//! `BPF_MAP_GET_NEXT_KEY`. It knows no storage and copies no user memory.

use std::sync::Arc;

use uapi::Errno;
use uapi::map::{BPF_ANY, BPF_F_LOCK, BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS};

use super::map::{Elements, Slot};
use super::object::locked;
use super::{Bpf, MapObject, PerfEvent, ProgObject};

/// The value of an update, after the caller translated an fd.
pub enum NewValue<'a> {
    /// Bytes as bpf(2) passes them: per-CPU maps have one value per CPU.
    Bytes(&'a [u8]),
    /// A program for a program array.
    Prog(Arc<ProgObject>),
    /// A perf event for a perf event array.
    Event(Arc<PerfEvent>),
    /// A map for a map of maps.
    Map(Arc<MapObject>),
    /// An fd that names nothing of the map's kind; the errno that says so.
    Unknown(Errno),
}

impl Bpf {
    /// `BPF_MAP_LOOKUP_ELEM`; `value` has [`value_size`] bytes.
    ///
    /// # Errors
    /// The kernel's: ENOENT without such a key, EINVAL for unknown flags,
    /// ENOTSUPP for maps without lookup.
    pub fn map_lookup(
        &self,
        map: &MapObject,
        key: &[u8],
        value: &mut [u8],
        flags: u64,
    ) -> Result<(), Errno> {
        if flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        may_lock(map, flags)?;
        match map.elements() {
            Elements::Bytes => map.map().lookup(key, value, flags),
            Elements::Maps => map.map().lookup(key, value, flags),
            // The kernel answers with the program's id.
            Elements::Progs => {
                let id = map.map().slot(index(key)?).ok_or(Errno::ENOENT)?;
                if id == 0 {
                    return Err(Errno::ENOENT);
                }
                value
                    .first_chunk_mut()
                    .map(|word| *word = id.to_le_bytes())
                    .ok_or(Errno::EINVAL)
            }
            Elements::Events | Elements::Cgroups => Err(Errno::ENOTSUPP),
        }
    }

    /// `BPF_MAP_UPDATE_ELEM`.
    ///
    /// # Errors
    /// The kernel's: E2BIG full or index too large, EEXIST and ENOENT by
    /// flags, EINVAL for unknown flags, EPERM frozen, and last the errno of an
    /// fd that names nothing.
    pub fn map_update(
        &self,
        map: &MapObject,
        key: &[u8],
        value: NewValue<'_>,
        flags: u64,
    ) -> Result<(), Errno> {
        may_write(map)?;
        may_lock(map, flags)?;
        if map.is_foreign() && map.elements() != Elements::Bytes {
            return Err(Errno::EOPNOTSUPP);
        }
        match (map.elements(), value) {
            (Elements::Bytes, NewValue::Bytes(value)) => map.map().update(key, value, flags),
            (Elements::Progs, NewValue::Prog(prog)) => {
                let index = slot_index(map, key, flags)?;
                let id = prog.id();
                put(map, index, id, Slot::Prog(prog))?;
                // Targets load a program before a tail call finds it.
                self.home.publish();
                Ok(())
            }
            (Elements::Events, NewValue::Event(event)) => {
                let index = slot_index(map, key, flags)?;
                // Before the event has a ring, records for it go nowhere, as
                // in the kernel; the ring enters the slot when it is made.
                let ring = event.enter_slot(map, index)?;
                put(map, index, ring, Slot::Event(event))?;
                if ring != 0 {
                    // Targets open a ring before they write to it.
                    self.home.publish();
                }
                Ok(())
            }
            (Elements::Maps, NewValue::Map(inner)) => {
                if map.map().spec().map_type == BPF_MAP_TYPE_ARRAY_OF_MAPS {
                    slot_index(map, key, flags)?;
                }
                self.put_inner(map, key, inner, flags)
            }
            // A hash looks at the fd first.
            (Elements::Maps, NewValue::Unknown(errno))
                if map.map().spec().map_type == BPF_MAP_TYPE_HASH_OF_MAPS =>
            {
                Err(errno)
            }
            (_, NewValue::Unknown(errno)) => {
                slot_index(map, key, flags)?;
                Err(errno)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    /// The kernel's: ENOENT without such a key, EINVAL for arrays, EPERM frozen.
    pub fn map_delete(&self, map: &MapObject, key: &[u8]) -> Result<(), Errno> {
        may_write(map)?;
        if map.is_foreign() && map.elements() != Elements::Bytes {
            return Err(Errno::EOPNOTSUPP);
        }
        match map.elements() {
            Elements::Bytes => return map.map().delete(key),
            Elements::Maps => return self.take_inner(map, key),
            Elements::Progs | Elements::Events | Elements::Cgroups => {}
        }
        let index = slot_index(map, key, BPF_ANY)?;
        let mut slots = locked(&map.slots);
        if !slots.contains_key(&index) {
            return Err(Errno::ENOENT);
        }
        map.map().set_slot(index, 0)?;
        let old = slots.remove(&index);
        // The last reference to a program or ring may go here, and its removal
        // takes other locks.
        drop(slots);
        drop(old);
        Ok(())
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`.
    ///
    /// # Errors
    /// The kernel's: as lookup and delete; ENOTSUPP for maps without it.
    pub fn map_lookup_and_delete(
        &self,
        map: &MapObject,
        key: &[u8],
        value: &mut [u8],
        flags: u64,
    ) -> Result<(), Errno> {
        if flags & !BPF_F_LOCK != 0 {
            return Err(Errno::EINVAL);
        }
        may_write(map)?;
        may_lock(map, flags)?;
        if map.elements() != Elements::Bytes {
            return Err(Errno::ENOTSUPP);
        }
        map.map().lookup_and_delete(key, value, flags)
    }

    /// `BPF_MAP_GET_NEXT_KEY`: the first key for `None`.
    ///
    /// # Errors
    /// ENOENT after the last key; ENOTSUPP for maps without keys.
    pub fn map_next_key(
        &self,
        map: &MapObject,
        key: Option<&[u8]>,
        next: &mut [u8],
    ) -> Result<(), Errno> {
        map.map().next_key(key, next)
    }
}

/// May bpf(2) change the map (`map_get_sys_perms`)? What an fd allows is its
/// owner's affair.
pub(super) fn may_write(map: &MapObject) -> Result<(), Errno> {
    match map.is_frozen() {
        true => Err(Errno::EPERM),
        false => Ok(()),
    }
}

/// `EINVAL` for `BPF_F_LOCK` where values have no spin lock.
pub(super) fn may_lock(map: &MapObject, flags: u64) -> Result<(), Errno> {
    match flags & BPF_F_LOCK != 0 && map.map().spec().lock().is_none() {
        true => Err(Errno::EINVAL),
        false => Ok(()),
    }
}

/// Bytes of a value as bpf(2) copies it: what `BPF_MAP_LOOKUP_ELEM` writes.
pub fn value_size(map: &MapObject) -> usize {
    match map.elements() {
        Elements::Bytes => map.map().syscall_value_size(),
        _ => size_of::<u32>(),
    }
}

fn index(key: &[u8]) -> Result<u32, Errno> {
    let key = key.try_into().map_err(|_| Errno::EINVAL)?;
    Ok(u32::from_le_bytes(key))
}

/// The checks of `fd_array_map_update_elem` and `..._delete_elem`.
fn slot_index(map: &MapObject, key: &[u8], flags: u64) -> Result<u32, Errno> {
    if flags != BPF_ANY {
        return Err(Errno::EINVAL);
    }
    let index = index(key)?;
    if index >= map.map().spec().max_entries {
        return Err(Errno::E2BIG);
    }
    Ok(index)
}

fn put(map: &MapObject, index: u32, id: u32, slot: Slot) -> Result<(), Errno> {
    let mut slots = locked(&map.slots);
    map.map().set_slot(index, id)?;
    let old = slots.insert(index, slot);
    drop(slots);
    drop(old);
    Ok(())
}
