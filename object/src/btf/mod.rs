//! The BPF type format: what a loader says of a program's types, functions
//! and lines. It follows the kernel's rules for `BPF_BTF_LOAD`
//! (kernel/bpf/btf.c), never recurses, and takes memory in proportion to the
//! bytes. It knows no program and no map.
//!
//! Reading order: `types` (the shapes), `header`, `parse` (bytes to shapes),
//! `check` (what shapes say of each other), `access` (what lies where), `member` (where a name lies).

mod access;
pub mod build;
mod check;
mod header;
mod member;
mod parse;
mod types;

use std::collections::HashMap;

use uapi::Errno;

pub use access::{Field, Space};
pub use types::{Member, Modifier, Param, SectionVar, Shape, Type};

/// Why bytes are not BTF that the kernel would take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct BtfError {
    /// What `BPF_BTF_LOAD` returns.
    pub errno: Errno,
    /// The reason, in the kernel's words where it has some.
    pub text: String,
}

impl BtfError {
    fn new(errno: Errno, text: impl Into<String>) -> BtfError {
        BtfError {
            errno,
            text: text.into(),
        }
    }

    fn invalid(text: impl Into<String>) -> BtfError {
        BtfError::new(Errno::EINVAL, text)
    }
}

/// A checked description: every type id in it names a type, nothing contains
/// itself, and sizes are known.
#[derive(Debug)]
pub struct Btf {
    /// By type id; the first is void.
    types: Vec<Type>,
    strings: Box<[u8]>,
    /// Bytes of each type; `None` for what has no size.
    sizes: Vec<Option<u32>>,
    /// Declaration tags by the type they are on, in order of their ids.
    tags: HashMap<u32, Vec<(i32, u32)>>,
}

impl Btf {
    /// Reads a description.
    ///
    /// # Errors
    /// As `BPF_BTF_LOAD`: EINVAL, E2BIG or ENOTSUPP, with the reason.
    pub fn parse(bytes: &[u8]) -> Result<Btf, BtfError> {
        let (records, strings) = header::sections(bytes)?;
        let types = parse::types(records, strings)?;
        let sizes = check::sizes(&types)?;
        let mut tags: HashMap<u32, Vec<(i32, u32)>> = HashMap::new();
        for ty in &types {
            if let Shape::DeclTag { to, component } = ty.shape {
                tags.entry(to).or_default().push((component, ty.name));
            }
        }
        let btf = Btf {
            types,
            strings: strings.into(),
            sizes,
            tags,
        };
        check::references(&btf)?;
        Ok(btf)
    }

    /// Number of types; ids run from 1 to it.
    pub fn count(&self) -> u32 {
        self.types.len() as u32 - 1
    }

    /// A type by id; id 0 is void.
    pub fn get(&self, id: u32) -> Option<&Type> {
        self.types.get(id as usize)
    }

    /// The string at an offset; `None` beyond the end.
    pub fn string(&self, offset: u32) -> Option<&str> {
        let tail = self.strings.get(offset as usize..)?;
        let end = tail.iter().position(|&b| b == 0)?;
        // The kernel demands no encoding of source lines.
        Some(std::str::from_utf8(&tail[..end]).unwrap_or("?"))
    }

    /// The name of a type; empty when it has none.
    pub fn name(&self, id: u32) -> &str {
        let ty = self.get(id);
        ty.and_then(|ty| self.string(ty.name)).unwrap_or("")
    }

    /// Bytes of a value of the type; `None` for void, functions and structures
    /// that are only declared.
    pub fn size(&self, id: u32) -> Option<u32> {
        self.sizes.get(id as usize).copied().flatten()
    }

    /// The type behind typedefs, qualifiers and type tags.
    pub fn resolve(&self, mut id: u32) -> u32 {
        // Checked: no chain comes back to itself.
        while let Some(Shape::Modifier { to, .. }) = self.get(id).map(|ty| &ty.shape) {
            id = *to;
        }
        id
    }

    /// As [`Btf::resolve`], with the type itself.
    pub fn resolved(&self, id: u32) -> (u32, &Shape) {
        let id = self.resolve(id);
        (id, self.get(id).map_or(&Shape::Void, |ty| &ty.shape))
    }

    /// Declaration tags of a type (component -1), a parameter or a member.
    pub fn tags(&self, id: u32, component: i32) -> impl Iterator<Item = &str> {
        let all = self.tags.get(&id).map_or(&[][..], Vec::as_slice);
        all.iter()
            .filter(move |tag| tag.0 == component)
            .filter_map(|tag| self.string(tag.1))
    }

    /// The first type with this name that `wanted` takes.
    pub fn find(&self, name: &str, wanted: impl Fn(&Shape) -> bool) -> Option<u32> {
        let mut ids = 1..=self.count();
        ids.find(|&id| {
            let ty = &self.types[id as usize];
            wanted(&ty.shape) && self.string(ty.name) == Some(name)
        })
    }
}

#[cfg(test)]
mod tests;
