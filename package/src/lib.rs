//! What a user hands over to be run: JSON packages and archives of eBPF objects.
//!
//! A package is an object file and what is to be done with it: options for its
//! variables, where programs are put, which maps are shown and how. The format
//! is eunomia-bpf's, in all its dialects; [`Package::parse`] makes one thing of
//! them. It runs nothing and reads no file.
//!
//! Reading order: `meta` (what a package says), `format` (bytes to a package),
//! `encoded` (the object in it), `archive` (packages with types beside them),
//! [`error`], [`write`](mod@write) (how packages are made).

mod archive;
mod encoded;
pub mod error;
mod format;
pub mod meta;
#[cfg(test)]
mod tests;
pub mod write;

pub use error::Error;
pub use meta::Meta;

/// A package that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    /// The bytes of its object file; `None` if only a skeleton was given, whose
    /// object is a file of its own.
    pub object: Option<Vec<u8>>,
    /// What is to be done with it.
    pub meta: Meta,
    /// Types of kernels that came with it.
    pub kernels: Vec<KernelTypes>,
}

/// The types of one kernel, as an archive has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelTypes {
    /// Where they lie in the archive: `…/OS/VERSION/MACHINE/RELEASE.btf`.
    pub path: String,
    /// BTF.
    pub bytes: Vec<u8>,
}

impl KernelTypes {
    /// The kernel's release, as uname(2) says it.
    pub fn release(&self) -> &str {
        let file = self.path.rsplit('/').next().unwrap_or("");
        file.strip_suffix(".btf").unwrap_or(file)
    }
}

impl Package {
    /// Reads a package of any dialect: a JSON or YAML package, a skeleton, or
    /// an archive (tar) with a package in it; each may be compressed by gzip.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(bytes: &[u8]) -> Result<Package, Error> {
        format::parse(bytes)
    }

    /// The package as JSON, as `ecc` writes it.
    ///
    /// # Errors
    /// If it has no object.
    pub fn to_json(&self) -> Result<String, Error> {
        format::to_json(self)
    }

    /// Whether bytes are meant as a package: whether [`Package::parse`] has
    /// something to say of them.
    pub fn is_meant(bytes: &[u8]) -> bool {
        archive::is_gzip(bytes) || archive::is_tar(bytes) || format::is_text(bytes)
    }

    /// Types of records that came beside the object's own (BTF).
    ///
    /// # Errors
    /// If they are no base64.
    pub fn export_btf(&self) -> Result<Option<Vec<u8>>, Error> {
        self.meta
            .export_btf
            .as_deref()
            .map(encoded::bytes)
            .transpose()
    }

    /// The types of the running kernel among those that came with it.
    pub fn kernel(&self, release: &str) -> Option<&KernelTypes> {
        self.kernels.iter().find(|types| types.release() == release)
    }
}
