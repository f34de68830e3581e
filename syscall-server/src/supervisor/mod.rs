//! Serves tools into which nothing can be preloaded, static programs most of
//! all: the kernel shows this process the calls that matter (seccomp user
//! notification), and the code that answers them in a tool answers them here.
//! It knows no command.
//!
//! Objects and their fds are this process's; a tool's numbers are duplicates
//! ([`table`]). The tool keeps its process id, its parent, its terminal: this
//! process stands beside it, and ends when nobody is left to serve. If it is
//! killed, the calls it would have answered fail with ENOSYS.
//!
//! Reading order: [`start`] (how a process comes to be supervised), [`filter`]
//! (which calls), [`notice`] (how they come), [`calls`] (what answers),
//! [`table`] and [`closing`] (whose fd is what, and until when), [`remote`]
//! (mappings in the tool).

mod calls;
mod closing;
mod filter;
pub mod notice;
mod paths;
mod remote;
mod start;
pub mod table;

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use uapi::Errno;

use crate::{caller, raw, server};
use notice::{Listener, Notice};

/// Threads that wait for calls at least, once there were so many calls at once.
const SPARE: i32 = 2;
/// Between two looks for fds that went unseen, in milliseconds.
const LOOK: usize = 1000;

/// What this process supervises.
struct Supervised {
    listener: Listener,
    /// The process that was supervised first.
    first: i32,
}

static SUPERVISED: OnceLock<Supervised> = OnceLock::new();

/// Threads that wait for a call.
static WAITING: AtomicI32 = AtomicI32::new(0);

/// How a call is answered.
enum Answer {
    /// By the kernel.
    Pass,
    /// So.
    Value(Result<i64, Errno>),
    /// By a file of ours: its fd here, and `O_CLOEXEC` or 0. It stays open here.
    Object(c_int, c_int),
    /// By a file that is the caller's alone from then on.
    File(c_int, c_int),
    /// It was, already.
    Done,
}

/// Whether this process answers for others.
pub fn is_supervisor() -> bool {
    SUPERVISED.get().is_some()
}

/// The process that was supervised first.
fn first() -> Option<i32> {
    SUPERVISED.get().map(|supervised| supervised.first)
}

/// Where the files of sessions are.
fn sessions_directory() -> Option<PathBuf> {
    let session = server::existing()?.bpf.session().ok()?;
    Some(session.dirs().sessions.clone())
}

/// Writes a line where the user of the tool reads.
pub fn tell(line: &str) {
    let Some(first) = first() else { return };
    let pid = match caller::supervised() {
        Some(_) => caller::pid(),
        None => first,
    };
    // A closed one is no reason to fail.
    if let Ok(stderr) = caller::duplicate_of(pid, 2) {
        let words = [
            stderr.as_raw_fd() as usize,
            line.as_ptr() as usize,
            line.len(),
            0,
            0,
            0,
        ];
        raw::call(libc::SYS_write, words);
    }
}

/// Answers until nobody is left that could ask.
fn serve(supervised: Supervised) -> ! {
    let (listener, first) = (supervised.listener, supervised.first);
    listener.take_turns();
    let pid = raw::checked(libc::SYS_pidfd_open, [first as usize, 0, 0, 0, 0, 0]);
    let _ = SUPERVISED.set(supervised);
    more_threads(listener);
    let mut looks = closing::Looks::default();
    let poll = |fd: c_int, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    loop {
        let process = pid.map_or(-1, |pid| pid as c_int);
        let mut fds = [poll(listener.0, 0), poll(process, libc::POLLIN)];
        let words = [fds.as_mut_ptr() as usize, fds.len(), LOOK, 0, 0, 0];
        raw::call(libc::SYS_poll, words);
        // Filters go with the last process, or with its remains.
        let nobody = fds[0].revents != 0;
        if nobody || fds[1].revents != 0 && !closing::has_children() {
            shm::sys::exit_group(0);
        }
        if fds[1].revents != 0 {
            // It stays readable.
            std::thread::sleep(Duration::from_millis(LOOK as u64));
        }
        looks.look();
    }
}

/// Has at least one thread wait for the next call while others answer.
fn more_threads(listener: Listener) {
    if WAITING.fetch_add(1, Ordering::AcqRel) > 0 {
        WAITING.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let thread = std::thread::Builder::new().name("bpftime".to_owned());
    if thread.spawn(move || answer_all(listener)).is_err() {
        // Calls wait until one of the others is through.
        WAITING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A thread's life: it is counted as waiting when it begins.
fn answer_all(listener: Listener) {
    loop {
        let notice = listener.next();
        WAITING.fetch_sub(1, Ordering::AcqRel);
        match notice {
            Ok(notice) => {
                if calls::may_take_long(&notice) {
                    more_threads(listener);
                }
                answer(listener, &notice);
            }
            // Its caller is gone; or all are, which the first thread sees.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        if WAITING.fetch_add(1, Ordering::AcqRel) >= SPARE {
            WAITING.fetch_sub(1, Ordering::AcqRel);
            return;
        }
    }
}

fn answer(listener: Listener, notice: &Notice) {
    closing::heard(notice.tid as i32);
    let answered = caller::answering(listener, notice, || {
        // State behind locks stays consistent: see `runtime::command::object::locked`.
        catch_unwind(AssertUnwindSafe(|| calls::answer(listener, notice)))
    });
    // A caller that is gone needs none.
    let _ = match answered.unwrap_or(Answer::Value(Err(Errno::EIO))) {
        Answer::Pass => listener.pass(notice),
        Answer::Value(value) => listener.answer(notice, value),
        Answer::Object(own, flags) => give(listener, notice, own, flags, true),
        Answer::File(own, flags) => give(listener, notice, own, flags, false),
        Answer::Done => Ok(()),
    };
}

/// Gives the caller a file, which stays here if it `is_object`.
fn give(
    listener: Listener,
    notice: &Notice,
    own: c_int,
    flags: c_int,
    is_object: bool,
) -> Result<(), Errno> {
    match listener.answer_fd(notice, own, flags) {
        Ok(theirs) if is_object => table::note(theirs, own),
        Ok(_) => closing::forget(own),
        Err(errno) => {
            closing::forget(own);
            return listener.answer(notice, Err(errno));
        }
    }
    Ok(())
}
