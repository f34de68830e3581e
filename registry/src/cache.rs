//! Blobs that have been fetched, each under its digest. What is read is
//! checked, so nobody has to keep it in order: a damaged or cut file is as
//! good as none, and all of it may be deleted at any time.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::digest::Digest;

/// The directory, if there is one.
pub(crate) struct Cache {
    root: Option<PathBuf>,
}

impl Cache {
    /// In `root`, which need not exist yet.
    pub fn new(root: Option<&Path>) -> Cache {
        Cache {
            root: root.map(Path::to_owned),
        }
    }

    /// The bytes that `digest` names, if they are all there.
    pub fn blob(&self, digest: &Digest, largest: u64) -> Option<Vec<u8>> {
        let path = self.blob_path(digest)?;
        if fs::metadata(&path).ok()?.len() > largest {
            return None;
        }
        let bytes = fs::read(&path).ok()?;
        if digest.check(&bytes).is_ok() {
            return Some(bytes);
        }
        // The next one to ask shall find the right bytes here.
        drop(fs::remove_file(&path));
        None
    }

    /// Keeps `bytes`. Who could not keep them has them still, and goes on.
    pub fn keep_blob(&self, digest: &Digest, bytes: &[u8]) {
        if let Some(path) = self.blob_path(digest) {
            drop(write_by_rename(&path, bytes, 0o644));
        }
    }

    /// What is known of the signatures of `digest`: they are checked anew by
    /// whoever needs them.
    pub fn signatures(&self, digest: &Digest) -> Option<Vec<u8>> {
        fs::read(self.signatures_path(digest)?).ok()
    }

    /// Keeps what was found out about signatures.
    pub fn keep_signatures(&self, digest: &Digest, bytes: &[u8]) {
        if let Some(path) = self.signatures_path(digest) {
            drop(write_by_rename(&path, bytes, 0o644));
        }
    }

    fn blob_path(&self, digest: &Digest) -> Option<PathBuf> {
        let root = self.root.as_ref()?;
        Some(root.join("blobs/sha256").join(digest.hex()))
    }

    fn signatures_path(&self, digest: &Digest) -> Option<PathBuf> {
        let root = self.root.as_ref()?;
        Some(root.join("signatures/sha256").join(digest.hex()))
    }
}

/// Writes a file for everybody to read, that is there whole or not at all. What
/// is no file, as /dev/null or a pipe, is written to and stays what it is.
pub fn write_file(path: &Path, bytes: &[u8], may_replace: bool) -> io::Result<()> {
    if may_replace && fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(bytes);
    }
    let file = beside(path, bytes, 0o644)?;
    match may_replace {
        true => file.persist(path)?,
        false => file.persist_noclobber(path)?,
    };
    Ok(())
}

/// Replaces a file, or leaves it as it is.
pub(crate) fn write_by_rename(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    beside(path, bytes, mode)?.persist(path)?;
    Ok(())
}

fn beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    let mut file = tempfile::Builder::new()
        .prefix(".bpftime-")
        .permissions(permissions)
        .tempfile_in(dir)
        .map_err(bare)?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_data()?;
    Ok(file)
}

/// The kernel's own error, without the name of a file that nobody knows.
fn bare(error: io::Error) -> io::Error {
    // tempfile keeps the kind alone where others can see it.
    let errno = match error.kind() {
        io::ErrorKind::NotFound => libc::ENOENT,
        io::ErrorKind::PermissionDenied => libc::EACCES,
        io::ErrorKind::StorageFull => libc::ENOSPC,
        io::ErrorKind::QuotaExceeded => libc::EDQUOT,
        io::ErrorKind::ReadOnlyFilesystem => libc::EROFS,
        io::ErrorKind::NotADirectory => libc::ENOTDIR,
        _ => return error,
    };
    io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_blobs_are_as_good_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::new(Some(dir.path()));
        let digest = Digest::of(b"all of it");
        assert_eq!(cache.blob(&digest, 100), None);
        cache.keep_blob(&digest, b"all of it");
        assert_eq!(cache.blob(&digest, 100).as_deref(), Some(&b"all of it"[..]));
        assert_eq!(cache.blob(&digest, 8), None, "larger than allowed");
        let path = cache.blob_path(&digest).expect("a path");
        fs::write(&path, b"all of").expect("a cut file");
        assert_eq!(cache.blob(&digest, 100), None);
        assert!(!path.exists(), "what is damaged goes");
    }

    #[test]
    fn a_device_stays_a_device() {
        let null = Path::new("/dev/null");
        assert!(write_file(null, b"x", true).is_ok());
        assert!(write_file(null, b"x", false).is_err());
        assert!(fs::metadata(null).is_ok_and(|there| !there.is_file()));
    }

    #[test]
    fn nothing_half_written_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).expect("a directory in the way");
        assert!(write_by_rename(&taken, b"x", 0o600).is_err());
        let left = fs::read_dir(dir.path()).expect("the directory").count();
        assert_eq!(left, 1);
    }
}
