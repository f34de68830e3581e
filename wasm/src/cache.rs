//! Compiled modules on disk, so that each is compiled once. It knows neither
//! what a module does nor who asks; without it everything works, later.
//!
//! What lies here is machine code that is run unseen. So nothing is read from a
//! directory or file that anybody but its owner could have written, or whose
//! contents are not what was stored, and whatever is wrong means: not there.
//!
//! wasmtime's own cache looks at no owner, and stores from a thread that a short
//! run does not wait for.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

/// Most bytes that all entries together may have.
const MOST_BYTES: u64 = 256 << 20;

/// Bytes of the digest behind an entry's code.
const DIGEST: usize = 32;

/// What an entry is found by: the module and who compiled it, how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// The key of a module for this engine.
    pub(crate) fn new(engine: &Engine, module: &[u8]) -> Key {
        struct Bytes(Sha256);
        impl Hasher for Bytes {
            fn write(&mut self, bytes: &[u8]) {
                self.0.update(bytes);
            }
            fn finish(&self) -> u64 {
                0
            }
        }
        let mut bytes = Bytes(Sha256::new_with_prefix(Sha256::digest(module)));
        engine.precompile_compatibility_hash().hash(&mut bytes);
        let mut name = String::new();
        for byte in bytes.0.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        Key(name)
    }
}

/// A directory of compiled modules that is this user's alone.
pub(crate) struct Cache {
    dir: OwnedFd,
    most_bytes: u64,
}

impl Cache {
    /// Opens the directory, and makes it where there is none. `None` if it is
    /// not a directory, another user's, or open to others.
    pub(crate) fn open(path: &Path) -> Option<Cache> {
        // Why it cannot be made, opening tells.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(path);
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = open(path, flags, Mode::empty()).ok()?;
        let stat = fstat(&dir).ok()?;
        is_private(&stat, SFlag::S_IFDIR).then_some(Cache {
            dir,
            most_bytes: MOST_BYTES,
        })
    }

    /// The code that was stored under `key`, as it was stored.
    pub(crate) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        // Opening what is no file shall not wait.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&self.dir, key.0.as_str(), flags, Mode::empty()).ok()?);
        let stat = fstat(&file).ok()?;
        let size = u64::try_from(stat.st_size).ok()?;
        if !is_private(&stat, SFlag::S_IFREG) || size > self.most_bytes {
            return None;
        }
        let mut code = Vec::with_capacity(size as usize);
        Read::by_ref(&mut file)
            .take(size)
            .read_to_end(&mut code)
            .ok()?;
        let digest = code.split_off(code.len().checked_sub(DIGEST)?);
        if Sha256::digest(&code)[..] != digest {
            return None;
        }
        // The time of its last use; without, it goes sooner.
        let _ = futimens(&file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW);
        Some(code)
    }

    /// Stores code under `key`, whole or not at all, and takes away what was
    /// not used for longest where there is too much.
    pub(crate) fn put(&self, key: &Key, code: &[u8]) {
        // Who cannot store compiles again.
        if self.store(key, code).is_ok() {
            let _ = self.prune();
        }
    }

    fn store(&self, key: &Key, code: &[u8]) -> io::Result<()> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let size = (code.len() + DIGEST) as u64;
        // Who exceeds the limit on file sizes is killed.
        let (most, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if size > most.min(self.most_bytes) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = format!(".{}.{}.{number}", key.0, std::process::id());
        // A leftover of a killed process that had our id.
        let _ = self.remove(temporary.as_ref());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut file = File::from(openat(&self.dir, temporary.as_str(), flags, mode)?);
        let mut write = || {
            file.write_all(code)?;
            file.write_all(&Sha256::digest(code))?;
            renameat(&self.dir, temporary.as_str(), &self.dir, key.0.as_str())?;
            Ok(())
        };
        write().inspect_err(|_| {
            // The first error is the one to tell.
            let _ = self.remove(temporary.as_ref());
        })
    }

    fn remove(&self, name: &std::ffi::OsStr) -> nix::Result<()> {
        unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir)
    }

    /// Takes away what was not used for longest until the rest is small enough;
    /// so leftovers go, too.
    fn prune(&self) -> io::Result<()> {
        let mut entries: Vec<(SystemTime, u64, OsString)> = Vec::new();
        for entry in fs::read_dir(format!("/proc/self/fd/{}", self.dir.as_raw_fd()))? {
            let entry = entry?;
            // Another process may have taken it away.
            if let Ok(metadata) = entry.metadata() {
                entries.push((metadata.modified()?, metadata.size(), entry.file_name()));
            }
        }
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, name) in entries {
            if total <= self.most_bytes {
                break;
            }
            if self.remove(&name).is_ok() {
                total -= size;
            }
        }
        Ok(())
    }
}

/// Whether this is of the wanted kind, ours, and nobody else's to read or write.
fn is_private(stat: &FileStat, kind: SFlag) -> bool {
    let mode = stat.st_mode;
    mode & SFlag::S_IFMT.bits() == kind.bits()
        && mode & 0o077 == 0
        && stat.st_uid == geteuid().as_raw()
}

#[cfg(test)]
mod tests;
