//! Where a tool sees bpffs: a tree of directories in the user's sessions
//! directory, in which pins are hard links ([`runtime::session::claims`]). All
//! of the user's tools see the same one, and nobody else does. It knows no
//! object.
//!
//! Paths below `/sys/fs/bpf`, and below wherever else the kernel's bpffs is
//! mounted, lead into the tree; there the kernel's own calls do the rest.

mod calls;

use std::ffi::{CString, OsStr, c_char, c_int};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use runtime::session::Dirs;
use runtime::session::dirs::PINS_PREFIX;
use runtime::session::file;
use uapi::Errno;

use crate::environment::Environment;
use crate::{caller, raw, server, user};
pub use calls::{changed, empty, empty_statx, finish_rename, is_inside, open};

/// Where bpffs usually is, also where the kernel has none or lets nobody in.
const USUAL: &str = "/sys/fs/bpf";

/// A place where bpffs is mounted, or could be.
struct Mount {
    at: Vec<Vec<u8>>,
    tree: PathBuf,
}

struct Mounts {
    dirs: Dirs,
    all: Vec<Mount>,
}

fn mounts() -> &'static Mounts {
    static MOUNTS: OnceLock<Mounts> = OnceLock::new();
    MOUNTS.get_or_init(|| {
        let dirs = Dirs::for_library(server::own_path().as_deref());
        let all = match Environment::read().verify_only {
            true => Vec::new(),
            false => find_mounts(&dirs.sessions),
        };
        Mounts { dirs, all }
    })
}

fn find_mounts(sessions: &Path) -> Vec<Mount> {
    let usual = Mount {
        at: components(USUAL.as_bytes()),
        tree: sessions.join(PINS_PREFIX),
    };
    let text = file::read_small(c"/proc/self/mountinfo", 1 << 20).unwrap_or_default();
    let others = text.split(|&byte| byte == b'\n').filter_map(|line| {
        // ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS... - TYPE
        let mut fields = line.split(|&byte| byte == b' ');
        let place = fields.nth(4)?;
        let kind = fields.skip_while(|&field| field != b"-").nth(1)?;
        let known = place.starts_with(USUAL.as_bytes()) || place.contains(&b'\\');
        (kind == b"bpf" && !known).then(|| {
            let mut name = PINS_PREFIX.as_bytes().to_vec();
            name.extend(
                place
                    .iter()
                    .map(|&byte| if byte == b'/' { b'@' } else { byte }),
            );
            Mount {
                at: components(place),
                tree: sessions.join(OsStr::from_bytes(&name)),
            }
        })
    });
    std::iter::once(usual).chain(others).collect()
}

fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|&byte| byte == b'/');
    parts
        .filter(|part| !part.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

impl Mount {
    /// What `path` is in the tree; `None` when it is elsewhere.
    fn inside(&self, path: &[u8]) -> Option<PathBuf> {
        let parts = components(path);
        let below = parts.strip_prefix(&self.at[..])?;
        let mut depth = 0i32;
        for part in below {
            depth += match &part[..] {
                b"." => 0,
                b".." => -1,
                _ => 1,
            };
            if depth < 0 {
                return None;
            }
        }
        let mut real = self.tree.clone().into_os_string().into_vec();
        for part in below {
            real.push(b'/');
            real.extend(part);
        }
        if path.ends_with(b"/") {
            real.push(b'/');
        }
        Some(PathBuf::from(std::ffi::OsString::from_vec(real)))
    }
}

/// Whether bpffs lets a file have this name (`bpf_lookup`).
pub fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name.contains(&b'.') && name != b"." && name != b".." {
        true => Err(Errno::EPERM),
        false => Ok(()),
    }
}

/// Where a path leads that a tool names; `None` when it is not in bpffs.
pub fn lead(path: &[u8]) -> Option<Result<PathBuf, Errno>> {
    if !path.starts_with(b"/") {
        return None;
    }
    let mounts = mounts();
    let found = mounts
        .all
        .iter()
        .find_map(|mount| Some((mount, mount.inside(path)?)));
    let (mount, real) = found?;
    let below = real.strip_prefix(&mount.tree).unwrap_or(Path::new(""));
    let named = below
        .iter()
        .try_for_each(|part| check_name(part.as_bytes()));
    Some(named.and_then(|()| {
        make(&mounts.dirs, &mount.tree)?;
        Ok(real)
    }))
}

