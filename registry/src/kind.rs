//! What bytes are, by how they begin.

/// `EM_BPF` (include/uapi/linux/elf-em.h).
const MACHINE_BPF: [u8; 2] = 247_u16.to_le_bytes();
/// Where an ELF header has its machine.
const MACHINE_AT: usize = 18;
/// Where a tar header has its magic.
const TAR_AT: usize = 257;

/// What can be run and distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Wasm module.
    Module,
    /// A Wasm component.
    Component,
    /// An eBPF object.
    Object,
    /// A package in JSON.
    Package,
    /// A package with types of kernels, in a tar archive.
    Archive,
}

impl Kind {
    /// Of these bytes; `None` for anything else.
    pub fn of(bytes: &[u8]) -> Option<Kind> {
        let at =
            |place: usize, wanted: &[u8]| bytes.get(place..place + wanted.len()) == Some(wanted);
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        match () {
            () if at(0, b"\0asm\x0d\0\x01\0") => Some(Kind::Component),
            () if at(0, b"\0asm") => Some(Kind::Module),
            () if at(0, b"\x7fELF") && at(MACHINE_AT, &MACHINE_BPF) => Some(Kind::Object),
            () if at(TAR_AT, b"ustar") => Some(Kind::Archive),
            () if first == Some(&b'{') => Some(Kind::Package),
            () => None,
        }
    }

    /// A file of this kind that has no name of its own.
    pub fn file_name(self) -> &'static str {
        match self {
            Kind::Module | Kind::Component => "app.wasm",
            Kind::Object => "app.bpf.o",
            Kind::Package => "package.json",
            Kind::Archive => "package.tar",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_beginning() {
        let mut object = b"\x7fELF".to_vec();
        object.resize(MACHINE_AT, 0);
        let native = [object.as_slice(), &[62, 0]].concat();
        object.extend(MACHINE_BPF);
        let mut archive = vec![0; TAR_AT];
        archive.extend(b"ustar\0");
        assert_eq!(Kind::of(b"\0asm\x01\0\0\0"), Some(Kind::Module));
        assert_eq!(Kind::of(b"\0asm\x0d\0\x01\0"), Some(Kind::Component));
        assert_eq!(Kind::of(&object), Some(Kind::Object));
        assert_eq!(Kind::of(&archive), Some(Kind::Archive));
        assert_eq!(Kind::of(b"\n {}"), Some(Kind::Package));
        for other in [&native[..], b"", b"#!/bin/sh", b"\x7fELF"] {
            assert_eq!(Kind::of(other), None);
        }
    }
}
