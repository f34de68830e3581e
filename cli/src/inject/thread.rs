//! One thread of the target, seized by ptrace(2). It knows no functions and
//! no safe points. Dropping it lets the thread go.

use std::io::{IoSlice, IoSliceMut};
use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::arch::{self, Registers, VECTOR_STATE, VECTOR_STATE_MAX};
use crate::log::debug;

/// What PTRACE_O_TRACESYSGOOD makes of SIGTRAP at a system call.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// Waits that end with EINTR when a thread is stopped, although no signal was
/// handled (signal(7)), and have then done nothing.
const BROKEN_OFF: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
];
/// How long a running thread may take to stop so that it can be let go.
const LET_GO: Duration = Duration::from_secs(2);

/// Why a thread cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It, or its process, ended.
    Ended,
    /// Its process called execve(2).
    Replaced,
    /// It did not do what we wait for before the deadline.
    Late,
    /// It raised this signal in code that we made it run.
    Crashed(i32),
    /// Its process is stopped by job control.
    Stopped,
    /// A signal came before it had set out; it was let go to handle that.
    Disturbed,
    /// The kernel refused a request.
    Io(Errno),
}

impl From<Errno> for Lost {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ESRCH | Errno::ECHILD => Self::Ended,
            other => Self::Io(other),
        }
    }
}

/// Why a thread stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// At the start or the end of a system call.
    Syscall,
    /// Because we asked.
    Asked,
    /// Because its process is stopped by job control. Resumed, it runs on, and
    /// is stopped again when it is let go.
    Group,
    /// The signal of this number is about to be delivered.
    Signal(i32),
}

/// Vector registers as the kernel hands them out.
pub struct Vectors(Vec<u8>);

/// A seized thread.
pub struct Thread {
    tid: Pid,
    attached: bool,
    /// It was asked to stop and has not done so yet.
    asked: bool,
}

impl Thread {
    /// Seizes a thread; it keeps running.
    pub fn seize(tid: Pid) -> Result<Self, Errno> {
        ptrace::seize(
            tid,
            Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC,
        )?;
        Ok(Self {
            tid,
            attached: true,
            asked: false,
        })
    }

    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Asks a running thread to stop, or a stopped one to stop again as soon
    /// as it runs. Whatever else stops it meanwhile, it will.
    pub fn interrupt(&mut self) -> Result<(), Lost> {
        ptrace::interrupt(self.tid)?;
        self.asked = true;
        Ok(())
    }

    /// Whether it was asked to stop and has not done so yet.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Lets a stopped thread run to the next start or end of a system call,
    /// with `signal` delivered unless it is 0.
    pub fn resume(&self, signal: i32) -> Result<(), Lost> {
        self.request(libc::PTRACE_SYSCALL, signal)
    }

    /// Lets a stopped thread run until something else stops it.
    pub fn run(&self) -> Result<(), Lost> {
        self.request(libc::PTRACE_CONT, 0)
    }

    fn request(&self, request: libc::c_uint, signal: i32) -> Result<(), Lost> {
        // SAFETY: the requests made here take no address and a signal number.
        let result =
            unsafe { libc::ptrace(request, self.tid.as_raw(), 0, libc::c_long::from(signal)) };
        Errno::result(result)?;
        Ok(())
    }

    /// Waits for the thread to stop. SIGCHLD must be blocked: it is what the
    /// kernel sends us when that happens.
    pub fn wait(&mut self, deadline: Instant) -> Result<Stop, Lost> {
        loop {
            if let Some(status) = self.status()? {
                return self.stop(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Err(Lost::Late);
            }
            wait_for_child(left);
        }
    }

    /// The code of a stop, if the thread is stopped. The stop stays to be waited
    /// for: a signal whose stop was taken note of is lost when we are killed.
    /// nix would refuse to name a real-time signal in it.
    fn status(&mut self) -> Result<Option<i32>, Lost> {
        let options = libc::__WALL | libc::WNOHANG | libc::WEXITED | libc::WSTOPPED;
        let info = self.wait_info(options | libc::WNOWAIT)?;
        // SAFETY: waitid fills these two fields, or leaves zeros.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        match info.si_code {
            _ if pid == 0 => Ok(None),
            libc::CLD_TRAPPED | libc::CLD_STOPPED => Ok(Some(status)),
            _ => {
                self.attached = false;
                self.wait_info(options)?;
                Err(Lost::Ended)
            }
        }
    }

    fn wait_info(&self, options: libc::c_int) -> Result<libc::siginfo_t, Errno> {
        let id = self.tid.as_raw().cast_unsigned();
        // SAFETY: all-zero is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is live and written before the call returns.
        let result = unsafe { libc::waitid(libc::P_PID, id, &raw mut info, options) };
        Errno::result(result).map(|_| info)
    }

    fn stop(&mut self, code: i32) -> Result<Stop, Lost> {
        let stop = match (code >> 8, code & 0xff) {
            (libc::PTRACE_EVENT_EXEC, _) => return Err(Lost::Replaced),
            (0, SYSCALL_STOP) => Stop::Syscall,
            (0, signal) => Stop::Signal(signal),
            (_, trap) => {
                self.asked = false;
                self.mend_wait()?;
                if trap == libc::SIGTRAP {
                    Stop::Asked
                } else {
                    Stop::Group
                }
            }
        };
        if self.asked {
            // Any other stop cancels it, and what we broke off is not mended.
            self.interrupt()?;
        }
        Ok(stop)
    }

    /// A wait that our stop broke off is to be made again.
    fn mend_wait(&self) -> Result<(), Lost> {
        let mut registers = self.registers()?;
        let broken_off =
            arch::syscall_number(&registers).is_some_and(|number| BROKEN_OFF.contains(&number));
        if broken_off && arch::make_again(&mut registers) {
            self.set_registers(&registers)?;
        }
        Ok(())
    }

