//! What is wrong with a package.

/// Why bytes are no package. Each prints as one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither text that begins as a package nor an archive.
    #[error("is no package: {0}")]
    Format(String),
    /// What it says is not what packages say.
    #[error("is no package of eBPF programs: {0}")]
    Meaning(String),
    /// Its object is not text that stands for bytes.
    #[error("has a damaged object: {0}")]
    Encoding(String),
    /// Its object is not as long as it says.
    #[error("has an object of {found} bytes where it says {said}")]
    Size {
        /// What it says.
        said: u64,
        /// What there is.
        found: String,
    },
    /// Its object is not one.
    #[error("has an object that is no ELF file")]
    NotElf,
    /// It would need more memory than any package.
    #[error("would take more than {0} MiB")]
    TooLarge(u64),
    /// The archive cannot be read.
    #[error("is a damaged archive: {0}")]
    Archive(String),
    /// There is no package in the archive.
    #[error("is an archive without a package.json")]
    NoPackage,
}