/// Makes a tree when it is not there.
fn make(dirs: &Dirs, tree: &Path) -> Result<(), Errno> {
    let name = CString::new(tree.as_os_str().as_bytes()).map_err(|_| Errno::ENOENT)?;
    let mkdir = || {
        let arguments = [
            libc::AT_FDCWD as usize,
            name.as_ptr() as usize,
            0o700,
            0,
            0,
            0,
        ];
        raw::checked(libc::SYS_mkdirat, arguments)
    };
    match mkdir() {
        Err(Errno::ENOENT) => {
            dirs.ensure_sessions().map_err(|_| Errno::EPERM)?;
            mkdir().map(drop)
        }
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The same of a path in the tool's memory, for the kernel. What cannot be read
/// is the kernel's to refuse.
pub fn redirected(path: *const c_char) -> Option<Result<CString, Errno>> {
    let path = user::read_string(path as u64, user::PATH_MAX).ok()?;
    let real = std::panic::catch_unwind(|| lead(&path)).ok()??;
    Some(
        real.and_then(|real| {
            CString::new(real.into_os_string().into_vec()).map_err(|_| Errno::ENOENT)
        }),
    )
}

/// A place for a pin, or of one: the directory and the name in it.
pub struct Place {
    /// The directory.
    pub directory: OwnedFd,
    /// The name; one component.
    pub name: CString,
    /// Whether the path ended with a slash.
    slash: bool,
}

impl Place {
    /// The place that a path names, from an open directory on if it is relative.
    ///
    /// # Errors
    /// Those of looking it up: ENOENT, ENOTDIR, EPERM for a name with a dot.
    pub fn find(directory: c_int, path: &[u8]) -> Result<Place, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let real = match lead(path) {
            Some(real) => real?.into_os_string().into_vec(),
            None => caller::path_at(directory, path)?.into_bytes(),
        };
        let end = real
            .iter()
            .rposition(|&byte| byte != b'/')
            .map_or(0, |at| at + 1);
        let (whole, slash) = (&real[..end], end != real.len());
        let start = whole
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |at| at + 1);
        let (parent, name) = whole.split_at(start);
        let parent = if parent.is_empty() { &b"."[..] } else { parent };
        let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::ENOENT);
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        Ok(Place {
            directory: file::open_at(directory, &c_string(parent)?, flags)?,
            name: c_string(name)?,
            slash,
        })
    }

    /// Whether a new name may be made here.
    ///
    /// # Errors
    /// EEXIST where there is one; EPERM outside of bpffs, and for a name with a
    /// dot; ENOENT for a directory that is none.
    pub fn may_be_made(&self) -> Result<(), Errno> {
        let inside = is_inside(self.directory.as_raw_fd());
        if inside {
            check_name(self.name.as_bytes())?;
        }
        let there = raw::checked(
            libc::SYS_faccessat,
            [
                self.directory.as_raw_fd() as usize,
                self.name.as_ptr() as usize,
                0,
                0,
                0,
                0,
            ],
        );
        match (there, inside) {
            (Ok(_), _) => Err(Errno::EEXIST),
            _ if self.name.is_empty() => Err(Errno::EEXIST),
            _ if self.slash => Err(Errno::ENOENT),
            (Err(_), false) => Err(Errno::EPERM),
            (Err(_), true) => Ok(()),
        }
    }
}

impl Place {
    /// Removes a pin that leads nowhere, because its session was taken away
    /// with all its files: what is asked for next is to make it again.
    pub fn forget_dead(&self) {
        // SAFETY: a structure of numbers, for which zeros are values.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        let at = [
            self.directory.as_raw_fd() as usize,
            self.name.as_ptr() as usize,
        ];
        let flags = libc::AT_SYMLINK_NOFOLLOW as usize;
        let arguments = [at[0], at[1], &raw mut stat as usize, flags, 0, 0];
        let found = raw::checked(libc::SYS_newfstatat, arguments).is_ok();
        let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if found && is_file && is_inside(self.directory.as_raw_fd()) {
            // What cannot be removed is told by what comes next.
            raw::call(libc::SYS_unlinkat, [at[0], at[1], 0, 0, 0, 0]);
        }
    }
}

/// The trees' real paths: what /proc/self/fd says of fds in them.
fn trees() -> impl Iterator<Item = &'static Path> {
    mounts().all.iter().map(|mount| &*mount.tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount() -> Mount {
        Mount {
            at: components(b"/sys/fs/bpf"),
            tree: "/t".into(),
        }
    }

    #[test]
    fn paths_below_the_mount_lead_into_the_tree() {
        for (path, real) in [
            ("/sys/fs/bpf", Some("/t")),
            ("/sys/fs/bpf/", Some("/t/")),
            ("//sys/fs//bpf/a/b", Some("/t/a/b")),
            ("/sys/fs/bpf/a/../b", Some("/t/a/../b")),
            ("/sys/fs/bpf/..", None),
            ("/sys/fs/bpf/a/../../x", None),
            ("/sys/fs/bpfa", None),
            ("/sys/fs", None),
        ] {
            let inside = mount().inside(path.as_bytes());
            assert_eq!(inside.as_deref(), real.map(Path::new), "{path}");
        }
    }

    #[test]
    fn names_with_dots_are_reserved() {
        assert_eq!(check_name(b"a.b"), Err(Errno::EPERM));
        assert_eq!(check_name(b".."), Ok(()));
        assert_eq!(check_name(b"ab"), Ok(()));
    }
}
