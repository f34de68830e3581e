//! Limits, places and wishes for one command. Whoever fills it in has read
//! the environment; nobody here does.

use std::path::PathBuf;
use std::time::Duration;

/// How long a server may take to accept a connection.
pub const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may be silent.
pub const SILENCE: Duration = Duration::from_secs(30);
/// More is not read of what says what is where.
pub const LARGEST_MANIFEST: u64 = 4 << 20;
/// What is run may be so large, if nothing else is said.
pub const LARGEST: u64 = 256 << 20;

/// Called with how much has come, and of how much if that is known.
pub type Progress = dyn Fn(u64, Option<u64>);

/// Where a user keeps what.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Blobs by digest. Without it nothing is kept.
    pub cache: Option<PathBuf>,
    /// Our own logins and keys.
    pub config: Option<PathBuf>,
    /// Files in docker's format in which logins are looked up, too.
    pub logins: Vec<PathBuf>,
}

/// What one command may do.
pub struct Settings {
    /// Where things are.
    pub places: Places,
    /// Speak plain HTTP to the registry.
    pub insecure: bool,
    /// The most bytes that are taken.
    pub largest: u64,
    /// Files with keys of which one must have signed.
    pub keys: Vec<PathBuf>,
    /// Who is told how far it is.
    pub progress: Option<Box<Progress>>,
}

impl Settings {
    pub(crate) fn tell(&self, came: u64, of: Option<u64>) {
        if let Some(progress) = &self.progress {
            progress(came, of);
        }
    }
}

/// A number of bytes as a user would write it.
pub(crate) fn size_words(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = |shift: &u32| bytes >= 1 << shift && bytes.trailing_zeros() >= *shift;
    match units.iter().find(|(shift, _)| fits(shift)) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_they_are_typed() {
        let told = [1 << 30, LARGEST, 3 << 10, 1025, 0].map(size_words);
        assert_eq!(told, ["1 GiB", "256 MiB", "3 KiB", "1025 bytes", "0 bytes"]);
    }
}
