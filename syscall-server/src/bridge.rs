//! Makes the fds of rings readable when their data comes, and those of user
//! rings writable when there is room: programs ring a doorbell in shared
//! memory, a thread here hears it and changes eventfds and pipes. It knows no
//! program and no reader.
//!
//! Readers never read an eventfd (libbpf maps the ring and polls the fd), so
//! nobody but us makes it unreadable again: that is done before each wait, in
//! [`crate::readiness`].

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use runtime::barrier;
use runtime::command::Object;
use runtime::command::timer::with_signals_blocked;
use runtime::doorbell::Doorbell;
use uapi::Errno;

use crate::fds::PrivateFd;
use crate::server::{self, Server};
use crate::{log, raw};

/// How long a record may stay unread before its producer is looked after.
const UNREAD: Duration = Duration::from_millis(100);
/// Between two looks at rings of other sessions, whose doorbells are not heard.
const ELSEWHERE: Duration = Duration::from_millis(20);
/// Between two looks where the kernel makes no barriers for us: a producer may
/// not have seen that its record is waited for.
const BLIND: Duration = Duration::from_millis(10);
/// Between two looks for targets that died.
const DEATHS: Duration = Duration::from_secs(1);

/// The rings of the tool, and the thread that watches them.
#[derive(Default)]
pub struct Bridge {
    wakers: Mutex<Vec<Weak<Waker>>>,
    thread: OnceLock<()>,
}

/// A ring and what stands behind its fd.
pub struct Waker {
    ring: Object,
    fd: Signal,
    /// Whether the fd is readable, or writable. Locked while that changes, so
    /// that a tool's thread that takes it back and the bridge that gives it do
    /// not cancel each other.
    given: Mutex<bool>,
}

/// How an fd is made ready.
enum Signal {
    /// Readable: an eventfd that counts 1.
    Readable(PrivateFd),
    /// Writable: a pipe of one slot that is empty; its ends for reading and
    /// for writing.
    Writable(PrivateFd, PrivateFd),
}

impl Signal {
    /// Makes the fd ready, or takes that back; whether it is ready now.
    fn set(&self, ready: bool) -> bool {
        let mut word = 1u64.to_ne_bytes();
        let (number, fd, len) = match (self, ready) {
            (Signal::Readable(fd), true) => (libc::SYS_write, fd, 8),
            (Signal::Readable(fd), false) => (libc::SYS_read, fd, 8),
            (Signal::Writable(from, _), true) => (libc::SYS_read, from, 1),
            (Signal::Writable(_, to), false) => (libc::SYS_write, to, 1),
        };
        let at = word.as_mut_ptr() as usize;
        let done = raw::checked(number, [fd.raw() as usize, at, len, 0, 0, 0]);
        // EAGAIN means that it was so already.
        match done {
            Ok(_) | Err(Errno::EAGAIN) => ready,
            Err(_) => !ready,
        }
    }
}

impl Waker {
    /// Makes `fd`, an eventfd, follow `ring`.
    ///
    /// # Errors
    /// EMFILE without another fd.
    pub fn new(ring: Object, fd: i32) -> Result<Arc<Waker>, Errno> {
        Ok(Arc::new(Waker {
            ring,
            fd: Signal::Readable(PrivateFd::duplicate(fd)?),
            given: Mutex::new(false),
        }))
    }

    /// Makes the ends of a pipe, `from` and `to`, follow the room in a user
    /// ring; `to` is its fd.
    ///
    /// # Errors
    /// EMFILE without another fd.
    pub fn of_room(ring: Object, from: i32, to: i32) -> Result<Arc<Waker>, Errno> {
        Ok(Arc::new(Waker {
            ring,
            fd: Signal::Writable(PrivateFd::duplicate(from)?, PrivateFd::duplicate(to)?),
            given: Mutex::new(true),
        }))
    }

