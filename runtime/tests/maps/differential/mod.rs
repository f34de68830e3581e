//! One sequence of operations on a map of the kernel and on one of ours: the
//! same results, errors and contents. Where the order of elements is not
//! specified, sets are compared. Without the right to make kernel maps (root)
//! these tests pass without a look.
//!
//! A sequence that fails is made as short as it goes and printed.

mod create;
mod op;
mod side;

use bpftime_runtime::maps::MapSpec;
use uapi::map::*;

use self::op::{Case, Op, Pair};
use self::side::Commands;
use crate::kernel::KernelMap;
use crate::process::Random;
use crate::segment;

/// May this process make maps of the kernel?
pub fn oracle() -> bool {
    let map = KernelMap::create(&segment::spec(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0));
    assert!(
        map.is_ok() || std::env::var_os("CI").is_none(),
        "in CI the kernel makes maps"
    );
    map.is_ok()
}

/// A key's bytes: its number, then a pattern.
pub fn plain_key(spec: &MapSpec, key: u32) -> Vec<u8> {
    let mut bytes = key.to_ne_bytes().to_vec();
    bytes.resize((spec.key_size as usize).max(4), 0xa5);
    bytes.truncate(spec.key_size as usize);
    bytes
}

/// Runs a sequence on fresh maps; where and how they differ.
fn differ(commands: &Commands, case: &Case, ops: &[Op]) -> Option<(usize, String)> {
    let pair = Pair {
        case: *case,
        theirs: KernelMap::create(&case.spec).unwrap(),
        ours: commands.create(case.spec).unwrap(),
    };
    for (at, op) in ops.iter().enumerate() {
        if let Err(how) = pair.run(op) {
            return Some((at, how));
        }
    }
    None
}

/// Leaves out operations as long as the sides still differ.
fn shrink(commands: &Commands, case: &Case, mut ops: Vec<Op>) -> Vec<Op> {
    let mut part = ops.len() / 2;
    while part > 0 {
        let mut from = 0;
        while from < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(from..(from + part).min(ops.len()));
            match differ(commands, case, &fewer) {
                Some((at, _)) => {
                    fewer.truncate(at + 1);
                    ops = fewer;
                }
                None => from += part,
            }
        }
        part /= 2;
    }
    ops
}

/// Thousands of random operations on maps of one spec.
pub fn check(case: Case) {
    const SEQUENCES: u64 = 40;
    const LENGTH: usize = 200;
    if !oracle() {
        return;
    }
    let commands = Commands::new();
    for seed in 0..SEQUENCES {
        let mut random = Random(seed);
        let ops: Vec<Op> = (0..LENGTH)
            .map(|_| Op::random(&case, &mut random))
            .collect();
        if let Some((at, _)) = differ(&commands, &case, &ops) {
            let ops = shrink(&commands, &case, ops[..=at].to_vec());
            let (_, how) = differ(&commands, &case, &ops).unwrap();
            panic!("{:?}\nseed {seed}: {ops:#?}\n{how}", case.spec);
        }
    }
}

/// A map that never fills, so that nothing is evicted.
fn roomy(map_type: u32, key: u32, value: u32, entries: u32, flags: u32) {
    check(Case {
        spec: segment::spec(map_type, key, value, entries, flags),
        keys: 30,
        key: plain_key,
        ordered: false,
    });
}

/// A map whose keys are numbers; those of arrays have the kernel's order.
fn plain(map_type: u32, key: u32, value: u32, entries: u32, flags: u32) {
    let ordered = !matches!(map_type, BPF_MAP_TYPE_HASH | BPF_MAP_TYPE_PERCPU_HASH);
    check(Case {
        spec: segment::spec(map_type, key, value, entries, flags),
        keys: entries + entries / 2 + 2,
        key: plain_key,
        ordered,
    });
}

