//! Hash maps whose writers are killed at any instruction: nothing hangs, no
//! entry that was committed is lost, and a full map is exactly full.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bpftime_runtime::maps::Map;
use uapi::Errno;
use uapi::map::*;

use crate::process::{self, Child, Random};
use crate::segment;

/// Keys of one child: nobody else changes them.
const KEYS: u64 = 24;
/// Bytes of a value: long enough to tear.
const VALUE: usize = 40;

fn hash(map_type: u32, entries: u32) -> Map {
    segment::map(segment::spec(map_type, 8, VALUE as u32, entries, 0)).unwrap()
}

/// A value that says whether it is whole.
fn value(number: u64) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    for (at, word) in value.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&number.wrapping_add(at as u64).to_ne_bytes());
    }
    value
}

/// The number in a value; panics if it is torn.
fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, value(number), "torn");
    number
}

fn all(map: &Map) -> BTreeMap<u64, u64> {
    let mut entries = BTreeMap::new();
    let (mut key, mut next) = (None, [0; 8]);
    let mut steps = 0;
    while map
        .next_key(key.as_ref().map(<[u8; 8]>::as_slice), &mut next)
        .is_ok()
    {
        let mut bytes = vec![0; VALUE];
        map.lookup(&next, &mut bytes, 0).unwrap();
        let before = entries.insert(u64::from_ne_bytes(next), number(&bytes));
        assert_eq!(before, None, "a key twice");
        key = Some(next);
        steps += 1;
        assert!(steps < 1 << 20, "a walk without end");
    }
    entries
}

/// Walks the map while others change it, which may begin again or miss keys,
/// but never shows half a value.
fn look(map: &Map) {
    let (mut key, mut next) = (None, [0; 8]);
    let mut bytes = vec![0; VALUE];
    for _ in 0..100 {
        if map
            .next_key(key.as_ref().map(<[u8; 8]>::as_slice), &mut next)
            .is_err()
        {
            return;
        }
        match map.lookup(&next, &mut bytes, 0) {
            Ok(()) => {
                number(&bytes);
            }
            Err(errno) => assert_eq!(errno, Errno::ENOENT),
        }
        key = Some(next);
    }
}

/// Fills the map with keys from `from` on, as far as it goes; how many.
fn fill(map: &Map, from: u64) -> u64 {
    for key in from.. {
        match map.update(&key.to_ne_bytes(), &value(key), BPF_NOEXIST) {
            Ok(()) => {}
            Err(Errno::E2BIG) => return key - from,
            Err(errno) => panic!("{errno:?}"),
        }
    }
    unreachable!("a map without end")
}

/// What a child does and tells in shared memory after each step: `log[key]`
/// is what the key was last told to hold, `intent` what is being done.
fn work(map: &Map, log: &shm::Region, child: u64, seed: u64) -> i32 {
    let mut random = Random(seed);
    let intent = log.u64_at(0).unwrap();
    for turn in 1u64.. {
        let slot = random.below(KEYS);
        let key = (child * KEYS + slot).to_ne_bytes();
        let done = log.u64_at(8 + slot * 8).unwrap();
        let held = done.load(std::sync::atomic::Ordering::Relaxed);
        intent.store(
            slot << 48 | turn << 1 | 1,
            std::sync::atomic::Ordering::SeqCst,
        );
        let delete = held != 0 && random.below(3) == 0;
        // SAFETY: key and value have the map's sizes.
        let ret = unsafe {
            match delete {
                true => map.delete_prog(key.as_ptr()),
                false => map.update_prog(key.as_ptr(), value(turn).as_ptr(), BPF_ANY, 0),
            }
        };
        if ret != 0 {
            return 1;
        }
        done.store(
            if delete { 0 } else { turn },
            std::sync::atomic::Ordering::SeqCst,
        );
        intent.store(0, std::sync::atomic::Ordering::SeqCst);
    }
    0
}

