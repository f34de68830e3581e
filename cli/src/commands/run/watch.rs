//! Ends what runs here by signals and by a limit of time, also while it waits
//! in a call that nobody can end.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use wasm::{Reason, Stop};

use super::process::Process;

/// The status of timeout(1) for what took too long.
pub const TIMED_OUT: u8 = 124;

/// How long what was asked to end may take until it hears.
const HEARS: Duration = Duration::from_millis(500);

/// How long a module has to read what a process reported before it ended.
const READS: Duration = Duration::from_secs(1);

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// From now on signals that ask to end, and the end of `timeout`, ask by `stop`.
/// Who does not hear is ended with the whole process: by the signal, or
/// after `line` with [`TIMED_OUT`].
///
/// Threads that are made later must see no signals; so this comes first.
pub fn watch(stop: &Arc<Stop>, timeout: Option<Duration>, line: String) {
    let mut signals = SigSet::empty();
    for signal in SIGNALS.into_iter().filter(|&signal| !is_ignored(signal)) {
        signals.add(signal);
    }
    // Fails for no set.
    let _ = signals.thread_block();
    let stop = Arc::clone(stop);
    let due = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    std::thread::spawn(move || {
        let reason = wait(&signals, due);
        stop.ask(reason);
        // A second request is one for the end at once.
        let again = wait(&signals, Instant::now().checked_add(HEARS));
        match (again, reason) {
            (Reason::Signal(_), _) => {}
            _ if stop.has_ended() => {
                wait(&signals, None);
            }
            _ => {}
        }
        match reason {
            Reason::Signal(number) => die(number),
            _ => {
                // Nobody is left to tell if stderr is gone.
                let _ = writeln!(std::io::stderr(), "{line}");
                // SAFETY: ends the process; other threads may hold locks of what else would run.
                unsafe { libc::_exit(TIMED_OUT.into()) }
            }
        }
    });
}

/// Asks to end by `stop` when the process has ended that is traced, and what it
/// reported has been there for a while. Who does not hear is ended with the
/// whole process.
pub fn follow(stop: &Arc<Stop>, process: &Arc<Process>) {
    let (stop, process) = (Arc::clone(stop), Arc::clone(process));
    std::thread::spawn(move || {
        process.wait();
        std::thread::sleep(READS);
        stop.ask(Reason::Gone);
        std::thread::sleep(HEARS);
        if stop.asked() == Some(Reason::Gone) && !stop.has_ended() {
            process.tell();
            // SAFETY: ends the process; other threads may hold locks of what else would run.
            unsafe { libc::_exit(0) }
        }
    });
}

/// Ends this process as a signal does.
pub fn die(number: i32) -> ! {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    if let Ok(signal) = Signal::try_from(number) {
        let mut signals = SigSet::empty();
        signals.add(signal);
        // SAFETY: the default action; nobody here wants another any more.
        let _ = unsafe { sigaction(signal, &action) };
        let _ = signals.thread_unblock();
        let _ = nix::sys::signal::raise(signal);
    }
    std::process::exit(128 + number)
}

/// Waits for one of the signals, at most until `due`.
fn wait(signals: &SigSet, due: Option<Instant>) -> Reason {
    loop {
        // Far enough away to be never.
        let left = due.map_or(Duration::from_secs(3600), |due| {
            due.saturating_duration_since(Instant::now())
        });
        let time = libc::timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(3600),
            tv_nsec: left.subsec_nanos().into(),
        };
        // SAFETY: a set and a time that outlive the call; no details are asked for.
        let number =
            unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &raw const time) };
        if number > 0 {
            return Reason::Signal(number);
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            return Reason::Timeout;
        }
    }
}

/// Whether whoever started us wants us to live on, as nohup(1) does.
fn is_ignored(signal: Signal) -> bool {
    // SAFETY: only asks.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal as i32, std::ptr::null(), &raw mut action);
        action.sa_sigaction == libc::SIG_IGN
    }
}
