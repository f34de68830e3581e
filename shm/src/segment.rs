//! A file that several processes map. It knows nothing of what lies in it.

use std::ffi::CStr;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{PAGE, Region, sys};

/// How a segment is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only; a store through a region of it faults.
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

impl Access {
    fn flags(self) -> i32 {
        match self {
            Access::ReadOnly => libc::O_RDONLY,
            Access::ReadWrite => libc::O_RDWR,
        }
    }
}

/// A mapped file. Clones share the mapping; the last one unmaps it.
#[derive(Clone, Debug)]
pub struct Segment {
    mapping: Arc<Mapping>,
}

#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) base: *mut u8,
    pub(crate) len: u64,
    access: Access,
}

// SAFETY: a mapping is an address range; all access to it goes through
// `Region`, which uses atomics and volatile copies.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and nothing refers to it any
        // more: regions hold the mapping alive.
        unsafe {
            sys::syscall6(
                libc::SYS_munmap as usize,
                self.base as usize,
                self.len as usize,
                0,
                0,
                0,
                0,
            )
        };
    }
}

impl Segment {
    /// Makes a new file of `bytes` (sparse: memory is used as pages are
    /// touched), readable and writable by its owner only, and maps it whole.
    ///
    /// # Errors
    /// As open(2), ftruncate(2) and mmap(2); EEXIST when the name is taken.
    pub fn create(path: &CStr, bytes: u64) -> io::Result<(Segment, OwnedFd)> {
        if !sys::may_grow_to(bytes) {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let fd = open(path, flags)?;
        // SAFETY: plain numbers.
        check(unsafe {
            sys::syscall6(
                libc::SYS_ftruncate as usize,
                fd.as_raw_fd() as usize,
                bytes as usize,
                0,
                0,
                0,
                0,
            )
        })?;
        Ok((map(fd.as_raw_fd(), 0, bytes, Access::ReadWrite)?, fd))
    }

    /// Maps an existing file of ours whole. No fd is kept.
    ///
    /// # Errors
    /// As open(2) and mmap(2); EACCES for a file of another user (root's are
    /// accepted), EINVAL for anything but a regular file with contents.
    pub fn open(path: &CStr, access: Access) -> io::Result<Segment> {
        let fd = open(path, access.flags() | libc::O_NOFOLLOW)?;
        Segment::of_file(fd.as_raw_fd(), access)
    }

    /// As [`Segment::open`], of `len` bytes from `offset` on, which is a multiple
    /// of the page size.
    ///
    /// # Errors
    /// As [`Segment::open`]; EINVAL when the file is shorter.
    pub fn open_part(path: &CStr, access: Access, offset: u64, len: u64) -> io::Result<Segment> {
        let fd = open(path, access.flags() | libc::O_NOFOLLOW)?;
        let bytes = checked_bytes(fd.as_raw_fd())?;
        match offset.checked_add(len) {
            Some(end) if end <= bytes => map(fd.as_raw_fd(), offset, len, access),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    /// As [`Segment::open`], of a file that is open.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn of_file(fd: RawFd, access: Access) -> io::Result<Segment> {
        map(fd, 0, checked_bytes(fd)?, access)
    }

    /// Maps memory of a kernel's object, such as a BPF map.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn of_kernel(fd: RawFd, offset: u64, bytes: u64, access: Access) -> io::Result<Segment> {
        let prot = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a fresh mapping where nothing is.
        let base = check(unsafe {
            sys::syscall6(
                libc::SYS_mmap as usize,
                0,
                bytes as usize,
                prot as usize,
                libc::MAP_SHARED as usize,
                fd as usize,
                offset as usize,
            )
        })?;
        let mapping = Mapping {
            base: base as *mut u8,
            len: bytes,
            access,
        };
        Ok(Segment {
            mapping: Arc::new(mapping),
        })
    }

    /// Bytes mapped.
    #[expect(clippy::len_without_is_empty, reason = "an empty segment cannot be")]
    pub fn len(&self) -> u64 {
        self.mapping.len
    }

    /// How it is mapped.
    pub fn access(&self) -> Access {
        self.mapping.access
    }

    /// A checked range; `None` when it leaves the segment or `offset` is not
    /// a multiple of 8.
    pub fn region(&self, offset: u64, len: u64) -> Option<Region> {
        Region::new(Arc::clone(&self.mapping), offset, len)
    }
}

/// Where a large segment is wished for: far from the libraries, because the
/// kernel's own choice is right below them, where trampolines must find room
/// within the reach of a jump. 0 leaves it to the kernel.
fn wished_address(bytes: u64) -> usize {
    /// Far above a sanitizer's shadow memory and below programs, and not from a
    /// round address on: those are what programs choose that map at fixed ones.
    const AREA: Range<u64> = 0x2b5d_c000_0000..0x5000_0000_0000;
    const LARGE: u64 = 16 << 20;
    const UNIT: u64 = 1 << 30;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if bytes < LARGE {
        return 0;
    }
    // A gap of one unit at least; after the last address the first comes again.
    let step = bytes.div_ceil(UNIT) * UNIT + UNIT;
    let offset = NEXT.fetch_add(step, Ordering::Relaxed) % (AREA.end - AREA.start);
    (AREA.start + offset) as usize
}

fn check(ret: isize) -> io::Result<usize> {
    if ret < 0 {
        Err(io::Error::from_raw_os_error(-ret as i32))
    } else {
        Ok(ret as usize)
    }
}

fn open(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `path` up to its zero.
    let fd = check(unsafe {
        sys::syscall6(
            libc::SYS_openat as usize,
            libc::AT_FDCWD as usize,
            path.as_ptr() as usize,
            (flags | libc::O_CLOEXEC) as usize,
            0o600,
            0,
            0,
        )
    })?;
    // SAFETY: the kernel just gave us this fd.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn fstat(fd: RawFd) -> io::Result<libc::stat> {
    // SAFETY: all zeroes is a valid stat.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes one stat.
    check(unsafe {
        sys::syscall6(
            libc::SYS_fstat as usize,
            fd as usize,
            &raw mut stat as usize,
            0,
            0,
            0,
            0,
        )
    })?;
    Ok(stat)
}

/// Size of a file that may be mapped.
fn checked_bytes(fd: RawFd) -> io::Result<u64> {
    let stat = fstat(fd)?;
    if stat.st_uid != sys::geteuid() && stat.st_uid != 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_size <= 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(stat.st_size as u64)
}

fn map(fd: RawFd, offset: u64, bytes: u64, access: Access) -> io::Result<Segment> {
    let len = bytes
        .checked_next_multiple_of(PAGE)
        .filter(|len| *len > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let prot = match access {
        Access::ReadOnly => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: a fresh mapping where nothing is: the address is only a wish.
    let base = check(unsafe {
        sys::syscall6(
            libc::SYS_mmap as usize,
            wished_address(bytes),
            len as usize,
            libc::PROT_NONE as usize,
            (libc::MAP_SHARED | libc::MAP_NORESERVE) as usize,
            fd as usize,
            offset as usize,
        )
    })?;
    let mapping = Mapping {
        base: base as *mut u8,
        len: bytes,
        access,
    };
    // After mlockall(MCL_FUTURE) the kernel would fill a sparse file to its
    // full size as soon as it is accessible.
    // SAFETY: the range was just mapped.
    check(unsafe { sys::syscall6(libc::SYS_munlock as usize, base, len as usize, 0, 0, 0, 0) })?;
    // SAFETY: as above; nobody uses it yet.
    check(unsafe {
        sys::syscall6(
            libc::SYS_mprotect as usize,
            base,
            len as usize,
            prot as usize,
            0,
            0,
            0,
        )
    })?;
    // A core dump of a target must not carry a tool's data; a kernel that
    // refuses the advice changes nothing else.
    // SAFETY: the range was just mapped.
    unsafe {
        sys::syscall6(
            libc::SYS_madvise as usize,
            base,
            len as usize,
            libc::MADV_DONTDUMP as usize,
            0,
            0,
            0,
        )
    };
    Ok(Segment {
        mapping: Arc::new(mapping),
    })
}
