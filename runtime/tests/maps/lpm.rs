//! Tries under threads that insert and delete prefixes of each other, and
//! whose writers are killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bpftime_runtime::maps::Map;
use uapi::Errno;
use uapi::map::*;

use crate::process::{self, Child, Random};
use crate::segment;

/// Words of a value: long enough to tear.
const WORDS: usize = 5;

fn map(entries: u32) -> Map {
    let spec = segment::spec(
        BPF_MAP_TYPE_LPM_TRIE,
        8,
        8 * WORDS as u32,
        entries,
        BPF_F_NO_PREALLOC,
    );
    segment::map(spec).unwrap()
}

fn key(address: u32, length: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&length.to_ne_bytes());
    key[4..].copy_from_slice(&address.to_be_bytes());
    key
}

fn value(number: u64) -> Vec<u8> {
    number.to_ne_bytes().repeat(WORDS)
}

fn store(map: &Map, key: [u8; 8], number: u64) -> i64 {
    // SAFETY: key and value have the map's sizes.
    unsafe { map.update_prog(key.as_ptr(), value(number).as_ptr(), BPF_ANY, 0) }
}

fn remove(map: &Map, key: [u8; 8]) -> i64 {
    // SAFETY: the key has the map's key size.
    unsafe { map.delete_prog(key.as_ptr()) }
}

/// The number under the longest prefix of an address.
fn find(map: &Map, address: u32) -> Option<u64> {
    let mut found = vec![0; 8 * WORDS];
    match map.lookup(&key(address, 32), &mut found, 0) {
        Ok(()) => {
            let number = u64::from_ne_bytes(found[..8].try_into().unwrap());
            assert_eq!(found, value(number), "torn");
            Some(number)
        }
        Err(errno) => {
            assert_eq!(errno, Errno::ENOENT);
            None
        }
    }
}

fn all(map: &Map) -> BTreeMap<[u8; 8], u64> {
    let (mut entries, mut key, mut next) = (BTreeMap::new(), None, [0; 8]);
    while map
        .next_key(key.as_ref().map(<[u8; 8]>::as_slice), &mut next)
        .is_ok()
    {
        let mut found = vec![0; 8 * WORDS];
        map.lookup(&next, &mut found, 0).unwrap();
        let number = u64::from_ne_bytes(found[..8].try_into().unwrap());
        assert_eq!(found, value(number), "torn");
        assert_eq!(entries.insert(next, number), None, "a key twice");
        key = Some(next);
    }
    entries
}

/// A more and a less specific prefix take turns; one is always there. Who
/// looks never falls through to the one below both.
#[test]
fn lookups_do_not_fall_between_two_changes() {
    const ADDRESS: u32 = 0x0a01_0203;
    let map = map(64);
    let (short, long) = (key(ADDRESS, 16), key(ADDRESS, 24));
    assert_eq!(store(&map, key(ADDRESS, 8), 8), 0);
    assert_eq!(store(&map, short, 16), 0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    let found = find(&map, ADDRESS);
                    assert!(matches!(found, Some(16 | 24)), "{found:?}");
                }
            });
        }
        for _ in 0..4 {
            // Other prefixes come and go as well.
            scope.spawn(|| {
                let mut random = Random(1);
                while !done.load(SeqCst) {
                    let other = key(0xc000_0000 | random.next() as u32 >> 4, 20);
                    store(&map, other, 1);
                    remove(&map, other);
                }
            });
        }
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            assert_eq!(store(&map, long, 24), 0);
            assert_eq!(remove(&map, short), 0);
            assert_eq!(store(&map, short, 16), 0);
            assert_eq!(remove(&map, long), 0);
        }
        done.store(true, SeqCst);
    });
}

