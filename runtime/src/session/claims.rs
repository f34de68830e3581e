//! Who outside of a session's tool uses an object of it. Each use is a *claim*,
//! one more hard link to the object's claim file in the session: a pin is one
//! in the tree of pins, what another session works with one in that session's
//! directory. So the kernel counts them, a claim goes with the directory of
//! whoever made it, and unlink(2) and rename(2) of pins need no help.
//!
//! It knows no object's contents, and not where pins lie.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uapi::Errno;

use super::objects::ObjectKind;
use super::{DATA, SessionView, file, sweep};

/// Name prefix of claim files in their own session.
const CLAIM_PREFIX: &str = "claim-";
/// Name prefix of this session's claims on objects of others.
const HOLD_PREFIX: &str = "hold-";
/// First line of a claim file.
const TITLE: &str = "bpftime object";
/// Longest claim file that is read.
const MOST_BYTES: usize = 256;
/// How long somebody else may change the claims of a session.
const WAIT: Duration = Duration::from_secs(1);

/// What a claim file names: what is behind a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Directory of the session, in the sessions directory.
    pub session: String,
    /// Map, program or link.
    pub kind: ObjectKind,
    /// The object.
    pub id: u32,
}

fn word(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Map => "map",
        ObjectKind::Program => "prog",
        ObjectKind::Link => "link",
        ObjectKind::PerfRing => "ring",
        ObjectKind::Btf => "btf",
    }
}

fn kind(word: &str) -> Option<ObjectKind> {
    let kinds = [ObjectKind::Map, ObjectKind::Program, ObjectKind::Link];
    kinds.into_iter().find(|kind| self::word(*kind) == word)
}

impl Claim {
    fn file_name(&self) -> String {
        format!("{CLAIM_PREFIX}{}-{}", word(self.kind), self.id)
    }

    fn text(&self) -> String {
        let (session, kind) = (&self.session, word(self.kind));
        format!("{TITLE}\n{session}\n{kind} {}\n", self.id)
    }

    fn parse(bytes: &[u8]) -> Option<Claim> {
        let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
        let title = lines.next()?;
        let session = lines.next()?;
        let (kind, id) = lines.next()?.split_once(' ')?;
        let claim = Claim {
            session: session.to_owned(),
            kind: self::kind(kind)?,
            id: id.parse().ok()?,
        };
        let sane = title == TITLE && sweep::is_session_name(session.as_bytes());
        (sane && claim.text().as_bytes() == bytes).then_some(claim)
    }

    /// What the file under `name` in a directory claims, if it is the link to a
    /// claim file that it looks like: whatever else lies there is told by
    /// EACCES, as the kernel does.
    ///
    /// # Errors
    /// Those of openat(2); EACCES; ENOENT when the session is gone.
    pub fn read(sessions: &Path, directory: RawFd, name: &CStr) -> Result<Claim, Errno> {
        // Without opening what may be a device, or wait for a writer.
        let found = file::open_at(directory, name, libc::O_PATH)?;
        let stat = file::fstat(&found)?;
        if stat.mode & libc::S_IFMT != libc::S_IFREG || stat.uid != file::euid() {
            return Err(Errno::EACCES);
        }
        let again = file::c_path(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())))?;
        let fd = file::open(&again, libc::O_RDONLY, 0)?;
        let claim = Claim::parse(&file::read_upto(&fd, MOST_BYTES)?).ok_or(Errno::EACCES)?;
        let own = file::c_path(&sessions.join(&claim.session).join(claim.file_name()))?;
        match file::lstat(&own) {
            Ok(own) if (own.dev, own.ino) == (stat.dev, stat.ino) => Ok(claim),
            Ok(_) => Err(Errno::EACCES),
            Err(_) if !sessions.join(&claim.session).join(DATA).exists() => Err(Errno::ENOENT),
            Err(_) => Err(Errno::EACCES),
        }
    }
}

/// The claims of one session, from whichever process; changes are made with
/// the lock of [`Claims::lock`].
#[derive(Clone, Debug)]
pub(super) struct Claims {
    path: PathBuf,
}

impl Claims {
    pub fn of(session: &Path) -> Claims {
        Claims {
            path: session.to_owned(),
        }
    }

    fn claim(&self, kind: ObjectKind, id: u32) -> Claim {
        let name = self.path.file_name().unwrap_or_default();
        Claim {
            session: String::from_utf8_lossy(name.as_bytes()).into_owned(),
            kind,
            id,
        }
    }

    fn file(&self, kind: ObjectKind, id: u32) -> Result<CString, Errno> {
        file::c_path(&self.path.join(self.claim(kind, id).file_name()))
    }

