//! `BPF_BTF_LOAD`: checks a type description and keeps it. It knows no type's
//! meaning.

use std::sync::Arc;

use object::btf::{Btf, BtfError};

use super::Bpf;

/// A type description that a loader brought.
pub struct BtfObject {
    id: u32,
    bytes: Box<[u8]>,
    types: Btf,
}

impl BtfObject {
    /// The object id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The description as it was loaded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
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
        let id = tables.btfs.next_free_id();
        let object = Arc::new(BtfObject {
            id,
            bytes: bytes.into(),
            types,
        });
        tables.btfs.insert(id, &object);
        Ok(object)
    }
}
