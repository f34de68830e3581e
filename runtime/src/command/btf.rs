//! `BPF_BTF_LOAD`: checks a type description and keeps it. It knows no type's
//! meaning.

use std::fs::{self, File};
use std::sync::{Arc, OnceLock, Weak};

use object::btf::{Btf, BtfError};
use uapi::Errno;

use super::object::Home;
use super::{Bpf, Extra};
use crate::kernel_types::KERNEL_BTF;

/// The kernel's own description has the first id, as in the kernel.
pub(super) const KERNEL_ID: u32 = 1;

/// A type description that a loader brought, or the running kernel's.
pub struct BtfObject {
    id: u32,
    content: Content,
    /// Its id in the session, once a map there needs it.
    shared: OnceLock<u32>,
    /// What the caller keeps with it.
    pub extra: Extra,
    home: Weak<Home>,
}

/// What is said of types.
enum Content {
    Loaded {
        bytes: Box<[u8]>,
        types: Btf,
    },
    /// The kernel says much, and tools that list descriptions want none of it. So
    /// it is read when someone asks.
    Kernels {
        size: u32,
        bytes: OnceLock<Box<[u8]>>,
        types: OnceLock<Option<Btf>>,
    },
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
        let bytes = bytes.into();
        BtfObject::new(id, Content::Loaded { bytes, types }, Weak::new())
    }

    /// The running kernel's; `None` where it does not tell its types.
    fn of_kernel() -> Option<BtfObject> {
        let size = File::open(KERNEL_BTF).ok()?.metadata().ok()?.len();
        let content = Content::Kernels {
            size: size.try_into().ok()?,
            bytes: OnceLock::new(),
            types: OnceLock::new(),
        };
        Some(BtfObject::new(KERNEL_ID, content, Weak::new()))
    }

    fn new(id: u32, content: Content, home: Weak<Home>) -> BtfObject {
        BtfObject {
            id,
            content,
            shared: OnceLock::new(),
            home,
            extra: Extra::default(),
        }
    }

    /// The object id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How many bytes the description has.
    pub fn size(&self) -> u32 {
        match &self.content {
            Content::Loaded { bytes, .. } => bytes.len() as u32,
            Content::Kernels { size, .. } => *size,
        }
    }

    /// The description as it was loaded.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Loaded { bytes, .. } => bytes,
            Content::Kernels { bytes, .. } => {
                bytes.get_or_init(|| fs::read(KERNEL_BTF).unwrap_or_default().into())
            }
        }
    }

    /// Its id in the session, where everyone can read it; 0 when there is no
    /// session or no room: maps do without.
    pub(super) fn share(&self) -> u32 {
        let share = || {
            let home = self.home.upgrade()?;
            home.session().ok()?.create_btf(self.bytes()).ok()
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
    ///
    /// # Errors
    /// EINVAL if the kernel does not say of its types what it should.
    pub fn types(&self) -> Result<&Btf, Errno> {
        match &self.content {
            Content::Loaded { types, .. } => Ok(types),
            Content::Kernels { types, .. } => types
                .get_or_init(|| Btf::parse(self.bytes()).ok())
                .as_ref()
                .ok_or(Errno::EINVAL),
        }
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
        let bytes = bytes.into();
        let content = Content::Loaded { bytes, types };
        let object = Arc::new(BtfObject::new(id, content, Arc::downgrade(&self.home)));
        tables.btfs.insert(id, &object);
        Ok(object)
    }

    /// The running kernel's description, looked for when a tool first does;
    /// none where the kernel does not tell its types.
    pub(super) fn kernel_btf(&self) -> Option<&Arc<BtfObject>> {
        let read = || {
            let object = Arc::new(BtfObject::of_kernel()?);
            self.home.tables().btfs.insert(KERNEL_ID, &object);
            Some(object)
        };
        self.kernel_btf.get_or_init(read).as_ref()
    }
}
