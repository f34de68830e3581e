//! `BPF_BTF_LOAD`: checks a type description and keeps it. It knows no type's
//! meaning.

use std::sync::{Arc, OnceLock, Weak};

use object::btf::{Btf, BtfError};

use super::object::Home;
use super::{Bpf, Extra};
use crate::kernel_types::KERNEL_BTF;

/// The kernel's own description has the first id, as in the kernel.
pub(super) const KERNEL_ID: u32 = 1;

/// A type description that a loader brought, or the running kernel's.
pub struct BtfObject {
    id: u32,
    bytes: Box<[u8]>,
    types: Btf,
    /// Its id in the session, once a map there needs it.
    shared: OnceLock<u32>,
    /// What the caller keeps with it.
    pub extra: Extra,
    home: Weak<Home>,
}

impl Drop for BtfObject {
    fn drop(&mut self) {
        if let (Some(&id), Some(home)) = (self.shared.get(), self.home.upgrade()) {
            home.remove(id);
        }
    }
}

impl BtfObject {
    /// One of another session, which needs no record here.
    pub(super) fn of_other(id: u32, bytes: Vec<u8>, types: Btf) -> BtfObject {
        BtfObject {
            id,
            bytes: bytes.into(),
            types,
            shared: OnceLock::new(),
            home: Weak::new(),
            extra: Extra::default(),
        }
    }

    /// The object id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The description as it was loaded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its id in the session, where everyone can read it; 0 when there is no
    /// session or no room: maps do without.
    pub(super) fn share(&self) -> u32 {
        let share = || {
            let home = self.home.upgrade()?;
            home.session().ok()?.create_btf(&self.bytes).ok()
        };
        *self.shared.get_or_init(|| share().unwrap_or(0))
    }

    /// Empty unless it is the kernel's.
    pub fn name(&self) -> &'static str {
        if self.is_kernels() { "vmlinux" } else { "" }
    }

    /// Whether it is the running kernel's.
    pub fn is_kernels(&self) -> bool {
        self.id == KERNEL_ID
    }

    /// The types in it.
    pub fn types(&self) -> &Btf {
        &self.types
    }
}

impl Bpf {
    /// `BPF_BTF_LOAD`.
    ///
    /// # Errors
    /// E2BIG above 16 MiB or with unknown bytes in the header; EINVAL with
    /// the reason for a description that is not laid out as BTF.
    pub fn btf_load(&self, bytes: Vec<u8>) -> Result<Arc<BtfObject>, BtfError> {
        let types = Btf::parse(&bytes)?;
        let mut tables = self.home.tables();
        let id = tables.btfs.next_free_id().max(KERNEL_ID + 1);
        let object = Arc::new(BtfObject {
            id,
            bytes: bytes.into(),
            types,
            shared: OnceLock::new(),
            extra: Extra::default(),
            home: Arc::downgrade(&self.home),
        });
        tables.btfs.insert(id, &object);
        Ok(object)
    }

    /// The running kernel's description, read when a tool first looks for it;
    /// none where the kernel does not tell its types.
    pub(super) fn kernel_btf(&self) -> Option<&Arc<BtfObject>> {
        let read = || {
            let bytes = std::fs::read(KERNEL_BTF).ok()?;
            let object = Arc::new(BtfObject {
                id: KERNEL_ID,
                types: Btf::parse(&bytes).ok()?,
                bytes: bytes.into(),
                shared: OnceLock::new(),
                extra: Extra::default(),
                home: Weak::new(),
            });
            self.home.tables().btfs.insert(KERNEL_ID, &object);
            Some(object)
        };
        self.kernel_btf.get_or_init(read).as_ref()
    }
}
