//! mmap(2) of our fds: ring buffers, perf rings and arrays become the
//! session's own pages in the tool. It knows no layout of a ring.

use std::ffi::c_int;
use std::os::fd::AsRawFd;

use runtime::command::{MapObject, Object, PerfEvent};
use runtime::session::Storage;
use uapi::Errno;

use crate::fds::FDS;
use crate::raw;
use crate::server::{Server, existing};

const PAGE: u64 = 4096;

/// The arguments of mmap(2).
#[derive(Clone, Copy)]
pub struct Request {
    /// Wanted address, or 0.
    pub address: usize,
    /// Bytes.
    pub len: usize,
    /// `PROT_*`.
    pub prot: c_int,
    /// `MAP_*`.
    pub flags: c_int,
    /// File.
    pub fd: c_int,
    /// Offset in it.
    pub offset: u64,
}

impl Request {
    /// The kernel's own mmap(2).
    pub fn native(self) -> Result<usize, Errno> {
        raw::checked(
            libc::SYS_mmap,
            [
                self.address,
                self.len,
                self.prot as usize,
                self.flags as usize,
                self.fd as usize,
                self.offset as usize,
            ],
        )
    }

    fn is_shared(self) -> bool {
        let kind = self.flags & libc::MAP_TYPE;
        kind == libc::MAP_SHARED || kind == libc::MAP_SHARED_VALIDATE
    }

    fn is_writable(self) -> bool {
        self.prot & libc::PROT_WRITE != 0
    }
}

/// mmap(2): the address, or None when the fd is not ours.
///
/// # Errors
/// The kernel's for such an fd: EINVAL for another size or offset than the
/// object has, EPERM for what may not be written, ENOTSUPP, ENODEV, ENOMEM.
pub fn map(request: Request) -> Option<Result<usize, Errno>> {
    if request.flags & libc::MAP_ANONYMOUS != 0 {
        return None;
    }
    let file = FDS.get(request.fd)?;
    let server = existing()?;
    // As mmap(2) of a file that was not opened for that.
    let writes = request.is_shared() && request.is_writable();
    if !file.rights.read || (writes && !file.rights.write) {
        return Some(Err(Errno::EACCES));
    }
    Some(match &file.object {
        // What cannot be written through the fd is not shared either (`do_mmap`).
        Object::Map(map) => of_map(map, request, file.rights.write),
        Object::Event(event) => of_event(server, event, request),
        _ => Err(Errno::ENODEV),
    })
}

/// Whether the tool has mapped an array's file for writing; the server has, once.
pub fn is_written(server: &Server, map: &MapObject) -> bool {
    let Ok(session) = server.bpf.session() else {
        return false;
    };
    let path = session.array_path(map.id());
    let Some(path) = path.to_str() else {
        return false;
    };
    let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let writes = |line: &&str| {
        let mut fields = line.split_ascii_whitespace();
        let shared = fields
            .nth(1)
            .is_some_and(|prot| prot.starts_with("rw") && prot.ends_with('s'));
        shared && fields.nth(3) == Some(path)
    };
    text.lines().filter(writes).count() > 1
}

fn of_map(map: &MapObject, request: Request, shares: bool) -> Result<usize, Errno> {
    let len = (request.len as u64).next_multiple_of(PAGE);
    let pieces = map.map().mmap(request.offset, len, request.is_writable());
    let is_private = request.prot & libc::PROT_EXEC != 0 || !request.is_shared() || !shares;
    if is_private && pieces != Err(Errno::ENOTSUPP) {
        return Err(Errno::EINVAL);
    }
    let pieces = pieces?;
    if map.has_file() {
        return request.native();
    }
    let storage = map.storage().ok_or(Errno::ENOMEM)?;
    lay_out(request, &storage, &pieces)
}

/// `perf_mmap`: one page of positions and a power of two of data pages.
fn of_event(server: &Server, event: &PerfEvent, request: Request) -> Result<usize, Errno> {
    let pages = request.len as u64 / PAGE;
    if !request.is_shared()
        || request.offset != 0
        || !(request.len as u64).is_multiple_of(PAGE)
        || pages == 0
    {
        return Err(Errno::EINVAL);
    }
    let data_pages = u32::try_from(pages - 1).map_err(|_| Errno::ENOMEM)?;
    let (id, _) = server.bpf.perf_ring(event, data_pages)?;
    let storage = server.bpf.session()?.map_storage(id).ok_or(Errno::ENOMEM)?;
    lay_out(request, &storage, &[(0, request.len as u64)])
}

/// Maps pieces of a storage one after the other: first a place for all of
/// them, unless the caller fixed one.
fn lay_out(request: Request, storage: &Storage, pieces: &[(u64, u64)]) -> Result<usize, Errno> {
    let reserved = Request {
        prot: libc::PROT_NONE,
        flags: (request.flags & !libc::MAP_TYPE)
            | libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | libc::MAP_NORESERVE,
        fd: -1,
        offset: 0,
        ..request
    }
    .native()?;
    let mut address = reserved;
    for &(offset, len) in pieces {
        let piece = Request {
            address,
            len: len as usize,
            flags: libc::MAP_SHARED | libc::MAP_FIXED | (request.flags & libc::MAP_POPULATE),
            fd: storage.fd.as_raw_fd(),
            offset: storage.offset + offset,
            ..request
        };
        if let Err(errno) = piece.native() {
            raw::call(libc::SYS_munmap, [reserved, request.len, 0, 0, 0, 0]);
            return Err(errno);
        }
        address += len as usize;
    }
    Ok(reserved)
}