#[test]
fn arrays() {
    plain(BPF_MAP_TYPE_ARRAY, 4, 8, 16, 0);
    plain(BPF_MAP_TYPE_ARRAY, 4, 13, 1, 0);
    plain(BPF_MAP_TYPE_ARRAY, 4, 5, 7, BPF_F_MMAPABLE);
}

#[test]
fn percpu_arrays() {
    plain(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 16, 0);
    plain(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 13, 3, 0);
}

#[test]
fn hashes() {
    plain(BPF_MAP_TYPE_HASH, 4, 8, 16, 0);
    plain(BPF_MAP_TYPE_HASH, 4, 8, 1, 0);
    plain(BPF_MAP_TYPE_HASH, 7, 13, 60, 0);
    plain(
        BPF_MAP_TYPE_HASH,
        40,
        1,
        33,
        BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED,
    );
}

#[test]
fn percpu_hashes() {
    plain(BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 16, 0);
    plain(BPF_MAP_TYPE_PERCPU_HASH, 5, 13, 40, BPF_F_NO_PREALLOC);
}

#[test]
fn lru_hashes() {
    roomy(BPF_MAP_TYPE_LRU_HASH, 4, 8, 2000, 0);
    roomy(BPF_MAP_TYPE_LRU_HASH, 7, 13, 1500, BPF_F_NO_COMMON_LRU);
    roomy(
        BPF_MAP_TYPE_LRU_PERCPU_HASH,
        8,
        8,
        2000,
        BPF_F_NO_COMMON_LRU,
    );
    roomy(BPF_MAP_TYPE_LRU_PERCPU_HASH, 5, 13, 1500, 0);
}

#[test]
fn maps_without_elements_of_bytes() {
    plain(BPF_MAP_TYPE_STACK_TRACE, 4, 8 * 16, 8, 0);
    plain(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0);
    plain(BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 4, 0);
    plain(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4, 0);
    plain(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0);
}

#[test]
fn queues_and_stacks() {
    for map_type in [BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK] {
        plain(map_type, 0, 8, 1, 0);
        plain(map_type, 0, 13, 5, 0);
        plain(map_type, 0, 4, 40, 0);
    }
}

#[test]
fn bloom_filters() {
    let filter = |value, entries, hashes| {
        let spec = segment::spec(
            BPF_MAP_TYPE_BLOOM_FILTER,
            0,
            value,
            entries,
            BPF_F_ZERO_SEED,
        );
        check(Case {
            spec: MapSpec {
                map_extra: hashes,
                ..spec
            },
            keys: 10,
            key: plain_key,
            ordered: true,
        });
    };
    filter(4, 100, 0);
    filter(8, 40, 3);
    filter(12, 40, 15);
    filter(13, 90, 1);
    filter(25, 30, 2);
    filter(1, 3, 5);
}

/// Prefixes of few addresses: many are prefixes of others.
fn prefix_key(spec: &MapSpec, key: u32) -> Vec<u8> {
    let data = spec.key_size - 4;
    let mut random = Random(u64::from(key));
    let length = match random.below(12) {
        0 => 8 * data + random.below(3) as u32,
        1 => random.below(u64::from(8 * data + 1)) as u32,
        2 => 8 * data,
        _ => random.below(u64::from((8 * data + 1).min(20))) as u32,
    };
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend((0..data).map(|_| [0x00, 0xff, 0xf0, 0x80][random.below(4) as usize]));
    bytes
}

#[test]
fn lpm_tries() {
    let trie = |key, value, entries, keys| {
        check(Case {
            spec: segment::spec(
                BPF_MAP_TYPE_LPM_TRIE,
                key,
                value,
                entries,
                BPF_F_NO_PREALLOC,
            ),
            keys,
            key: prefix_key,
            ordered: true,
        });
    };
    trie(8, 8, 100, 60);
    trie(5, 1, 12, 40);
    trie(20, 13, 20, 60);
    trie(11, 4, 1, 10);
    trie(260, 8, 30, 50);
}
