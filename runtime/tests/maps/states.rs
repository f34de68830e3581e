//! Every state that a process killed within an operation can leave a map in,
//! and what others do at every such point while it is not killed: nothing
//! that was committed is lost, nothing leaks, nothing is half done.

use std::collections::BTreeMap;

use bpftime_runtime::maps::{Map, MapSpec};
use uapi::Errno;
use uapi::map::*;

use crate::segment;
use crate::step::Bench;

/// Words of a value: more than one store.
const WORDS: usize = 3;
const ENTRIES: u32 = 4;

fn spec(map_type: u32) -> MapSpec {
    let flags = match map_type {
        BPF_MAP_TYPE_LPM_TRIE => BPF_F_NO_PREALLOC,
        _ => 0,
    };
    let key = match map_type {
        BPF_MAP_TYPE_QUEUE | BPF_MAP_TYPE_STACK => 0,
        _ => 8,
    };
    segment::spec(map_type, key, 8 * WORDS as u32, ENTRIES, flags)
}

/// The bytes of a key; of a trie, an address of full length.
fn key(number: u32) -> [u8; 8] {
    (u64::from(number.to_be()) << 32 | 32).to_ne_bytes()
}

fn value(number: u64) -> [u8; 8 * WORDS] {
    let word = number.to_ne_bytes();
    let mut value = [0; 8 * WORDS];
    for part in value.chunks_exact_mut(8) {
        part.copy_from_slice(&word);
    }
    value
}

fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
    assert!(
        bytes
            .chunks_exact(8)
            .all(|word| word == number.to_ne_bytes()),
        "torn: {bytes:?}"
    );
    number
}

fn store(map: &Map, at: u32, number: u64, flags: u64) -> Result<(), Errno> {
    map.update(&key(at), &value(number), flags)
}

fn all(map: &Map) -> BTreeMap<u32, u64> {
    let (mut entries, mut at, mut next) = (BTreeMap::new(), None, [0; 8]);
    while map
        .next_key(at.as_ref().map(<[u8; 8]>::as_slice), &mut next)
        .is_ok()
    {
        let mut bytes = vec![0; map.syscall_value_size()];
        map.lookup(&next, &mut bytes, 0).unwrap();
        let name = u32::from_be_bytes(next[4..].try_into().unwrap());
        let again = entries.insert(name, number(&bytes));
        assert_eq!(again, None, "a key twice");
        at = Some(next);
    }
    entries
}

/// How many new keys a map takes.
fn room(map: &Map) -> u32 {
    let taken = (100..200).find(|&at| {
        let full = store(map, at, 1, BPF_NOEXIST);
        assert!(
            matches!(full, Ok(()) | Err(Errno::E2BIG | Errno::ENOSPC)),
            "{full:?}"
        );
        full.is_err()
    });
    taken.unwrap() - 100
}

/// Numbers under keys 1, 2 and 3 are 1, 2 and 3, but what `other` is.
fn prepare(map: &Map) {
    for at in 1..=3 {
        store(map, at, u64::from(at), BPF_ANY).unwrap();
    }
}

/// Something that a process does.
type Act = fn(&Map);

/// An operation on keys 3 and 4 and what it may leave of both.
type Operation = (&'static str, Act, &'static [(u64, u64)]);

/// 0 for no entry.
const OPERATIONS: [Operation; 6] = [
    (
        "insert",
        |map| store(map, 4, 44, BPF_NOEXIST).unwrap(),
        &[(3, 0), (3, 44)],
    ),
    (
        "replace",
        |map| store(map, 3, 33, BPF_EXIST).unwrap(),
        &[(3, 0), (33, 0)],
    ),
    (
        "delete",
        |map| map.delete(&key(3)).unwrap(),
        &[(3, 0), (0, 0)],
    ),
    (
        "delete and bring back",
        |map| {
            map.delete(&key(3)).unwrap();
            store(map, 3, 33, BPF_NOEXIST).unwrap();
        },
        &[(3, 0), (0, 0), (33, 0)],
    ),
    (
        "replace twice",
        |map| (0..2).for_each(|_| store(map, 3, 33, BPF_EXIST).unwrap()),
        &[(3, 0), (33, 0)],
    ),
    (
        "insert and delete",
        |map| {
            store(map, 4, 44, BPF_ANY).unwrap();
            map.delete(&key(4)).unwrap();
        },
        &[(3, 0), (3, 44)],
    ),
];

