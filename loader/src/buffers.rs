//! Ring buffers and perf buffers, read together: every record of every one,
//! in the order of each.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::{
    Map, MapCore, MapType, PerfBuffer, PerfBufferBuilder, RingBuffer, RingBufferBuilder,
};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::error::Error;

/// Pages of a perf buffer for each processor, as BPF tools have.
pub(crate) const PERF_PAGES: usize = 64;

/// Most records of a ring that are taken before they are handed on.
const RING_BATCH: usize = 4096;

/// Bytes after which no further record of a ring is taken before.
const ENOUGH: usize = 16 << 20;

/// What stops libbpf then.
const FULL: i32 = -libc::ENOBUFS;

/// What a program reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// Its bytes. A perf buffer may have put up to seven behind them.
    Bytes {
        /// The number that the buffer's map was added with.
        source: usize,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Records that did not fit.
    Lost {
        /// As above.
        source: usize,
        /// How many.
        count: u64,
    },
}

#[derive(Debug, Clone)]
enum Held {
    Bytes(usize, Range<usize>),
    Lost(usize, u64),
}

/// Records that were read and that nobody has looked at yet.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    held: Vec<Held>,
    next: usize,
}

impl Batch {
    /// Whether nothing is left, not even a word on what was lost.
    pub fn is_empty(&self) -> bool {
        self.next >= self.held.len()
    }

    /// The next record.
    #[expect(clippy::should_implement_trait, reason = "records are borrowed")]
    pub fn next(&mut self) -> Option<Record<'_>> {
        let held = self.held.get(self.next)?;
        self.next += 1;
        Some(match held {
            Held::Bytes(source, range) => Record::Bytes {
                source: *source,
                bytes: &self.bytes[range.clone()],
            },
            Held::Lost(source, count) => Record::Lost {
                source: *source,
                count: *count,
            },
        })
    }

    /// Takes a record of a ring, and stops libbpf where it is enough: a
    /// program may report as fast as this reads.
    fn push(&mut self, source: usize, bytes: &[u8]) -> i32 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.held.push(Held::Bytes(source, start..self.bytes.len()));
        match self.bytes.len() {
            ENOUGH.. => FULL,
            _ => 0,
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.held.clear();
        self.next = 0;
    }
}

enum Reader {
    Ring(RingBuffer<'static>),
    Perf(PerfBuffer<'static>),
}

/// Buffers that are read together.
pub struct Buffers {
    readers: Vec<Reader>,
    perf_pages: usize,
    epoll: Epoll,
    batch: Rc<RefCell<Batch>>,
}

impl Buffers {
    /// No buffer yet.
    ///
    /// # Errors
    /// What epoll_create1(2) says.
    pub fn new() -> Result<Buffers, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| Error::new("epoll", "cannot be made", errno as i32))?;
        Ok(Buffers {
            readers: Vec::new(),
            perf_pages: PERF_PAGES,
            epoll,
            batch: Rc::default(),
        })
    }

    /// Perf buffers that are added from now on have so many pages for each
    /// processor, a power of two.
    pub fn with_pages(mut self, pages: usize) -> Buffers {
        self.perf_pages = pages;
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// Reads the records of `map`, too, and tells them as those of `source`.
    ///
    /// # Errors
    /// EINVAL for a map that is neither kind of buffer; what the system says.
    pub fn add(&mut self, source: usize, map: &Map<'_>) -> Result<(), Error> {
        let name = map.name().to_string_lossy();
        let refuse = |error| Error::last(&*name, "cannot be read", &error);
        let batch = Rc::clone(&self.batch);
        let (reader, epoll_fd) = match map.map_type() {
            MapType::RingBuf => {
                let mut builder = RingBufferBuilder::new();
                let keep = move |bytes: &[u8]| batch.borrow_mut().push(source, bytes);
                builder.add(map, keep).map_err(refuse)?;
                let ring = builder.build().map_err(refuse)?;
                let fd = ring.epoll_fd();
                (Reader::Ring(ring), fd)
            }
            MapType::PerfEventArray => {
                let lost = Rc::clone(&self.batch);
                let perf = PerfBufferBuilder::new(map)
                    .pages(self.perf_pages)
                    .sample_cb(move |_, bytes: &[u8]| {
                        // Not more than its pages hold.
                        batch.borrow_mut().push(source, bytes);
                    })
                    .lost_cb(move |_, count| lost.borrow_mut().held.push(Held::Lost(source, count)))
                    .build()
                    .map_err(refuse)?;
                let fd = perf.epoll_fd();
                (Reader::Perf(perf), fd)
            }
            _ => return Err(Error::new(&*name, "reports nothing", libc::EINVAL)),
        };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.readers.len() as u64);
        // SAFETY: the fd is the reader's, which lives as long as the epoll.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(epoll_fd) };
        self.epoll
            .add(fd, event)
            .map_err(|errno| Error::new(&*name, "cannot be waited for", errno as i32))?;
        self.readers.push(reader);
        Ok(())
    }

