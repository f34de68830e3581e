//! Perf events that programs in the kernel write, one for each CPU: what a
//! perf event array of the kernel's holds. It knows no record's meaning.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use runtime::kernel;
use uapi::Errno;
use uapi::perf::{PERF_COUNT_SW_BPF_OUTPUT, PERF_EVENT_IOC_ENABLE, PERF_TYPE_SOFTWARE};

use crate::fds::PrivateFd;
use crate::perf::ring::Ring;
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

/// The event of one CPU.
pub struct PerfEvent {
    fd: PrivateFd,
    ring: Ring,
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
        let ring = Ring::map(fd.as_raw_fd(), PAGES)?;
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
            ring,
        })
    }

    /// For poll(2).
    pub fn raw(&self) -> i32 {
        self.fd.raw()
    }

    /// Gives the raw data of each sample to `take`; whether there was one.
    pub fn drain(&self, take: &mut dyn FnMut(&[u8])) -> Option<bool> {
        let mut any = false;
        self.ring.drain(&mut |record| {
            let size = record
                .body
                .first_chunk()
                .map(|size| u32::from_le_bytes(*size));
            let raw = size.and_then(|size| record.body.get(4..4 + size as usize));
            if let (RECORD_SAMPLE, Some(raw)) = (record.kind, raw) {
                take(raw);
                any = true;
            }
        })?;
        Some(any)
    }
}
