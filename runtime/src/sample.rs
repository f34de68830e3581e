//! One sample of a thread of any process: where it was, and a copy of its
//! stack. It knows no event. A program that runs for it gets the sampled
//! thread's answers from [`crate::helpers`], not those of the thread that runs
//! it.

use core::ptr;

use shm::sys;
use uapi::{Errno, PtRegs};

use crate::maps::bytes;
use crate::run::RunState;
use crate::thread::ThreadIds;
use crate::unwind::{self, StackBuildId, Tables, Words};

/// Bytes of a thread's name (`TASK_COMM_LEN`).
pub const COMM: usize = 16;

/// A thread at one moment.
#[repr(C)]
#[derive(Debug)]
pub struct Sample<'a> {
    /// Its registers. A run's point here, and so to the sample.
    regs: PtRegs,
    /// Who it is, as the tool sees it.
    pub ids: ThreadIds,
    /// Real group id in the upper, user id in the lower half.
    pub uid_gid: u64,
    /// Its name, zero-padded.
    pub comm: [u8; COMM],
    /// The CPU that it ran on.
    pub cpu: u32,
    /// When it was taken (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// What its clock counts between two samples.
    pub period: u64,
    /// Its stack from the stack pointer on, as far as it was copied.
    pub stack: &'a [u8],
    /// The files that its process has mapped.
    pub tables: &'a Tables,
}

impl<'a> Sample<'a> {
    /// A sample with these registers of nobody yet, without a stack.
    pub fn new(regs: PtRegs, ids: ThreadIds, tables: &'a Tables) -> Sample<'a> {
        Sample {
            regs,
            ids,
            uid_gid: 0,
            comm: [0; COMM],
            cpu: 0,
            time: 0,
            period: 0,
            stack: &[],
            tables,
        }
    }

    /// What a program of type `PERF_EVENT` gets: registers, period, address.
    pub(crate) fn context(&self) -> [u64; CTX_WORDS] {
        let mut ctx = [0; CTX_WORDS];
        // SAFETY: both are plain words, and the context has room for the registers.
        unsafe {
            let from: *const PtRegs = &raw const self.regs;
            ptr::copy_nonoverlapping(from.cast(), ctx.as_mut_ptr(), size_of::<PtRegs>() / 8);
        }
        ctx[CTX_WORDS - 2] = self.period;
        ctx
    }

    /// What a run for it has in [`RunState::regs`].
    pub(crate) fn as_regs(&self) -> *const PtRegs {
        ptr::from_ref(self).cast()
    }

    /// The sample that a run is for.
    ///
    /// # Safety
    /// The run's registers are what [`Sample::as_regs`] gave, of a sample that
    /// outlives it.
    pub(crate) unsafe fn of<'r>(run: &'r RunState) -> &'r Sample<'r> {
        // SAFETY: the caller's contract; the registers come first.
        unsafe { &*run.regs.cast::<Sample<'r>>() }
    }

    /// Bytes of the copied stack.
    fn on_stack(&self, address: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(address.checked_sub(self.regs.sp)?).ok()?;
        self.stack.get(from..from.checked_add(len)?)
    }

    /// Copies memory of the process: its stack as it was, the rest as it is.
    ///
    /// # Safety
    /// `to` is writable for `len` bytes.
    pub(crate) unsafe fn read(&self, to: *mut u8, from: u64, len: usize) -> Result<(), Errno> {
        if let Some(found) = self.on_stack(from, len) {
            // SAFETY: the caller vouches for `to`.
            unsafe { bytes::copy_unaligned(to, found.as_ptr(), len) };
            return Ok(());
        }
        // SAFETY: as above.
        let done = unsafe { sys::read_own(self.ids.pid, to, from, len) };
        (done == len as isize).then_some(()).ok_or(Errno::EFAULT)
    }

    /// Walks its stack: calls `put` with each instruction pointer, the
    /// innermost first, until it returns `false`.
    pub fn walk(&self, put: impl FnMut(u64) -> bool) {
        let mut words = Copied(self);
        let unchanged = |_, found| found;
        unwind::walk_in(
            Some(self.tables),
            &mut words,
            &self.regs,
            false,
            unchanged,
            put,
        );
    }

    /// A frame as a place in a file.
    pub(crate) fn frame(&self, ip: u64) -> StackBuildId {
        StackBuildId::at(ip, self.tables.place_in_file(ip))
    }
}

/// Words of `struct bpf_perf_event_data`: registers, period, address.
pub const CTX_WORDS: usize = size_of::<PtRegs>() / 8 + 2;

/// The stack of a sample.
struct Copied<'s>(&'s Sample<'s>);

impl Words for Copied<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        let word = self.0.on_stack(address, 8)?.first_chunk()?;
        Some(u64::from_le_bytes(*word))
    }

    fn end(&self, _sp: u64) -> Option<u64> {
        Some(self.0.regs.sp.saturating_add(self.0.stack.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_those_of_then() {
        let tables = Tables::default();
        // Two frames by frame pointers, at made-up addresses.
        let base = 0x7000_0000u64;
        let words = [base + 32, 0x1111, 0, 0, 0, 0x2222];
        let stack: Vec<u8> = words
            .iter()
            .flat_map(|word: &u64| word.to_le_bytes())
            .collect();
        let regs = PtRegs {
            ip: 0x3333,
            sp: base,
            bp: base,
            ..PtRegs::default()
        };
        let own = ThreadIds {
            pid: sys::getpid(),
            tid: sys::gettid(),
        };
        let mut sample = Sample::new(regs, own, &tables);
        sample.stack = &stack;
        sample.period = 99;
        let mut frames = Vec::new();
        sample.walk(|ip| {
            frames.push(ip);
            true
        });
        assert_eq!(frames, [0x3333, 0x1111, 0x2222]);
        let mut word = [0u8; 8];
        // SAFETY: `word` has 8 bytes.
        let mut read = |from| unsafe { sample.read(word.as_mut_ptr(), from, 8) };
        assert_eq!(read(base + 40), Ok(()));
        // Half of it was not copied, and is not there.
        assert_eq!(read(base + 44), Err(Errno::EFAULT));
        let elsewhere = 7u64;
        assert_eq!(read(&raw const elsewhere as u64), Ok(()));
        assert_eq!(u64::from_le_bytes(word), 7);
        let ctx = sample.context();
        assert_eq!((ctx[16], ctx[19], ctx[21], ctx[22]), (0x3333, base, 99, 0));
    }
}
