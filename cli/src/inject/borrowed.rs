//! Calls in a borrowed thread, and giving it back as it was. It knows no
//! library and no particular function.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::arch::{self, Registers};
use super::target::Target;
use super::thread::{self, Lost, Stop, Thread, Vectors};
use crate::log::debug;

/// Size of the stack that calls run on; its pages cost when touched.
const STACK: u64 = 512 * 1024;
/// How long the thread may take to stop for being given back.
const GIVE_BACK: Duration = Duration::from_secs(1);
/// Results of system calls from here on are negative error numbers.
const FIRST_ERROR: u64 = -4095_i64 as u64;
/// Signals that the processor raises; blocked, they would end the process.
const FAULTS: [i32; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// A thread at a safe point, with everything saved that it could notice.
/// Dropping it gives it back.
pub struct Borrowed {
    /// `None` once given back.
    thread: Option<Thread>,
    pid: nix::unistd::Pid,
    registers: Registers,
    vectors: Vectors,
    blocked: u64,
    errno: Option<(u64, [u8; 4])>,
    /// Lower end of the stack of ours, 0 without one.
    stack: u64,
    /// Lowest byte of it that is taken.
    top: u64,
    return_point: u64,
    deadline: Instant,
    /// Signals that came meanwhile although all are blocked that can be.
    held: Vec<i32>,
    /// A call did not return: its frames are still on our stack.
    abandoned: bool,
}

impl Borrowed {
    /// Saves the state of `thread`, stopped at a safe point, and makes it
    /// ready for calls. All calls together must be done by `deadline`.
    pub fn begin(thread: Thread, target: &Target, deadline: Instant) -> Result<Self, Lost> {
        let (registers, vectors, blocked) =
            (thread.registers()?, thread.vectors()?, thread.blocked()?);
        let faults = FAULTS.iter().fold(0, |mask, signal| mask | bit(*signal));
        thread.set_blocked(blocked | !faults)?;
        let mut borrowed = Self {
            thread: Some(thread),
            pid: target.pid,
            registers,
            vectors,
            blocked,
            errno: None,
            stack: 0,
            top: 0,
            return_point: target.return_point,
            deadline,
            held: Vec::new(),
            abandoned: false,
        };
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK) as u64;
        borrowed.stack =
            borrowed.syscall(libc::SYS_mmap, [0, STACK, protection, flags, u64::MAX, 0])?;
        borrowed.top = borrowed.stack + STACK;
        if let Some(location) = target.errno_location {
            let location = borrowed.call(location, [0, 0])?;
            let mut value = [0; 4];
            thread::read(target.pid, location, &mut value)?;
            borrowed.errno = Some((location, value));
        }
        Ok(borrowed)
    }

    /// Copies a string to where the thread can read it and returns its address.
    pub fn string(&mut self, string: &CStr) -> Result<u64, Lost> {
        let bytes = string.to_bytes_with_nul();
        self.top = (self.top - bytes.len() as u64) & !15;
        thread::write(self.pid, self.top, bytes)?;
        Ok(self.top)
    }

    /// The text at an address in the target, as far as it is any.
    pub fn read_string(&self, address: u64) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while text.len() < 1024
            && thread::read(self.pid, address + text.len() as u64, &mut byte).is_ok()
        {
            if byte == [0] {
                break;
            }
            text.push(byte[0]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Calls the function at an address and returns what it returns.
    pub fn call(&mut self, function: u64, arguments: [u64; 2]) -> Result<u64, Lost> {
        let stack = (self.top & !15) - 8;
        thread::write(self.pid, stack, &self.return_point.to_le_bytes())?;
        let registers = arch::call(&self.registers, function, arguments, stack);
        self.thread()?.set_registers(&registers)?;
        self.abandoned = true;
        loop {
            self.next_syscall_stop()?;
            let mut registers = self.thread()?.registers()?;
            if let Some(result) = arch::returned(&registers, self.return_point, stack) {
                arch::replace_syscall(&mut registers);
                self.thread()?.set_registers(&registers)?;
                self.next_syscall_stop()?;
                self.abandoned = false;
                return Ok(result);
            }
            // The end of a system call that the function makes.
            self.next_syscall_stop()?;
        }
    }

    /// Makes a system call in the thread.
    fn syscall(&mut self, number: i64, arguments: [u64; 6]) -> Result<u64, Lost> {
        let registers = arch::enter_kernel(&self.registers, self.return_point, number, arguments);
        self.thread()?.set_registers(&registers)?;
        self.next_syscall_stop()?;
        self.next_syscall_stop()?;
        let result = arch::syscall_result(&self.thread()?.registers()?);
        if result >= FIRST_ERROR {
            let errno = i32::try_from(result.cast_signed().unsigned_abs()).unwrap_or(libc::EIO);
            return Err(Lost::Io(Errno::from_raw(errno)));
        }
        Ok(result)
    }

    fn thread(&mut self) -> Result<&mut Thread, Lost> {
        self.thread.as_mut().ok_or(Lost::Ended)
    }

    /// Lets the thread run to the next start or end of a system call.
    fn next_syscall_stop(&mut self) -> Result<(), Lost> {
        let deadline = self.deadline;
        loop {
            let thread = self.thread()?;
            thread.resume(0)?;
            match thread.wait(deadline)? {
                Stop::Syscall => return Ok(()),
                // Late news of an interruption, or job control, which takes
                // hold when the thread is back.
                Stop::Asked | Stop::Step => {}
                Stop::Signal(signal) => {
                    let raised_here = thread.signal_info()?.si_code > 0;
                    if raised_here && FAULTS.contains(&signal) {
                        return Err(Lost::Crashed(signal));
                    }
                    self.held.push(signal);
                }
            }
        }
    }

    /// Gives the thread back as it was.
    pub fn give_back(mut self) -> Result<(), Lost> {
        self.restore()
    }

    fn restore(&mut self) -> Result<(), Lost> {
        if self.thread.is_none() {
            return Ok(());
        }
        if self.stack != 0 && !self.abandoned {
            self.deadline = Instant::now() + GIVE_BACK;
            let stack = std::mem::take(&mut self.stack);
            self.syscall(libc::SYS_munmap, [stack, STACK, 0, 0, 0, 0])?;
        }
        if let Some((location, value)) = self.errno {
            thread::write(self.pid, location, &value)?;
        }
        self.stop_on_the_way_out()?;
        let (registers, blocked) = (self.registers, self.blocked);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let restored = thread
            .set_registers(&registers)
            .and_then(|()| thread.set_vectors(&mut self.vectors))
            .and_then(|()| thread.set_blocked(blocked));
        let tid = thread.tid();
        restored.and(thread.detach())?;
        for signal in std::mem::take(&mut self.held) {
            debug!("{}: sending signal {signal} on", self.pid);
            // SAFETY: takes numbers only. A process that has ended needs no signal.
            unsafe { libc::syscall(libc::SYS_tgkill, self.pid.as_raw(), tid.as_raw(), signal) };
        }
        Ok(())
    }

    /// Stops the thread inside the kernel's signal delivery: only there does
    /// it restart, from the registers we then set, the system call that we
    /// interrupted.
    fn stop_on_the_way_out(&mut self) -> Result<(), Lost> {
        let deadline = Instant::now() + GIVE_BACK;
        loop {
            let thread = self.thread()?;
            // Every time: any other stop cancels it.
            thread.interrupt()?;
            match thread.resume(0) {
                // After a call that was late the thread runs.
                Ok(()) | Err(Lost::Ended) => {}
                Err(lost) => return Err(lost),
            }
            match thread.wait(deadline)? {
                Stop::Asked => return Ok(()),
                Stop::Syscall | Stop::Step => {}
                Stop::Signal(signal) => {
                    if thread.signal_info()?.si_code <= 0 {
                        self.held.push(signal);
                    }
                }
            }
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Err(lost) = self.restore() {
            debug!("{}: thread not given back: {lost:?}", self.pid);
        }
    }
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}
