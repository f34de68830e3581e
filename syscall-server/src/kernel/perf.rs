//! Perf events that programs in the kernel write, one for each CPU: what a
//! perf event array of the kernel's holds. It knows no record's meaning.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use runtime::kernel;
use shm::{Access, PAGE, Region, Segment};
use uapi::Errno;
use uapi::perf::{PERF_COUNT_SW_BPF_OUTPUT, PERF_EVENT_IOC_ENABLE, PERF_TYPE_SOFTWARE};

use crate::fds::PrivateFd;
use crate::raw;

/// Pages of data of each event.
const PAGES: u64 = 64;
/// Bytes of `perf_event_attr` that are passed (`PERF_ATTR_SIZE_VER5`).
const ATTR_BYTES: usize = 112;
/// `PERF_SAMPLE_RAW`.
const SAMPLE_RAW: u64 = 1 << 10;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOSE_ON_EXEC: usize = 8;
/// `PERF_RECORD_SAMPLE`.
const RECORD_SAMPLE: u32 = 9;
/// Where the first page of a ring has the kernel's position, and ours.
const DATA_HEAD: u64 = 1024;
const DATA_TAIL: u64 = 1032;

/// The event of one CPU.
pub struct PerfEvent {
    fd: PrivateFd,
    memory: Region,
}

/// Fills a kernel's perf event array: an event for each CPU that there is.
///
/// # Errors
/// The kernel's.
pub fn fill(array: &OwnedFd, entries: u32) -> Result<Vec<PerfEvent>, Errno> {
    let cpus = entries.min(runtime::session::possible_cpus());
    let mut events = Vec::new();
    for cpu in 0..cpus {
        match PerfEvent::open(cpu) {
            Ok(event) => {
                let fd = event.fd.raw().to_ne_bytes();
                kernel::update(array.as_fd(), &cpu.to_ne_bytes(), &fd, 0)?;
                events.push(event);
            }
            // It is off.
            Err(Errno::ENODEV) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(events)
}

impl PerfEvent {
    fn open(cpu: u32) -> Result<PerfEvent, Errno> {
        let mut attr = [0u64; ATTR_BYTES / 8];
        attr[0] = u64::from(PERF_TYPE_SOFTWARE) | (ATTR_BYTES as u64) << 32;
        attr[1] = PERF_COUNT_SW_BPF_OUTPUT;
        // sample_period, sample_type, and behind the flags wakeup_events.
        attr[2] = 1;
        attr[3] = SAMPLE_RAW;
        attr[6] = 1;
        let at = attr.as_ptr() as usize;
        let words = [at, usize::MAX, cpu as usize, usize::MAX, CLOSE_ON_EXEC, 0];
        let fd = raw::checked(libc::SYS_perf_event_open, words)?;
        // SAFETY: the kernel just gave us this fd.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let bytes = (1 + PAGES) * PAGE;
        let memory = Segment::of_kernel(fd.as_raw_fd(), 0, bytes, Access::ReadWrite)
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::ENOMEM)))?;
        let words = [
            fd.as_raw_fd() as usize,
            PERF_EVENT_IOC_ENABLE as usize,
            0,
            0,
            0,
            0,
        ];
        raw::checked(libc::SYS_ioctl, words)?;
        Ok(PerfEvent {
            fd: PrivateFd::duplicate(fd.as_raw_fd())?,
            memory: memory.region(0, bytes).ok_or(Errno::ENOMEM)?,
        })
    }

    /// For poll(2).
    pub fn raw(&self) -> i32 {
        self.fd.raw()
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
        let size = PAGES * PAGE;
        let offset = position & (size - 1);
        let first = len.min((size - offset) as usize);
        let (start, rest) = bytes.split_at_mut(first);
        self.memory.read(PAGE + offset, start)?;
        self.memory.read(PAGE, rest)?;
        Some(bytes)
    }

    /// Gives the raw data of each sample to `take`; whether there was one.
    pub fn drain(&self, take: &mut dyn FnMut(&[u8])) -> Option<bool> {
        let (head, tail) = (self.word(DATA_HEAD)?, self.word(DATA_TAIL)?);
        let end = head.load(Ordering::Acquire);
        let mut position = tail.load(Ordering::Relaxed);
        let mut any = false;
        while position < end {
            let header = self.bytes(position, 8)?;
            let word = u64::from_le_bytes(header.try_into().ok()?);
            let (kind, len) = (word as u32, word >> 48);
            if len < 8 {
                break;
            }
            if kind == RECORD_SAMPLE {
                let body = self.bytes(position + 8, len as usize - 8)?;
                let size = u32::from_le_bytes(*body.first_chunk()?) as usize;
                take(body.get(4..4 + size)?);
                any = true;
            }
            position += len;
            tail.store(position, Ordering::Release);
        }
        Some(any)
    }
}
