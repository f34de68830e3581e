//! The thread that takes samples: it reads the rings, follows who is a target,
//! and runs programs. It answers requests between two looks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use runtime::command::sampling::{SampledProgram, Sampling};
use runtime::sample::Sample;
use runtime::session::{ProcessId, Roster, possible_cpus};
use shm::sys::clock_ns;
use uapi::Errno;

use super::event::{self, CpuRing, Event, Taken};
use super::follow::{FOLLOW, poll, with_more_fds};
use super::processes::Processes;
use super::record::{self, Happened, What};
use super::{Request, Requests};
use crate::{fds, raw, server};

/// How long programs run before the rings are emptied again.
const SLICE: Duration = Duration::from_millis(20);
/// Samples that may wait for their programs.
const WAITING: usize = 4096;

/// The thread.
pub(super) fn run(requests: &Requests) {
    // Whoever asks is not left waiting, also when this panics.
    struct Closed<'r>(&'r Requests);
    impl Drop for Closed<'_> {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let _closed = Closed(requests);
    let roster = server::existing().and_then(|server| server.bpf.session().ok());
    let Some(roster) = roster.map(|session| session.roster().clone()) else {
        return;
    };
    if fds::leave_table(requests.wake.raw()).is_err() {
        return;
    }
    let mut sampled = Sampled::new(requests, roster);
    loop {
        sampled.wait();
        sampled.work(false);
        sampled.answer();
        sampled.follow();
    }
}

/// A program, and what it runs for.
pub(super) struct Stream {
    pub(super) what: Sampling,
    program: SampledProgram,
    pub(super) taken: Taken,
    pub(super) cpus: Vec<i32>,
    /// Under whose event a thread is sampled: one that was made by a thread
    /// that has an event may have got another of its own.
    pub(super) roots: HashMap<i32, i32>,
    pub(super) events: Vec<Event>,
}

/// What the thread knows.
pub(super) struct Sampled<'r> {
    pub(super) requests: &'r Requests,
    pub(super) roster: Roster,
    pub(super) rings: BTreeMap<i32, CpuRing>,
    pub(super) streams: BTreeMap<u64, Stream>,
    started: u64,
    /// Which stream an event is of, and which thread it was opened for.
    pub(super) origins: HashMap<u64, (u64, i32)>,
    pub(super) followed: HashSet<ProcessId>,
    pub(super) processes: Processes,
    pub(super) waiting: Vec<Happened>,
    /// Samples that no program ran for.
    pub(super) lost: u64,
    emptied: Instant,
    pub(super) looked: Instant,
    pub(super) reaped: Instant,
}

impl Stream {
    /// Whether what a sampled thread makes is sampled.
    fn inherits(&self) -> bool {
        self.what.inherit || self.what.pid == -1
    }

    /// What a program is told: a clock has no other rate than the one asked for.
    fn sample_period(&self) -> u64 {
        match self.what.freq {
            true => 1_000_000_000 / self.what.period.max(1),
            false => self.what.period,
        }
    }
}

