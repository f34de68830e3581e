//! The kernel as oracle: the same calls on its map and on ours, the same
//! results, errors and contents. Without the right to make kernel maps (root)
//! these tests pass without a look.

use std::collections::BTreeSet;

use bpftime_runtime::maps::{Map, MapSpec};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use uapi::map::*;

use crate::kernel::KernelMap;
use crate::segment;

#[derive(Clone, Debug)]
enum Call {
    Lookup { key: u32, flags: u64 },
    Update { key: u32, value: u8, flags: u64 },
    Delete { key: u32 },
    LookupAndDelete { key: u32, flags: u64 },
    NextKey { key: u32 },
}

fn call(keys: u32) -> impl Strategy<Value = Call> {
    let key = 0..keys;
    // Mostly flags that let the call through.
    let flags = prop_oneof![
        6 => Just(BPF_ANY), 2 => Just(BPF_NOEXIST), 2 => Just(BPF_EXIST),
        1 => Just(3u64), 1 => Just(BPF_F_LOCK), 1 => Just(8u64), 1 => Just(1 << 33)
    ];
    let read_flags = prop_oneof![8 => Just(0u64), 1 => Just(1u64), 1 => Just(BPF_F_LOCK)];
    prop_oneof![
        3 => (key.clone(), read_flags.clone()).prop_map(|(key, flags)| Call::Lookup { key, flags }),
        6 => (key.clone(), any::<u8>(), flags)
            .prop_map(|(key, value, flags)| Call::Update { key, value, flags }),
        3 => key.clone().prop_map(|key| Call::Delete { key }),
        1 => (key.clone(), read_flags).prop_map(|(key, flags)| Call::LookupAndDelete { key, flags }),
        1 => key.prop_map(|key| Call::NextKey { key }),
    ]
}

/// The key's bytes: its number, then a pattern.
fn key_bytes(spec: &MapSpec, key: u32) -> Vec<u8> {
    let mut bytes = key.to_ne_bytes().to_vec();
    bytes.resize((spec.key_size as usize).max(4), 0xa5);
    bytes.truncate(spec.key_size as usize);
    bytes
}

/// All keys, as walking the map from its first key finds them.
fn keys(spec: &MapSpec, next: impl Fn(Option<&[u8]>, &mut [u8]) -> bool) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut key: Option<Vec<u8>> = None;
    let mut following = vec![0; spec.key_size as usize];
    while next(key.as_deref(), &mut following) {
        keys.push(following.clone());
        key = Some(following.clone());
        assert!(
            keys.len() <= spec.max_entries as usize,
            "a walk without end"
        );
    }
    keys
}

fn same_contents(spec: &MapSpec, ours: &Map, theirs: &KernelMap) {
    let our_keys = keys(spec, |key, next| ours.next_key(key, next).is_ok());
    let their_keys = keys(spec, |key, next| theirs.next_key(key, next).is_ok());
    let set = |keys: &[Vec<u8>]| keys.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(set(&our_keys), set(&their_keys));
    assert_eq!(our_keys.len(), their_keys.len(), "a key twice");
    for key in our_keys {
        let mut values = [0; 2].map(|_: i32| vec![0; ours.syscall_value_size()]);
        let [our_value, their_value] = &mut values;
        assert_eq!(ours.lookup(&key, our_value, 0), Ok(()));
        assert_eq!(theirs.lookup(&key, their_value, 0), Ok(()));
        assert_eq!(our_value, their_value);
    }
}

fn same_results(spec: MapSpec, calls: &[Call]) {
    let ours = segment::map(spec).unwrap();
    let theirs = KernelMap::create(&spec).unwrap();
    let ordered = spec.map_type == BPF_MAP_TYPE_ARRAY || spec.map_type == BPF_MAP_TYPE_PERCPU_ARRAY;
    let mut our_value = vec![0; ours.syscall_value_size()];
    let mut their_value = our_value.clone();
    for call in calls {
        match *call {
            Call::Lookup { key, flags } => {
                let key = key_bytes(&spec, key);
                let our = ours.lookup(&key, &mut our_value, flags);
                assert_eq!(
                    our,
                    theirs.lookup(&key, &mut their_value, flags),
                    "{call:?}"
                );
                if our.is_ok() {
                    assert_eq!(our_value, their_value, "{call:?}");
                }
            }
            Call::Update { key, value, flags } => {
                let key = key_bytes(&spec, key);
                // Each CPU's part of its own, without the padding behind it,
                // which the kernel does not always copy.
                let value: Vec<u8> = (0..ours.syscall_value_size())
                    .map(|at| value.wrapping_add(at as u8))
                    .collect();
                let our = ours.update(&key, &value, flags);
                assert_eq!(our, theirs.update(&key, &value, flags), "{call:?}");
            }
            Call::Delete { key } => {
                let key = key_bytes(&spec, key);
                assert_eq!(ours.delete(&key), theirs.delete(&key), "{call:?}");
            }
            Call::LookupAndDelete { key, flags } => {
                let key = key_bytes(&spec, key);
                let our = ours.lookup_and_delete(&key, &mut our_value, flags);
                let their = theirs.lookup_and_delete(&key, &mut their_value, flags);
                assert_eq!(our, their, "{call:?}");
                if our.is_ok() {
                    assert_eq!(our_value, their_value, "{call:?}");
                }
            }
            Call::NextKey { key } if ordered => {
                let key = key_bytes(&spec, key);
                let (mut our_next, mut their_next) = ([0; 4], [0; 4]);
                let our = ours.next_key(Some(&key), &mut our_next);
                assert_eq!(
                    our,
                    theirs.next_key(Some(&key), &mut their_next),
                    "{call:?}"
                );
                assert_eq!(our_next, their_next, "{call:?}");
            }
            // The order of a hash map's keys is its own.
            Call::NextKey { .. } => {}
        }
    }
    same_contents(&spec, &ours, &theirs);
}

