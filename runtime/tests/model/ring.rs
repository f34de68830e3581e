//! What producers put into a ring comes out once, whole, and in their order; and
//! a reader that sleeps is woken for it.

use std::sync::Arc;

use bpftime_runtime::barrier;
use bpftime_runtime::doorbell::Doorbell;
use bpftime_runtime::maps::{Map, MapSpec};
use shm::Region;
use shm::sync::AtomicU64;
use shm::sync::Ordering::{Acquire, Relaxed, Release};
use shm::sync::model::{self, Model};
use uapi::map::{BPF_MAP_TYPE_RINGBUF, BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT};

use crate::memory;

/// Bytes of data.
const SIZE: u32 = 4096;
/// A record with its header.
const STEP: u64 = 16;
/// Where `producer_pos` lies.
const PRODUCER: u64 = 4096;

/// A ring and a bell.
struct World {
    map: Map,
    storage: Region,
    bell: Region,
}

impl World {
    fn new() -> Arc<World> {
        let spec = MapSpec {
            map_type: BPF_MAP_TYPE_RINGBUF,
            max_entries: SIZE,
            ..MapSpec::default()
        };
        let storage = memory::region(Map::storage_size(&spec, 1).unwrap());
        let map = Map::create(spec, storage.clone(), 1).unwrap();
        let bell = memory::region(4096);
        Arc::new(World { map, storage, bell })
    }

    fn begin(&self) {
        memory::begin(&self.storage);
        memory::begin(&self.bell);
        model::share(self.map.ring().unwrap().data(), u64::from(SIZE));
    }

    fn word_of(&self, at: u64) -> &AtomicU64 {
        let data = self.map.ring().unwrap().data();
        let at = data.wrapping_add((at % u64::from(SIZE)) as usize);
        // SAFETY: inside the data; aligned, and an atomic to all.
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// `records` records with this producer's numbers.
    fn produce(&self, producer: u64, records: u64) {
        let ring = self.map.ring().unwrap();
        for number in 0..records {
            let room = ring.reserve(8);
            assert!(!room.is_null());
            // SAFETY: a record of 8 bytes, aligned, and an atomic to all.
            let word = unsafe { AtomicU64::from_ptr(room.cast()) };
            word.store(producer << 32 | number, Relaxed);
            if ring.commit(room, 0, false) {
                Doorbell::new(self.bell.clone()).unwrap().ring();
            }
        }
    }

    /// What libbpf reads now.
    fn consume(&self, seen: &mut Vec<u64>) {
        let consumer = self.storage.u64_at(0).unwrap();
        let producer = self.storage.u64_at(PRODUCER).unwrap();
        let mut at = consumer.load(Relaxed);
        while at < producer.load(Acquire) {
            let header = self.word_of(at).load(Acquire) as u32;
            assert_eq!(header & BPF_RINGBUF_BUSY_BIT, 0);
            assert_eq!(header & !BPF_RINGBUF_DISCARD_BIT, 8);
            if header & BPF_RINGBUF_DISCARD_BIT == 0 {
                seen.push(self.word_of(at + 8).load(Relaxed));
            }
            at += STEP;
            consumer.store(at, Release);
        }
    }

    /// Reads until `records` have come; sleeps while there are none.
    fn read(&self, records: usize) -> Vec<u64> {
        let bell = Doorbell::new(self.bell.clone()).unwrap();
        let mut seen = Vec::new();
        loop {
            self.consume(&mut seen);
            if seen.len() == records {
                return seen;
            }
            let heard = bell.listen();
            barrier::heavy();
            if !self.map.ready() {
                bell.wait(heard, None);
            }
            bell.awake();
        }
    }
}

/// The numbers of each producer count up from 0.
fn check_order(seen: &[u64], producers: u64) {
    for producer in 1..=producers {
        let its = seen.iter().filter(|word| **word >> 32 == producer);
        let numbers: Vec<u64> = its.map(|word| word & 0xffff_ffff).collect();
        assert!(
            (0..).zip(&numbers).all(|(at, number)| at == *number),
            "{seen:?}"
        );
    }
}

/// Producers with so many records each, and a reader that waits for all.
fn body(world: &Arc<World>, records: &[u64]) {
    world.begin();
    let producers = (1..).zip(records).map(|(producer, &records)| {
        let world = Arc::clone(world);
        model::spawn(move || world.produce(producer, records))
    });
    let producers: Vec<_> = producers.collect();
    let seen = world.read(records.iter().sum::<u64>() as usize);
    check_order(&seen, records.len() as u64);
    producers
        .into_iter()
        .for_each(|producer| producer.join().unwrap());
}

#[test]
fn every_record_comes_once_and_wakes_its_reader() {
    for (records, model) in [
        (&[2][..], Model::preempted(2).at_most(1000)),
        (&[1, 1], Model::preempted(2).at_most(3000)),
        (&[2, 1], Model::preempted(2).at_most(1000)),
        (&[1, 1, 1], Model::preempted(1).at_most(1000)),
    ] {
        let world = World::new();
        let runs = model.check(move || body(&world, records));
        assert!(runs > 10, "{runs}");
    }
}

#[test]
fn the_dead_leave_all_others_records() {
    for steps in 0..40 {
        let world = World::new();
        let runs = Model::preempted(1).at_most(100).check(move || {
            world.begin();
            let [first, second] = [Arc::clone(&world), Arc::clone(&world)];
            let dying = model::spawn_mortal(steps, move || first.produce(1, 1));
            let other = model::spawn(move || second.produce(2, 1));
            other.join().unwrap();
            let lived = dying.join().unwrap().is_some();
            world.map.reclaim();
            let mut seen = Vec::new();
            world.consume(&mut seen);
            check_order(&seen, 2);
            assert!(seen.contains(&(2 << 32)), "{seen:?}");
            assert!(!lived || seen.len() == 2, "{seen:?}");
            assert_eq!(world.map.ring().unwrap().query(0), 0, "{seen:?}");
        });
        assert!(runs > 1, "{runs}");
    }
}
