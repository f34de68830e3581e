//! `BPF_MAP_CREATE` and `BPF_MAP_FREEZE`, and the map as an object. It knows
//! no map type's storage; that is [`crate::maps`]'s.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use uapi::Errno;
use uapi::map::{
    BPF_F_MMAPABLE, BPF_F_RDONLY, BPF_F_WRONLY, BPF_MAP_TYPE_ARENA, BPF_MAP_TYPE_ARRAY,
    BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_CGROUP_ARRAY,
    BPF_MAP_TYPE_HASH_OF_MAPS, BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_PROG_ARRAY,
};

use super::batch::Cursors;
use super::elem::may_write;
use super::foreign::Foreign;
use super::inner::InnerObjects;
use super::object::{Home, check_name};
use super::{Bpf, BtfObject, Extra, PerfEvent, ProgObject};
use crate::maps::{Map, MapSpec};
use crate::session::{Storage, possible_cpus};
use crate::types;

/// Unit of mappings.
const PAGE: u64 = 4096;

/// A map that an fd, a program or another map refers to.
pub struct MapObject {
    id: u32,
    map: Arc<Map>,
    /// The same after it went to the kernel.
    pub(super) moved: OnceLock<Arc<Map>>,
    /// What the caller keeps with it.
    pub extra: Extra,
    pub(super) home: Arc<Home>,
    btf: Option<Arc<BtfObject>>,
    pub(super) slots: Mutex<BTreeMap<u32, Slot>>,
    pub(super) inner: InnerObjects,
    /// Targets have followed the session since the map is there.
    pub(super) announced: AtomicBool,
    pub(super) cursors: Mutex<Cursors>,
    foreign: Option<Foreign>,
    /// The map of another session that this one stands for.
    _origin: Option<Arc<MapObject>>,
}

/// What an element of a map of objects keeps alive.
pub(super) enum Slot {
    #[expect(dead_code, reason = "held so that the program lives")]
    Prog(Arc<ProgObject>),
    #[expect(dead_code, reason = "held so that the event lives")]
    Event(Arc<PerfEvent>),
}

/// What the elements of a map are to a caller of bpf(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Bytes.
    Bytes,
    /// Programs; updated by program fd.
    Progs,
    /// Perf events; updated by perf event fd.
    Events,
    /// Control groups; updated by fd of a cgroup directory.
    Cgroups,
    /// Maps; updated by map fd.
    Maps,
}

impl MapObject {
    pub(super) fn with(
        home: &Arc<Home>,
        id: u32,
        map: Arc<Map>,
        btf: Option<Arc<BtfObject>>,
    ) -> MapObject {
        MapObject {
            id,
            map,
            moved: OnceLock::new(),
            extra: Extra::default(),
            home: Arc::clone(home),
            btf,
            slots: Mutex::default(),
            inner: InnerObjects::default(),
            announced: AtomicBool::new(false),
            cursors: Mutex::default(),
            foreign: None,
            _origin: None,
        }
    }

    /// A map of another session, used where it is.
    pub(super) fn of_other(
        home: &Arc<Home>,
        id: u32,
        map: Arc<Map>,
        btf: Option<Arc<BtfObject>>,
        foreign: Foreign,
    ) -> MapObject {
        let mut object = MapObject::with(home, id, map, btf);
        object.foreign = Some(foreign);
        object
    }

    /// What stands in the own session for a map of another.
    pub(super) fn standing_for(
        home: &Arc<Home>,
        id: u32,
        map: Arc<Map>,
        origin: &Arc<MapObject>,
    ) -> MapObject {
        let mut object = MapObject::with(home, id, map, origin.btf.clone());
        object._origin = Some(Arc::clone(origin));
        object
    }

    pub(super) fn foreign(&self) -> Option<&Foreign> {
        self.foreign.as_ref()
    }

    /// Whether it is in another session.
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    /// Whether bpf(2) changes it no more; another process may have frozen it.
    pub fn is_frozen(&self) -> bool {
        self.map.frozen()
            || match (&self.foreign, self.home.session()) {
                (Some(foreign), _) => foreign.view.is_frozen(self.id),
                (None, Ok(session)) => session.is_frozen(self.id),
                (None, Err(_)) => false,
            }
    }

    /// Where its storage lies, for an mmap(2) of it.
    pub fn storage(&self) -> Option<Storage> {
        match &self.foreign {
            Some(foreign) => foreign.view.map_storage(self.id),
            None => self.home.session().ok()?.map_storage(self.id),
        }
    }

    /// The object id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The map itself.
    pub fn map(&self) -> &Arc<Map> {
        self.moved.get().unwrap_or(&self.map)
    }