/// Random calls on maps of these sizes.
fn check(map_type: u32, key: u32, value: u32, entries: u32, flags: u32) {
    let spec = segment::spec(map_type, key, value, entries, flags);
    if KernelMap::create(&segment::spec(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0)).is_err() {
        return;
    }
    let calls = prop::collection::vec(call(entries + entries / 2 + 2), 1..200);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&calls, |calls| {
            same_results(spec, &calls);
            Ok(())
        })
        .unwrap();
}

#[test]
fn arrays_do_as_the_kernels() {
    check(BPF_MAP_TYPE_ARRAY, 4, 8, 16, 0);
    check(BPF_MAP_TYPE_ARRAY, 4, 13, 1, 0);
    check(BPF_MAP_TYPE_ARRAY, 4, 5, 7, BPF_F_MMAPABLE);
}

#[test]
fn percpu_arrays_do_as_the_kernels() {
    check(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 16, 0);
    check(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 24, 3, 0);
}

#[test]
fn hashes_do_as_the_kernels() {
    check(BPF_MAP_TYPE_HASH, 4, 8, 16, 0);
    check(BPF_MAP_TYPE_HASH, 4, 8, 1, 0);
    check(BPF_MAP_TYPE_HASH, 7, 13, 100, 0);
    check(
        BPF_MAP_TYPE_HASH,
        40,
        1,
        33,
        BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED,
    );
}

#[test]
fn percpu_hashes_do_as_the_kernels() {
    check(BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 16, 0);
    check(BPF_MAP_TYPE_PERCPU_HASH, 5, 16, 50, BPF_F_NO_PREALLOC);
}

#[test]
fn the_kernel_refuses_the_same_specs() {
    if KernelMap::create(&segment::spec(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0)).is_err() {
        return;
    }
    let types = [
        BPF_MAP_TYPE_HASH,
        BPF_MAP_TYPE_ARRAY,
        BPF_MAP_TYPE_PROG_ARRAY,
        BPF_MAP_TYPE_PERF_EVENT_ARRAY,
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_PERCPU_ARRAY,
        BPF_MAP_TYPE_CGROUP_ARRAY,
    ];
    for map_type in types {
        for key in [0, 1, 3, 4, 8, 64, 512, 513, 1 << 20, 5 << 20] {
            for value in [
                0,
                1,
                4,
                8,
                127 * 8,
                32 << 10,
                (32 << 10) + 1,
                5 << 20,
                1 << 31,
            ] {
                for entries in [0, 1, 7] {
                    same_errno(segment::spec(map_type, key, value, entries, 0));
                }
            }
        }
        for flag in 0..20 {
            same_errno(segment::spec(map_type, 4, 4, 2, 1 << flag));
        }
        let both = BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG;
        same_errno(segment::spec(map_type, 4, 4, 2, both));
    }
}

fn same_errno(spec: MapSpec) {
    // The kernel's allocator may refuse what we keep sparse.
    let theirs = KernelMap::create(&spec).map(drop);
    if theirs == Err(uapi::Errno::ENOMEM) {
        return;
    }
    let ours = Map::storage_size(&spec, segment::possible_cpus()).map(drop);
    assert_eq!(ours, theirs, "{spec:?}");
}

#[test]
fn frozen_maps_refuse_as_the_kernels() {
    let spec = segment::spec(BPF_MAP_TYPE_HASH, 4, 4, 2, 0);
    let Ok(theirs) = KernelMap::create(&spec) else {
        return;
    };
    let ours = segment::map(spec).unwrap();
    let (key, mut value) = ([1; 4], [2; 4]);
    assert_eq!(ours.freeze(), theirs.freeze());
    assert_eq!(ours.freeze(), theirs.freeze());
    assert_eq!(
        ours.update(&key, &value, 77),
        theirs.update(&key, &value, 77)
    );
    assert_eq!(ours.delete(&key), theirs.delete(&key));
    assert_eq!(
        ours.lookup(&key, &mut value, 0),
        theirs.lookup(&key, &mut value, 0)
    );
    assert_eq!(
        ours.lookup_and_delete(&key, &mut value, 0),
        theirs.lookup_and_delete(&key, &mut value, 0)
    );
}