    pub fn registers(&self) -> Result<Registers, Lost> {
        Ok(ptrace::getregs(self.tid)?)
    }

    pub fn set_registers(&self, registers: &Registers) -> Result<(), Lost> {
        Ok(ptrace::setregs(self.tid, *registers)?)
    }

    pub fn vectors(&self) -> Result<Vectors, Lost> {
        let mut bytes = vec![0; VECTOR_STATE_MAX];
        let length = self.register_set(libc::PTRACE_GETREGSET, &mut bytes)?;
        bytes.truncate(length);
        Ok(Vectors(bytes))
    }

    pub fn set_vectors(&self, vectors: &mut Vectors) -> Result<(), Lost> {
        self.register_set(libc::PTRACE_SETREGSET, &mut vectors.0)
            .map(|_| ())
    }

    fn register_set(&self, request: libc::c_uint, bytes: &mut [u8]) -> Result<usize, Lost> {
        let mut vector = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: `vector` describes `bytes`, which outlives the call; both requests stay inside it.
        let result =
            unsafe { libc::ptrace(request, self.tid.as_raw(), VECTOR_STATE, &raw mut vector) };
        Errno::result(result)?;
        Ok(vector.iov_len)
    }

    /// The signals this thread blocks, bit N-1 for signal N.
    pub fn blocked(&self) -> Result<u64, Lost> {
        let mut mask = 0_u64;
        // SAFETY: the kernel writes as many bytes as the third argument says, the size of `mask`.
        let result = unsafe {
            libc::ptrace(
                libc::PTRACE_GETSIGMASK,
                self.tid.as_raw(),
                size_of_val(&mask),
                &raw mut mask,
            )
        };
        Errno::result(result)?;
        Ok(mask)
    }

    pub fn set_blocked(&self, mask: u64) -> Result<(), Lost> {
        // SAFETY: the kernel reads as many bytes as the third argument says, the size of `mask`.
        let result = unsafe {
            libc::ptrace(
                libc::PTRACE_SETSIGMASK,
                self.tid.as_raw(),
                size_of_val(&mask),
                &raw const mask,
            )
        };
        Errno::result(result)?;
        Ok(())
    }

    /// What came with the signal that is about to be delivered.
    pub fn signal_info(&self) -> Result<libc::siginfo_t, Lost> {
        Ok(ptrace::getsiginfo(self.tid)?)
    }

    /// Writes `bytes`, a multiple of eight, also where the thread may not, while
    /// it is stopped.
    pub fn poke(&self, address: u64, bytes: &[u8]) -> Result<(), Lost> {
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let word = i64::from_ne_bytes(word.try_into().unwrap_or_default());
            let at = (address as usize + index * 8) as ptrace::AddressType;
            ptrace::write(self.tid, at, word)?;
        }
        Ok(())
    }

    /// Lets the thread go its way.
    pub fn detach(mut self) -> Result<(), Lost> {
        self.let_go()
    }

    /// Lets the stopped thread go its way at once, with `signal` delivered
    /// unless it is 0.
    pub fn detach_now(&mut self, signal: i32) -> Result<(), Lost> {
        self.request(libc::PTRACE_DETACH, signal)?;
        self.attached = false;
        Ok(())
    }

    fn let_go(&mut self) -> Result<(), Lost> {
        if !self.attached {
            return Ok(());
        }
        let deadline = Instant::now() + LET_GO;
        let mut signal = 0;
        loop {
            if !self.asked && self.request(libc::PTRACE_DETACH, signal).is_ok() {
                self.attached = false;
                return Ok(());
            }
            // It runs, and only a stopped thread can be detached.
            if !self.asked {
                self.interrupt()?;
            } else if let Err(lost @ Lost::Io(_)) = self.request(libc::PTRACE_CONT, signal) {
                return Err(lost);
            }
            signal = match self.wait(deadline)? {
                Stop::Signal(signal) => signal,
                Stop::Asked | Stop::Group | Stop::Syscall => 0,
            };
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Err(lost) = self.let_go() {
            // The kernel detaches it when we exit.
            debug!("thread {} not let go: {lost:?}", self.tid);
        }
    }
}

/// Fills `buffer` from the memory of `pid`.
pub fn read(pid: Pid, address: u64, buffer: &mut [u8]) -> Result<(), Lost> {
    let length = buffer.len();
    let remote = RemoteIoVec {
        base: usize::try_from(address).map_err(|_| Errno::EFAULT)?,
        len: length,
    };
    match process_vm_readv(pid, &mut [IoSliceMut::new(buffer)], &[remote]) {
        Ok(read) if read == length => Ok(()),
        Ok(_) => Err(Lost::Io(Errno::EFAULT)),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes `bytes` to the memory of `pid`.
pub fn write(pid: Pid, address: u64, bytes: &[u8]) -> Result<(), Lost> {
    let remote = RemoteIoVec {
        base: usize::try_from(address).map_err(|_| Errno::EFAULT)?,
        len: bytes.len(),
    };
    match process_vm_writev(pid, &[IoSlice::new(bytes)], &[remote]) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(Lost::Io(Errno::EFAULT)),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits until SIGCHLD is pending, and takes it.
fn wait_for_child(timeout: Duration) {
    let mut child = SigSet::empty();
    child.add(Signal::SIGCHLD);
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().cast_signed(),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: both pointers are to live values; the caller looks again whatever the result.
    unsafe { libc::sigtimedwait(child.as_ref(), ptr::null_mut(), &raw const timeout) };
}
