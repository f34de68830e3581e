//! Helpers that send signals to who runs. Used from trampolines: no
//! allocation, no lock, no libc.
//!
//! The kernel's come when the thread is back in its program, behind all that
//! runs at the hit. So a run whose caller says where keeps them there until the
//! program has ended; else they are sent at once.

use core::cell::Cell;

use shm::sys;
use uapi::Errno;

use super::row::{Any, helper};
use crate::run::RunState;

helper! {
    /// bpf_send_signal: a signal for the process.
    /// Errors: EINVAL no such signal.
    fn send_signal(run, signal: Any) -> i64 = BPF_FUNC_SEND_SIGNAL {
        send(run, signal.0 as u32, Whom::Process)
    }
}

helper! {
    /// bpf_send_signal_thread: a signal for the thread.
    /// Errors: EINVAL no such signal.
    fn send_signal_thread(run, signal: Any) -> i64 = BPF_FUNC_SEND_SIGNAL_THREAD {
        send(run, signal.0 as u32, Whom::Thread)
    }
}

/// `_NSIG`.
const LAST: u32 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Process,
    Thread,
}

/// Signals that wait for the end of a program, as sets: bit 0 is signal 1.
#[derive(Debug, Default)]
pub struct Pending {
    process: Cell<u64>,
    thread: Cell<u64>,
}

impl Pending {
    /// Sends them to this thread.
    #[inline]
    pub fn deliver(&self) {
        if self.process.get() | self.thread.get() != 0 {
            self.deliver_some();
        }
    }

    #[cold]
    fn deliver_some(&self) {
        for (set, whom) in [(&self.process, Whom::Process), (&self.thread, Whom::Thread)] {
            let set = set.take();
            for signal in (1..=LAST).filter(|signal| set & bit(*signal) != 0) {
                // There is nobody to tell: the program has ended.
                let _ = deliver(signal, whom);
            }
        }
    }
}

fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

fn send(run: &RunState, signal: u32, whom: Whom) -> i64 {
    if signal > LAST {
        return Errno::EINVAL.ret();
    }
    if signal == 0 {
        return 0;
    }
    // SAFETY: whoever built the run vouched for what it points to.
    let Some(pending) = (unsafe { run.signals.as_ref() }) else {
        return deliver(signal, whom);
    };
    let set = match whom {
        Whom::Process => &pending.process,
        Whom::Thread => &pending.thread,
    };
    set.set(set.get() | bit(signal));
    0
}

/// As the kernel: a signal of its own (`SI_KERNEL`), and one for the process
/// comes to this thread unless that blocks it (`complete_signal` in
/// kernel/signal.c, 6.18). Who may say `SI_KERNEL` may say it to its own id
/// only: from other threads than the first, a blocked one is as by kill(2).
fn deliver(signal: u32, whom: Whom) -> i64 {
    let (pid, tid) = (sys::getpid() as usize, sys::gettid() as usize);
    let to_process = whom == Whom::Process && is_blocked(signal);
    let signal = signal as usize;
    let mut info = [0u32; INFO_WORDS];
    info[0] = signal as u32;
    info[2] = libc::SI_KERNEL as u32;
    let info = info.as_ptr() as usize;
    let (number, arguments) = match to_process {
        false => (libc::SYS_rt_tgsigqueueinfo, [pid, tid, signal, info]),
        true if pid == tid => (libc::SYS_rt_sigqueueinfo, [pid, signal, info, 0]),
        true => (libc::SYS_kill, [pid, signal, 0, 0]),
    };
    let [a, b, c, d] = arguments;
    // SAFETY: a signal is what the tool asked for; the structure is read
    // during the call.
    unsafe { sys::syscall6(number as usize, a, b, c, d, 0, 0) as i64 }
}

/// Words of a `siginfo_t`: number, errno, code and so on.
const INFO_WORDS: usize = 32;

fn is_blocked(signal: u32) -> bool {
    let mut mask = 0u64;
    let (how, to) = (libc::SIG_BLOCK as usize, (&raw mut mask) as usize);
    let bytes = size_of::<u64>();
    let number = libc::SYS_rt_sigprocmask as usize;
    // SAFETY: asks for the mask, which is written to `mask`.
    unsafe { sys::syscall6(number, how, 0, to, bytes, 0, 0) };
    mask & bit(signal) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(signals: *const Pending) -> RunState {
        let mut run = RunState::new(std::ptr::null(), std::ptr::null(), 0, 0);
        run.signals = signals;
        run
    }

    fn wait_for(set: &libc::sigset_t) -> Option<(i32, i32)> {
        // SAFETY: a structure of numbers and pointers that are not used.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let none = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: all three live during the call.
        let signal = unsafe { libc::sigtimedwait(set, &raw mut info, &raw const none) };
        (signal > 0).then_some((signal, info.si_code))
    }

    #[test]
    fn signals_wait_for_the_end_of_the_program() {
        // SAFETY: an empty set, to which two signals are added that this thread blocks.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGUSR1);
            libc::sigaddset(&raw mut set, libc::SIGUSR2);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            set
        };
        let pending = Pending::default();
        let later = run(&raw const pending);
        assert_eq!(send(&later, libc::SIGUSR1 as u32, Whom::Thread), 0);
        assert_eq!(send(&later, 0, Whom::Thread), 0);
        assert_eq!(send(&later, 65, Whom::Process), Errno::EINVAL.ret());
        assert_eq!(wait_for(&set), None);
        pending.deliver();
        assert_eq!(wait_for(&set), Some((libc::SIGUSR1, libc::SI_KERNEL)));
        pending.deliver();
        assert_eq!(wait_for(&set), None);
        let now = run(std::ptr::null());
        assert_eq!(send(&now, libc::SIGUSR2 as u32, Whom::Thread), 0);
        assert_eq!(wait_for(&set), Some((libc::SIGUSR2, libc::SI_KERNEL)));
    }
}
