//! `BPF_OBJ_PIN` and `BPF_OBJ_GET`.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use runtime::command::Object;
use uapi::Errno;
use uapi::attr::ObjPin;
use uapi::map::{BPF_F_RDONLY, BPF_F_WRONLY};

use super::call::{self, Call};
use crate::fds::Rights;
use crate::server::existing;
use crate::user;

/// Where bpffs is. Names in ours are seen by their tool alone.
const BPFFS: &[u8] = b"/sys/fs/bpf/";
/// `BPF_F_PATH_FD`.
const PATH_FD: u32 = 1 << 14;
/// `BPF_OBJ_FLAG_MASK`.
const ONE_WAY: u32 = BPF_F_RDONLY | BPF_F_WRONLY;

/// The name of a pin; directories are not known by fds here.
fn path(attr: &ObjPin, flags: u32) -> Result<Vec<u8>, Errno> {
    if attr.file_flags & !flags != 0 || attr.path_fd != 0 {
        return Err(Errno::EINVAL);
    }
    user::read_string(attr.pathname, user::PATH_MAX)
}

/// Right below where bpffs usually is, also where the kernel has none or lets
/// nobody in, or in a directory of one of the kernel's.
fn is_in_bpffs(path: &[u8]) -> bool {
    let name = path.strip_prefix(BPFFS);
    name.is_some_and(|name| !name.is_empty() && !name.contains(&b'/'))
        || parent(path).is_some_and(|parent| is_bpffs(&parent))
}

fn parent(path: &[u8]) -> Option<CString> {
    let end = path.iter().rposition(|&byte| byte == b'/')?;
    CString::new(path.get(..end)?).ok()
}

fn is_bpffs(directory: &CStr) -> bool {
    // SAFETY: a structure of numbers, for which zeros are values.
    let mut stats: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a path that ends with a zero, and a place for the answer.
    let answer = unsafe { libc::statfs(directory.as_ptr(), &raw mut stats) };
    answer == 0 && stats.f_type == libc::BPF_FS_MAGIC
}

/// What the kernel says to a name that is not in bpffs.
fn outside(path: &[u8]) -> Errno {
    if path.is_empty() {
        return Errno::ENOENT;
    }
    let path = Path::new(OsStr::from_bytes(path));
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match (path.symlink_metadata(), parent.metadata()) {
        (Ok(_), _) => Errno::EEXIST,
        (_, Ok(parent)) if parent.is_dir() => Errno::EPERM,
        (_, Ok(_)) => Errno::ENOTDIR,
        (_, Err(error)) => error.raw_os_error().map_or(Errno::ENOENT, Errno),
    }
}

/// Whether there is a pin of this name.
pub fn exists(path: &[u8]) -> bool {
    existing().is_some_and(|server| server.bpf.pinned(path).is_ok())
}

/// unlink(2) of a pin; `None` when `path` can be none.
pub fn remove(path: &[u8]) -> Option<Result<(), Errno>> {
    let server = existing().filter(|_| is_in_bpffs(path))?;
    match server.bpf.unpin(path) {
        true => Some(Ok(())),
        false => Some(Err(Errno::ENOENT)),
    }
}

/// `BPF_OBJ_PIN`.
pub(super) fn pin(call: &Call) -> Result<i64, Errno> {
    let attr = ObjPin::decode(&call.bytes);
    if attr.file_flags & !PATH_FD != 0 {
        return Err(Errno::EINVAL);
    }
    let object = call::object(attr.bpf_fd).map_err(|_| Errno::EINVAL)?;
    let path = path(&attr, 0)?;
    if !is_in_bpffs(&path) {
        return Err(outside(&path));
    }
    call.server.bpf.pin(path, object)?;
    Ok(0)
}

/// `BPF_OBJ_GET`.
pub(super) fn get(call: &Call) -> Result<i64, Errno> {
    let attr = ObjPin::decode(&call.bytes);
    if attr.bpf_fd != 0 {
        return Err(Errno::EINVAL);
    }
    let path = path(&attr, ONE_WAY)?;
    let rights = Rights::of(attr.file_flags)?;
    let object = match call.server.bpf.pinned(&path) {
        Ok(object) => object,
        // A file that is no pin.
        Err(errno) => {
            let there = Path::new(OsStr::from_bytes(&path)).metadata();
            return Err(there.map_or(errno, |_| Errno::EACCES));
        }
    };
    // Programs have no elements, and links are not opened for half.
    if matches!(object, Object::Link(_)) && rights != Rights::ALL {
        return Err(Errno::EINVAL);
    }
    call.new_fd_with(object, rights)
}
