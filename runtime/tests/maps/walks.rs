//! Walks over a hash map that others change: a key that is there throughout is
//! seen, whatever happens to its value and to the keys around it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bpftime_runtime::maps::Map;
use uapi::map::*;

use crate::process::{Child, Random};
use crate::segment;

/// Keys that stay, and those that come and go.
const STAYING: u64 = 24;
const COMING: u64 = 40;
/// Steps after which a walk that always begins anew is given up, as one of a
/// tool on the kernel's map would have to be.
const MOST: u32 = 4000;

fn map(map_type: u32) -> Map {
    let entries = (STAYING + COMING) as u32;
    let map = segment::map(segment::spec(map_type, 8, 24, entries, 0)).unwrap();
    let value = vec![1; map.syscall_value_size()];
    for key in 0..STAYING {
        map.update(&key.to_ne_bytes(), &value, BPF_ANY).unwrap();
    }
    map
}

/// Changes the value of any key, and lets all but those that stay come and go.
fn write(map: &Map, seed: u64) -> i32 {
    let mut random = Random(seed);
    let value = [2; 24];
    loop {
        let key = random.below(STAYING + COMING);
        let bytes = key.to_ne_bytes();
        // SAFETY: key and value have the map's sizes.
        let _ = unsafe {
            match key >= STAYING && random.below(2) == 0 {
                true => map.delete_prog(bytes.as_ptr()),
                false => map.update_prog(bytes.as_ptr(), value.as_ptr(), BPF_ANY, 0),
            }
        };
    }
}

/// Counts the keys that a walk showed.
fn check(way: &str, shown: impl IntoIterator<Item = u64>) -> BTreeMap<u64, u32> {
    let mut times = BTreeMap::new();
    for key in shown {
        *times.entry(key).or_default() += 1;
    }
    let missed: Vec<u64> = (0..STAYING)
        .filter(|key| !times.contains_key(key))
        .collect();
    assert!(missed.is_empty(), "{way} missed {missed:?}");
    times
}

fn from_key_to_key(map: &Map) -> Option<Vec<u64>> {
    let (mut shown, mut key, mut next) = (Vec::new(), None::<[u8; 8]>, [0; 8]);
    for _ in 0..MOST {
        if map
            .next_key(key.as_ref().map(<[u8; 8]>::as_slice), &mut next)
            .is_err()
        {
            return Some(shown);
        }
        shown.push(u64::from_ne_bytes(next));
        key = Some(next);
    }
    None
}

#[test]
fn what_is_there_throughout_is_seen() {
    for map_type in [
        BPF_MAP_TYPE_HASH,
        BPF_MAP_TYPE_LRU_HASH,
        BPF_MAP_TYPE_PERCPU_HASH,
    ] {
        let map = map(map_type);
        let writers = [1, 2, 3].map(|seed| Child::fork(|| write(&map, seed)));
        let until = Instant::now() + Duration::from_millis(1500);
        let mut whole = 0;
        while Instant::now() < until {
            if let Some(shown) = from_key_to_key(&map) {
                check("from key to key", shown);
                whole += 1;
            }
            let mut shown = Vec::new();
            map.for_each(0, &mut |key, _| {
                // SAFETY: the key of an element.
                shown.push(unsafe { key.cast::<u64>().read_volatile() });
                true
            });
            check("from a program", shown);
            let keys = map.keys().unwrap();
            let keys = keys
                .iter()
                .map(|key| u64::from_ne_bytes((**key).try_into().unwrap()));
            let times = check("at once", keys);
            assert!((0..STAYING).all(|key| times[&key] == 1), "a key twice");
        }
        assert!(whole > 0, "no walk came to an end");
        drop(writers);
    }
}
