//! Where a session's files and the storage in them come from and go to. It
//! knows no object's meaning.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use shm::{Region, Segment};
use uapi::Errno;

use super::super::objects::{ObjectKind, Place};
use super::super::{ARRAY_PREFIX, Dirs, NEW_PREFIX, SessionError, file};
use super::{Inner, Session, Storage};
use crate::maps::MapSpec;

/// Storage up to this size is allocated when it is created, so that a full
/// file system is an error of the creation and not a SIGBUS of the use.
const EAGER_BYTES: u64 = 1 << 20;
/// Larger storage stays sparse, but is refused when less than this is free.
const RESERVE_BYTES: u64 = 4 << 20;

impl Session {
    pub(super) fn map_storage_for(
        &self,
        inner: &mut Inner,
        id: u32,
        spec: &MapSpec,
        len: u64,
    ) -> Result<(Region, Place, u64, Option<OwnedFd>), Errno> {
        if spec.map_type == uapi::map::BPF_MAP_TYPE_ARRAY
            && spec.map_flags & uapi::map::BPF_F_MMAPABLE != 0
        {
            let path = self.array_path(id);
            let (region, fd) = create_file(&path, len).map_err(|error| match error {
                SessionError::File {
                    errno: Errno::EMFILE,
                    ..
                } => Errno::EMFILE,
                _ => Errno::ENOMEM,
            })?;
            if let Err(errno) = make_room(&fd, 0, len) {
                let _ = file::unlink(&file::c_path(&path)?);
                return Err(errno);
            }
            return Ok((region, Place::Array, 0, Some(fd)));
        }
        let (region, offset) = self.take_heap(inner, len)?;
        Ok((region, Place::Data, offset, None))
    }

    /// The file of a `BPF_F_MMAPABLE` array.
    pub fn array_path(&self, id: u32) -> PathBuf {
        self.path.join(format!("{ARRAY_PREFIX}{id}"))
    }

    pub(super) fn take_heap(&self, inner: &mut Inner, len: u64) -> Result<(Region, u64), Errno> {
        let offset = inner.heap.take(len).ok_or(Errno::ENOMEM)?;
        let region = self.data.storage(offset, len);
        match make_room(&self.data_fd, offset, len).and(region.ok_or(Errno::ENOMEM)) {
            Ok(region) => Ok((region, offset)),
            Err(errno) => {
                inner.heap.give(offset, len);
                Err(errno)
            }
        }
    }

    pub(super) fn free_storage(
        &self,
        inner: &mut Inner,
        id: u32,
        place: Place,
        offset: u64,
        len: u64,
    ) {
        match place {
            Place::Data => {
                // Gives the pages back and leaves zeros for the next owner.
                let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                if file::fallocate(&self.data_fd, punch, offset, len).is_ok() {
                    inner.heap.give(offset, len);
                }
            }
            Place::Array => {
                if let Ok(name) = file::c_path(&self.array_path(id)) {
                    // The tool's fd and the targets' mappings keep the pages.
                    let _ = file::unlink(&name);
                }
            }
            Place::Objects => inner.payload.give(offset, len),
            // Goes with its last fd.
            Place::Kernel => {}
        }
    }

    /// Where the storage of a map or perf ring lies, for an mmap(2) of it.
    pub fn map_storage(&self, id: u32) -> Option<Storage> {
        let record = self
            .objects
            .find(id, ObjectKind::Map)
            .or_else(|| self.objects.find(id, ObjectKind::PerfRing))?;
        let fd = match record.place {
            Place::Data => self.data_fd.try_clone().ok()?,
            Place::Array => {
                let name = file::c_path(&self.array_path(id)).ok()?;
                file::open(&name, libc::O_RDWR | libc::O_NOFOLLOW, 0).ok()?
            }
            Place::Objects | Place::Kernel => return None,
        };
        Some(Storage {
            fd,
            offset: record.offset,
            len: record.len,
        })
    }
}

/// A session's directory while it is filled, and its final name.
pub(super) struct Made {
    pub hidden: PathBuf,
    pub path: PathBuf,
}

/// Makes `.new-PID-N` for the first free N. The sessions directory may vanish
/// under us with another tool's last session: then again.
pub(super) fn make_directory(dirs: &Dirs, pid: i32) -> Result<Made, SessionError> {
    const ATTEMPTS: u32 = 1000;
    let mut last = Errno::EEXIST;
    for number in 0..ATTEMPTS {
        dirs.ensure_sessions()?;
        let made = Made {
            hidden: dirs.sessions.join(format!("{NEW_PREFIX}{pid}-{number}")),
            path: dirs.sessions.join(format!("{pid}-{number}")),
        };
        let failed = |errno| SessionError::file("make", &made.hidden, errno);
        let taken = file::lstat(&file::c_path(&made.path).map_err(failed)?).is_ok();
        if taken {
            continue;
        }
        let name = file::c_path(&made.hidden).map_err(failed)?;
        match file::mkdir(&name, 0o700) {
            Ok(()) => return Ok(made),
            Err(errno @ (Errno::EEXIST | Errno::ENOENT)) => last = errno,
            Err(errno) => return Err(failed(errno)),
        }
    }
    Err(SessionError::file(
        "make a session in",
        &dirs.sessions,
        last,
    ))
}

pub(super) fn create_file(path: &Path, bytes: u64) -> Result<(Region, OwnedFd), SessionError> {
    let failed = |errno| SessionError::file("create", path, errno);
    let name = file::c_path(path).map_err(failed)?;
    let (segment, fd) = Segment::create(&name, bytes)
        .map_err(|error| failed(Errno(error.raw_os_error().unwrap_or(libc::EIO))))?;
    let region = segment
        .region(0, bytes)
        .ok_or_else(|| failed(Errno::EINVAL))?;
    Ok((region, fd))
}

/// Sees to it that storage can be written: small storage is allocated now,
/// large storage needs some room to begin with.
fn make_room(fd: &OwnedFd, offset: u64, len: u64) -> Result<(), Errno> {
    if len <= EAGER_BYTES {
        return file::fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, offset, len).map_err(no_memory);
    }
    if file::free_bytes(fd)? < RESERVE_BYTES {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// What bpf(2) says when memory is short.
pub(super) fn no_memory(errno: Errno) -> Errno {
    match errno {
        Errno::ENOSPC => Errno::ENOMEM,
        other => other,
    }
}
