//! A reader that sleeps is woken by whoever has something for it.

use bpftime_runtime::doorbell::Doorbell;
use shm::Region;
use shm::sync::Ordering::{Relaxed, Release};
use shm::sync::model::{self, Model};

use crate::memory;

/// Where producers count what there is to read.
const RECORDS: u64 = 128;

/// Each of `producers` has a record for a reader that waits for all.
fn body(region: &Region, producers: u64) {
    memory::begin(region);
    let producer = |region: Region| {
        move || {
            region.u64_at(RECORDS).unwrap().fetch_add(1, Release);
            Doorbell::new(region).unwrap().ring();
        }
    };
    let threads: Vec<_> = (0..producers)
        .map(|_| model::spawn(producer(region.clone())))
        .collect();
    let bell = Doorbell::new(region.clone()).unwrap();
    loop {
        let heard = bell.listen();
        if region.u64_at(RECORDS).unwrap().load(Relaxed) == producers {
            break;
        }
        bell.wait(heard, None);
        bell.awake();
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn no_ring_is_missed() {
    let region = memory::region(4096);
    let runs = Model::preempted(3).check(move || body(&region, 2));
    assert!(runs > 10_000, "{runs}");
}

#[test]
fn every_step_of_the_bell_counts() {
    let region = memory::region(4096);
    let faults = Model::WHOLE.faults(move || body(&region, 1));
    let unnoticed = [
        // The barrier in futex(2) comes before the reader sleeps.
        "doorbell.rs: self.word(ASLEEP).store(1, Ordering::SeqCst);: relaxed",
        // Costs system calls only.
        "doorbell.rs: self.word(ASLEEP).store(0, Ordering::Relaxed);: left out",
    ];
    assert_eq!(faults.unnoticed, unnoticed);
    assert_eq!(faults.noticed.len(), 5, "{:#?}", faults.noticed);
}