/// Values of per-CPU maps change in place, a word at a time.
const TYPES: [u32; 3] = [
    BPF_MAP_TYPE_HASH,
    BPF_MAP_TYPE_LRU_HASH,
    BPF_MAP_TYPE_LPM_TRIE,
];

fn evicts(map_type: u32) -> bool {
    map_type == BPF_MAP_TYPE_LRU_HASH
}

#[test]
fn a_kill_at_any_instruction_leaves_a_whole_map() {
    for map_type in TYPES {
        for (name, operation, may) in OPERATIONS {
            let bench = Bench::new(spec(map_type), prepare);
            let trace = bench.trace(operation);
            assert!(trace.states.len() > 3, "{name}: {}", trace.states.len());
            for (at, state) in trace.states.iter().enumerate() {
                let map = bench.at(state);
                let text = format!("type {map_type}, {name}, state {at}");
                let mut entries = all(&map);
                let [three, four] = [3, 4].map(|at| entries.remove(&at).unwrap_or(0));
                assert!(may.contains(&(three, four)), "{text}: {three} {four}");
                assert_eq!(entries, BTreeMap::from([(1, 1), (2, 2)]), "{text}");
                // Before anybody cleans up, the same keys can be used.
                for at in [3, 4] {
                    let stored = store(&map, at, 9, BPF_ANY);
                    let full = matches!(stored, Err(Errno::E2BIG | Errno::ENOSPC));
                    assert!(
                        stored.is_ok() || full && !evicts(map_type),
                        "{text}: {stored:?}"
                    );
                    let _ = map.delete(&key(at));
                }
                map.reclaim();
                assert_eq!(all(&map).keys().filter(|at| **at > 2).count(), 0, "{text}");
                if evicts(map_type) {
                    (10..20).for_each(|at| store(&map, at, 9, BPF_NOEXIST).unwrap());
                    assert_eq!(all(&map).len(), ENTRIES as usize, "{text}");
                } else {
                    assert_eq!(room(&map), ENTRIES - 2, "{text}: leaked");
                }
            }
        }
    }
}

#[test]
fn a_kill_while_a_full_map_evicts_leaves_a_whole_map() {
    let bench = Bench::new(spec(BPF_MAP_TYPE_LRU_HASH), |map| {
        (1..=ENTRIES).for_each(|at| store(map, at, u64::from(at), BPF_ANY).unwrap());
    });
    let trace = bench.trace(|map| store(map, 9, 9, BPF_ANY).unwrap());
    for (at, state) in trace.states.iter().enumerate() {
        let map = bench.at(state);
        let entries = all(&map);
        let lost = (1..=ENTRIES).filter(|at| !entries.contains_key(at)).count();
        assert!(lost <= 1, "state {at}: {entries:?}");
        // The dead process holds the only free element until someone looks.
        for next in 20..24 {
            assert_eq!(store(&map, next, 1, BPF_ANY), Ok(()), "state {at}");
        }
        map.reclaim();
        (30..40).for_each(|next| store(&map, next, 1, BPF_ANY).unwrap());
        assert_eq!(all(&map).len(), ENTRIES as usize, "state {at}");
    }
}

