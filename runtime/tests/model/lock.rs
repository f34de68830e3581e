//! Locks in values: one holder at a time, and a dead one's lock is taken over.

use bpftime_runtime::maps::{Map, MapSpec};
use shm::Region;
use shm::sync::model::{self, Model};
use uapi::map::{BPF_ANY, BPF_F_LOCK, BPF_MAP_TYPE_ARRAY};
use vm::verifier::{FieldKind, MapField, MapFields};

use crate::memory;

const KEY: [u8; 4] = [0; 4];

/// Two words that belong together, and a lock.
type Value = [u64; 3];

fn spec() -> MapSpec {
    let mut spec = MapSpec {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: size_of::<Value>() as u32,
        max_entries: 1,
        ..MapSpec::default()
    };
    spec.set_fields(&MapFields {
        list: vec![MapField {
            kind: FieldKind::SpinLock,
            offset: 16,
            size: 4,
        }],
    });
    spec
}

fn map(region: &Region) -> Map {
    Map::open(spec(), region.clone(), 1).unwrap()
}

fn bytes(value: &mut Value) -> &mut [u8] {
    // SAFETY: the bytes of plain numbers, aligned to 8.
    unsafe { std::slice::from_raw_parts_mut(value.as_mut_ptr().cast(), size_of::<Value>()) }
}

fn update(map: &Map, number: u64) {
    let mut value = [number, number, 0];
    assert_eq!(
        map.update(&KEY, bytes(&mut value), BPF_ANY | BPF_F_LOCK),
        Ok(())
    );
}

fn lookup(map: &Map) -> [u64; 2] {
    let mut value = Value::default();
    assert_eq!(map.lookup(&KEY, bytes(&mut value), BPF_F_LOCK), Ok(()));
    [value[0], value[1]]
}

/// A writer and a reader.
fn whole_values(region: &Region) {
    memory::begin(region);
    let [map, other] = [map(region), map(region)];
    let writer = model::spawn(move || update(&other, 1));
    let seen = lookup(&map);
    assert_eq!(seen[0], seen[1], "torn");
    update(&map, 2);
    writer.join().unwrap();
    let seen = lookup(&map);
    assert!(seen == [1, 1] || seen == [2, 2], "{seen:?}");
}

#[test]
fn values_under_a_lock_are_whole() {
    let region = memory::region(4096);
    let runs = Model::preempted(3).check(move || whole_values(&region));
    assert!(runs > 100, "{runs}");
}

#[test]
fn every_step_of_the_lock_counts() {
    let region = memory::region(4096);
    let faults = Model::preempted(2).faults(move || whole_values(&region));
    let unnoticed = [
        // What lies behind the lock.
        "bytes.rs: unsafe { word32(dst.add(at)).store(word32(src.add(at)).load(Relaxed), Relaxed) };: left out",
    ];
    assert_eq!(faults.unnoticed, unnoticed);
    assert_eq!(faults.noticed.len(), 4, "{:#?}", faults.noticed);
}

/// A writer of nines that is killed before its step number `steps`, and two that live.
fn with_a_death(region: &Region, steps: u32) {
    memory::begin(region);
    let [map, second, mortal] = [(); 3].map(|()| map(region));
    let dying = model::spawn_mortal(steps, move || update(&mortal, 9));
    let other = model::spawn(move || update(&second, 1));
    update(&map, 2);
    other.join().unwrap();
    let lived = dying.join().unwrap().is_some();
    let seen = lookup(&map);
    let torn_by_the_dead = !lived && seen.contains(&9);
    assert!(seen[0] == seen[1] || torn_by_the_dead, "{seen:?}");
    update(&map, 3);
    assert_eq!(lookup(&map), [3, 3]);
}

#[test]
fn a_dead_holder_holds_nobody_up() {
    // Steps of an update that meets nobody.
    for steps in 0..8 {
        let region = memory::region(4096);
        let runs = Model::preempted(2).check(move || with_a_death(&region, steps));
        assert!(steps == 0 || runs > 100, "{runs}");
    }
}
