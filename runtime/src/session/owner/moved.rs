//! Maps that go to the kernel: the record says so, and whoever opens the map
//! from then on uses the kernel's. It knows no map's contents.

use std::sync::Arc;

use uapi::Errno;

use super::super::objects::{NewRecord, ObjectKind, Place, Pod, Record};
use super::Session;
use crate::maps::{KernelObjects, Map, MapSpec};

/// The storage of a map that went.
pub struct Left {
    id: u32,
    record: Record,
}

impl Session {
    /// Says that a map is the kernel's from now on, and opens that.
    ///
    /// # Errors
    /// `ENOENT` without such a map; those of opening it.
    pub fn move_map(&self, id: u32, objects: KernelObjects) -> Result<(Arc<Map>, Left), Errno> {
        let mut inner = self.lock();
        let record = self
            .objects
            .find(id, ObjectKind::Map)
            .ok_or(Errno::ENOENT)?;
        let spec: MapSpec = record.body().ok_or(Errno::ENOENT)?;
        let map = Arc::new(Map::of_kernel(spec, objects, self.nr_cpus)?);
        inner.table.withdraw(id).ok_or(Errno::ENOENT)?;
        let moved = NewRecord {
            kind: ObjectKind::Map,
            offset: objects.pack(),
            len: record.len,
            place: Place::Kernel,
            state: record.state,
            body: spec.bytes(),
        };
        inner
            .table
            .publish_record(id, &moved)
            .ok_or(Errno::ENOMEM)?;
        inner.maps.insert(id, Arc::clone(&map));
        let left = Left { id, record };
        Ok((map, left))
    }

    /// Gives back what a map had before it went; nobody uses it any more.
    pub fn free_left(&self, left: &Left) {
        let Left { id, record } = left;
        let mut inner = self.lock();
        self.free_storage(&mut inner, *id, record.place, record.offset, record.len);
    }

    /// Takes all links back whose programs hits run, until [`Session::resume_links`]:
    /// when this returns, those who follow run nothing.
    pub fn pause_links(&self) -> Vec<u32> {
        let links = self.objects.all(ObjectKind::Link);
        let enabled: Vec<u32> = links
            .filter(|record| record.state != 0)
            .map(|record| record.id)
            .collect();
        if !enabled.is_empty() {
            enabled
                .iter()
                .for_each(|&id| self.set_link_enabled(id, false));
            self.publish();
        }
        enabled
    }

    /// The end of [`Session::pause_links`].
    pub fn resume_links(&self, paused: &[u32]) {
        if !paused.is_empty() {
            paused
                .iter()
                .for_each(|&id| self.set_link_enabled(id, true));
            self.publish();
        }
    }
}
