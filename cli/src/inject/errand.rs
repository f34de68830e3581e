//! A borrowed thread's errand: it is sent to load and start the agent, and
//! does so by itself ([`super::arch::errand`]). We watch, and help: from the
//! one change of registers that sends it, it comes back as it was also when we
//! are gone. Whether it was where it may be borrowed is [`super::safe_point`]'s.

use std::ffi::CString;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::arch::errand::{self, ANSWERS, Answers, MESSAGE, Message, Orders, Place};
use super::arch::{self, Interruptible, Registers};
use super::guest::Guest;
use super::safe_point::Point;
use super::slot::Slot;
use super::target::Target;
use super::thread::{self, Lost, Stop, Thread, Vectors};
use crate::log::debug;

/// How long the thread may take to stop for being fetched back.
const FETCH: Duration = Duration::from_secs(1);
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

/// What is to be called.
pub struct Errand<'a> {
    pub library: &'a CString,
    pub sessions: &'a CString,
    /// What is handed over in place of the two.
    pub guest: Option<&'a Guest>,
    /// The agent's start, from its load address.
    pub start: u64,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Started,
    /// The agent said no.
    NotStarted,
    /// The files for a guest did not arrive.
    NotHanded(Errno),
    /// The loader said why.
    NotLoaded(String),
    /// There was no memory for it.
    NoMemory,
}

/// A thread on its errand.
struct Out<'a> {
    thread: Thread,
    target: &'a Target,
    slot: &'a Slot,
    registers: Registers,
    vectors: Vectors,
    blocked: u64,
    /// The call that it is to make when it is back.
    again: Option<Interruptible>,
    deadline: Instant,
    /// Between the start and the end of a system call.
    in_syscall: bool,
    /// Signals that came meanwhile although all are blocked that can be.
    held: Vec<i32>,
}

/// Sends a thread from its safe point on the errand and waits until it
/// is back, at the longest until `deadline`.
pub fn run(
    (thread, point): (Thread, Point),
    target: &Target,
    slot: &Slot,
    errand: &Errand<'_>,
    deadline: Instant,
) -> Result<Outcome, Lost> {
    let (registers, vectors, blocked) = (thread.registers()?, thread.vectors()?, thread.blocked()?);
    let (again, in_syscall) = match point {
        Point::Call(rule) => (Some(rule), true),
        Point::Code => (None, false),
    };
    let faults = FAULTS.iter().fold(0, |mask, signal| mask | bit(*signal));
    let mut orders = Orders::back_to(thread.tid().as_raw(), &registers, again);
    orders.blocks = blocked | !faults;
    orders.blocked = blocked;
    orders.errno_location = target.errno_location;
    orders.dlopen = target.dlopen.address;
    orders.dlopen_flags = target.dlopen.flags;
    orders.dlerror = target.dlerror.unwrap_or(0);
    orders.start = errand.start;
    slot.fill(&thread, &orders.copy())?;
    let sent = match point {
        Point::Call(_) => errand::set_out_from_call(&registers, slot.start()),
        Point::Code => errand::set_out(&registers, slot.start()),
    };
    thread.set_registers(&sent)?;
    let mut out = Out {
        thread,
        target,
        slot,
        registers,
        vectors,
        blocked,
        deadline,
        again,
        in_syscall,
        held: Vec::new(),
    };
    match out.watch(errand) {
        Ok(outcome) => out.welcome().map(|()| outcome),
        Err(lost @ (Lost::Late | Lost::Crashed(_))) => {
            out.fetch()?;
            Err(lost)
        }
        Err(lost) => Err(lost),
    }
}

