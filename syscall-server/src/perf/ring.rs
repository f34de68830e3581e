//! The ring of a perf event of the kernel's, which writes records there for us.
//! It knows no record's meaning.

use std::sync::atomic::{AtomicU64, Ordering};

use shm::{Access, PAGE, Region, Segment};
use uapi::Errno;

/// Where the first page of a ring has the kernel's position, and ours.
const DATA_HEAD: u64 = 1024;
const DATA_TAIL: u64 = 1032;
/// Bytes of `struct perf_event_header`.
const HEADER: u64 = 8;

/// A mapped ring.
pub struct Ring {
    memory: Region,
    /// Bytes of data.
    size: u64,
}

/// One record.
pub struct Record {
    /// `PERF_RECORD_*`.
    pub kind: u32,
    /// `PERF_RECORD_MISC_*`.
    pub misc: u16,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Ring {
    /// Maps the ring of an event, with so many pages of data: a power of two.
    ///
    /// # Errors
    /// The kernel's: EPERM beyond what the user may lock.
    pub fn map(fd: i32, pages: u64) -> Result<Ring, Errno> {
        let bytes = (1 + pages) * PAGE;
        let memory = Segment::of_kernel(fd, 0, bytes, Access::ReadWrite)
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::ENOMEM)))?;
        Ok(Ring {
            memory: memory.region(0, bytes).ok_or(Errno::ENOMEM)?,
            size: pages * PAGE,
        })
    }

    /// Bytes of data.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn word(&self, at: u64) -> Option<&AtomicU64> {
        let at = self.memory.at(at, 8)?;
        // SAFETY: an aligned word of memory that stays mapped as long as the
        // region; the kernel changes it as an atomic, too.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// Bytes at a position of the data, which may go round its end.
    fn bytes(&self, position: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let offset = position & (self.size - 1);
        let first = len.min((self.size - offset) as usize);
        let (start, rest) = bytes.split_at_mut(first);
        self.memory.read(PAGE + offset, start)?;
        self.memory.read(PAGE, rest)?;
        Some(bytes)
    }

    /// Takes all records that are there; `None` for a ring that makes no sense.
    pub fn drain(&self, take: &mut dyn FnMut(Record)) -> Option<()> {
        let (head, tail) = (self.word(DATA_HEAD)?, self.word(DATA_TAIL)?);
        let end = head.load(Ordering::Acquire);
        let mut position = tail.load(Ordering::Relaxed);
        while position < end {
            let header = self.bytes(position, HEADER as usize)?;
            let word = u64::from_le_bytes(header.try_into().ok()?);
            let len = word >> 48;
            let body = self.bytes(position + HEADER, len.checked_sub(HEADER)? as usize)?;
            take(Record {
                kind: word as u32,
                misc: (word >> 32) as u16,
                body,
            });
            position += len;
            tail.store(position, Ordering::Release);
        }
        Some(())
    }
}
