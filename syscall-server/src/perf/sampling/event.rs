//! Perf events of the kernel's that sample threads of others, as any user may
//! have who may look at those: nothing runs in a sampled thread, which does not
//! notice. It knows no program and no record.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use runtime::command::sampling::Sampling;
use uapi::Errno;
use uapi::perf::{
    PERF_COUNT_SW_DUMMY, PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_ID, PERF_EVENT_IOC_SET_OUTPUT,
    PERF_FLAG_FD_CLOEXEC, PERF_TYPE_SOFTWARE,
};

use crate::fds::PrivateFd;
use crate::perf::ring::Ring;
use crate::raw;

/// `PERF_SAMPLE_*`: what every record begins or ends with.
const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_CPU: u64 = 1 << 7;
const SAMPLE_IDENTIFIER: u64 = 1 << 16;
/// What samples have besides.
const SAMPLE_REGS_USER: u64 = 1 << 12;
const SAMPLE_STACK_USER: u64 = 1 << 13;
/// All but the segment registers, which a 64-bit process has no use for.
const REGISTERS: u64 = 0xff_0fff;

/// Flags of `perf_event_attr`.
mod flag {
    pub const DISABLED: u64 = 1;
    pub const INHERIT: u64 = 1 << 1;
    pub const EXCLUDE_KERNEL: u64 = 1 << 5;
    pub const EXCLUDE_HV: u64 = 1 << 6;
    pub const MMAP: u64 = 1 << 8;
    pub const COMM: u64 = 1 << 9;
    pub const FREQ: u64 = 1 << 10;
    pub const TASK: u64 = 1 << 13;
    pub const WATERMARK: u64 = 1 << 14;
    pub const SAMPLE_ID_ALL: u64 = 1 << 18;
    pub const MMAP2: u64 = 1 << 23;
    pub const COMM_EXEC: u64 = 1 << 24;
    pub const USE_CLOCKID: u64 = 1 << 25;
}

/// Bytes of `perf_event_attr` that are passed (`PERF_ATTR_SIZE_VER5`).
const ATTR_BYTES: usize = 112;
/// Pages of data of a CPU's ring: with its first page as much as every user
/// may lock for each CPU (`perf_event_mlock_kb`), or less.
const PAGES: [u64; 4] = [128, 64, 32, 16];
/// The largest copy of a stack.
const STACK: u64 = 32 << 10;
/// What the first sample's copy must have.
const LEAST_STACK: u64 = 4 << 10;

/// The words of a `perf_event_attr`, all but the path that none has.
struct Attr([u64; ATTR_BYTES / 8]);

impl Attr {
    fn new(kind: u32, config: u64, flags: u64) -> Attr {
        let mut words = [0; ATTR_BYTES / 8];
        words[0] = u64::from(kind) | (ATTR_BYTES as u64) << 32;
        words[1] = config;
        words[3] = SAMPLE_TID | SAMPLE_TIME | SAMPLE_CPU | SAMPLE_IDENTIFIER;
        // One clock for all records of a ring.
        words[5] = flags | flag::SAMPLE_ID_ALL | flag::USE_CLOCKID;
        words[11] = (libc::CLOCK_MONOTONIC as u64) << 32;
        Attr(words)
    }