#[test]
fn killed_writers_lose_nothing_that_was_committed() {
    const CHILDREN: u64 = 3;
    let kills = process::rounds(100, 1000) as u32;
    // Small enough that its buckets are crowded, with room for every key.
    let entries = (CHILDREN * KEYS) as u32;
    let map = hash(BPF_MAP_TYPE_HASH, entries);
    let logs: Vec<shm::Region> = (0..CHILDREN)
        .map(|_| segment::segment(4096).region(0, 4096).unwrap())
        .collect();
    let mut random = Random(11);
    let load = |log: &shm::Region, at: u64| {
        log.u64_at(at)
            .unwrap()
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    for round in 0..kills {
        let children: Vec<Child> = (0..CHILDREN)
            .map(|child| {
                let seed = u64::from(round) * CHILDREN + child;
                Child::fork(|| work(&map, &logs[child as usize], child, seed))
            })
            .collect();
        let until = Instant::now() + Duration::from_micros(random.below(4000));
        while Instant::now() < until {
            look(&map);
        }
        children.into_iter().for_each(Child::kill);
        let now = all(&map);
        for (child, log) in (0..CHILDREN).zip(&logs) {
            let intent = load(log, 0);
            for slot in 0..KEYS {
                let held = load(log, 8 + slot * 8);
                let found = now.get(&(child * KEYS + slot)).copied().unwrap_or(0);
                // What was under way may or may not have happened.
                let unsure = intent != 0 && intent >> 48 == slot;
                if !unsure {
                    assert_eq!(found, held, "key {slot} of child {child}, round {round}");
                } else {
                    let turn = (intent & ((1 << 48) - 1)) >> 1;
                    assert!(
                        [held, turn, 0].contains(&found),
                        "{found} is not of child {child}"
                    );
                    log.u64_at(8 + slot * 8)
                        .unwrap()
                        .store(found, std::sync::atomic::Ordering::SeqCst);
                    log.u64_at(0)
                        .unwrap()
                        .store(0, std::sync::atomic::Ordering::SeqCst);
                }
            }
        }
        if round % 10 == 9 {
            map.reclaim();
            let before = now.len() as u64;
            assert_eq!(fill(&map, 1 << 32), u64::from(entries) - before, "leaked");
            for key in now.keys() {
                // With the map full, an existing key can still be changed.
                let key = key.to_ne_bytes();
                let mut bytes = vec![0; VALUE];
                map.lookup(&key, &mut bytes, 0).unwrap();
                assert_eq!(map.update(&key, &bytes, BPF_EXIST), Ok(()));
            }
            for key in (1u64 << 32)..(1 << 32) + u64::from(entries) - before {
                assert_eq!(map.delete(&key.to_ne_bytes()), Ok(()));
            }
            assert_eq!(all(&map), now);
        }
    }
}

#[test]
fn writers_of_the_same_keys_leave_each_once() {
    const KEYS: u64 = 8;
    let map = hash(BPF_MAP_TYPE_HASH, KEYS as u32);
    let writers: Vec<Child> = (0..4)
        .map(|writer| {
            Child::fork(|| {
                let mut random = Random(writer);
                for turn in 0..40_000u64 {
                    let key = random.below(KEYS).to_ne_bytes();
                    let flags = random.below(3);
                    let result = match random.below(3) {
                        0 => map.delete(&key),
                        _ => map.update(&key, &value(turn), flags),
                    };
                    // As in the kernel, an element counts until its deleter
                    // has freed it.
                    let expected = [Errno::ENOENT, Errno::EEXIST, Errno::E2BIG];
                    if let Err(errno) = result
                        && !expected.contains(&errno)
                    {
                        return errno.0;
                    }
                }
                0
            })
        })
        .collect();
    let mut bytes = vec![0; VALUE];
    for round in 0..2000u64 {
        let key = (round % KEYS).to_ne_bytes();
        if map.lookup(&key, &mut bytes, 0).is_ok() {
            number(&bytes);
        }
    }
    for writer in writers {
        assert_eq!(writer.join(), 0);
    }
    let left = all(&map);
    assert!(left.keys().all(|key| *key < KEYS));
    assert_eq!(fill(&map, 100), KEYS - left.len() as u64);
}

#[test]
fn a_key_that_is_replaced_all_the_time_is_always_there() {
    let map = hash(BPF_MAP_TYPE_HASH, 16);
    for key in 0..16u64 {
        map.update(&key.to_ne_bytes(), &value(0), BPF_ANY).unwrap();
    }
    let writers: Vec<Child> = (0..2)
        .map(|writer| {
            Child::fork(|| {
                let mut random = Random(writer);
                for turn in 0.. {
                    let key = random.below(16).to_ne_bytes();
                    if map.update(&key, &value(turn), BPF_EXIST).is_err() {
                        return 1;
                    }
                }
                0
            })
        })
        .collect();
    let mut bytes = vec![0; VALUE];
    let until = Instant::now() + Duration::from_millis(1500);
    let mut looked = 0u64;
    while Instant::now() < until {
        let key = (looked % 16).to_ne_bytes();
        assert_eq!(map.lookup(&key, &mut bytes, 0), Ok(()), "after {looked}");
        number(&bytes);
        looked += 1;
    }
    drop(writers);
}
