//! mmap(2) of our fds: ring buffers, perf rings and arrays become the
//! session's own pages in the tool. It knows no layout of a ring.

use std::ffi::{c_int, c_long};
use std::os::fd::AsRawFd;

use runtime::command::{MapObject, Object, PerfEvent};
use runtime::session::Storage;
use uapi::Errno;

use crate::fds::FDS;
use crate::server::{Server, existing};
use crate::{caller, raw};

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
        raw::checked(libc::SYS_mmap, self.words())
    }

    fn words(self) -> [usize; 6] {
        [
            self.address,
            self.len,
            self.prot as usize,
            self.flags as usize,
            self.fd as usize,
            self.offset as usize,
        ]
    }

    fn is_shared(self) -> bool {
        let kind = self.flags & libc::MAP_TYPE;
        kind == libc::MAP_SHARED || kind == libc::MAP_SHARED_VALIDATE
    }

    fn is_writable(self) -> bool {
        self.prot & libc::PROT_WRITE != 0
    }
}

/// How a mapping of an fd of ours is made.
pub enum Plan {
    /// By the kernel, of the fd itself.
    Native,
    /// Of these pieces of a storage, {offset, bytes}, one after the other.
    Pieces(Storage, Vec<(u64, u64)>),
}

/// mmap(2): the address, or None when the fd is not ours.
///
/// # Errors
/// As [`plan`], and the kernel's.
pub fn map(request: Request) -> Option<Result<usize, Errno>> {
    Some(plan(request)?.and_then(|plan| match plan {
        Plan::Native => request.native(),
        Plan::Pieces(storage, pieces) => {
            let from = (storage.fd.as_raw_fd(), storage.offset);
            lay_out(request, from, &pieces, raw::checked)
        }
    }))
}

/// What mmap(2) is to make, or None when the fd is not ours.
///
/// # Errors
/// The kernel's for such an fd: EINVAL for another size or offset than the
/// object has, EPERM for what may not be written, ENOTSUPP, ENODEV, ENOMEM.
pub fn plan(request: Request) -> Option<Result<Plan, Errno>> {
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

/// Whether the tool has mapped an array's file for writing; the server has, once,
/// in its own process.
pub fn is_written(server: &Server, map: &MapObject) -> bool {
    let Ok(session) = server.bpf.session() else {
        return false;
    };
    let path = session.array_path(map.id());
    let Some(path) = path.to_str() else {
        return false;
    };
    let text = std::fs::read_to_string(caller::in_proc("maps")).unwrap_or_default();
    let of_server = usize::from(caller::supervised().is_none());
    let writes = |line: &&str| {
        let mut fields = line.split_ascii_whitespace();
        let shared = fields
            .nth(1)
            .is_some_and(|prot| prot.starts_with("rw") && prot.ends_with('s'));
        shared && fields.nth(3) == Some(path)
    };
    text.lines().filter(writes).count() > of_server
}

fn of_map(map: &MapObject, request: Request, shares: bool) -> Result<Plan, Errno> {
    let len = (request.len as u64).next_multiple_of(PAGE);
    let pieces = map.map().mmap(request.offset, len, request.is_writable());
    let is_private = request.prot & libc::PROT_EXEC != 0 || !request.is_shared() || !shares;
    if is_private && pieces != Err(Errno::ENOTSUPP) {
        return Err(Errno::EINVAL);
    }
    let pieces = pieces?;
    if map.has_file() {
        return Ok(Plan::Native);
    }
    let storage = map.storage().ok_or(Errno::ENOMEM)?;
    Ok(Plan::Pieces(storage, pieces))
}

/// `perf_mmap`: one page of positions and a power of two of data pages.
fn of_event(server: &Server, event: &PerfEvent, request: Request) -> Result<Plan, Errno> {
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
    Ok(Plan::Pieces(storage, vec![(0, request.len as u64)]))
}

/// Maps pieces of a storage, whose fd is `fd` to who makes the calls, one after
/// the other: first a place for all of them, unless the caller fixed one.
///
/// # Errors
/// The kernel's.
pub fn lay_out(
    request: Request,
    (fd, start): (c_int, u64),
    pieces: &[(u64, u64)],
    mut call: impl FnMut(c_long, [usize; 6]) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let reserved = Request {
        prot: libc::PROT_NONE,
        flags: (request.flags & !libc::MAP_TYPE)
            | libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | libc::MAP_NORESERVE,
        fd: -1,
        offset: 0,
        ..request
    };
    let reserved = call(libc::SYS_mmap, reserved.words())?;
    let mut address = reserved;
    for &(offset, len) in pieces {
        let piece = Request {
            address,
            len: len as usize,
            flags: libc::MAP_SHARED | libc::MAP_FIXED | (request.flags & libc::MAP_POPULATE),
            fd,
            offset: start + offset,
            ..request
        };
        if let Err(errno) = call(libc::SYS_mmap, piece.words()) {
            // Fails only where there is nothing to take back.
            let _ = call(libc::SYS_munmap, [reserved, request.len, 0, 0, 0, 0]);
            return Err(errno);
        }
        address += len as usize;
    }
    Ok(reserved)
}
