//! `BPF_OBJ_PIN` and `BPF_OBJ_GET`: names for objects that outlive the tool. It
//! knows where an object is, not where names are.

use std::ffi::CStr;
use std::os::fd::RawFd;

use uapi::Errno;

use super::ids::Kind;
use super::object::locked;
use super::{Bpf, MapObject, Object};
use crate::session::{Claim, ObjectKind, SessionView, claims};

/// A name in a directory of pins.
pub type Place<'a> = (RawFd, &'a CStr);

impl Object {
    /// Its kind and id in the session, and that session's view unless it is
    /// the own.
    ///
    /// # Errors
    /// EINVAL for what has no pins; EOPNOTSUPP for what runs in this process.
    fn to_pin(&self) -> Result<(ObjectKind, u32, Option<&SessionView>), Errno> {
        let (kind, id, foreign) = match self {
            Object::Map(map) => (ObjectKind::Map, map.id(), map.foreign()),
            Object::Prog(prog) => (ObjectKind::Program, prog.id(), prog.foreign()),
            Object::Link(link) => {
                let id = link.in_session().ok_or(Errno::EOPNOTSUPP)?;
                (ObjectKind::Link, id, link.foreign())
            }
            Object::Btf(_) | Object::Event(_) => return Err(Errno::EINVAL),
        };
        Ok((kind, id, foreign.map(|foreign| &*foreign.view)))
    }
}

impl Bpf {
    /// `BPF_OBJ_PIN`: names `object` in a directory of pins.
    ///
    /// # Errors
    /// EEXIST when the name is taken; EINVAL for perf events and type
    /// descriptions, which have no pins; EOPNOTSUPP for a link that runs in
    /// this process only.
    pub fn pin(&self, object: &Object, place: Place<'_>) -> Result<(), Errno> {
        let (kind, id, view) = object.to_pin()?;
        if let Some(view) = view {
            return claims::pin(view.path(), (kind, id), || view.has(id, kind), place);
        }
        self.session()?.pin((kind, id), place)?;
        // What it refers to stays with it.
        let pinned = (kind, id, object.clone());
        let mut all = locked(&self.home.pinned);
        if !all
            .iter()
            .any(|(kind, id, _)| (*kind, *id) == (pinned.0, pinned.1))
        {
            all.push(pinned);
        }
        Ok(())
    }

    /// `BPF_OBJ_GET`: the object that a name stands for.
    ///
    /// # Errors
    /// ENOENT without such a name; EACCES for what is no pin.
    pub fn pinned(&self, place: Place<'_>) -> Result<Object, Errno> {
        let own = self.session()?;
        let sessions = &own.dirs().sessions;
        let claim = Claim::read(sessions, place.0, place.1)?;
        let path = sessions.join(&claim.session);
        if path == own.path() {
            let kind = match claim.kind {
                ObjectKind::Map => Kind::Map,
                ObjectKind::Program => Kind::Prog,
                _ => Kind::Link,
            };
            return self.own_by_id(kind, claim.id);
        }
        self.other_object(&self.other(&path)?, claim.kind, claim.id)
    }

    /// Whether a map of this session has a name, or is used by another tool.
    ///
    /// # Errors
    /// As [`Bpf::session`].
    pub fn is_claimed(&self, map: &MapObject) -> Result<bool, Errno> {
        Ok(self.session()?.is_claimed(ObjectKind::Map, map.id()))
    }

    /// Lets go of what others unpinned meanwhile, and of what only they used.
    pub fn collect(&self) {
        let Ok(session) = self.session() else { return };
        if !self.home.is_owner() {
            return;
        }
        let mut all = locked(&self.home.pinned);
        let gone: Vec<_> = all
            .extract_if(.., |(kind, id, _)| !session.is_claimed(*kind, *id))
            .collect();
        drop(all);
        // Their end takes other locks.
        drop(gone);
        if session.collect() {
            self.home.publish();
        }
    }

    /// Whether [`Bpf::collect`] may have something to do.
    pub fn has_pins(&self) -> bool {
        !locked(&self.home.pinned).is_empty()
    }
}