    /// Hands each record that is there to `take`; waits for some, at most
    /// `timeout`, only if there is none. Returns how many they were.
    ///
    /// # Errors
    /// EINTR when a signal came before any record.
    pub fn poll(
        &mut self,
        timeout: Duration,
        mut take: impl FnMut(Record<'_>),
    ) -> Result<usize, Error> {
        let mut taken = self.consume(&mut take)?;
        if taken > 0 {
            return Ok(taken);
        }
        let mut ready = [EpollEvent::empty(); 16];
        for event in self.wait(timeout, &mut ready)? {
            let read = self.read(event.data() as usize);
            taken += self.hand_on(&mut take);
            read?;
        }
        Ok(taken)
    }

    /// Puts what is there in the place of all in `batch`, whose memory it uses
    /// again, and waits for it, at most `timeout`, only if there is nothing.
    ///
    /// # Errors
    /// As of [`Buffers::poll`]; what was read before an error is in `batch`.
    pub fn fill(&mut self, timeout: Duration, batch: &mut Batch) -> Result<(), Error> {
        batch.clear();
        let mut read = (0..self.readers.len()).try_for_each(|index| self.read(index));
        if read.is_ok() && self.batch.borrow().is_empty() {
            let mut ready = [EpollEvent::empty(); 16];
            let mut events = self.wait(timeout, &mut ready)?.iter();
            read = events.try_for_each(|event| self.read(event.data() as usize));
        }
        std::mem::swap(&mut *self.batch.borrow_mut(), batch);
        read
    }

    /// Hands on what is there, whether or not anybody has said so yet: who
    /// wakes readers may be behind. Returns how many records they were.
    ///
    /// # Errors
    /// What reading says.
    pub fn consume(&mut self, mut take: impl FnMut(Record<'_>)) -> Result<usize, Error> {
        let mut taken = 0;
        for index in 0..self.readers.len() {
            let read = self.read(index);
            taken += self.hand_on(&mut take);
            read?;
        }
        Ok(taken)
    }

    fn wait<'a>(
        &self,
        timeout: Duration,
        ready: &'a mut [EpollEvent],
    ) -> Result<&'a [EpollEvent], Error> {
        let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::MAX);
        let refuse = |errno: Errno| Error::new("buffers", "cannot be waited for", errno as i32);
        let count = self.epoll.wait(ready, timeout).map_err(refuse)?;
        Ok(&ready[..count])
    }

    fn read(&mut self, index: usize) -> Result<(), Error> {
        let result = match self.readers.get(index) {
            Some(Reader::Ring(ring)) => ring.consume_raw_n(RING_BATCH),
            Some(Reader::Perf(perf)) => perf.consume().map_or(-1, |()| 0),
            None => 0,
        };
        match result {
            FULL | 0.. => Ok(()),
            _ => Err(Error::new("buffers", "cannot be read", Errno::last_raw())),
        }
    }

    /// Hands on what was read. `take` may poll other buffers.
    fn hand_on(&mut self, take: &mut impl FnMut(Record<'_>)) -> usize {
        let mut batch = self.batch.take();
        while let Some(record) = batch.next() {
            take(record);
        }
        let taken = batch.held.len();
        batch.clear();
        *self.batch.borrow_mut() = batch;
        taken
    }
}
