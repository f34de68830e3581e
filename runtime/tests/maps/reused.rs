//! Elements that get another key while somebody changes the value of the last
//! one: no value is ever found under a key that it was not stored under.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bpftime_runtime::maps::Map;
use uapi::Errno;
use uapi::map::*;

use crate::segment;

/// Words of a value: more makes them longer to write.
const WORDS: usize = 32;
const ROUNDS: u64 = 20_000;

fn words(key: u64) -> Vec<u8> {
    key.to_ne_bytes().repeat(WORDS)
}

/// Stores a key's own bytes under it while others take it away.
fn store_again(map: &Map, key: u64, done: &AtomicBool) {
    let value = words(key).repeat(map.syscall_value_size() / (8 * WORDS));
    while !done.load(Relaxed) {
        match map.update(&key.to_ne_bytes(), &value, BPF_ANY) {
            Ok(()) | Err(Errno::E2BIG | Errno::EBUSY) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// Takes key 1 away and looks what is under another one in its place.
fn take_away(map: &Map) -> u64 {
    let values = map.syscall_value_size() / (8 * WORDS);
    let (key, value) = (2_u64.to_ne_bytes(), words(2).repeat(values));
    let mut foreign = 0;
    for _ in 0..ROUNDS {
        let _ = map.delete(&1_u64.to_ne_bytes());
        if map.update(&key, &value, BPF_NOEXIST).is_err() {
            continue;
        }
        let mut found = vec![0; value.len()];
        for _ in 0..4 {
            map.lookup(&key, &mut found, 0).expect("only we delete it");
            foreign += u64::from(found != value);
        }
        map.delete(&key).expect("only we delete it");
    }
    foreign
}

#[test]
fn a_late_change_reaches_no_other_keys_value() {
    for map_type in [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_HASH] {
        let spec = segment::spec(map_type, 8, 8 * WORDS as u32, 1, 0);
        let map = segment::map(spec).expect("a map");
        let map = &map;
        let done = &AtomicBool::new(false);
        let foreign = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(move || store_again(map, 1, done));
            }
            let foreign = take_away(map);
            done.store(true, Relaxed);
            foreign
        });
        assert_eq!(foreign, 0, "type {map_type}");
    }
}
