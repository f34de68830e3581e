//! Who is sampled: the threads of processes with agents, and what those make.
//! The kernel has an event go on in what a thread makes, so only those need one
//! that were there before. It knows no program.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use runtime::session::ProcessId;
use uapi::Errno;

use super::event::Event;
use super::locked;
use super::thread::Sampled;
use crate::raw;

/// Between two looks for new targets.
pub(super) const FOLLOW: Duration = Duration::from_millis(10);
/// Between two looks for events whose threads have all ended.
const REAP: Duration = Duration::from_secs(1);
/// Looks at a process whose threads make others faster than we see them.
const ROUNDS: usize = 16;

impl Sampled<'_> {
    /// Looks for targets that have come, and for events that are over.
    pub(super) fn follow(&mut self) {
        if self.streams.is_empty() || self.looked.elapsed() < FOLLOW {
            return;
        }
        self.looked = Instant::now();
        self.follow_now();
        if self.reaped.elapsed() >= REAP {
            self.reaped = Instant::now();
            self.reap();
        }
    }

    pub(super) fn follow_now(&mut self) {
        let everyone = |(&number, stream): (&u64, &_)| is_of_everyone(stream).then_some(number);
        let streams: Vec<u64> = self.streams.iter().filter_map(everyone).collect();
        if streams.is_empty() {
            return;
        }
        let now: HashSet<ProcessId> = self.roster.targets().collect();
        self.followed.retain(|known| now.contains(known));
        let is_new = |target: &ProcessId| !self.followed.contains(target) && target.alive();
        let new: Vec<ProcessId> = now.into_iter().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        with_more_fds(|| {
            for target in new {
                self.followed.insert(target);
                for &number in &streams {
                    self.cover_process(number, target.pid);
                }
            }
        });
    }

    /// Samples the threads of a process that are not sampled yet.
    pub(super) fn cover_process(&mut self, number: u64, pid: i32) {
        for _ in 0..ROUNDS {
            let Some(stream) = self.streams.get(&number) else {
                return;
            };
            let known = &stream.roots;
            let mut threads = threads_of(pid);
            threads.retain(|tid| !known.contains_key(tid));
            if threads.is_empty() {
                return;
            }
            if stream.taken.stack > 0 {
                self.processes.prepare(pid);
            }
            match self.cover(number, &threads) {
                // It has ended.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => {
                    let told = format!("process {pid} is not sampled: {errno}");
                    locked(&self.requests.problems).push(told);
                    return;
                }
            }
        }
    }

    /// Samples these threads.
    pub(super) fn cover(&mut self, number: u64, threads: &[i32]) -> Result<(), Errno> {
        let Some(stream) = self.streams.get_mut(&number) else {
            return Ok(());
        };
        for &tid in threads {
            // Also if it fails: it is not tried again.
            stream.roots.insert(tid, tid);
            for &cpu in &stream.cpus {
                let Some(ring) = self.rings.get(&cpu) else {
                    continue;
                };
                let event = Event::open(&stream.what, stream.taken, tid, cpu, ring)?;
                self.origins.insert(event.id, (number, tid));
                event.enable()?;
                stream.events.push(event);
            }
        }
        Ok(())
    }

    /// Samples no more for a stream, and runs its program for what was sampled.
    pub(super) fn stop(&mut self, number: u64) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.events.clear();
            self.work(true);
        }
        self.origins.retain(|_, (of, _)| *of != number);
        self.streams.remove(&number);
        if self.streams.is_empty() {
            if self.lost > 0 {
                let told = format!("{} samples were lost: there were too many", self.lost);
                locked(&self.requests.problems).push(told);
                self.lost = 0;
            }
            self.rings.clear();
            self.followed.clear();
            self.waiting.clear();
            self.processes = Default::default();
        }
    }

    /// Closes the events of threads that have ended with all that they made.
    fn reap(&mut self) {
        for stream in self.streams.values_mut() {
            let over = poll(stream.events.iter().map(Event::raw), 0, 0);
            let mut index = 0;
            stream.events.retain(|event| {
                let is_over = over
                    .get(index)
                    .is_some_and(|&over| over & libc::POLLHUP != 0);
                index += 1;
                if is_over {
                    self.origins.remove(&event.id);
                }
                !is_over
            });
        }
    }
}

fn is_of_everyone(stream: &super::thread::Stream) -> bool {
    stream.what.pid == -1
}

fn threads_of(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// poll(2): what happened to each.
pub(super) fn poll(fds: impl Iterator<Item = i32>, events: i16, timeout_ms: i32) -> Vec<i16> {
    let entry = |fd| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let mut entries: Vec<libc::pollfd> = fds.map(entry).collect();
    let at = entries.as_mut_ptr() as usize;
    let words = [at, entries.len(), timeout_ms as usize, 0, 0, 0];
    raw::call(libc::SYS_poll, words);
    entries.iter().map(|entry| entry.revents).collect()
}

/// With as many fds as the process may have at all: an event takes one for each
/// CPU. The tool's own limit is back when this returns.
pub(super) fn with_more_fds<T>(with: impl FnOnce() -> T) -> T {
    let limit = |new: Option<&libc::rlimit>, old: Option<&mut libc::rlimit>| {
        let new = new.map_or(0, |new| std::ptr::from_ref(new) as usize);
        let old = old.map_or(0, |old| std::ptr::from_mut(old) as usize);
        let resource = libc::RLIMIT_NOFILE as usize;
        raw::checked(libc::SYS_prlimit64, [0, resource, new, old, 0, 0])
    };
    let mut own = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let known = limit(None, Some(&mut own)).is_ok();
    let most = libc::rlimit {
        rlim_cur: own.rlim_max,
        ..own
    };
    let raised = known && own.rlim_cur < own.rlim_max && limit(Some(&most), None).is_ok();
    let result = with();
    if raised {
        // It was valid before.
        let _ = limit(Some(&own), None);
    }
    result
}
