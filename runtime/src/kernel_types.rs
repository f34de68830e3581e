//! The running kernel's structures, for programs that are only judged: what
//! its BTF says, in the verifier's words. It knows no program.

use std::sync::OnceLock;

use object::btf::{Btf, Field, Shape, Space};
use uapi::Errno;
use vm::verifier::{KernelField, KernelTypes};

/// Where the kernel tells its own types.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The running kernel's structures, read when a program first reaches for one.
#[derive(Debug, Default)]
pub struct KernelStructures(OnceLock<Option<KernelBtf>>);

impl KernelStructures {
    /// The types themselves.
    pub(crate) fn types(&self) -> Option<&Btf> {
        self.0
            .get_or_init(KernelBtf::read)
            .as_ref()
            .map(KernelBtf::types)
    }

    pub(crate) fn get(&self) -> Option<&dyn KernelTypes> {
        let types = self.0.get_or_init(KernelBtf::read).as_ref();
        types.map(|types| types as &dyn KernelTypes)
    }
}

/// The kernel's BTF.
#[derive(Debug)]
pub(crate) struct KernelBtf(Btf);

impl KernelBtf {
    /// The running kernel's; `None` where it does not tell its types.
    pub(crate) fn read() -> Option<KernelBtf> {
        let bytes = std::fs::read(KERNEL_BTF).ok()?;
        Btf::parse(&bytes).ok().map(KernelBtf)
    }

    pub(crate) fn types(&self) -> &Btf {
        &self.0
    }
}

impl KernelTypes for KernelBtf {
    fn structure(&self, name: &str) -> Option<u32> {
        self.0
            .find(name, |shape| matches!(shape, Shape::Struct { .. }))
    }

    fn name(&self, structure: u32) -> &str {
        self.0.name(structure)
    }

    fn field(&self, structure: u32, off: u32, size: u32) -> Result<KernelField, (Errno, String)> {
        let field = self.0.field(structure, off, size);
        Ok(match field.map_err(|error| (error.errno, error.text))? {
            Field::Scalar => KernelField::Scalar,
            Field::Memory => KernelField::Memory,
            // Not to be followed.
            Field::Pointer {
                space: Space::User | Space::Percpu,
                ..
            } => KernelField::Scalar,
            Field::Pointer { to, space, shared } => KernelField::Pointer {
                to,
                or_null: space == Space::Rcu,
                untrusted: shared,
            },
        })
    }
}

/// Where the running kernel has members of a structure.
#[derive(Debug)]
pub struct Places {
    /// Bytes of the structure.
    pub bytes: u32,
    /// First bytes of the members, in the order asked; `None` for one that
    /// this kernel does not have.
    pub members: Vec<Option<u32>>,
}

/// Where the running kernel has members of structures, by their names; `None`
/// for structures that it does not have, and where it does not tell its types.
pub fn places(wanted: &[(&str, Vec<&str>)]) -> Vec<Option<Places>> {
    let kernel = KernelBtf::read();
    let places = |(structure, members): &(&str, Vec<&str>)| {
        let types = kernel.as_ref()?.types();
        let id = types.find(structure, |shape| matches!(shape, Shape::Struct { .. }))?;
        let place = |name: &&str| types.member(id, &[*name]).map(|(at, _)| at);
        Some(Places {
            bytes: types.size(id)?,
            members: members.iter().map(place).collect(),
        })
    };
    wanted.iter().map(places).collect()
}