    /// Where this process had the memory of an array before it went to the kernel.
    pub fn first_memory(&self) -> Option<usize> {
        usize::try_from(self.map.layout()?.base).ok()
    }

    /// The types of key and value, when the loader described them.
    pub fn btf(&self) -> Option<&Arc<BtfObject>> {
        self.btf.as_ref()
    }

    /// Whether the map's storage is a file of its own, which the kernel can
    /// mmap by itself: a `BPF_F_MMAPABLE` array, or an arena.
    pub fn has_file(&self) -> bool {
        let spec = self.map.spec();
        spec.has(BPF_F_MMAPABLE) && matches!(spec.map_type, BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_ARENA)
    }

    /// Bytes of that file.
    pub fn file_bytes(&self) -> u64 {
        let spec = self.map.spec();
        let entry = match spec.map_type {
            BPF_MAP_TYPE_ARENA => PAGE,
            _ => u64::from(spec.value_size).next_multiple_of(8),
        };
        (entry * u64::from(spec.max_entries)).next_multiple_of(PAGE)
    }

    /// What an update's value is.
    pub fn elements(&self) -> Elements {
        match self.map.spec().map_type {
            BPF_MAP_TYPE_PROG_ARRAY => Elements::Progs,
            BPF_MAP_TYPE_PERF_EVENT_ARRAY => Elements::Events,
            BPF_MAP_TYPE_CGROUP_ARRAY => Elements::Cgroups,
            BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_HASH_OF_MAPS => Elements::Maps,
            _ => Elements::Bytes,
        }
    }
}

impl Drop for MapObject {
    fn drop(&mut self) {
        if self.foreign.is_none() {
            self.home.remove(self.id);
        }
    }
}

impl Bpf {
    /// What `BPF_MAP_CREATE` refuses a spec for before it looks at the fds of
    /// other objects (`map_alloc_check`).
    ///
    /// # Errors
    /// The kernel's, per map type.
    pub fn map_check(&self, spec: &MapSpec) -> Result<(), Errno> {
        let takes_extra = [BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_ARENA];
        if spec.map_extra != 0 && !takes_extra.contains(&spec.map_type) {
            return Err(Errno::EINVAL);
        }
        if spec.has(BPF_F_RDONLY) && spec.has(BPF_F_WRONLY) {
            return Err(Errno::EINVAL);
        }
        match self.session() {
            Ok(session) => Map::storage_size(spec, session.nr_cpus()).map(drop),
            Err(_) => Ok(()),
        }
    }

    /// `BPF_MAP_CREATE`. `btf` describes key and value by the type ids in
    /// `spec`; `inner` is the template of a map of maps.
    ///
    /// # Errors
    /// The kernel's, per map type; EINVAL for a name with other characters
    /// than letters, digits, `_` and `.`; ENOMEM without room in the session.
    pub fn map_create(
        &self,
        mut spec: MapSpec,
        btf: Option<Arc<BtfObject>>,
        inner: Option<&MapObject>,
    ) -> Result<Arc<MapObject>, Errno> {
        self.map_check(&spec)?;
        check_name(&spec.name)?;
        // Those are the fd's (`bpf_map_flags_retain_permanent`).
        spec.map_flags &= !(BPF_F_RDONLY | BPF_F_WRONLY);
        if let Ok(session) = self.session() {
            spec.round_entries(session.nr_cpus());
        }
        if let Some(inner) = inner {
            spec.inner = inner.map.spec().as_template()?;
        }
        if let Some(btf) = &btf {
            let fields = types::map_fields(btf.types()?, &spec)?;
            spec.set_fields(&fields);
            spec.btf = btf.share();
        }
        let (id, map) = match self.session() {
            Ok(session) => {
                // A file is opened again for each fd that a tool gets.
                let (id, map, _file) = session.create_map(spec)?;
                (id, map)
            }
            Err(_) => {
                let map = Arc::new(Map::spec_only(spec, possible_cpus())?);
                (self.home.tables().maps.next_free_id(), map)
            }
        };
        let object = Arc::new(MapObject::with(&self.home, id, map, btf));
        self.home.tables().maps.insert(id, &object);
        Ok(object)
    }

    /// `BPF_MAP_FREEZE`: no more changes by bpf(2).
    ///
    /// # Errors
    /// EPERM when it is frozen.
    pub fn map_freeze(&self, map: &MapObject) -> Result<(), Errno> {
        may_write(map)?;
        if let Some(foreign) = &map.foreign {
            return foreign.view.freeze_map(map.id);
        }
        match self.home.session() {
            Ok(session) => session.freeze_map(map.id()),
            Err(_) => map.map.freeze(),
        }
    }
}