    /// perf_event_open(2).
    fn open(&self, tid: i32, cpu: i32) -> Result<OwnedFd, Errno> {
        let at = self.0.as_ptr() as usize;
        let flags = PERF_FLAG_FD_CLOEXEC as usize;
        let words = [at, tid as usize, cpu as usize, usize::MAX, flags, 0];
        let fd = raw::checked(libc::SYS_perf_event_open, words)?;
        // SAFETY: the kernel just gave us this fd.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

fn enable(fd: i32) -> Result<(), Errno> {
    ioctl(fd, PERF_EVENT_IOC_ENABLE, 0)
}

fn ioctl(fd: i32, request: u32, argument: usize) -> Result<(), Errno> {
    let words = [fd as usize, request as usize, argument, 0, 0, 0];
    raw::checked(libc::SYS_ioctl, words).map(drop)
}

/// What samples are taken of.
#[derive(Clone, Copy)]
pub struct Taken {
    /// Time in the kernel, too, where the user may see that.
    pub kernel: bool,
    /// Bytes of the stack that are copied.
    pub stack: u64,
}

fn attr(what: &Sampling, taken: Taken) -> Attr {
    let mut flags = flag::DISABLED | flag::TASK | flag::COMM | flag::COMM_EXEC;
    flags |= flag::MMAP | flag::MMAP2;
    if !taken.kernel {
        flags |= flag::EXCLUDE_KERNEL | flag::EXCLUDE_HV;
    }
    if what.freq {
        flags |= flag::FREQ;
    }
    if what.inherit || what.pid == -1 {
        flags |= flag::INHERIT;
    }
    let mut attr = Attr::new(what.kind, what.config, flags);
    attr.0[2] = what.period;
    attr.0[3] |= SAMPLE_REGS_USER;
    attr.0[10] = REGISTERS;
    if taken.stack > 0 {
        attr.0[3] |= SAMPLE_STACK_USER;
        // sample_stack_user, before clockid.
        attr.0[11] |= taken.stack;
    }
    attr
}

/// Whether there can be such events, and whether they see the kernel.
///
/// # Errors
/// The kernel's: ENOENT for an event that the machine has not, EACCES where
/// users may not sample at all, ESRCH without the thread.
pub fn check(what: &Sampling) -> Result<bool, Errno> {
    let tid = if what.pid == -1 { 0 } else { what.pid };
    let with = |kernel| attr(what, Taken { kernel, stack: 0 }).open(tid, what.cpu);
    let opened = match with(true) {
        Err(Errno::EACCES | Errno::EPERM) => with(false).map(|fd| (fd, false)),
        other => other.map(|fd| (fd, true)),
    };
    opened.map(|(fd, kernel)| {
        close(fd);
        kernel
    })
}

/// Closes an fd, wherever it is.
fn close(fd: OwnedFd) {
    raw::close(std::os::fd::IntoRawFd::into_raw_fd(fd));
}

/// An fd that is closed past the functions that the tool calls.
struct Fd(Option<OwnedFd>);

impl Fd {
    fn get(&self) -> Result<&OwnedFd, Errno> {
        self.0.as_ref().ok_or(Errno::EBADF)
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take() {
            close(fd);
        }
    }
}

/// An event that samples whatever runs on its CPU, for a program in the kernel.
pub struct OfKernel(PrivateFd);

/// Opens one; nothing is sampled before it is enabled.
///
/// # Errors
/// The kernel's.
pub fn of_kernel(what: &Sampling) -> Result<OfKernel, Errno> {
    let freq = if what.freq { flag::FREQ } else { 0 };
    let mut attr = Attr::new(what.kind, what.config, flag::DISABLED | freq);
    attr.0[2] = what.period;
    let fd = Fd(Some(attr.open(what.pid, what.cpu)?));
    PrivateFd::duplicate(fd.get()?.as_raw_fd()).map(OfKernel)
}

impl OfKernel {
    /// For the program.
    pub fn raw(&self) -> i32 {
        self.0.raw()
    }

    /// Begins.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enable(&self) -> Result<(), Errno> {
        enable(self.raw())
    }
}

/// A ring for all events of one CPU.
pub struct CpuRing {
    fd: Fd,
    /// What the kernel writes there.
    pub ring: Ring,
}

impl CpuRing {
    /// The ring of a CPU, as large as the user may have.
    ///
    /// # Errors
    /// The kernel's: ENODEV for a CPU that is off, EPERM when the user has
    /// locked too much already.
    pub fn new(cpu: i32) -> Result<CpuRing, Errno> {
        let flags = flag::DISABLED | flag::EXCLUDE_KERNEL | flag::WATERMARK;
        let mut attr = Attr::new(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY, flags);
        // wakeup_watermark: any record wakes us.
        attr.0[6] = 1;
        let fd = attr.open(0, cpu)?;
        let number = fd.as_raw_fd();
        let fd = Fd(Some(fd));
        let mut mapped = Err(Errno::EPERM);
        for pages in PAGES {
            mapped = Ring::map(number, pages);
            if mapped.is_ok() {
                break;
            }
        }
        Ok(CpuRing { fd, ring: mapped? })
    }

    /// For poll(2).
    pub fn raw(&self) -> i32 {
        self.fd.0.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// The largest copy of a stack of which a tenth of a second fits in.
    pub fn stack_room(&self, what: &Sampling) -> u64 {
        const SHARE: u64 = 10;
        const SECOND: u64 = 1_000_000_000;
        let each_second = match what.freq {
            true => what.period,
            false if what.kind == PERF_TYPE_SOFTWARE => SECOND / what.period.max(1),
            // Nobody knows.
            false => 1000,
        };
        let room = self.ring.size() * SHARE / each_second.max(SHARE);
        room.clamp(2 * LEAST_STACK, STACK).min(self.ring.size() / 8) & !7
    }
}

/// Samples one thread on one CPU, and, if asked to, what that makes.
pub struct Event {
    fd: Fd,
    /// What its records say they are from.
    pub id: u64,
}

impl Event {
    /// Opens the event; nothing is sampled before it is enabled.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(
        what: &Sampling,
        taken: Taken,
        tid: i32,
        cpu: i32,
        to: &CpuRing,
    ) -> Result<Event, Errno> {
        let fd = attr(what, taken).open(tid, cpu)?;
        let (number, mut id) = (fd.as_raw_fd(), 0u64);
        let fd = Fd(Some(fd));
        ioctl(number, PERF_EVENT_IOC_ID, &raw mut id as usize)?;
        ioctl(number, PERF_EVENT_IOC_SET_OUTPUT, to.raw() as usize)?;
        Ok(Event { fd, id })
    }

    /// Begins.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enable(&self) -> Result<(), Errno> {
        enable(self.raw())
    }

    /// For poll(2), which hangs up when all that was sampled has ended.
    pub fn raw(&self) -> i32 {
        self.fd.0.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}
