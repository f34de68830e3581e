//! The elements of a map, one after the other, while programs go on.

use std::sync::Arc;

use runtime::maps::Map;
use uapi::Errno;
use uapi::map::{BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_PROG_ARRAY};

use super::found::Found;
use crate::problem::Problem;

/// Walks a map from its first key on.
pub struct Walk {
    map: Arc<Map>,
    /// The elements are objects: their ids stand in place of bytes.
    objects: bool,
    key: Option<Vec<u8>>,
    /// Keys that may still come: a map that is written meanwhile may send a
    /// walk back to its beginning.
    left: u64,
}

impl Walk {
    /// From the first key of a map on.
    ///
    /// # Errors
    /// For maps that have no keys.
    pub fn of(found: &Found) -> Result<Walk, Problem> {
        let map = found.open()?;
        let mut next = vec![0; found.spec.key_size as usize];
        let tried = map.next_key(None, &mut next);
        if !matches!(tried, Ok(()) | Err(Errno::ENOENT)) {
            return Err(found.problem(
                format_args!(
                    "a map of type {} has no elements to read",
                    found.type_name()
                ),
                "its data goes to the tool",
            ));
        }
        Ok(Walk {
            objects: matches!(
                found.spec.map_type,
                BPF_MAP_TYPE_PROG_ARRAY | BPF_MAP_TYPE_PERF_EVENT_ARRAY
            ),
            map,
            key: None,
            left: u64::from(found.spec.max_entries) * 2,
        })
    }

    /// What `key` has; `None` when it is not in the map.
    pub fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        if self.objects {
            let index = key.try_into().map(u32::from_le_bytes);
            let id = index.ok().and_then(|index| self.map.slot(index));
            return Ok(id.map(|id| id.to_le_bytes().to_vec()));
        }
        let mut value = vec![0; self.map.syscall_value_size()];
        match self.map.lookup(key, &mut value, 0) {
            Ok(()) => Ok(Some(value)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Iterator for Walk {
    type Item = (Vec<u8>, Vec<u8>);

    /// The next element that is still there when it is looked up.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let mut next = vec![0; self.map.spec().key_size as usize];
            self.map.next_key(self.key.as_deref(), &mut next).ok()?;
            self.key = Some(next.clone());
            if let Ok(Some(value)) = self.value(&next) {
                return Some((next, value));
            }
        }
    }
}
