//! What LRU hashes keep and what they let go, and that they stay exact when
//! many threads insert or are killed.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bpftime_runtime::maps::Map;
use uapi::Errno;
use uapi::map::*;

use crate::process::{self, Child, Random};
use crate::segment;

const TYPES: [u32; 2] = [BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LRU_PERCPU_HASH];

/// Words of a value: long enough to tear.
const WORDS: usize = 5;

fn map(map_type: u32, entries: u32, flags: u32) -> Map {
    let spec = segment::spec(map_type, 8, 8 * WORDS as u32, entries, flags);
    segment::map(spec).unwrap()
}

fn value(map: &Map, number: u64) -> Vec<u8> {
    let words = map.syscall_value_size() / 8;
    number.to_ne_bytes().repeat(words)
}

fn insert(map: &Map, key: u64) {
    assert_eq!(
        map.update(&key.to_ne_bytes(), &value(map, key), BPF_ANY),
        Ok(())
    );
}

/// Is a key there, as bpf(2) sees it?
fn has(map: &Map, key: u64) -> bool {
    let mut found = vec![0; map.syscall_value_size()];
    match map.lookup(&key.to_ne_bytes(), &mut found, 0) {
        Ok(()) => {
            assert_eq!(found, value(map, key), "torn");
            true
        }
        Err(errno) => {
            assert_eq!(errno, Errno::ENOENT);
            false
        }
    }
}

/// A lookup from a program.
fn touch(map: &Map, key: u64) -> bool {
    // SAFETY: the key has the map's key size.
    let found = unsafe { map.lookup_ptr(key.to_ne_bytes().as_ptr(), 0) };
    !found.is_null()
}

fn count(map: &Map) -> u64 {
    let (mut key, mut next, mut count) = (None, [0; 8], 0);
    while map
        .next_key(key.as_ref().map(<[u8; 8]>::as_slice), &mut next)
        .is_ok()
    {
        count += 1;
        key = Some(next);
        assert!(count < 1 << 20, "a walk without end");
    }
    count
}

#[test]
fn what_programs_look_up_stays() {
    for map_type in TYPES {
        for entries in [2u64, 10, 1000] {
            let map = map(map_type, entries as u32, 0);
            (0..entries).for_each(|key| insert(&map, key));
            assert_eq!(count(&map), entries);
            let kept = entries / 2;
            assert!((0..kept).all(|key| touch(&map, key)));
            // What bpf(2) looks up has no advantage.
            assert!((kept..entries).all(|key| has(&map, key)));
            (entries..entries + entries - kept).for_each(|key| insert(&map, key));
            assert_eq!(count(&map), entries);
            for key in 0..2 * entries - kept {
                let expected = key < kept || key >= entries;
                assert_eq!(has(&map, key), expected, "key {key} of {entries}");
            }
        }
    }
}

#[test]
fn what_is_looked_up_all_the_time_outlives_a_flood() {
    let map = map(BPF_MAP_TYPE_LRU_HASH, 64, BPF_F_NO_COMMON_LRU);
    (0..8).for_each(|key| insert(&map, key));
    for key in 1000..9000 {
        insert(&map, key);
        assert!((0..8).all(|key| touch(&map, key)), "at {key}");
        assert!(has(&map, key), "the newest");
    }
    assert_eq!(count(&map), 64);
}

#[test]
fn a_replaced_value_counts_as_used() {
    for map_type in TYPES {
        let map = map(map_type, 4, 0);
        (0..4).for_each(|key| insert(&map, key));
        insert(&map, 2);
        (10..13).for_each(|key| insert(&map, key));
        assert!(has(&map, 2));
        assert_eq!(count(&map), 4);
        // Existing keys stay when a full map is told to refuse.
        let key = 2u64.to_ne_bytes();
        let new = value(&map, 2);
        assert_eq!(map.update(&key, &new, BPF_NOEXIST), Err(Errno::EEXIST));
        let absent = 99u64.to_ne_bytes();
        assert_eq!(map.update(&absent, &new, BPF_EXIST), Err(Errno::ENOENT));
        assert_eq!(count(&map), 4);
    }
}

#[test]
fn threads_insert_without_end() {
    const ENTRIES: u32 = 100;
    let map = map(BPF_MAP_TYPE_LRU_HASH, ENTRIES, 0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let map = &map;
            scope.spawn(move || {
                let mut random = Random(thread);
                for _ in 0..20_000 {
                    let key = random.below(400);
                    match random.below(4) {
                        0 => {
                            touch(map, key);
                        }
                        1 => {
                            has(map, key);
                        }
                        2 if random.below(8) == 0 => {
                            let _ = map.delete(&key.to_ne_bytes());
                        }
                        _ => insert(map, key),
                    }
                }
            });
        }
    });
    assert!(count(&map) <= u64::from(ENTRIES));
    (1000..1000 + u64::from(ENTRIES)).for_each(|key| insert(&map, key));
    (1000..1000 + u64::from(ENTRIES)).for_each(|key| insert(&map, key));
    assert_eq!(count(&map), u64::from(ENTRIES));
}

/// Inserts keys of its own, and tells how far it came.
fn work(map: &Map, log: &AtomicU64, child: u64, seed: u64) -> i32 {
    let mut random = Random(seed);
    loop {
        let key = child << 32 | log.load(SeqCst);
        // SAFETY: key and value have the map's sizes.
        let answer = unsafe {
            let value = value(map, key);
            map.update_prog(key.to_ne_bytes().as_ptr(), value.as_ptr(), BPF_ANY, 0)
        };
        if answer != 0 {
            return 1;
        }
        log.fetch_add(1, SeqCst);
        touch(map, child << 32 | random.below(8));
        if random.below(10) == 0 {
            let _ = map.delete(&key.to_ne_bytes());
        }
    }
}

#[test]
fn killed_writers_leave_a_map_that_takes_and_evicts() {
    const CHILDREN: u64 = 3;
    // So few that what three dead processes hold is felt.
    for entries in [4u32, 32] {
        let map = map(BPF_MAP_TYPE_LRU_HASH, entries, 0);
        let log = segment::segment(4096).region(0, 4096).unwrap();
        let mut random = Random(3);
        for round in 0..process::rounds(30, 600) {
            let children: Vec<Child> = (0..CHILDREN)
                .map(|child| {
                    let log = log.u64_at(child * 8).unwrap();
                    Child::fork(|| work(&map, log, child, random.next()))
                })
                .collect();
            std::thread::sleep(Duration::from_micros(200 + random.below(3000)));
            children.into_iter().for_each(Child::kill);
            assert!(count(&map) <= u64::from(entries), "round {round}");
            // Without a reclaim: insertions find what the dead held.
            for key in 0..3 * u64::from(entries) {
                insert(&map, 9 << 32 | key);
                assert!(has(&map, 9 << 32 | key));
            }
            map.reclaim();
            for key in 0..2 * u64::from(entries) {
                insert(&map, 8 << 32 | key);
            }
            assert_eq!(count(&map), u64::from(entries), "round {round}: leaked");
        }
    }
}
