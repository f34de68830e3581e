//! `BPF_OBJ_PIN` and `BPF_OBJ_GET`: names for objects that live as long as
//! the session. It knows no file system: a pin is seen by its own tool only.

use std::collections::btree_map::Entry;

use uapi::Errno;

use super::{Bpf, Object};

impl Bpf {
    /// `BPF_OBJ_PIN`: keeps `object` under `path`.
    ///
    /// # Errors
    /// EEXIST when the name is taken; EINVAL for a perf event, which has no pins.
    pub fn pin(&self, path: Vec<u8>, object: Object) -> Result<(), Errno> {
        if matches!(object, Object::Event(_)) {
            return Err(Errno::EINVAL);
        }
        match self.home.tables().pins.entry(path) {
            Entry::Occupied(_) => Err(Errno::EEXIST),
            Entry::Vacant(vacant) => {
                vacant.insert(object);
                Ok(())
            }
        }
    }

    /// `BPF_OBJ_GET`: the object under `path`.
    ///
    /// # Errors
    /// ENOENT without such a name.
    pub fn pinned(&self, path: &[u8]) -> Result<Object, Errno> {
        let tables = self.home.tables();
        tables.pins.get(path).cloned().ok_or(Errno::ENOENT)
    }

    /// unlink(2) of a pin; false when `path` is none.
    pub fn unpin(&self, path: &[u8]) -> bool {
        let pin = self.home.tables().pins.remove(path);
        // Dropped after the tables were unlocked: the object may go with it.
        pin.is_some()
    }
}
