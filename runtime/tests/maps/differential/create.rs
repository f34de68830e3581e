//! What `BPF_MAP_CREATE` takes and refuses, of all types that we have.

use bpftime_runtime::maps::MapSpec;
use uapi::Errno;
use uapi::map::*;

use super::side::{Commands, Side};
use crate::kernel::KernelMap;
use crate::process::Random;
use crate::segment;

/// Types with the sizes of a key and a value that they take.
const TYPES: &[(u32, u32, u32)] = &[
    (BPF_MAP_TYPE_HASH, 4, 8),
    (BPF_MAP_TYPE_ARRAY, 4, 8),
    (BPF_MAP_TYPE_PROG_ARRAY, 4, 4),
    (BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4),
    (BPF_MAP_TYPE_PERCPU_HASH, 4, 8),
    (BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8),
    (BPF_MAP_TYPE_STACK_TRACE, 4, 128),
    (BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4),
    (BPF_MAP_TYPE_RINGBUF, 0, 0),
    (BPF_MAP_TYPE_LRU_HASH, 4, 8),
    (BPF_MAP_TYPE_LRU_PERCPU_HASH, 4, 8),
    (BPF_MAP_TYPE_LPM_TRIE, 8, 8),
    (BPF_MAP_TYPE_QUEUE, 0, 8),
    (BPF_MAP_TYPE_STACK, 0, 8),
    (BPF_MAP_TYPE_BLOOM_FILTER, 0, 8),
];

const KEY_SIZES: [u32; 16] = [
    0,
    1,
    3,
    4,
    5,
    8,
    9,
    64,
    260,
    261,
    264,
    265,
    512,
    513,
    1 << 20,
    5 << 20,
];
const VALUE_SIZES: [u32; 11] = [
    0,
    1,
    4,
    7,
    8,
    127 * 8,
    128 * 8,
    1 << 15,
    (1 << 15) + 1,
    5 << 20,
    1 << 31,
];

fn same(commands: &Commands, spec: MapSpec) {
    let theirs = KernelMap::create(&spec).map(drop);
    // The kernel's allocator may refuse what we keep sparse.
    if theirs == Err(Errno::ENOMEM) {
        return;
    }
    let ours = commands.create(spec).map(drop);
    // A session has less room than the kernel.
    if ours == Err(Errno::ENOMEM) && theirs.is_ok() {
        let bytes = u64::from(spec.value_size) * u64::from(spec.max_entries);
        assert!(bytes >= 1 << 20, "{spec:?}: no room");
        return;
    }
    assert_eq!(ours, theirs, "{spec:?}");
}

#[test]
fn creation_takes_and_refuses_the_same() {
    if !super::oracle() {
        return;
    }
    let commands = Commands::new();
    for &(map_type, key, value) in TYPES {
        let entries = if map_type == BPF_MAP_TYPE_RINGBUF {
            4096
        } else {
            3
        };
        let plain = segment::spec(map_type, key, value, entries, 0);
        same(&commands, plain);
        let map_flags = match map_type {
            BPF_MAP_TYPE_LPM_TRIE => BPF_F_NO_PREALLOC,
            _ => 0,
        };
        let usual = MapSpec { map_flags, ..plain };
        same(&commands, usual);
        for key_size in KEY_SIZES {
            for value_size in VALUE_SIZES {
                let spec = MapSpec {
                    key_size,
                    value_size,
                    ..usual
                };
                same(&commands, spec);
                same(
                    &commands,
                    MapSpec {
                        max_entries: 0,
                        ..spec
                    },
                );
            }
        }
        for max_entries in [0, 1, 2, 5, 100, 4095, 4096, 4097, 8192, 12288] {
            same(
                &commands,
                MapSpec {
                    max_entries,
                    ..usual
                },
            );
        }
        for flag in 0..32 {
            same(
                &commands,
                MapSpec {
                    map_flags: map_flags ^ 1 << flag,
                    ..usual
                },
            );
        }
        let mut random = Random(u64::from(map_type));
        for _ in 0..60 {
            let map_flags = map_flags | (random.next() & random.next() & 0x1fff) as u32;
            same(&commands, MapSpec { map_flags, ..usual });
        }
        for map_extra in [1, 2, 15, 16, 1 << 32] {
            same(&commands, MapSpec { map_extra, ..usual });
        }
    }
}

const HASHES: [u32; 4] = [
    BPF_MAP_TYPE_HASH,
    BPF_MAP_TYPE_PERCPU_HASH,
    BPF_MAP_TYPE_LRU_HASH,
    BPF_MAP_TYPE_LRU_PERCPU_HASH,
];

/// Storage is sparse: what is not used costs nothing, however large, also
/// when tools walk over it.
#[test]
fn millions_of_entries_cost_memory_when_used() {
    const MOST: u64 = 1 << 20;
    let commands = Commands::new();
    for &(map_type, key, value) in TYPES {
        let flags = match map_type {
            BPF_MAP_TYPE_LPM_TRIE => BPF_F_NO_PREALLOC,
            _ => 0,
        };
        let before = commands.memory();
        let spec = segment::spec(map_type, key, value, 4 << 20, flags);
        let map = commands
            .create(spec)
            .unwrap_or_else(|errno| panic!("{errno:?} {spec:?}"));
        let mut value = vec![7; map.value_size()];
        for number in 0..50u32 {
            let key = super::plain_key(&spec, number * 80_000);
            let _ = map.update(&key, &value, BPF_ANY);
            let _ = map.lookup(&key, &mut value, 0);
            let _ = map.lookup_and_delete(&key, &mut value, 0);
            if number % 10 == 0 && map_type != BPF_MAP_TYPE_RINGBUF {
                let _ = map.delete(&key);
            }
        }
        if HASHES.contains(&map_type) {
            let key = super::plain_key(&spec, 1);
            map.update(&key, &value, BPF_ANY).unwrap();
            let mut next = vec![0; key.len()];
            map.next_key(None, &mut next).unwrap();
            assert_eq!(next, key);
            assert_eq!(map.next_key(Some(&key), &mut next), Err(Errno::ENOENT));
        }
        let used = commands.memory() - before;
        assert!(used < MOST, "type {map_type}: {used} bytes");
        if map_type == BPF_MAP_TYPE_ARRAY {
            assert!(used >= 50 * 4096, "that many pages were written");
        }
    }
}
