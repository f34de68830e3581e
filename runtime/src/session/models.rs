//! Models of what tools and agents tell each other (`shm::sync::model`).

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use shm::sync::Ordering::{Acquire, Relaxed};
use shm::sync::model::{self, Faults, Model};
use shm::{Region, Segment};

use super::objects::{NewRecord, ObjectKind, Objects, Place, SLOTS, Table};
use super::{Laggards, Role, Roster};

/// What the tool wants and what an agent does, in a page that the roster does
/// not use.
const WANTED: u64 = 64 << 10;
const DONE: u64 = WANTED + 8;
/// Bytes that a run may have written.
const USED: usize = 72 << 10;

fn memory() -> Region {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = CString::new(dir.path().join("segment").as_os_str().as_bytes()).unwrap();
    let (segment, _) = Segment::create(&path, 4 << 20).unwrap();
    segment.region(0, segment.len()).unwrap()
}

#[track_caller]
fn noticed(faults: &Faults, step: &str) {
    let is_noticed = faults.noticed.iter().any(|noticed| noticed.ends_with(step));
    assert!(is_noticed, "{step} of {faults:#?}");
}

fn begin(region: &Region) {
    // SAFETY: a part of the region, which nobody uses between two runs.
    unsafe { region.as_ptr().write_bytes(0, USED) };
    model::share(region.as_ptr(), region.len());
}

fn roster(region: &Region) -> Roster {
    Roster::over(region.clone(), Path::new("roster")).unwrap()
}

/// What an agent does until it has followed the tool's first generation.
fn agent(region: &Region) {
    let roster = roster(region);
    let slot = roster.join(Role::Agent).unwrap();
    loop {
        let seen = slot.wake_word().load(Acquire);
        let generation = roster.generation();
        let wanted = region.u64_at(WANTED).unwrap().load(Relaxed);
        region.u64_at(DONE).unwrap().store(wanted, Relaxed);
        slot.ack(generation, 0, 0, "");
        if generation == 1 {
            return;
        }
        slot.sleep(seen, Some(Duration::from_secs(1)));
    }
}

/// The tool's wish, and whether it was fulfilled when `publish` returned.
fn publish(region: &Region) -> bool {
    region.u64_at(WANTED).unwrap().store(1, Relaxed);
    let mut laggards = Laggards::default();
    roster(region).publish(Duration::from_secs(3600), &mut laggards);
    region.u64_at(DONE).unwrap().load(Relaxed) == 1
}

/// An agent that is there when the tool publishes.
fn an_agent_follows(region: &Region) {
    begin(region);
    let other = region.clone();
    let thread = model::spawn(move || agent(&other));
    let is_here = roster(region).agents().len() == 1;
    let is_done = publish(region);
    assert!(is_done || !is_here, "published and not followed");
    thread.join().unwrap();
    assert_eq!(region.u64_at(DONE).unwrap().load(Relaxed), 1);
}

#[test]
fn who_publishes_is_followed() {
    let region = memory();
    let runs = Model::preempted(3).check(move || an_agent_follows(&region));
    assert!(runs > 1000, "{runs}");
}

#[test]
fn every_step_of_the_roster_counts() {
    let region = memory();
    let faults = Model::preempted(2).faults(move || an_agent_follows(&region));
    // Of the two fences that pair one stands beside the barrier in futex(2).
    for step in [
        "roster.rs: self.word(header::GENERATION).load(Ordering::Acquire): relaxed",
        "roster.rs: let generation = word.fetch_add(1, Ordering::AcqRel).wrapping_add(1);: relaxed",
        "roster.rs: fence(Ordering::SeqCst);: relaxed",
        "roster.rs: word.fetch_add(1, Ordering::AcqRel);: relaxed",
        "following.rs: let seen = acks.load(Ordering::Acquire);: relaxed",
        "roster.rs: futex::wake(word, u32::MAX >> 1);: left out",
        "agent.rs: .store(generation, Ordering::Release);: left out",
    ] {
        noticed(&faults, step);
    }
}

/// An agent that is killed before its step number `steps` holds no tool up.
#[test]
fn a_dead_agent_is_not_waited_for() {
    let mut runs = 0;
    for steps in 0..24 {
        let region = memory();
        runs += Model::preempted(1).check(move || {
            begin(&region);
            model::let_time_pass();
            let other = region.clone();
            let dying = model::spawn_mortal(steps, move || agent(&other));
            let is_done = publish(&region);
            let lived = dying.join().unwrap().is_some();
            assert!(is_done || !lived || region.u64_at(DONE).unwrap().load(Relaxed) == 1);
            assert!(roster(&region).members().is_empty() || lived);
        });
    }
    assert!(runs > 100, "{runs}");
}

fn record(number: u64) -> NewRecord<'static> {
    NewRecord {
        kind: ObjectKind::Link,
        offset: number,
        len: number,
        place: Place::Objects,
        state: number as u32,
        body: &[],
    }
}

/// A record is withdrawn and its place used again while another process reads.
fn a_place_used_again(region: &Region) {
    begin(region);
    let objects = Objects::create(region.clone(), 1, 0, 0, b"").unwrap();
    let reader = objects.clone();
    let mut table = Table::new(objects);
    // Two ids of the same place.
    let first = table.reserve().unwrap();
    let ids = [first, first + SLOTS];
    let reader = model::spawn(move || {
        for (id, number) in ids.into_iter().zip(1..) {
            if let Some(found) = reader.find(id, ObjectKind::Link) {
                let parts = [found.offset, found.len, u64::from(found.state)];
                assert_eq!(parts, [number; 3], "of {id:#x}");
            }
        }
    });
    table.publish_record(ids[0], &record(1)).unwrap();
    table.withdraw(ids[0]).unwrap();
    table.publish_record(ids[1], &record(2)).unwrap();
    reader.join().unwrap();
}

#[test]
fn a_record_is_whole_or_not_there() {
    let region = memory();
    let runs = Model::preempted(2).check(move || a_place_used_again(&region));
    assert!(runs > 1000, "{runs}");
}

#[test]
fn every_step_of_a_record_counts() {
    let region = memory();
    let faults = Model::preempted(2).faults(move || a_place_used_again(&region));
    for step in [
        "objects.rs: let id = id_word.load(Ordering::Acquire);: relaxed",
        "objects.rs: fence(Ordering::Acquire);: relaxed",
        "objects.rs: objects.u32(base + record::ID)?.store(id, Ordering::Release);: relaxed",
        "objects.rs: fence(Ordering::Release);: relaxed",
        ".store(0, Ordering::Release);: left out",
    ] {
        noticed(&faults, step);
    }
}