    fn is_ready(&self) -> bool {
        match &self.ring {
            Object::Map(map) => map.map().ready(),
            Object::Event(event) => event.ring().is_some_and(|(_, ring)| ring.ready()),
            _ => false,
        }
    }

    /// Whether there is a record that was not consumed, finished or not. Its
    /// producer may have died and will not ring then; looking at the ring
    /// again finds out.
    fn is_pending(&self) -> bool {
        let Object::Map(map) = &self.ring else {
            return false;
        };
        map.map().ring().is_some_and(|ring| !ring.is_empty())
    }

    fn is_elsewhere(&self) -> bool {
        matches!(&self.ring, Object::Map(map) if map.is_foreign())
    }

    fn given(&self) -> MutexGuard<'_, bool> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the fd ready if the ring is.
    pub fn raise(&self) {
        if !self.is_ready() {
            return;
        }
        let mut given = self.given();
        if !*given {
            *given = self.fd.set(true);
        }
    }

    /// Takes back that the fd is ready, if the ring is not; whether it is.
    pub fn calm(&self) -> bool {
        let ready = self.is_ready();
        if !ready {
            let mut given = self.given();
            if *given {
                *given = self.fd.set(false);
            }
        }
        ready
    }

    /// Makes the fd say exactly whether the ring is ready, before its only
    /// reader waits.
    pub fn settle(&self) {
        if !self.calm() {
            // Who writes a record from now on sees that it was waited for.
            barrier::heavy();
        }
        self.raise();
    }
}

impl Bridge {
    /// Has `waker` follow its ring from now on.
    ///
    /// # Errors
    /// EAGAIN when the thread cannot be made.
    pub fn watch(&self, waker: &Arc<Waker>) -> Result<(), Errno> {
        let mut wakers = self.wakers();
        wakers.retain(|waker| waker.strong_count() > 0);
        wakers.push(Arc::downgrade(waker));
        drop(wakers);
        self.start()?;
        // The thread may sleep: let it see the new ring.
        waker.raise();
        Ok(())
    }

    /// Starts the thread, which also takes back what targets held that died.
    ///
    /// # Errors
    /// EAGAIN when it cannot be made.
    pub fn start(&self) -> Result<(), Errno> {
        if self.thread.get().is_none() {
            let made = with_signals_blocked(|| {
                std::thread::Builder::new()
                    .name("bpftime".to_owned())
                    .spawn(watch_all)
            });
            made.map_err(|_| Errno::EAGAIN)?;
            // Two first rings at once make two threads, which does no harm.
            let _ = self.thread.set(());
        }
        Ok(())
    }

    /// The rings that somebody still has an fd of.
    pub fn wakers_now(&self) -> Vec<Arc<Waker>> {
        self.wakers().iter().filter_map(Weak::upgrade).collect()
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Weak<Waker>>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch_all() {
    // The thread is made by a server that exists.
    let Ok(Server { bpf, bridge, .. }) = server::server() else {
        return;
    };
    let doorbell = bpf.session().ok().and_then(|session| session.doorbell());
    let Some(doorbell) = doorbell.and_then(Doorbell::new) else {
        log::debug(format_args!("the session has no doorbell"));
        return;
    };
    let mut looked = Instant::now();
    loop {
        let heard = doorbell.listen();
        // What producers stored before they rang, or while they left records
        // behind each other, is seen now.
        let mut most = match barrier::heavy() {
            true => DEATHS,
            false => BLIND,
        };
        for waker in bridge.wakers_now() {
            waker.raise();
            if waker.is_elsewhere() {
                most = most.min(ELSEWHERE);
            } else if waker.is_pending() {
                most = most.min(UNREAD);
            }
        }
        doorbell.wait(heard, Some(most));
        doorbell.awake();
        if looked.elapsed() >= DEATHS
            && let Ok(session) = bpf.session()
        {
            looked = Instant::now();
            session.reclaim();
            bpf.collect();
        }
    }
}
