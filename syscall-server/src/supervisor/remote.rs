//! Mappings of our memory in a supervised process: rings are several pieces
//! of a file, which no single mmap(2) makes. The thread that asked for one is
//! stopped on its way back from the call (ptrace(2)), makes the calls that are
//! needed in its place, and returns with the address. It knows no ring.
//!
//! Until the first of these calls the answer is ENOMEM, should we be killed.
//! Other threads run on; a debugger at the tool keeps us out.

use std::ffi::{c_int, c_long};
use std::os::fd::AsRawFd;

use libc::{pid_t, user_regs_struct};
use runtime::session::Storage;
use uapi::Errno;

use super::notice::{Listener, Notice};
use crate::mapping::{self, Request};
use crate::{log, raw};

/// `PTRACE_SETSIGMASK` and its kin, which libc does not name.
const GETSIGMASK: u32 = 0x420a;
const SETSIGMASK: u32 = 0x420b;
/// `PTRACE_EVENT_STOP`.
const EVENT_STOP: c_int = 128;
/// What a stop at a system call is told as (`PTRACE_O_TRACESYSGOOD`).
const AT_CALL: c_int = libc::SIGTRAP | 0x80;
/// Bytes of a signal mask.
const MASK_BYTES: usize = 8;
/// Bytes of the instruction that makes a call.
const SYSCALL_BYTES: u64 = 2;

/// Answers mmap(2) by mapping the pieces of a storage.
///
/// # Errors
/// Those of the kernel, when the call is not answered yet.
pub fn map(
    listener: Listener,
    notice: &Notice,
    request: Request,
    storage: &Storage,
    pieces: &[(u64, u64)],
) -> Result<(), Errno> {
    let tid = notice.tid as pid_t;
    let fd = listener.give(notice, storage.fd.as_raw_fd(), libc::O_CLOEXEC)?;
    let thread = Stopped::seize(tid).inspect_err(|errno| {
        log::problem(format_args!(
            "a ring cannot be mapped into this tool while it is traced (ptrace: {errno})"
        ));
    });
    // The fd is there to stay only where nothing works any more.
    let mut thread = thread.map_err(|_| Errno::ENOMEM)?;
    listener.answer(notice, Err(Errno::ENOMEM))?;
    let done = thread.stop().and_then(|()| {
        let from = (fd, storage.offset);
        let mapped = mapping::lay_out(request, from, pieces, |number, words| {
            thread.call(number, words)
        });
        // It has it open, so this works.
        let _ = thread.call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]);
        thread.answer(mapped)
    });
    if let Err(errno) = done {
        log::debug(format_args!("thread {tid} was lost: {errno}"));
    }
    Ok(())
}

/// A thread that we trace; let go when this is dropped.
struct Stopped {
    tid: pid_t,
    /// Its registers and signal mask where it was stopped.
    kept: Option<(user_regs_struct, u64)>,
    /// A signal that it was to get meanwhile, in spite of the mask.
    signal: c_int,
}

impl Stopped {
    fn seize(tid: pid_t) -> Result<Stopped, Errno> {
        ptrace(
            libc::PTRACE_SEIZE,
            tid,
            0,
            libc::PTRACE_O_TRACESYSGOOD as usize,
        )?;
        let thread = Stopped {
            tid,
            kept: None,
            signal: 0,
        };
        // It stops when it has its answer, for only death ends its wait before.
        ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
        Ok(thread)
    }

    /// Waits until it is on its way out of the call, which was answered.
    fn stop(&mut self) -> Result<(), Errno> {
        loop {
            let status = self.wait()?;
            if status >> 16 == EVENT_STOP {
                break;
            }
            self.run_on(libc::PTRACE_CONT, status)?;
        }
        let mut mask = 0u64;
        ptrace(GETSIGMASK, self.tid, MASK_BYTES, &raw mut mask as usize)?;
        self.kept = Some((self.registers()?, mask));
        // Its handlers run when all is over.
        let all = u64::MAX;
        ptrace(SETSIGMASK, self.tid, MASK_BYTES, &raw const all as usize).map(drop)
    }

    fn wait(&self) -> Result<c_int, Errno> {
        let mut status: c_int = 0;
        loop {
            let words = [
                self.tid as usize,
                &raw mut status as usize,
                libc::__WALL as usize,
                0,
                0,
                0,
            ];
            match raw::checked(libc::SYS_wait4, words) {
                Ok(_) if libc::WIFSTOPPED(status) => return Ok(status),
                Ok(_) => return Err(Errno::ESRCH),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Lets it run on from a stop, and keeps what the stop was for.
    fn run_on(&mut self, how: u32, status: c_int) -> Result<(), Errno> {
        if status >> 16 == 0 && libc::WSTOPSIG(status) != AT_CALL {
            self.signal = libc::WSTOPSIG(status);
        }
        ptrace(how, self.tid, 0, 0).map(drop)
    }

    /// Runs to the beginning or the end of the next call.
    fn next_call(&mut self) -> Result<(), Errno> {
        ptrace(libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
        loop {
            let status = self.wait()?;
            if libc::WSTOPSIG(status) == AT_CALL {
                return Ok(());
            }
            self.run_on(libc::PTRACE_SYSCALL, status)?;
        }
    }

    fn registers(&self) -> Result<user_regs_struct, Errno> {
        // SAFETY: a structure of numbers, for which zeros are values.
        let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
        let to = &raw mut registers as usize;
        ptrace(libc::PTRACE_GETREGS, self.tid, 0, to)?;
        Ok(registers)
    }

    fn set(&self, registers: &user_regs_struct) -> Result<(), Errno> {
        let from = std::ptr::from_ref(registers) as usize;
        ptrace(libc::PTRACE_SETREGS, self.tid, 0, from).map(drop)
    }

    /// Makes a call in its place, by the instruction that it came from.
    fn call(&mut self, number: c_long, words: [usize; 6]) -> Result<usize, Errno> {
        let (mut registers, _) = self.kept.ok_or(Errno::ESRCH)?;
        registers.rip -= SYSCALL_BYTES;
        registers.rax = number as u64;
        // Not on its way out of a call, which could be made again.
        registers.orig_rax = u64::MAX;
        let [a, b, c, d, e, f] = words.map(|word| word as u64);
        (registers.rdi, registers.rsi, registers.rdx) = (a, b, c);
        (registers.r10, registers.r8, registers.r9) = (d, e, f);
        self.set(&registers)?;
        self.next_call()?;
        self.next_call()?;
        match self.registers()?.rax as i64 {
            error @ -4095..=-1 => Err(Errno(-(error as i32))),
            value => Ok(value as usize),
        }
    }

    /// Has it return from its call with this answer.
    fn answer(&mut self, answer: Result<usize, Errno>) -> Result<(), Errno> {
        if let Some((registers, _)) = &mut self.kept {
            registers.rax = match answer {
                Ok(value) => value as u64,
                Err(errno) => -i64::from(errno.0) as u64,
            };
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some((mut registers, mask)) = self.kept {
            registers.orig_rax = u64::MAX;
            // Fails only for a thread that is gone.
            let _ = self.set(&registers);
            let _ = ptrace(SETSIGMASK, self.tid, MASK_BYTES, &raw const mask as usize);
        }
        let _ = ptrace(libc::PTRACE_DETACH, self.tid, 0, self.signal as usize);
    }
}

fn ptrace(request: u32, tid: pid_t, address: usize, data: usize) -> Result<usize, Errno> {
    let words = [request as usize, tid as usize, address, data, 0, 0];
    raw::checked(libc::SYS_ptrace, words)
}
