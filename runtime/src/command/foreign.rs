//! Objects of the user's other sessions: seen by id or through a pin, used by
//! bpf(2) where they are, and brought into the own session when programs of
//! this tool are to use them. It knows no name of a pin.
//!
//! Every such object holds a claim, so that it stays while it is used.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use object::btf::Btf;
use uapi::insn::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE};
use uapi::{Errno, Insn};

use super::ids::Kind;
use super::map::Elements;
use super::object::locked;
use super::{Bpf, BtfObject, LinkObject, MapObject, Object, ProgObject};
use crate::session::{self, Hold, ObjectKind, SessionView};

/// Where an object of another session is, and the claim on it.
pub(super) struct Foreign {
    pub(super) view: Arc<SessionView>,
    _hold: Hold,
}

/// Which other sessions are seen by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// All of the user's, as in the kernel.
    #[default]
    All,
    /// One, by the name of its directory.
    Only(String),
}

/// What is open of other sessions.
#[derive(Default)]
pub(super) struct Others {
    views: Vec<Arc<SessionView>>,
    maps: HashMap<u32, Weak<MapObject>>,
    progs: HashMap<u32, Weak<ProgObject>>,
    links: HashMap<u32, Weak<LinkObject>>,
    btfs: HashMap<u32, Weak<BtfObject>>,
    /// What stands in the own session for an object of another.
    own_maps: HashMap<u32, Weak<MapObject>>,
    own_progs: HashMap<u32, Weak<ProgObject>>,
}

/// What `entries` has for an id and somebody still uses, else what `open` makes.
fn or_open<T>(
    entries: &mut HashMap<u32, Weak<T>>,
    id: u32,
    open: impl FnOnce() -> Result<Arc<T>, Errno>,
) -> Result<Arc<T>, Errno> {
    if let Some(object) = entries.get(&id).and_then(Weak::upgrade) {
        return Ok(object);
    }
    let object = open()?;
    entries.retain(|_, object| object.strong_count() > 0);
    entries.insert(id, Arc::downgrade(&object));
    Ok(object)
}

impl Kind {
    fn in_session(self) -> ObjectKind {
        match self {
            Kind::Map => ObjectKind::Map,
            Kind::Prog => ObjectKind::Program,
            Kind::Btf => ObjectKind::Btf,
            Kind::Link => ObjectKind::Link,
        }
    }
}

impl Bpf {
    /// The session in a directory.
    pub(super) fn other(&self, path: &Path) -> Result<Arc<SessionView>, Errno> {
        let mut others = locked(&self.home.others);
        others.views.retain(|view| view.is_there());
        if let Some(view) = others.views.iter().find(|view| view.path() == path) {
            return Ok(Arc::clone(view));
        }
        let view = SessionView::open_any(path).map_err(|_| Errno::ENOENT)?;
        let view = Arc::new(view);
        others.views.push(Arc::clone(&view));
        Ok(view)
    }

    /// The sessions that are seen by id.
    fn others(&self) -> Vec<Arc<SessionView>> {
        let Ok(own) = self.session() else {
            return Vec::new();
        };
        let seen = |path: &PathBuf| match &self.seen {
            Seen::All => path != own.path(),
            Seen::Only(name) => path != own.path() && path.ends_with(name),
        };
        let paths = session::list(own.dirs()).into_iter().filter(seen);
        paths.filter_map(|path| self.other(&path).ok()).collect()
    }

    /// The smallest id above `id` in other sessions.
    pub(super) fn next_other(&self, kind: Kind, id: u32) -> Option<u32> {
        let others = self.others().into_iter();
        let next = others.filter_map(|view| view.next_id(kind.in_session(), id));
        next.min()
    }

    /// The object with this id in another session.
    pub(super) fn other_by_id(&self, kind: Kind, id: u32) -> Result<Object, Errno> {
        let view = self.others().into_iter().find(|view| view.is_home_of(id));
        self.other_object(&view.ok_or(Errno::ENOENT)?, kind.in_session(), id)
    }

    /// An object that `view` shows.
    pub(super) fn other_object(
        &self,
        view: &Arc<SessionView>,
        kind: ObjectKind,
        id: u32,
    ) -> Result<Object, Errno> {
        match kind {
            ObjectKind::Map => self.other_map(view, id).map(Object::Map),
            ObjectKind::Program => self.other_prog(view, id).map(Object::Prog),
            ObjectKind::Link => self.other_link(view, id).map(Object::Link),
            ObjectKind::Btf => self.other_btf(view, id).map(Object::Btf),
            ObjectKind::PerfRing => Err(Errno::ENOENT),
        }
    }

    fn hold(&self, view: &Arc<SessionView>, kind: ObjectKind, id: u32) -> Result<Foreign, Errno> {
        Ok(Foreign {
            view: Arc::clone(view),
            _hold: Hold::on(view, kind, id, self.session()?.path())?,
        })
    }

