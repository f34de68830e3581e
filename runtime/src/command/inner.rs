//! The maps in a map of maps: who keeps them alive, and who must know them
//! before a program can meet them. It knows no storage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use uapi::Errno;

use super::object::locked;
use super::{Bpf, MapObject};

/// The maps that a map of maps holds, by key.
pub(super) type InnerObjects = Mutex<BTreeMap<Vec<u8>, Arc<MapObject>>>;

impl Bpf {
    /// Puts a map into a map of maps. Targets have opened it when it is found.
    ///
    /// # Errors
    /// EINVAL for a map that is not like the template, else as an update.
    pub(super) fn put_inner(
        &self,
        outer: &MapObject,
        key: &[u8],
        inner: Arc<MapObject>,
        flags: u64,
    ) -> Result<(), Errno> {
        if !outer.map().may_hold(inner.map().spec()) {
            return Err(Errno::EINVAL);
        }
        let id = inner.id();
        let mut held = locked(&outer.inner);
        outer.map().add_inner(id, inner.map());
        if !inner.announced.load(Ordering::Acquire) {
            self.home.publish();
            inner.announced.store(true, Ordering::Release);
        }
        let updated = outer.map().update(key, &id.to_le_bytes(), flags);
        let gone = match updated {
            Ok(()) => held.insert(key.to_vec(), inner),
            Err(_) => Some(inner),
        };
        self.part(outer, &held, gone);
        drop(held);
        updated
    }

    /// Takes a map out of a map of maps.
    ///
    /// # Errors
    /// As a deletion.
    pub(super) fn take_inner(&self, outer: &MapObject, key: &[u8]) -> Result<(), Errno> {
        let mut held = locked(&outer.inner);
        outer.map().delete(key)?;
        let gone = held.remove(key);
        self.part(outer, &held, gone);
        Ok(())
    }

    /// Lets go of a map that was under one key of a map of maps.
    fn part(
        &self,
        outer: &MapObject,
        held: &BTreeMap<Vec<u8>, Arc<MapObject>>,
        gone: Option<Arc<MapObject>>,
    ) {
        let Some(gone) = gone else { return };
        if held.values().any(|map| Arc::ptr_eq(map, &gone)) {
            return;
        }
        let id = gone.id();
        let parted = outer.map().part_from_inner(&|other| other != id);
        // As `synchronize_rcu` of `maybe_wait_bpf_programs`, for programs in
        // this process; agents see to their own.
        if let Ok(here) = self.home.here() {
            here.wait_for_runs();
        }
        drop(parted);
    }
}
