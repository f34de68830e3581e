//! Samples threads of targets by perf events of the kernel's, and runs programs
//! for the samples. It knows no program's meaning.
//!
//! The kernel takes a sample as it does for everyone, on the clock of the thread's
//! own time on a CPU, with registers and a copy of the stack, and writes it to
//! memory of ours. So a target is not disturbed and sees nothing: no signal, no
//! interrupted system call, no thread, no fd. A user may have this of all that is
//! the user's own (`kernel.perf_event_paranoid` up to 2), but not of time in the
//! kernel. Where it is forbidden, sampling is refused: what else there is, a
//! timer's signal in each thread, would change what programs do.
//!
//! All events of one CPU write one ring ([`event`]); a thread reads the rings
//! ([`thread`]), looks for new targets ([`follow`]), keeps up with what the records say of the processes ([`processes`],
//! [`record`]), and runs programs in the order of time. Its fds are its own,
//! which the tool cannot see, close or hand on; they go with the process,
//! however that ends.

pub mod event;
mod follow;
mod processes;
mod record;
mod thread;

use std::collections::VecDeque;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use runtime::command::ProgObject;
use runtime::command::sampling::{Running, SampledProgram, Sampler, Sampling};
use runtime::command::timer::with_signals_blocked;
use uapi::Errno;

use crate::fds::{self, PrivateFd};
use crate::{kernel, log, raw, server};

/// What the thread is asked to do.
enum Request {
    Start(Box<Sampling>, Box<SampledProgram>, SyncSender<Started>),
    /// Stops what was started under this number, and runs its program for all
    /// samples that were taken.
    Stop(u64, SyncSender<()>),
}

/// The number of what was started.
type Started = Result<u64, Errno>;

/// Where requests wait.
struct Requests {
    /// `None` when the thread has ended.
    waiting: Mutex<Option<VecDeque<Request>>>,
    /// What the thread, which has no stderr, has to tell.
    problems: Mutex<Vec<String>>,
    /// An eventfd, which the thread polls.
    wake: PrivateFd,
}

impl Requests {
    /// Hands a request over and waits for the answer; `None` when there is
    /// nobody to answer.
    fn ask<T>(&self, request: impl FnOnce(SyncSender<T>) -> Request) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        locked(&self.waiting).as_mut()?.push_back(request(answer));
        let one = 1u64.to_ne_bytes();
        let at = one.as_ptr() as usize;
        raw::call(libc::SYS_write, [self.wake.raw() as usize, at, 8, 0, 0, 0]);
        let answer = answered.recv().ok();
        for problem in locked(&self.problems).drain(..) {
            log::problem(format_args!("{problem}"));
        }
        answer
    }

    /// The next request.
    fn next(&self) -> Option<Request> {
        locked(&self.waiting).as_mut()?.pop_front()
    }

    /// Nobody answers any more.
    fn close(&self) {
        *locked(&self.waiting) = None;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sampler of this process; its thread begins with the first event.
#[derive(Default)]
pub struct OwnSampler {
    requests: OnceLock<Arc<Requests>>,
}

impl OwnSampler {
    fn requests(&self) -> Result<&Arc<Requests>, Errno> {
        if let Some(requests) = self.requests.get() {
            return Ok(requests);
        }
        let eventfd = fds::eventfd()?;
        let wake = PrivateFd::duplicate(eventfd);
        raw::close(eventfd);
        let requests = Arc::new(Requests {
            waiting: Mutex::new(Some(VecDeque::new())),
            problems: Mutex::default(),
            wake: wake?,
        });
        let theirs = Arc::clone(&requests);
        let made = with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("bpftime".to_owned())
                .spawn(move || thread::run(&theirs))
        });
        made.map_err(|_| Errno::EAGAIN)?;
        Ok(self.requests.get_or_init(|| requests))
    }
}

impl Sampler for OwnSampler {
    fn start(
        &self,
        what: &Sampling,
        prog: &Arc<ProgObject>,
        cookie: u64,
    ) -> Result<Running, Errno> {
        // Where the rest of the program's events are.
        if let Some(server) = server::existing().filter(|server| server.kernel.may_host()) {
            let event = event::of_kernel(what)?;
            kernel::put_on(server, event.raw(), prog)?;
            event.enable()?;
            return Ok(Box::new(event));
        }
        let program = SampledProgram::load(prog, cookie)?;
        let requests = Arc::clone(self.requests()?);
        let (what, program) = (Box::new(what.clone()), Box::new(program));
        let started = requests.ask(|answer| Request::Start(what, program, answer));
        let number = started.ok_or(Errno::EIO)??;
        Ok(Box::new(Going {
            requests,
            number,
            pid: shm::sys::getpid(),
        }))
    }
}

/// Sampling that goes on.
struct Going {
    requests: Arc<Requests>,
    number: u64,
    /// A forked child has a copy of this, but not the thread.
    pid: i32,
}

impl Drop for Going {
    fn drop(&mut self) {
        if self.pid == shm::sys::getpid() {
            self.requests
                .ask(|answer| Request::Stop(self.number, answer));
        }
    }
}

/// Whether the kernel lets this user sample such a thing. Says why, if not.
///
/// # Errors
/// The kernel's for the event.
pub fn check(what: &Sampling) -> Result<(), Errno> {
    match event::check(what) {
        Ok(kernel) => {
            if !kernel {
                log::debug(format_args!("time in the kernel is not sampled"));
            }
            Ok(())
        }
        Err(errno @ (Errno::EACCES | Errno::EPERM | Errno::ENOSYS)) if what.pid == -1 => {
            log::problem(format_args!(
                "cannot sample: perf_event_open(2) is forbidden here ({errno}). Allow users to \
                 sample their own programs: sudo sysctl kernel.perf_event_paranoid=2; in a \
                 container its seccomp profile must allow the call"
            ));
            Err(errno)
        }
        Err(errno) => Err(errno),
    }
}