    fn other_map(&self, view: &Arc<SessionView>, id: u32) -> Result<Arc<MapObject>, Errno> {
        let btf = view.map_spec(id).map_or(0, |spec| spec.btf);
        let btf = match btf {
            0 => None,
            btf => self.other_btf(view, btf).ok(),
        };
        let mut others = locked(&self.home.others);
        or_open(&mut others.maps, id, || {
            let foreign = self.hold(view, ObjectKind::Map, id)?;
            let map = view.map(id).ok_or(Errno::ENOENT)?;
            Ok(Arc::new(MapObject::of_other(
                &self.home, id, map, btf, foreign,
            )))
        })
    }

    fn other_btf(&self, view: &Arc<SessionView>, id: u32) -> Result<Arc<BtfObject>, Errno> {
        let mut others = locked(&self.home.others);
        or_open(&mut others.btfs, id, || {
            let bytes = view.btf_bytes(id).ok_or(Errno::ENOENT)?;
            let types = Btf::parse(&bytes).map_err(|_| Errno::EINVAL)?;
            Ok(Arc::new(BtfObject::of_other(id, bytes, types)))
        })
    }

    fn other_prog(&self, view: &Arc<SessionView>, id: u32) -> Result<Arc<ProgObject>, Errno> {
        let spec = view.program(id).ok_or(Errno::ENOENT)?;
        let facts = view.program_facts(id).ok_or(Errno::ENOENT)?;
        let named = maps_of(&spec.insns);
        let maps = named
            .filter_map(|id| self.other_map(view, id).ok())
            .collect();
        let btf = match facts.btf {
            0 => None,
            btf => self.other_btf(view, btf).ok(),
        };
        let mut others = locked(&self.home.others);
        or_open(&mut others.progs, id, || {
            let foreign = self.hold(view, ObjectKind::Program, id)?;
            let prog = ProgObject::of_other(&self.home, id, spec, &facts, (maps, btf), foreign);
            Ok(Arc::new(prog))
        })
    }

    fn other_link(&self, view: &Arc<SessionView>, id: u32) -> Result<Arc<LinkObject>, Errno> {
        let link_type = view.link_type(id).ok_or(Errno::ENOENT)?;
        let (_, spec) = view.link(id).ok_or(Errno::ENOENT)?;
        let prog = self.other_prog(view, spec.prog)?;
        let mut others = locked(&self.home.others);
        or_open(&mut others.links, id, || {
            let foreign = self.hold(view, ObjectKind::Link, id)?;
            LinkObject::of_other(&self.home, id, link_type, spec, prog, foreign).map(Arc::new)
        })
    }

    /// The map as programs of this tool may use it: one of another session gets
    /// a record in the own.
    ///
    /// # Errors
    /// EOPNOTSUPP for a map whose elements are objects of another session;
    /// ENOMEM without room.
    pub fn own_map(&self, map: &Arc<MapObject>) -> Result<Arc<MapObject>, Errno> {
        let Some(foreign) = map.foreign() else {
            return Ok(Arc::clone(map));
        };
        if map.elements() != Elements::Bytes {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut others = locked(&self.home.others);
        let own = or_open(&mut others.own_maps, map.id(), || {
            let (id, storage) = self.session()?.import_map(&foreign.view, map.id())?;
            let object = MapObject::standing_for(&self.home, id, storage, map);
            Ok(Arc::new(object))
        })?;
        drop(others);
        self.home.tables().maps.insert(own.id(), &own);
        Ok(own)
    }

    /// The program as it may be attached by this tool.
    ///
    /// # Errors
    /// As [`Bpf::own_map`] for its maps; EINVAL when it cannot be verified here.
    pub fn own_prog(&self, prog: &Arc<ProgObject>) -> Result<Arc<ProgObject>, Errno> {
        if prog.foreign().is_none() {
            return Ok(Arc::clone(prog));
        }
        let known = locked(&self.home.others).own_progs.get(&prog.id()).cloned();
        if let Some(own) = known.and_then(|own| own.upgrade()) {
            return Ok(own);
        }
        let mut spec = prog.spec().clone();
        let mut maps = Vec::new();
        for map in prog.maps() {
            let own = self.own_map(&map)?;
            rename_map(&mut spec.insns, map.id(), own.id());
            maps.push(own);
        }
        let own = self.store(spec, maps, None, None)?;
        let entry = (prog.id(), Arc::downgrade(&own));
        locked(&self.home.others).own_progs.extend([entry]);
        Ok(own)
    }
}

/// Whether an instruction names a map.
fn names_map(insn: &Insn) -> bool {
    let of_map = matches!(insn.src(), BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE);
    insn.code == BPF_LD | BPF_IMM | BPF_DW && of_map
}

fn maps_of(insns: &[Insn]) -> impl Iterator<Item = u32> {
    let named = insns.iter().filter(|insn| names_map(insn));
    let ids: std::collections::BTreeSet<u32> = named.map(|insn| insn.imm.cast_unsigned()).collect();
    ids.into_iter()
}

fn rename_map(insns: &mut [Insn], from: u32, to: u32) {
    for insn in insns.iter_mut().filter(|insn| names_map(insn)) {
        if insn.imm.cast_unsigned() == from {
            insn.imm = to.cast_signed();
        }
    }
}
