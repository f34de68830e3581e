//! Processes that do everything with a map and are killed at any time: whoever
//! is left goes on, and no room is lost. What entries hold then is asked in
//! `kill.rs` and beside each type. `KILL_LONG=1` kills thousands for each type.

use bpftime_runtime::maps::{Map, MapSpec};
use uapi::Errno;
use uapi::map::*;
use vm::verifier::{FieldKind, MapField, MapFields};

use crate::hostile::operations::{OfMap, Target};
use crate::process::{self, Child, Random};
use crate::segment;

const ENTRIES: u32 = 24;
/// Victims at a time.
const VICTIMS: u64 = 2;
/// Operations of who is left, after each death.
const AFTER: u32 = 30;

fn small(map_type: u32, key: u32, value: u32, flags: u32) -> MapSpec {
    segment::spec(map_type, key, value, ENTRIES, flags)
}

/// How much a map takes once it was emptied; of those that evict, what they hold.
fn room(map: &Map) -> u64 {
    map.reclaim();
    let spec = *map.spec();
    if let Some(ring) = map.ring() {
        // What was committed and not read takes room, too.
        return u64::from(ring.query(0) <= u64::from(spec.max_entries));
    }
    let (mut key, mut value) = (
        vec![0; spec.key_size as usize],
        vec![0; map.syscall_value_size()],
    );
    match spec.map_type {
        BPF_MAP_TYPE_QUEUE | BPF_MAP_TYPE_STACK => {
            while map.lookup_and_delete(&[], &mut value, 0).is_ok() {}
            (0..2 * ENTRIES)
                .take_while(|_| map.update(&[], &value, BPF_ANY).is_ok())
                .count() as u64
        }
        BPF_MAP_TYPE_HASH
        | BPF_MAP_TYPE_PERCPU_HASH
        | BPF_MAP_TYPE_LRU_HASH
        | BPF_MAP_TYPE_LRU_PERCPU_HASH
        | BPF_MAP_TYPE_LPM_TRIE => {
            let mut deleted = 0;
            while map.next_key(None, &mut key).is_ok() {
                assert!(matches!(map.delete(&key), Ok(()) | Err(Errno::ENOENT)));
                deleted += 1;
                assert!(deleted < 1000, "a walk without end");
            }
            let store = |number: u32| {
                key.fill(0);
                if spec.map_type == BPF_MAP_TYPE_LPM_TRIE {
                    key[..4].copy_from_slice(&32u32.to_ne_bytes());
                    key[4..8].copy_from_slice(&number.to_ne_bytes());
                } else {
                    key[..4].copy_from_slice(&number.to_ne_bytes());
                }
                map.update(&key, &value, BPF_NOEXIST).is_ok()
            };
            (0..2 * ENTRIES)
                .map(store)
                .take_while(|stored| *stored)
                .count() as u64
        }
        _ => 1,
    }
}

#[expect(clippy::print_stdout, reason = "says how much was tried")]
fn killed(name: &str, spec: &MapSpec) {
    let (map, storage) = segment::map_and_storage(*spec).unwrap();
    let mut left = OfMap::new(map, storage.clone());
    let mut random = Random(u64::from(spec.map_type));
    let rounds = process::rounds(15, 1000);
    for round in 0..rounds {
        let victims: Vec<Child> = (0..VICTIMS)
            .map(|victim| {
                let seed = round * VICTIMS + victim;
                Child::fork(|| {
                    let mut random = Random(seed);
                    loop {
                        left.operate(&mut random);
                    }
                })
            })
            .collect();
        process::wait_micros(random.below(1500));
        victims.into_iter().for_each(Child::kill);
        for _ in 0..AFTER {
            left.operate(&mut random);
        }
    }
    let cpus = segment::possible_cpus();
    let room_now = room(&Map::open(*spec, storage, cpus).unwrap());
    let room_of_new = room(&segment::map(*spec).unwrap());
    assert_eq!(room_now, room_of_new, "{name}: leaked");
    println!("{name}: {} kills", rounds * VICTIMS);
}

#[test]
fn users_of_hash_tables() {
    for map_type in [
        BPF_MAP_TYPE_HASH,
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_LRU_HASH,
        BPF_MAP_TYPE_LRU_PERCPU_HASH,
    ] {
        killed(&format!("type {map_type}"), &small(map_type, 4, 12, 0));
    }
}

#[test]
fn users_of_tries() {
    killed(
        "trie",
        &small(BPF_MAP_TYPE_LPM_TRIE, 8, 12, BPF_F_NO_PREALLOC),
    );
}

#[test]
fn users_of_queues() {
    for map_type in [BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK] {
        killed(&format!("type {map_type}"), &small(map_type, 0, 12, 0));
    }
}

#[test]
fn users_of_rings() {
    for map_type in [BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_USER_RINGBUF] {
        let spec = segment::spec(map_type, 0, 0, 4096, 0);
        killed(&format!("type {map_type}"), &spec);
    }
}

#[test]
fn users_of_arrays_filters_and_stacks() {
    for (map_type, key, value) in [
        (BPF_MAP_TYPE_ARRAY, 4, 12),
        (BPF_MAP_TYPE_PERCPU_ARRAY, 4, 12),
        (BPF_MAP_TYPE_PROG_ARRAY, 4, 4),
        (BPF_MAP_TYPE_BLOOM_FILTER, 0, 12),
        (BPF_MAP_TYPE_STACK_TRACE, 4, 80),
    ] {
        killed(&format!("type {map_type}"), &small(map_type, key, value, 0));
    }
}

#[test]
fn users_of_maps_of_maps() {
    let inner = segment::spec(BPF_MAP_TYPE_ARRAY, 4, 8, ENTRIES, 0);
    for map_type in [BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS] {
        let spec = MapSpec {
            inner: inner.as_template().unwrap(),
            ..small(map_type, 4, 4, 0)
        };
        killed(&format!("type {map_type}"), &spec);
    }
}

#[test]
fn holders_of_locks() {
    for map_type in [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY] {
        let mut spec = small(map_type, 4, 16, 0);
        spec.set_fields(&MapFields {
            list: vec![MapField {
                kind: FieldKind::SpinLock,
                offset: 8,
                size: 4,
            }],
        });
        killed(&format!("type {map_type} with locks"), &spec);
    }
}
