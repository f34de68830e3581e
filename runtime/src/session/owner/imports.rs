//! Maps of other sessions that programs of this one use: a record of its own
//! names the very storage, by a hard link to the file that it lies in. It knows
//! no claim: whoever calls this has one for as long as the record is there.

use std::sync::Arc;

use uapi::Errno;

use super::super::claims::Claims;
use super::super::keeper::reached;
use super::super::objects::{self, NewRecord, ObjectKind, Place, Pod, Record};
use super::super::{DATA, SessionView, file};
use super::Session;
use crate::maps::{Map, MapSpec};

impl Session {
    /// Enters a map that `view` shows.
    ///
    /// # Errors
    /// ENOENT when it is gone; `ENOMEM` without space.
    pub fn import_map(&self, view: &SessionView, id: u32) -> Result<(u32, Arc<Map>), Errno> {
        let record = view.record(id, ObjectKind::Map).ok_or(Errno::ENOENT)?;
        let map = view.map(id).ok_or(Errno::ENOENT)?;
        let mut spec: MapSpec = record.body().ok_or(Errno::ENOENT)?;
        spec.btf = match view.btf(&spec) {
            Some(bytes) => self.create_btf(&bytes).unwrap_or(0),
            None => 0,
        };
        let source = match record.place {
            Place::Data => view.path().join(DATA),
            Place::Array => view.array_path(id),
            Place::Objects => return Err(Errno::EINVAL),
            // What is in the kernel needs the fds of its tool.
            Place::Kernel => return Err(Errno::EOPNOTSUPP),
        };
        let contents = map.rodata().filter(|_| record.state > objects::FROZEN);
        let mut inner = self.lock();
        let own = inner.table.reserve()?;
        let path = file::c_path(&self.array_path(own))?;
        let source = file::c_path(&source)?;
        let frozen = match contents {
            Some(contents) => self.store(&mut inner, &contents, record.len),
            None => Ok(record.state.min(objects::FROZEN)),
        };
        let entered = frozen.and_then(|state| {
            file::link(&source, libc::AT_FDCWD, &path)?;
            let record = NewRecord {
                kind: ObjectKind::Map,
                offset: record.offset,
                len: record.len,
                place: Place::Array,
                state,
                body: spec.bytes(),
            };
            self.publish_record(&mut inner, own, &record)
        });
        match entered {
            Ok(()) => {
                inner.maps.insert(own, Arc::clone(&map));
                Ok((own, map))
            }
            Err(errno) => {
                // Absent when the link could not be made.
                let _ = file::unlink(&path);
                inner.table.release(own);
                Err(errno)
            }
        }
    }

    /// Pins an object of this session under a name in a directory.
    ///
    /// # Errors
    /// EEXIST when the name is taken; ENOENT when the object is gone.
    pub fn pin(
        &self,
        (kind, id): (ObjectKind, u32),
        place: (std::os::fd::RawFd, &std::ffi::CStr),
    ) -> Result<(), Errno> {
        let there = || self.objects.find(id, kind).is_some();
        super::super::claims::pin(&self.path, (kind, id), there, place)
    }

    /// Whether anything outside uses an object.
    pub fn is_claimed(&self, kind: ObjectKind, id: u32) -> bool {
        self.claims.count(kind, id) != 0
    }

    /// Whether an object may go now; else it goes when its last claim has.
    pub(super) fn part(&self, record: &Record) -> bool {
        if record.kind == ObjectKind::PerfRing {
            return true;
        }
        let Ok(lock) = self.claims.lock() else {
            return false;
        };
        // What others hold may need it, whoever let go of it here.
        let directory = file::c_path(&self.path);
        let needed = directory.is_ok_and(|directory| {
            Claims::any(&directory) && reached(&directory, &self.objects).has(record.id)
        });
        let free = !needed;
        if free {
            self.claims.forget(record.kind, record.id);
        }
        drop(lock);
        free
    }

    /// Takes away what this process has let go of and nobody claims any more.
    /// Returns whether targets have to follow.
    pub fn collect(&self) -> bool {
        let waiting = std::mem::take(&mut self.lock().waiting);
        let mut links = false;
        for id in waiting {
            let is_link = self.objects.find(id, ObjectKind::Link).is_some();
            // ENOENT is all that can be said.
            let _ = self.remove(id);
            links |= is_link && self.objects.find(id, ObjectKind::Link).is_none();
        }
        links
    }

    /// For who outlives the tool.
    pub(in super::super) fn objects(&self) -> &objects::Objects {
        &self.objects
    }

    /// Whether something in it is claimed.
    pub(super) fn has_claims(&self) -> bool {
        file::c_path(&self.path).is_ok_and(|path| Claims::any(&path))
    }
}
