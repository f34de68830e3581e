//! `BPF_{MAP,PROG,BTF,LINK}_GET_NEXT_ID` and `..._GET_FD_BY_ID`. A caller sees
//! the objects of its own session and of the user's others.

use std::sync::Arc;

use uapi::Errno;

use super::btf::KERNEL_ID;
use super::{Bpf, BtfObject, LinkObject, MapObject, Object, ProgObject};

/// The kinds of objects that have ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Maps.
    Map,
    /// Programs.
    Prog,
    /// Type descriptions.
    Btf,
    /// Links.
    Link,
}

impl Bpf {
    /// The smallest id above `id` of an object of this kind.
    ///
    /// # Errors
    /// ENOENT when there is none; EINVAL for an id that none can have.
    pub fn next_id(&self, kind: Kind, id: u32) -> Result<u32, Errno> {
        if id >= i32::MAX as u32 {
            return Err(Errno::EINVAL);
        }
        if kind == Kind::Btf {
            // Enters it, if there is one.
            self.kernel_btf();
        }
        let tables = self.home.tables();
        let own = match kind {
            Kind::Map => tables.maps.next_after(id),
            Kind::Prog => tables.progs.next_after(id),
            Kind::Btf => tables.btfs.next_after(id),
            Kind::Link => tables.links.next_after(id),
        };
        drop(tables);
        match (own, self.next_other(kind, id)) {
            (Ok(own), Some(other)) => Ok(own.min(other)),
            (Err(_), Some(other)) => Ok(other),
            (own, None) => own,
        }
    }

    /// The object of this kind with this id.
    ///
    /// # Errors
    /// ENOENT when there is none.
    pub fn by_id(&self, kind: Kind, id: u32) -> Result<Object, Errno> {
        let own = self.own_by_id(kind, id);
        own.or_else(|_| self.other_by_id(kind, id))
    }

    /// The same, in this session.
    pub(super) fn own_by_id(&self, kind: Kind, id: u32) -> Result<Object, Errno> {
        match kind {
            Kind::Map => self.map_by_id(id).map(Object::Map),
            Kind::Prog => self.prog_by_id(id).map(Object::Prog),
            Kind::Btf => self.btf_by_id(id).map(Object::Btf),
            Kind::Link => self.link_by_id(id).map(Object::Link),
        }
    }

    /// The map of this session with this id.
    ///
    /// # Errors
    /// ENOENT when there is none.
    pub fn map_by_id(&self, id: u32) -> Result<Arc<MapObject>, Errno> {
        self.home.tables().maps.get(id)
    }

    /// The program of this session with this id.
    ///
    /// # Errors
    /// ENOENT when there is none.
    pub fn prog_by_id(&self, id: u32) -> Result<Arc<ProgObject>, Errno> {
        self.home.tables().progs.get(id)
    }

    /// The type description of this session with this id.
    ///
    /// # Errors
    /// ENOENT when there is none.
    pub fn btf_by_id(&self, id: u32) -> Result<Arc<BtfObject>, Errno> {
        if id == KERNEL_ID {
            return self.kernel_btf().cloned().ok_or(Errno::ENOENT);
        }
        self.home.tables().btfs.get(id)
    }

    /// The link of this session with this id.
    ///
    /// # Errors
    /// ENOENT when there is none.
    pub fn link_by_id(&self, id: u32) -> Result<Arc<LinkObject>, Errno> {
        self.home.tables().links.get(id)
    }
}
