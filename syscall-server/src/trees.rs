//! Which paths of a tool lead elsewhere: into bpffs ([`bpffs`]), which is the
//! user's own, and into tracefs and the directories of PMUs, where the kernel
//! has none or lets the user not in ([`tracefs::tree`]). It knows no call.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_long};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use uapi::Errno;

use crate::tracefs::{self, tree};
use crate::{bpffs, raw, user};

/// Where a path leads.
pub struct Led {
    /// Whose tree it is in.
    pub tree: Tree,
    /// The place.
    pub real: CString,
}

/// A tree of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Pins.
    Bpffs,
    /// Trace events.
    Tracefs,
    /// PMUs.
    Sysfs,
}

impl Tree {
    /// What statfs(2) says of it.
    pub fn magic(self) -> c_long {
        match self {
            Tree::Bpffs => libc::BPF_FS_MAGIC,
            Tree::Tracefs => tracefs::MAGIC,
            Tree::Sysfs => libc::SYSFS_MAGIC,
        }
    }
}

/// Places that a tree stands for when the kernel's cannot be looked at: the
/// place, what is to be there, and the tree's name.
const PLACES: [(&str, &str, &str, Tree); 4] = [
    (
        tracefs::ROOTS[0],
        "events/header_page",
        tree::TRACING,
        Tree::Tracefs,
    ),
    (
        tracefs::ROOTS[1],
        "events/header_page",
        tree::TRACING,
        Tree::Tracefs,
    ),
    (
        "/sys/bus/event_source/devices/uprobe",
        "type",
        "uprobe",
        Tree::Sysfs,
    ),
    (
        "/sys/bus/event_source/devices/kprobe",
        "type",
        "kprobe",
        Tree::Sysfs,
    ),
];

/// Where a path of the tool's memory leads; `None` when it is the kernel's to
/// look up, or to refuse.
pub fn lead(path: *const c_char) -> Option<Result<Led, Errno>> {
    let path = user::read_string(path as u64, user::PATH_MAX).ok()?;
    if !path.starts_with(b"/") {
        return None;
    }
    let before = raw::errno();
    let led = std::panic::catch_unwind(|| lead_bytes(&path))
        .ok()
        .flatten();
    raw::fail(before);
    led
}

fn lead_bytes(path: &[u8]) -> Option<Result<Led, Errno>> {
    let to = |tree: Tree, real: PathBuf| {
        let real = CString::new(real.into_os_string().into_vec()).map_err(|_| Errno::ENOENT)?;
        Ok(Led { tree, real })
    };
    if let Some(real) = bpffs::lead(path) {
        return Some(real.and_then(|real| to(Tree::Bpffs, real)));
    }
    // Nearly every path of a process ends here.
    if !path.starts_with(b"/sys/") && !path.starts_with(b"//") {
        return None;
    }
    let plain = normal(path)?;
    let (name, tree, below) = PLACES.iter().find_map(|&(at, there, name, tree)| {
        let below = plain.strip_prefix(at.as_bytes())?;
        let is_inside = below.is_empty() || below.starts_with(b"/");
        // Who sees the kernel's in one of its places wants no other beside it:
        // loaders look for that of debugfs first.
        let is_kernels = || match tree {
            Tree::Tracefs => tracefs::ROOTS.iter().any(|root| is_kernels(root, there)),
            _ => is_kernels(at, there),
        };
        (is_inside && !is_kernels()).then_some((name, tree, below))
    })?;
    if tree == Tree::Tracefs {
        tracefs::writing::settle();
    }
    let trees = tree::root()?;
    let mut real = trees.join(name).into_os_string().into_vec();
    real.extend(below);
    if path.ends_with(b"/") {
        real.push(b'/');
    }
    Some(to(tree, PathBuf::from(std::ffi::OsString::from_vec(real))))
}