/// Another process does something with the same key right before each store
/// of the first one.
#[test]
fn others_may_come_between_at_any_store() {
    const REPLACE: Act = |map| _ = store(map, 3, 7, BPF_EXIST);
    const INSERT: Act = |map| _ = store(map, 4, 7, BPF_NOEXIST);
    const DELETE: Act = |map| _ = map.delete(&key(3));
    const DELETE_OTHER: Act = |map| map.delete(&key(1)).unwrap();
    const BRING_BACK: Act = |map| {
        let _ = map.delete(&key(3));
        let _ = store(map, 3, 8, BPF_ANY);
    };
    const TAKE: Act = |map| _ = map.lookup_and_delete(&key(3), &mut value(0), 0);
    let pairs: [(Act, &[Act]); 4] = [
        (
            |map| _ = store(map, 4, 44, BPF_NOEXIST),
            &[INSERT, DELETE_OTHER],
        ),
        (
            |map| _ = store(map, 3, 33, BPF_EXIST),
            &[REPLACE, DELETE, DELETE_OTHER, BRING_BACK],
        ),
        (BRING_BACK, &[REPLACE, BRING_BACK, DELETE_OTHER]),
        (
            |map| _ = map.delete(&key(3)),
            &[REPLACE, DELETE, BRING_BACK, TAKE],
        ),
    ];
    for map_type in [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE] {
        for (first, (operation, others)) in pairs.into_iter().enumerate() {
            let bench = Bench::new(spec(map_type), prepare);
            let before = bench.trace(operation).before;
            for (second, &meanwhile) in others.iter().enumerate() {
                // As if one had come after the other.
                let orders = [[operation, meanwhile], [meanwhile, operation]].map(|order| {
                    let fresh = segment::map(spec(map_type)).unwrap();
                    prepare(&fresh);
                    order.iter().for_each(|step| step(&fresh));
                    all(&fresh)
                });
                // Each sixth point, others for each pair.
                for &steps in before.iter().skip(second).step_by(6) {
                    let map = bench.interleave(operation, steps, meanwhile);
                    let now = all(&map);
                    let text = format!("type {map_type}, {first}, {second} after {steps}");
                    assert!(orders.contains(&now), "{text}: {now:?}, not {orders:?}");
                    assert_eq!(room(&map), ENTRIES - now.len() as u32, "{text}: leaked");
                }
            }
        }
    }
}

/// What pops give, which leave nothing.
fn drain(map: &Map) -> Vec<u64> {
    let mut bytes = value(0);
    std::iter::from_fn(|| {
        let popped = map.lookup_and_delete(&[], &mut bytes, 0);
        assert!(matches!(popped, Ok(()) | Err(Errno::ENOENT)), "{popped:?}");
        popped.ok().map(|()| number(&bytes))
    })
    .take(2 * ENTRIES as usize)
    .collect()
}

#[test]
fn a_kill_at_any_instruction_leaves_a_whole_queue() {
    let push = |map: &Map, item, flags| map.update(&[], &value(item), flags);
    let pop = |map: &Map| map.lookup_and_delete(&[], &mut value(0), 0).unwrap();
    for map_type in [BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK] {
        for held in [1, 2, u64::from(ENTRIES)] {
            for operation in 0..3 {
                let bench = Bench::new(spec(map_type), |map| {
                    (1..=held).for_each(|item| push(map, item, BPF_ANY).unwrap());
                });
                let act = |map: &Map| match operation {
                    0 => pop(map),
                    1 => push(map, 9, BPF_EXIST).unwrap(),
                    _ => {
                        pop(map);
                        push(map, 9, BPF_ANY).unwrap();
                    }
                };
                let (start, end) = (bench.open(), bench.open());
                let before: Vec<u64> = drain(&start);
                let trace = bench.trace(act);
                act(&bench.at(&trace.states[0]));
                let after = drain(&end);
                // After the pop, before the push.
                let between = match operation {
                    2 => before[1..].to_vec(),
                    _ => before.clone(),
                };
                for (at, state) in trace.states.iter().enumerate() {
                    let map = bench.at(state);
                    let text = format!("type {map_type}, {operation} on {held}, state {at}");
                    let mut seen = value(0);
                    let first = map.lookup(&[], &mut seen, 0).map(|()| number(&seen)).ok();
                    let left = drain(&map);
                    assert_eq!(first, left.first().copied(), "{text}");
                    assert!(
                        [&before, &between, &after].contains(&&left),
                        "{text}: {left:?}"
                    );
                    map.reclaim();
                    for item in 0..u64::from(ENTRIES) {
                        assert_eq!(push(&map, item, BPF_ANY), Ok(()), "{text}: leaked");
                    }
                    assert_eq!(push(&map, 8, BPF_ANY), Err(Errno::E2BIG), "{text}");
                    assert_eq!(push(&map, 9, BPF_EXIST), Ok(()), "{text}");
                    assert_eq!(drain(&map).len(), ENTRIES as usize, "{text}");
                }
            }
        }
    }
}