    /// Keeps objects from going and claims from coming until it is dropped.
    ///
    /// # Errors
    /// EAGAIN when another holds it for a second; ENOENT without the session.
    pub fn lock(&self) -> Result<OwnedFd, Errno> {
        let data = file::c_path(&self.path.join(DATA))?;
        let fd = file::open(&data, libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
        file::flock_soon(&fd, WAIT)?;
        Ok(fd)
    }

    /// How many there are on an object.
    pub fn count(&self, kind: ObjectKind, id: u32) -> u64 {
        let path = self.file(kind, id);
        let stat = path.and_then(|path| file::lstat(&path));
        stat.map_or(0, |stat| stat.nlink.saturating_sub(1))
    }

    /// Makes one more, under a name in a directory, if the object is there.
    fn add(
        &self,
        (kind, id): (ObjectKind, u32),
        there: impl FnOnce() -> bool,
        (directory, name): (RawFd, &CStr),
    ) -> Result<(), Errno> {
        let lock = self.lock()?;
        if !there() {
            return Err(Errno::ENOENT);
        }
        let path = self.file(kind, id)?;
        if file::lstat(&path).is_err() {
            let claim = self.claim(kind, id);
            file::replace_in(&self.path.join(claim.file_name()), claim.text().as_bytes())?;
        }
        let made = file::link(&path, directory, name);
        drop(lock);
        made
    }

    /// The object goes: so does its claim file. With the lock held.
    pub fn forget(&self, kind: ObjectKind, id: u32) {
        if let Ok(path) = self.file(kind, id) {
            // Absent when nobody ever claimed it.
            let _ = file::unlink(&path);
        }
    }

    /// Whether any object has a claim on it. Does not allocate.
    pub fn any(session: &CStr) -> bool {
        let mut any = false;
        let _ = for_each(session, |_, _| any = true);
        any
    }
}

/// Calls `each` with what is claimed in a session. Does not allocate.
pub(super) fn for_each(session: &CStr, mut each: impl FnMut(ObjectKind, u32)) -> Result<(), Errno> {
    let dir = file::open(session, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    file::for_each_name(&dir, |name| {
        let claimed = || {
            let name = std::str::from_utf8(name.to_bytes()).ok()?;
            let (word, id) = name.strip_prefix(CLAIM_PREFIX)?.split_once('-')?;
            Some((kind(word)?, id.parse().ok()?))
        };
        if let Some((kind, id)) = claimed()
            && file::stat_at(dir.as_raw_fd(), name, libc::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.nlink > 1)
        {
            each(kind, id);
        }
    })
}

/// A claim of this process's session on an object of another; gone with it.
#[derive(Debug)]
pub struct Hold {
    path: CString,
}

impl Hold {
    /// Claims an object that `view` shows for the session in `own`.
    ///
    /// # Errors
    /// ENOENT when it is gone; those of link(2).
    pub fn on(view: &SessionView, kind: ObjectKind, id: u32, own: &Path) -> Result<Hold, Errno> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = file::c_path(&own.join(format!("{HOLD_PREFIX}{number}")))?;
        let place = (libc::AT_FDCWD, path.as_c_str());
        let there = || view.has(id, kind);
        Claims::of(view.path()).add((kind, id), there, place)?;
        Ok(Hold { path })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Gone already when the session was removed.
        let _ = file::unlink(&self.path);
    }
}

/// Pins an object under a name in a directory.
///
/// # Errors
/// EEXIST when the name is taken; ENOENT when the object is gone.
pub fn pin(
    session: &Path,
    (kind, id): (ObjectKind, u32),
    there: impl FnOnce() -> bool,
    place: (RawFd, &CStr),
) -> Result<(), Errno> {
    Claims::of(session).add((kind, id), there, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_claims_write_is_a_claim() {
        let claim = Claim {
            session: "12-0".into(),
            kind: ObjectKind::Link,
            id: 7,
        };
        let text = claim.text();
        assert_eq!(Claim::parse(text.as_bytes()), Some(claim));
        for garbage in [
            "",
            "bpftime object\n../12-0\nmap 1\n",
            "bpftime object\n12-0\nmap 01\n",
            "bpftime object\n12-0\nmap 1\nmore\n",
            "bpftime object\n12-0\nbtf 1\n",
            "bpftime object\n12-0\nmap 4294967296\n",
            "other\n12-0\nmap 1\n",
        ] {
            assert_eq!(Claim::parse(garbage.as_bytes()), None, "{garbage:?}");
        }
    }
}