#[test]
fn walks_meet_what_is_there_throughout() {
    let map = map(4096);
    for number in 0..64u32 {
        assert_eq!(store(&map, key(number << 24, 8), u64::from(number)), 0);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (map, done) = (&map, &done);
            scope.spawn(move || {
                let mut random = Random(u64::from(thread));
                while !done.load(SeqCst) {
                    let number = random.next() as u32;
                    store(
                        map,
                        key(number & 0x3f << 24, 8),
                        u64::from(number >> 24 & 0x3f),
                    );
                    let other = key(number, 30);
                    store(map, other, 77);
                    remove(map, other);
                }
            });
        }
        for _ in 0..100 {
            let (mut seen, mut at, mut next) = (0u64, None, [0; 8]);
            while map
                .next_key(at.as_ref().map(<[u8; 8]>::as_slice), &mut next)
                .is_ok()
            {
                // A walk whose key went begins anew.
                if next[0] == 8 {
                    seen |= 1 << (next[4] & 0x3f);
                }
                at = Some(next);
            }
            assert_eq!(seen, u64::MAX);
        }
        done.store(true, SeqCst);
    });
}

/// Keys of one child: nobody else changes them.
const KEYS: u64 = 16;

/// Each of another length, below each other.
fn own(child: u64, slot: u64) -> [u8; 8] {
    key((child as u32) << 24 | 0x00ff_ffff, 8 + slot as u32)
}

fn work(map: &Map, log: &shm::Region, child: u64, seed: u64) -> i32 {
    let word = |at: u64| -> &AtomicU64 { log.u64_at(at * 8).unwrap() };
    let mut random = Random(seed);
    for turn in 1u64.. {
        let slot = random.below(KEYS);
        let held = word(1 + slot).load(SeqCst);
        word(0).store(slot << 48 | turn << 1 | 1, SeqCst);
        let delete = held != 0 && random.below(3) == 0;
        let answer = match delete {
            true => remove(map, own(child, slot)),
            false => store(map, own(child, slot), turn),
        };
        if answer != 0 {
            return 1;
        }
        word(1 + slot).store(if delete { 0 } else { turn }, SeqCst);
        word(0).store(0, SeqCst);
    }
    0
}

#[test]
fn killed_writers_lose_nothing_that_was_committed() {
    const CHILDREN: u64 = 3;
    let entries = (CHILDREN * KEYS) as u32;
    let map = map(entries);
    let logs: Vec<shm::Region> = (0..CHILDREN)
        .map(|_| segment::segment(4096).region(0, 4096).unwrap())
        .collect();
    let mut random = Random(7);
    for round in 0..process::rounds(50, 600) {
        let children: Vec<Child> = (0..CHILDREN)
            .map(|child| Child::fork(|| work(&map, &logs[child as usize], child, random.next())))
            .collect();
        std::thread::sleep(Duration::from_micros(200 + random.below(3000)));
        children.into_iter().for_each(Child::kill);
        let now = all(&map);
        for (child, log) in (0..CHILDREN).zip(&logs) {
            let word = |at: u64| log.u64_at(at * 8).unwrap();
            let intent = word(0).load(SeqCst);
            for slot in 0..KEYS {
                let held = word(1 + slot).load(SeqCst);
                let found = now.get(&own(child, slot)).copied().unwrap_or(0);
                let turn = (intent & ((1 << 48) - 1)) >> 1;
                // What was under way may or may not have happened.
                if intent != 0 && intent >> 48 == slot {
                    assert!([held, turn, 0].contains(&found), "{found} in round {round}");
                    word(1 + slot).store(found, SeqCst);
                } else {
                    assert_eq!(found, held, "key {slot} of {child}, round {round}");
                }
            }
            word(0).store(0, SeqCst);
            // The longest of what is there.
            let longest = (0..KEYS).rev().find_map(|slot| now.get(&own(child, slot)));
            assert_eq!(
                find(&map, (child as u32) << 24 | 0x00ff_ffff),
                longest.copied()
            );
        }
        map.reclaim();
        let room = u64::from(entries) - now.len() as u64;
        for number in 0..room {
            assert_eq!(
                store(&map, key(0xe000_0000 | number as u32, 32), 5),
                0,
                "leaked"
            );
        }
        assert_eq!(store(&map, key(0xf000_0000, 32), 5), Errno::ENOSPC.ret());
        for number in 0..room {
            assert_eq!(remove(&map, key(0xe000_0000 | number as u32, 32)), 0);
        }
        assert_eq!(all(&map), now);
    }
}