impl<'r> Sampled<'r> {
    fn new(requests: &'r Requests, roster: Roster) -> Sampled<'r> {
        Sampled {
            requests,
            roster,
            rings: BTreeMap::new(),
            streams: BTreeMap::new(),
            started: 0,
            origins: HashMap::new(),
            followed: HashSet::new(),
            processes: Processes::default(),
            waiting: Vec::new(),
            lost: 0,
            emptied: Instant::now(),
            looked: Instant::now(),
            reaped: Instant::now(),
        }
    }

    /// Until there are records, requests, or perhaps new targets.
    fn wait(&self) {
        let all = self.rings.values().map(CpuRing::raw);
        let fds = std::iter::once(self.requests.wake.raw()).chain(all);
        let timeout = match self.streams.is_empty() {
            true => -1,
            false => FOLLOW.as_millis() as i32,
        };
        poll(fds, libc::POLLIN, timeout);
        let mut word = 0u64;
        let at = (&raw mut word) as usize;
        let wake = self.requests.wake.raw() as usize;
        raw::call(libc::SYS_read, [wake, at, 8, 0, 0, 0]);
    }

    /// Runs programs for what was sampled until now; `all` when no more comes.
    pub(super) fn work(&mut self, all: bool) {
        // Until now every ring has what was written; what comes later on one CPU
        // may come before what is later still on another.
        let now = clock_ns(libc::CLOCK_MONOTONIC);
        self.empty_rings();
        self.waiting.sort_by_key(|happened| happened.time);
        let ready = match all {
            true => self.waiting.len(),
            false => self.waiting.partition_point(|happened| happened.time < now),
        };
        let batch: Vec<Happened> = self.waiting.drain(..ready).collect();
        for happened in batch {
            self.take(happened);
            if self.emptied.elapsed() > SLICE {
                self.empty_rings();
            }
        }
    }

    fn empty_rings(&mut self) {
        self.emptied = Instant::now();
        let (waiting, lost) = (&mut self.waiting, &mut self.lost);
        for ring in self.rings.values() {
            // A ring that makes no sense has nothing for us.
            let _ = ring.ring.drain(&mut |record| {
                let Some(happened) = Happened::of(&record) else {
                    return;
                };
                if waiting.len() < WAITING || !matches!(happened.what, What::Sample(_)) {
                    waiting.push(happened);
                } else {
                    *lost += 1;
                }
            });
        }
    }

    fn take(&mut self, happened: Happened) {
        let ids = happened.ids;
        match happened.what {
            What::Made(by) => {
                self.processes.made(ids, by);
                for stream in self.streams.values_mut().filter(|stream| stream.inherits()) {
                    if let Some(&root) = stream.roots.get(&by.tid) {
                        stream.roots.entry(ids.tid).or_insert(root);
                    }
                }
            }
            What::Ended => {
                self.processes.ended(ids);
                for stream in self.streams.values_mut() {
                    stream.roots.remove(&ids.tid);
                }
            }
            What::Named(name, executes) => self.processes.named(ids, name, executes),
            What::Mapped(text) => self.processes.mapped(ids.pid, text),
            What::Lost(records) => self.lost += records,
            What::Sample(ref taken) => self.run(&happened, taken),
        }
    }

    fn run(&mut self, happened: &Happened, taken: &record::Taken) {
        let Some(&(number, root)) = self.origins.get(&happened.event) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let ids = happened.ids;
        if *stream.roots.entry(ids.tid).or_insert(root) != root {
            return;
        }
        let whose = self.processes.of(ids, stream.taken.stack > 0);
        let mut sample = Sample::new(taken.regs, ids, &whose.tables);
        sample.uid_gid = whose.uid_gid;
        sample.comm = whose.name;
        sample.cpu = happened.cpu;
        sample.time = happened.time;
        sample.period = stream.sample_period();
        sample.stack = &taken.stack;
        stream.program.run(&sample);
    }

    fn answer(&mut self) {
        while let Some(request) = self.requests.next() {
            match request {
                Request::Start(what, program, answer) => {
                    let started = with_more_fds(|| self.start(*what, *program));
                    // Who asked waits for it.
                    let _ = answer.send(started);
                }
                Request::Stop(number, answer) => {
                    self.stop(number);
                    let _ = answer.send(());
                }
            }
        }
    }

    fn start(&mut self, what: Sampling, program: SampledProgram) -> Result<u64, Errno> {
        let kernel = event::check(&what)?;
        let cpus = match what.cpu {
            -1 => (0..possible_cpus() as i32).collect(),
            cpu => vec![cpu],
        };
        let mut stack = u64::MAX;
        let mut there = Vec::new();
        for cpu in cpus {
            let ring = match self.rings.entry(cpu) {
                Entry::Occupied(ring) => ring.into_mut(),
                Entry::Vacant(place) => match CpuRing::new(cpu) {
                    Ok(ring) => place.insert(ring),
                    // It is off.
                    Err(Errno::ENODEV) if what.cpu == -1 => continue,
                    Err(errno) => return Err(errno),
                },
            };
            stack = stack.min(ring.stack_room(&what));
            there.push(cpu);
        }
        let stack = if program.looks_at_stacks() { stack } else { 0 };
        let stream = Stream {
            what,
            program,
            taken: Taken { kernel, stack },
            cpus: there,
            roots: HashMap::new(),
            events: Vec::new(),
        };
        self.started += 1;
        let number = self.started;
        let pid = stream.what.pid;
        self.streams.insert(number, stream);
        match pid {
            -1 => {
                // What the rings say of threads is not news of this stream's.
                self.work(false);
                for target in self.followed.clone() {
                    self.cover_process(number, target.pid);
                }
                self.follow_now();
            }
            tid => self
                .cover(number, &[tid])
                .inspect_err(|_| self.stop(number))?,
        }
        Ok(number)
    }
}
