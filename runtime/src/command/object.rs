//! What all objects have in common: the session they live in, the process
//! that owns them, and the table by id. It knows no object's contents.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use uapi::Errno;

use super::foreign::Others;
use super::here::Here;
use super::places::Places;
use super::sampling::Sampler;
use super::{BtfObject, LinkObject, MapObject, Object, PerfEvent, ProgObject};
use crate::session::{ObjectKind, Session};

/// Where objects live.
pub(super) struct Home {
    /// None where programs are only verified.
    session: Option<Session>,
    /// The process whose objects these are. A forked child has copies of
    /// them, and must not take them out of the session when it drops those.
    pid: i32,
    here: Option<Here>,
    tables: Mutex<Tables>,
    pub(super) others: Mutex<Others>,
    /// What this process has pinned; it stays until nobody claims it.
    pub(super) pinned: Mutex<Vec<(ObjectKind, u32, Object)>>,
    places: Mutex<Places>,
    /// Events that sample.
    pub(super) sampling: Mutex<Vec<Weak<PerfEvent>>>,
    pub(super) sampler: OnceLock<Box<dyn Sampler>>,
}

/// Objects by id, for the commands that iterate.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) maps: Table<MapObject>,
    pub(super) progs: Table<ProgObject>,
    pub(super) btfs: Table<BtfObject>,
    pub(super) links: Table<LinkObject>,
}

impl Home {
    /// With a session, or without one when nothing will ever run.
    pub(super) fn new(session: Option<Session>) -> Home {
        let mut tables = Tables::default();
        if let Some(session) = &session {
            tables.btfs.last = session.first_id();
            // What the session has no record of comes after what it has.
            tables.links.last = session.first_id() | 0xff_0000;
        }
        Home {
            others: Mutex::default(),
            pinned: Mutex::default(),
            here: session.as_ref().and_then(Here::new),
            session,
            pid: shm::sys::getpid(),
            tables: Mutex::new(tables),
            places: Mutex::default(),
            sampling: Mutex::default(),
            sampler: OnceLock::new(),
        }
    }

    /// The session that objects are shared through.
    ///
    /// # Errors
    /// EPERM where programs are only verified: nothing can be attached there.
    pub(super) fn session(&self) -> Result<&Session, Errno> {
        self.session.as_ref().ok_or(Errno::EPERM)
    }

    /// Has targets follow what changed.
    pub(super) fn publish(&self) {
        if let Some(session) = &self.session {
            session.publish();
        }
    }

    /// Where programs run in this process.
    ///
    /// # Errors
    /// ENOMEM when the session's shared areas are too small for that.
    pub(super) fn here(&self) -> Result<&Here, Errno> {
        self.here.as_ref().ok_or(Errno::ENOMEM)
    }

    /// Whether this process owns the objects (it is not a forked child).
    pub(super) fn is_owner(&self) -> bool {
        shm::sys::getpid() == self.pid
    }

    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        locked(&self.tables)
    }

    pub(super) fn places(&self) -> MutexGuard<'_, Places> {
        locked(&self.places)
    }

    /// Takes objects out of the session when their last reference went.
    pub(super) fn remove(&self, id: u32) {
        if let Some(session) = self.session.as_ref().filter(|_| self.is_owner()) {
            // ENOENT, the only failure, means that it is gone already.
            let _ = session.remove(id);
        }
    }
}

/// A lock whose data stays consistent when a holder panicked: every change
/// under the locks of this module is one insertion or removal.
pub(super) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Objects of one kind by id; ids ascend and are never reused.
pub(super) struct Table<T> {
    by_id: BTreeMap<u32, Weak<T>>,
    last: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table {
            by_id: BTreeMap::new(),
            last: 0,
        }
    }
}

impl<T> Table<T> {
    /// Enters an object under the id that the session gave it.
    pub(super) fn insert(&mut self, id: u32, object: &Arc<T>) {
        self.by_id.retain(|_, object| object.strong_count() > 0);
        self.by_id.insert(id, Arc::downgrade(object));
        self.last = self.last.max(id);
    }

    /// An id for an object that the session does not know.
    pub(super) fn next_free_id(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// The object with this id, or ENOENT.
    pub(super) fn get(&self, id: u32) -> Result<Arc<T>, Errno> {
        self.by_id
            .get(&id)
            .and_then(Weak::upgrade)
            .ok_or(Errno::ENOENT)
    }

    /// The smallest id above `id`, or ENOENT.
    pub(super) fn next_after(&self, id: u32) -> Result<u32, Errno> {
        self.by_id
            .range((Bound::Excluded(id), Bound::Unbounded))
            .find(|(_, object)| object.strong_count() > 0)
            .map(|(&id, _)| id)
            .ok_or(Errno::ENOENT)
    }
}

/// Whether `name` is one the kernel accepts for an object: zero-terminated,
/// letters, digits, `_` and `.` (`bpf_obj_name_cpy`).
pub(super) fn check_name(name: &[u8; uapi::map::BPF_OBJ_NAME_LEN]) -> Result<(), Errno> {
    let end = name.iter().position(|&b| b == 0).ok_or(Errno::EINVAL)?;
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'.';
    // After the terminator the kernel does not look.
    name[..end]
        .iter()
        .all(allowed)
        .then_some(())
        .ok_or(Errno::EINVAL)
}
