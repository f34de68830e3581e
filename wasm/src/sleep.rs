//! WASI's `poll_oneoff`, which guests sleep by. Not wasmtime's, for that
//! cannot be ended by signals and limits of time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::PollFlags;
use wasmtime::Caller;
use wasmtime_wasi::HostMonotonicClock;

use crate::guest::State;
use crate::memory;
use crate::stop::Stop;
use crate::streams::ready;

/// Most events that are waited for at once.
const MAX_EVENTS: u32 = 4096;

// WASI preview 1: a subscription and an event, and where their fields are.
const SUBSCRIPTION: usize = 48;
const EVENT: usize = 32;
pub(crate) const SUCCESS: i32 = 0;
pub(crate) const EFAULT: i32 = 21;
const EINVAL: i32 = 28;
const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;
const REALTIME: u32 = 0;
const ABSOLUTE: u16 = 1;

/// What a guest waits for.
struct Awaited {
    userdata: [u8; 8],
    kind: u8,
    what: What,
}

enum What {
    /// That this time has come; `None` for one too far away to be told.
    Time(Option<Instant>),
    /// One of the standard streams.
    Stream(i32),
    /// A file, which never blocks.
    File,
}

/// `poll_oneoff`.
pub(crate) fn poll_oneoff(
    mut caller: Caller<'_, State>,
    subscriptions: i32,
    events: i32,
    count: i32,
    number: i32,
) -> wasmtime::Result<i32> {
    let unsigned = |word: i32| u64::from(word.cast_unsigned());
    if !(1..=MAX_EVENTS).contains(&count.cast_unsigned()) {
        return Ok(EINVAL);
    }
    let count = count.cast_unsigned() as usize;
    let Ok(asked) = memory::read(&mut caller, unsigned(subscriptions), count * SUBSCRIPTION) else {
        return Ok(EFAULT);
    };
    let asked: Option<Vec<Awaited>> = asked.chunks_exact(SUBSCRIPTION).map(awaited).collect();
    let Some(asked) = asked else {
        return Ok(EINVAL);
    };
    let happened = loop {
        let happened: Vec<u8> = asked
            .iter()
            .filter(|one| one.is_there())
            .flat_map(event)
            .collect();
        if !happened.is_empty() {
            break happened;
        }
        caller.data().stop.check()?;
        wait(&caller.data().stop, &asked);
    };
    let told = memory::write(&mut caller, unsigned(events), &happened);
    let counted = ((happened.len() / EVENT) as u32).to_le_bytes();
    match told.and_then(|()| memory::write(&mut caller, unsigned(number), &counted)) {
        Ok(()) => Ok(SUCCESS),
        Err(_) => Ok(EFAULT),
    }
}

impl Awaited {
    fn is_there(&self) -> bool {
        match self.what {
            What::Time(time) => time.is_some_and(|time| time <= Instant::now()),
            What::Stream(fd) => ready(&[(fd, self.flags())]),
            What::File => true,
        }
    }

    fn flags(&self) -> PollFlags {
        match self.kind {
            FD_READ => PollFlags::POLLIN,
            _ => PollFlags::POLLOUT,
        }
    }
}

/// Reads a subscription. `None` for what is none.
fn awaited(bytes: &[u8]) -> Option<Awaited> {
    let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let int = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let kind = *bytes.get(8)?;
    let what = match kind {
        CLOCK => {
            let flags = u16::from_le_bytes(bytes.get(40..42)?.try_into().ok()?);
            let time = Duration::from_nanos(long(24)?);
            let wait = match flags & ABSOLUTE {
                0 => time,
                _ => time.saturating_sub(now(int(16)?)),
            };
            What::Time(Instant::now().checked_add(wait))
        }
        FD_READ | FD_WRITE => match int(16)? {
            fd @ 0..=2 => What::Stream(fd.cast_signed()),
            _ => What::File,
        },
        _ => return None,
    };
    Some(Awaited {
        userdata: bytes.get(..8)?.try_into().ok()?,
        kind,
        what,
    })
}

/// What a clock of WASI's shows: its other clocks all count from the start of the machine.
fn now(clock: u32) -> Duration {
    match clock {
        REALTIME => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
        _ => since_start(),
    }
}

/// The time since the machine started, as programs' `bpf_ktime_get_ns` tells it.
fn since_start() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the time, which outlives the call. The clock exists everywhere.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// The monotonic clock of a guest, so that what it reads can be compared with
/// what its programs tell.
pub(crate) struct Clock;

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(since_start().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// An event in words of WASI's.
fn event(awaited: &Awaited) -> [u8; EVENT] {
    let mut event = [0; EVENT];
    event[..8].copy_from_slice(&awaited.userdata);
    event[10] = awaited.kind;
    if awaited.kind != CLOCK {
        event[16] = 1;
    }
    event
}

/// Waits for the first of them, or the request to end.
fn wait(stop: &Stop, asked: &[Awaited]) {
    let mut due = None;
    let mut streams = Vec::new();
    for one in asked {
        match one.what {
            What::Time(Some(time)) => due = due.map_or(Some(time), |due| Some(time.min(due))),
            What::Stream(fd) => streams.push((fd, one.flags())),
            What::Time(None) | What::File => {}
        }
    }
    stop.wait(&streams, due);
}