impl Out<'_> {
    /// Follows the thread to its last system call.
    fn watch(&mut self, errand: &Errand<'_>) -> Result<Outcome, Lost> {
        let mut outcome = Outcome::NoMemory;
        let mut mapping = 0;
        let mut handed = Ok(());
        loop {
            self.next_syscall_stop()?;
            match self.place()? {
                Some(Place::Mapped) if !self.in_syscall => {
                    mapping = arch::syscall_result(&self.thread.registers()?);
                    match errand.guest {
                        _ if mapping >= FIRST_ERROR => {}
                        None => {
                            let texts = [errand.library, errand.sessions];
                            self.send_to_work(texts.map(CString::as_bytes_with_nul), mapping)?;
                        }
                        Some(_) => self.send_to_receive(mapping)?,
                    }
                }
                Some(Place::Paired) if !self.in_syscall => {
                    handed = self.hand(errand, mapping)?;
                }
                Some(Place::Received) if !self.in_syscall => {
                    handed = match handed {
                        Ok(()) => self.handed(errand, mapping)?,
                        errno => errno,
                    };
                }
                Some(Place::Unmapped) if self.in_syscall && mapping < FIRST_ERROR => {
                    outcome = match handed {
                        Ok(()) => self.outcome(mapping)?,
                        Err(errno) => Outcome::NotHanded(errno),
                    };
                }
                Some(Place::Last | Place::LastInterrupted) if self.in_syscall => {
                    return Ok(outcome);
                }
                _ => {}
            }
        }
    }

    fn send_to_work(&mut self, texts: [&[u8]; 2], mapping: u64) -> Result<(), Lost> {
        for (at, text) in errand::strings(mapping).into_iter().zip(texts) {
            thread::write(self.target.pid, at, text)?;
        }
        self.slot.note_mapping(&self.thread, mapping)?;
        let registers = errand::work(&self.registers, self.slot.start(), mapping);
        self.thread.set_registers(&registers)
    }

    /// On its way back, unless we send it to work before.
    fn send_to_receive(&mut self, mapping: u64) -> Result<(), Lost> {
        let message = Message::empty(mapping).bytes();
        thread::write(self.target.pid, mapping + MESSAGE, &message)?;
        let registers = errand::receive(&self.registers, self.slot.start(), mapping);
        self.thread.set_registers(&registers)
    }

    /// The result of the system call that has just ended.
    fn result(&self) -> Result<Result<(), Errno>, Lost> {
        let result = arch::syscall_result(&self.thread.registers()?);
        Ok(match result {
            FIRST_ERROR.. => Err(Errno::from_raw(result.wrapping_neg() as i32)),
            _ => Ok(()),
        })
    }

    fn message(&self, mapping: u64) -> Result<Message, Lost> {
        let mut bytes = [0; size_of::<Message>()];
        thread::read(self.target.pid, mapping + MESSAGE, &mut bytes)?;
        Ok(Message::from_bytes(bytes))
    }

    /// It has its sockets: sends the files.
    fn hand(&self, errand: &Errand<'_>, mapping: u64) -> Result<Result<(), Errno>, Lost> {
        let made = self.result()?;
        let [_, socket] = self.message(mapping)?.sockets;
        let send = |guest: &Guest| guest.send(socket);
        Ok(made.and_then(|()| errand.guest.map_or(Ok(()), send)))
    }

    /// It has received the files: sends it to work.
    fn handed(&mut self, errand: &Errand<'_>, mapping: u64) -> Result<Result<(), Errno>, Lost> {
        if let Err(errno) = self.result()? {
            return Ok(Err(errno));
        }
        let fds = self.message(mapping)?.fds;
        let orders = errand.guest.and_then(|guest| guest.orders(fds));
        match orders.filter(|_| fds.iter().all(|fd| *fd >= 0)) {
            Some((name, handed)) => {
                self.send_to_work([name.as_bytes_with_nul(), handed.bytes()], mapping)?;
                Ok(Ok(()))
            }
            None => Ok(Err(Errno::EMFILE)),
        }
    }

    fn outcome(&self, mapping: u64) -> Result<Outcome, Lost> {
        let mut bytes = [0; size_of::<Answers>()];
        thread::read(self.target.pid, mapping + ANSWERS, &mut bytes)?;
        let answers = Answers::from_bytes(bytes);
        Ok(match (answers.handle, answers.error, answers.status) {
            (0, 0, _) => Outcome::NotLoaded("dlopen failed".to_owned()),
            (0, error, _) => Outcome::NotLoaded(self.read_string(error)),
            (_, _, 0) => Outcome::Started,
            _ => Outcome::NotStarted,
        })
    }

    /// The text at an address in the target, as far as it is any.
    fn read_string(&self, address: u64) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while text.len() < 1024
            && thread::read(self.target.pid, address + text.len() as u64, &mut byte).is_ok()
            && byte != [0]
        {
            text.push(byte[0]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Which system call of the errand's own code the thread is at.
    fn place(&self) -> Result<Option<Place>, Lost> {
        let at = arch::instruction(&self.thread.registers()?);
        let places = [
            Place::Mapped,
            Place::Paired,
            Place::Received,
            Place::Unmapped,
            Place::Last,
            Place::LastInterrupted,
        ];
        let here = |place: &Place| at == self.slot.start() + errand::offset(*place);
        Ok(places.into_iter().find(here))
    }

    /// Lets the thread run to the next start or end of a system call.
    fn next_syscall_stop(&mut self) -> Result<(), Lost> {
        loop {
            self.thread.resume(0)?;
            match self.thread.wait(self.deadline)? {
                Stop::Syscall => {
                    self.in_syscall = !self.in_syscall;
                    return Ok(());
                }
                // Late news of an interruption, or job control, which takes
                // hold when the thread is back.
                Stop::Asked | Stop::Group => {}
                Stop::Signal(signal) => self.meet(signal)?,
            }
        }
    }

    /// A signal that is about to be delivered.
    fn meet(&mut self, signal: i32) -> Result<(), Lost> {
        let at = arch::instruction(&self.thread.registers()?);
        let start = self.slot.start();
        if (start..start + errand::offset(Place::Blocked)).contains(&at) {
            // As if it had never been sent: the signal finds it where it was.
            self.thread.set_registers(&self.registers)?;
            self.slot.clear(&self.thread)?;
            self.thread.detach_now(signal)?;
            return Err(Lost::Disturbed);
        }
        let raised_here = self.thread.signal_info()?.si_code > 0;
        if raised_here && FAULTS.contains(&signal) {
            return Err(Lost::Crashed(signal));
        }
        self.held.push(signal);
        Ok(())
    }

    /// The thread is about to make its last call, and will then be back by
    /// itself. In place of that call it can make its own: what signals then do
    /// to that is the kernel's affair.
    fn welcome(mut self) -> Result<(), Lost> {
        self.thread.set_blocked(self.blocked)?;
        self.thread.set_registers(&self.registers)?;
        self.slot.clear(&self.thread)?;
        // Let go at the start of a call, it would take us for a signal there.
        self.thread.interrupt()?;
        self.let_go()
    }

    /// Fetches the thread back from wherever it is: it does not come by itself.
    fn fetch(mut self) -> Result<(), Lost> {
        self.stop_on_the_way_out()?;
        self.thread.set_vectors(&mut self.vectors)?;
        self.thread.set_blocked(self.blocked)?;
        let registers = match self.again {
            Some(rule) => arch::interrupt(&self.registers, rule),
            None => self.registers,
        };
        self.thread.set_registers(&registers)?;
        self.slot.clear(&self.thread)?;
        self.let_go()
    }

    fn let_go(self) -> Result<(), Lost> {
        let (pid, tid) = (self.target.pid, self.thread.tid());
        self.thread.detach()?;
        for signal in self.held {
            debug!("{pid}: sending signal {signal} on");
            // SAFETY: takes numbers only. A process that has ended needs no signal.
            unsafe { libc::syscall(libc::SYS_tgkill, pid.as_raw(), tid.as_raw(), signal) };
        }
        Ok(())
    }

    /// Stops the thread inside the kernel's signal delivery: there, too, it
    /// restarts, from the registers we then set, the system call that we
    /// interrupted.
    fn stop_on_the_way_out(&mut self) -> Result<(), Lost> {
        let deadline = Instant::now() + FETCH;
        loop {
            if !self.thread.is_asked() {
                self.thread.interrupt()?;
            }
            match self.thread.resume(0) {
                // After a call that was late the thread runs.
                Ok(()) | Err(Lost::Ended) => {}
                Err(lost) => return Err(lost),
            }
            match self.thread.wait(deadline)? {
                Stop::Asked | Stop::Group => return Ok(()),
                Stop::Syscall => {}
                Stop::Signal(signal) => {
                    if self.thread.signal_info()?.si_code <= 0 {
                        self.held.push(signal);
                    }
                }
            }
        }
    }
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}
