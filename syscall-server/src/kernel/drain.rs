//! Rings that programs in the kernel write: each has a ring of ours beside it,
//! which targets write and the tool reads. A thread here moves the kernel's
//! records to that. It knows no record's meaning.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use runtime::command::MapObject;
use runtime::command::timer::with_signals_blocked;
use shm::{Access, PAGE, Region, Segment};
use uapi::Errno;
use uapi::map::BPF_RB_NO_WAKEUP;

use super::perf::PerfEvent;
use crate::fds::PrivateFd;
use crate::raw;
use crate::server::{self, Server};

/// Between two looks at rings whose programs do not wake readers.
const LOOK_MS: usize = 50;
/// Before a new ring is found after the last one went.
const IDLE_MS: usize = 500;
/// Before records are offered again that found no room.
const FULL_MS: usize = 1;
/// Bits of a record's length (`BPF_RINGBUF_BUSY_BIT`, `_DISCARD_BIT`).
const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
/// Bytes before a record.
const HEADER: u64 = 8;

/// What the kernel writes, and the tool's map beside it.
struct Source {
    from: From,
    to: Weak<MapObject>,
}

enum From {
    Ring(Ring),
    Event(PerfEvent),
}

/// A ring of the kernel.
struct Ring {
    fd: PrivateFd,
    /// The page with our position.
    consumer: Region,
    /// The page with the kernel's position, and the data twice.
    producer: Region,
    size: u64,
}

/// What a look at a ring came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    /// There was nothing.
    Nothing,
    /// Records were moved.
    Some,
    /// The tool's ring had no room.
    Full,
}

impl Source {
    fn fd(&self) -> i32 {
        match &self.from {
            From::Ring(ring) => ring.fd.raw(),
            From::Event(event) => event.raw(),
        }
    }

    /// Moves what is there.
    fn drain(&self, server: &Server, to: &MapObject) -> Option<Drained> {
        match &self.from {
            From::Ring(ring) => ring.drain(to),
            From::Event(event) => {
                let mut take = |bytes: &[u8]| {
                    // What finds no room is counted there, and told the reader.
                    let _ = server.bpf.perf_output(to, bytes);
                };
                event.drain(&mut take).map(|any| match any {
                    true => Drained::Some,
                    false => Drained::Nothing,
                })
            }
        }
    }
}

impl Ring {
    fn new(fd: &OwnedFd, size: u64) -> Result<Ring, Errno> {
        let failed = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(libc::ENOMEM));
        let number = fd.as_raw_fd();
        let consumer = Segment::of_kernel(number, 0, PAGE, Access::ReadWrite).map_err(failed)?;
        let len = PAGE + 2 * size;
        let producer = Segment::of_kernel(number, PAGE, len, Access::ReadOnly).map_err(failed)?;
        Ok(Ring {
            fd: PrivateFd::duplicate(number)?,
            consumer: consumer.region(0, PAGE).ok_or(Errno::ENOMEM)?,
            producer: producer.region(0, len).ok_or(Errno::ENOMEM)?,
            size,
        })
    }

    fn position(region: &Region) -> Option<&AtomicU64> {
        let at = region.at(0, 8)?;
        // SAFETY: the first word of a page that stays mapped as long as the
        // region; the kernel changes it as an atomic, too.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// Moves what is there (`ring_buffer__consume` of libbpf).
    fn drain(&self, to: &MapObject) -> Option<Drained> {
        let ring = to.map().ring()?;
        let (consumer, producer) = (
            Ring::position(&self.consumer)?,
            Ring::position(&self.producer)?,
        );
        let mut drained = Drained::Nothing;
        let mut position = consumer.load(Ordering::Relaxed);
        while position < producer.load(Ordering::Acquire) {
            let at = PAGE + (position & (self.size - 1));
            let header = self.producer.at(at, HEADER)?;
            // SAFETY: a record's header in the mapped data, a multiple of 8.
            let word = unsafe { AtomicU32::from_ptr(header.cast()) }.load(Ordering::Acquire);
            if word & BUSY != 0 {
                break;
            }
            let len = u64::from(word & !DISCARD);
            if word & DISCARD == 0 {
                let bytes = self.producer.at(at + HEADER, len)?;
                // SAFETY: the record's bytes, mapped twice in a row.
                let moved = unsafe { ring.output(bytes, len, BPF_RB_NO_WAKEUP) };
                if moved.is_err() {
                    return Some(Drained::Full);
                }
                drained = Drained::Some;
            }
            position += (len + HEADER).next_multiple_of(8);
            consumer.store(position, Ordering::Release);
        }
        Some(drained)
    }
}

/// All such rings, and the thread that looks after them.
#[derive(Default)]
pub struct Drain {
    sources: Mutex<Vec<Arc<Source>>>,
    thread: OnceLock<()>,
}

impl Drain {
    /// Moves records from the kernel's ring `fd` to `to` from now on.
    ///
    /// # Errors
    /// Those of mapping it; EAGAIN when the thread cannot be made.
    pub fn add(&self, fd: &OwnedFd, to: &Arc<MapObject>) -> Result<(), Errno> {
        let size = u64::from(to.map().spec().max_entries);
        self.insert(From::Ring(Ring::new(fd, size)?), to)
    }

    /// The same for a perf event.
    ///
    /// # Errors
    /// EAGAIN when the thread cannot be made.
    pub fn add_event(&self, event: PerfEvent, to: &Arc<MapObject>) -> Result<(), Errno> {
        self.insert(From::Event(event), to)
    }

    fn insert(&self, from: From, to: &Arc<MapObject>) -> Result<(), Errno> {
        let to = Arc::downgrade(to);
        let source = Arc::new(Source { from, to });
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push(source);
        drop(sources);
        if self.thread.get().is_none() {
            let made = with_signals_blocked(|| {
                std::thread::Builder::new()
                    .name("bpftime-kernel".to_owned())
                    .spawn(drain_all)
            });
            made.map_err(|_| Errno::EAGAIN)?;
            // Rings are brought one at a time.
            let _ = self.thread.set(());
        }
        Ok(())
    }

    fn now(&self) -> Vec<(Arc<Source>, Arc<MapObject>)> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|source| source.to.strong_count() > 0);
        let with_map = |source: &Arc<Source>| Some((Arc::clone(source), source.to.upgrade()?));
        sources.iter().filter_map(with_map).collect()
    }
}

fn drain_all() {
    // The thread is made by a server that exists.
    let Ok(server) = server::server() else { return };
    loop {
        let sources = server.kernel.drain.now();
        let look = |(source, to): &(Arc<Source>, Arc<MapObject>)| source.drain(server, to);
        let drained: Vec<_> = sources.iter().filter_map(look).collect();
        if drained.iter().any(|&drained| drained != Drained::Nothing) {
            for waker in server.bridge.wakers_now() {
                waker.raise();
            }
        }
        if drained.contains(&Drained::Full) {
            wait(&mut [], FULL_MS);
            continue;
        }
        let mut polled: Vec<libc::pollfd> = sources
            .iter()
            .map(|(source, _)| libc::pollfd {
                fd: source.fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        drop(sources);
        let idle = if polled.is_empty() { IDLE_MS } else { LOOK_MS };
        wait(&mut polled, idle);
    }
}

fn wait(fds: &mut [libc::pollfd], milliseconds: usize) {
    let words = [fds.as_mut_ptr() as usize, fds.len(), milliseconds, 0, 0, 0];
    raw::call(libc::SYS_poll, words);
}
