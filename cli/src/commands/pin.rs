//! Pinning from the command line: a name below /sys/fs/bpf for what a running
//! tool made, as bpftool gives it. It knows no kind of object.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use runtime::session::dirs::PINS_PREFIX;
use runtime::session::{Dirs, ObjectKind, SessionView, claims};
use uapi::Errno;

use crate::problem::Problem;

/// Where tools see bpffs.
const BPFFS: &str = "/sys/fs/bpf";

/// Gives an object of a session a name.
pub fn pin(view: &SessionView, kind: ObjectKind, id: u32, path: &Path) -> Result<(), Problem> {
    let failed = |happened: &str, advice: &str| Problem::new(path.display(), happened, advice);
    let dirs = Dirs::for_cli();
    let real = inside(&dirs.sessions, path).ok_or_else(|| {
        failed(
            "is no place for a pin",
            "name a file below /sys/fs/bpf, without dots",
        )
    })?;
    let tree = dirs.sessions.join(PINS_PREFIX);
    if let Err(error) = std::fs::create_dir(&tree)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(failed(
            &crate::libraries::reason(&error),
            "see bpftime doctor",
        ));
    }
    let parent = real.parent().unwrap_or(&tree);
    let directory = File::open(parent).map_err(|error| {
        failed(
            &format!("its directory: {}", crate::libraries::reason(&error)),
            "make it by bpftime exec mkdir",
        )
    })?;
    let name = real.file_name().unwrap_or_default().as_encoded_bytes();
    let name = std::ffi::CString::new(name)
        .map_err(|_| failed("contains a NUL byte", "choose another name"))?;
    let place = (directory.as_raw_fd(), name.as_c_str());
    claims::pin(view.path(), (kind, id), || view.has(id, kind), place).map_err(
        |errno| match errno {
            Errno::EEXIST => failed(
                "there is such a name already",
                "choose another, or bpftime exec rm it",
            ),
            Errno::ENOENT => failed("what was to be pinned is gone", "list what there is"),
            Errno::ENOTDIR => failed("its directory is none", "choose another one"),
            errno => failed(&errno.to_string(), "see bpftime doctor"),
        },
    )
}

/// Where a path of bpffs really is.
fn inside(sessions: &Path, path: &Path) -> Option<PathBuf> {
    let below = path.strip_prefix(BPFFS).ok()?;
    let plain = |part: &std::ffi::OsStr| !part.as_encoded_bytes().contains(&b'.');
    let sane = below.iter().all(plain) && below.file_name().is_some();
    sane.then(|| sessions.join(PINS_PREFIX).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_below_bpffs_only() {
        let inside = |path: &str| inside(Path::new("/s"), Path::new(path));
        assert_eq!(inside("/sys/fs/bpf/a/b"), Some("/s/bpffs/a/b".into()));
        for other in [
            "/sys/fs/bpf",
            "/sys/fs/bpf/../x",
            "/sys/fs/bpf/a.b",
            "/tmp/x",
            "x",
        ] {
            assert_eq!(inside(other), None, "{other}");
        }
    }
}
