//! A virtual CPU has one holder, whose predecessors' writes it sees.

use bpftime_runtime::thread;
use bpftime_runtime::vcpu::{CLAIM_BYTES, Vcpus};
use shm::Region;
use shm::sync::Ordering::Relaxed;
use shm::sync::model::{self, Model};

use crate::memory;

/// Where the values of virtual CPUs lie, as many as there are.
const VALUES: u64 = 1024;

fn vcpus(region: &Region, count: u64) -> Vcpus {
    Vcpus::new(region.sub(0, count * CLAIM_BYTES).unwrap()).unwrap()
}

/// A program's `(*value)++`, if it gets a virtual CPU.
fn run(region: &Region, count: u64) {
    let vcpus = vcpus(region, count);
    let vcpu = vcpus.claim(thread::ids()).expect("holders move on");
    let value = region.u64_at(VALUES + 8 * u64::from(vcpu)).unwrap();
    value.store(value.load(Relaxed) + 1, Relaxed);
    vcpus.release(vcpu);
}

fn sum(region: &Region, count: u64) -> u64 {
    let value = |vcpu| region.u64_at(VALUES + 8 * vcpu).unwrap().load(Relaxed);
    (0..count).map(value).sum()
}

/// `threads` programs on `count` virtual CPUs.
fn programs(region: &Region, threads: u64, count: u64) {
    memory::begin(region);
    let body = |region: Region| move || run(&region, count);
    let others: Vec<_> = (1..threads)
        .map(|_| model::spawn(body(region.clone())))
        .collect();
    run(region, count);
    others.into_iter().for_each(|other| other.join().unwrap());
    assert_eq!(sum(region, count), threads);
}

#[test]
fn no_increment_is_lost() {
    // Three on one have more ways to wait than can be gone.
    let some = Model::preempted(2).at_most(1000);
    for (threads, count, model) in [
        (2, 1, Model::WHOLE),
        (3, 2, Model::preempted(2)),
        (3, 1, some),
    ] {
        let region = memory::region(4096);
        let runs = model.check(move || programs(&region, threads, count));
        assert!(runs > 10, "{runs}");
    }
}

#[test]
fn every_step_of_a_claim_counts() {
    let region = memory::region(4096);
    let faults = Model::preempted(2).faults(move || programs(&region, 2, 1));
    assert!(faults.unnoticed.is_empty(), "{:#?}", faults.unnoticed);
    assert_eq!(faults.noticed.len(), 4, "{:#?}", faults.noticed);
}

#[test]
fn a_dead_holder_is_replaced() {
    for steps in 0..6 {
        let region = memory::region(4096);
        let runs = Model::preempted(2).check(move || {
            memory::begin(&region);
            let [mortal, other] = [region.clone(), region.clone()];
            let dying = model::spawn_mortal(steps, move || run(&mortal, 1));
            let other = model::spawn(move || run(&other, 1));
            run(&region, 1);
            other.join().unwrap();
            let lived = dying.join().unwrap().is_some();
            // The dead one may have come to its increment or not.
            let sum = sum(&region, 1);
            assert!(sum == 3 || (sum == 2 && !lived), "{sum}");
        });
        assert!(runs > 10, "{runs}");
    }
}