/// Where the name of a file leads that is more than the file in the tree, from
/// an open directory on (or the working directory).
pub fn lead_from(directory: c_int, path: *const c_char) -> Option<Result<Led, Errno>> {
    const SPECIAL: [&[u8]; 3] = [b"uprobe_events", b"kprobe_events", b"trace_pipe"];
    // Nearly every path ends with another letter.
    let path = user::read_string(path as u64, user::PATH_MAX).ok()?;
    let name = path.rsplit(|&byte| byte == b'/').next()?;
    if path.starts_with(b"/") || !SPECIAL.contains(&name) {
        return None;
    }
    let before = raw::errno();
    let path = CString::new(path).ok()?;
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let arguments = [
        directory as usize,
        path.as_ptr() as usize,
        flags as usize,
        0,
        0,
        0,
    ];
    let fd = raw::checked(libc::SYS_openat, arguments).ok()? as c_int;
    let real = real_path(fd);
    raw::close(fd);
    raw::fail(before);
    let real = real.filter(|real| shown(real).is_some())?;
    tracefs::writing::settle();
    Some(Ok(Led {
        tree: Tree::Tracefs,
        real: CString::new(real.into_os_string().into_vec()).ok()?,
    }))
}

/// Whether the kernel shows what is to be there to this user.
fn is_kernels(at: &str, there: &str) -> bool {
    let Ok(path) = CString::new(format!("{at}/{there}")) else {
        return true;
    };
    let arguments = [path.as_ptr() as usize, libc::R_OK as usize, 0, 0, 0, 0];
    raw::checked(libc::SYS_access, arguments).is_ok()
}

/// An absolute path without `.`, `..` and empty parts; none of these trees has
/// symbolic links. `None` when it does not lead below the root.
pub fn normal(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let mut plain = Vec::new();
    for part in parts {
        plain.push(b'/');
        plain.extend(part);
    }
    Some(plain)
}

/// The path that a tool knows the place of an fd by, if it is in a tree of
/// tracefs or sysfs.
pub fn known_as(fd: c_int) -> Option<(Tree, PathBuf)> {
    shown(&real_path(fd)?)
}

/// Where an fd's file really is.
fn real_path(fd: c_int) -> Option<PathBuf> {
    let path = CString::new(format!("/proc/self/fd/{fd}")).ok()?;
    read_link(&path).map(|real| PathBuf::from(std::ffi::OsString::from_vec(real)))
}

/// What a link says, past our own readlink(2).
fn read_link(path: &CStr) -> Option<Vec<u8>> {
    let mut real = vec![0u8; user::PATH_MAX];
    let (to, room) = (real.as_mut_ptr() as usize, real.len());
    let arguments = [path.as_ptr() as usize, to, room, 0, 0, 0];
    let len = raw::checked(libc::SYS_readlink, arguments).ok()?;
    real.truncate(len);
    Some(real)
}

/// The tree that a path is in which does not begin at the root.
pub fn of_relative(path: *const c_char) -> Option<Tree> {
    let path = user::read_string(path as u64, user::PATH_MAX).ok()?;
    if path.starts_with(b"/") {
        return None;
    }
    let path = CString::new(path).ok()?;
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let at = libc::AT_FDCWD as usize;
    let arguments = [at, path.as_ptr() as usize, flags as usize, 0, 0, 0];
    let fd = raw::checked(libc::SYS_openat, arguments).ok()? as c_int;
    let known = known_as(fd);
    raw::close(fd);
    known.map(|(tree, _)| tree)
}

/// What a link of /proc that leads into a tree says.
pub fn link(path: &[u8]) -> Option<Vec<u8>> {
    let path = CString::new(path).ok()?;
    let real = read_link(&path)?;
    let (_, shown) = shown(OsStr::from_bytes(&real).as_ref())?;
    Some(shown.into_os_string().into_vec())
}

/// The same of a real path.
pub fn shown(real: &Path) -> Option<(Tree, PathBuf)> {
    let trees = tree::existing()?;
    let below = real.strip_prefix(trees).ok()?;
    let is_it = |&&(_, _, name, _): &&(&str, &str, &str, Tree)| below.starts_with(name);
    let &(at, _, name, tree) = PLACES.iter().find(is_it)?;
    let below = below.strip_prefix(name).ok()?;
    let mut path = PathBuf::from(OsStr::from_bytes(at.as_bytes()));
    if !below.as_os_str().is_empty() {
        path.push(below);
    }
    Some((tree, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_without_detours() {
        for (path, plain) in [
            ("/sys/kernel/tracing", Some("/sys/kernel/tracing")),
            (
                "//sys/./kernel//tracing/events/..",
                Some("/sys/kernel/tracing"),
            ),
            ("/sys/kernel/tracing/../..", Some("/sys")),
            ("/..", None),
        ] {
            let found = normal(path.as_bytes());
            assert_eq!(found.as_deref(), plain.map(str::as_bytes), "{path}");
        }
    }
}