/// Who is killed may leave an element that nobody holds: `reclaim` finds it,
/// though nobody has waited for its owner. Otherwise so many kills would cost a
/// map all that it has to spare. `KILL_LONG=1` does so with all types, at each
/// change.
#[test]
fn many_kills_cost_no_element() {
    let long = std::env::var_os("KILL_LONG").is_some();
    let insert: Act = |map| _ = store(map, 3, 33, BPF_ANY);
    let replace: Act = |map| _ = store(map, 1, 11, BPF_EXIST);
    let delete: Act = |map| _ = map.delete(&key(3));
    let push: Act = |map| _ = map.update(&[], &value(9), BPF_EXIST);
    let pop: Act = |map| _ = map.lookup_and_delete(&[], &mut value(0), 0);
    let of_keys = [insert, replace, delete];
    for (map_type, operations) in [
        (BPF_MAP_TYPE_HASH, &of_keys[..]),
        (BPF_MAP_TYPE_LRU_HASH, &of_keys),
        (BPF_MAP_TYPE_LPM_TRIE, &of_keys),
        (BPF_MAP_TYPE_QUEUE, &[push, pop]),
        (BPF_MAP_TYPE_STACK, &[push, pop]),
    ] {
        let (kills_wanted, most_changes) = match map_type {
            _ if long => (400, u64::MAX),
            BPF_MAP_TYPE_HASH => (12, 4),
            // It has 64 to spare.
            BPF_MAP_TYPE_QUEUE => (70, 2),
            _ => continue,
        };
        let has_keys = operations.len() == of_keys.len();
        let mut bench = Bench::new(spec(map_type), |map| match has_keys {
            true => (1..=2).for_each(|at| store(map, at, u64::from(at), BPF_ANY).unwrap()),
            false => (1..=2).for_each(|item| map.update(&[], &value(item), BPF_ANY).unwrap()),
        });
        let (mut kills, mut changes) = (0, 0);
        while kills < kills_wanted {
            changes += 1;
            let mut killed = 0;
            for operation in operations {
                killed += usize::from(bench.kill(operation, changes, Map::reclaim));
            }
            kills += killed;
            if killed == 0 || changes == most_changes {
                changes = 0;
            }
        }
        let map = bench.open();
        match has_keys {
            true => all(&map)
                .keys()
                .for_each(|at| map.delete(&key(*at)).unwrap()),
            false => assert!(drain(&map).len() <= ENTRIES as usize),
        }
        let text = format!("type {map_type}: leaked");
        if evicts(map_type) {
            (100..110).for_each(|at| assert_eq!(store(&map, at, 1, BPF_NOEXIST), Ok(()), "{text}"));
            assert_eq!(all(&map).len(), ENTRIES as usize, "{text}");
        } else if has_keys {
            assert_eq!(room(&map), ENTRIES, "{text}");
        } else {
            let fill = |_| map.update(&[], &value(1), BPF_ANY).is_ok();
            assert_eq!(
                (0..2 * ENTRIES).filter(|at| fill(*at)).count(),
                ENTRIES as usize,
                "{text}"
            );
        }
    }
}
