//! Hash maps: whatever processes do with a key, each gets the answers that it
//! would have got had they done it one after the other. What a killed one leaves
//! is looked at in `tests/maps/states.rs`.

use std::collections::BTreeMap;

use bpftime_runtime::maps::{Map, MapSpec};
use shm::Region;
use shm::sync::model::{self, Model};
use uapi::Errno;
use uapi::map::{BPF_ANY, BPF_EXIST, BPF_MAP_TYPE_HASH, BPF_NOEXIST};

use crate::memory;

/// Bytes of storage, rounded up.
const BYTES: u64 = 8192;

/// What a process does with a key.
#[derive(Clone, Copy, Debug)]
enum Act {
    Store(u64, u64, u64),
    Delete(u64),
    Look(u64),
    Take(u64),
}
use Act::{Delete, Look, Store, Take};

type Answer = Result<u64, Errno>;
type Entries = BTreeMap<u64, u64>;

fn map(region: &Region) -> Map {
    let spec = MapSpec {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: 8,
        value_size: 16,
        max_entries: 1,
        ..MapSpec::default()
    };
    assert!(Map::storage_size(&spec, 1).unwrap() <= BYTES);
    Map::open(spec, region.clone(), 1).unwrap()
}

/// Two words that belong together.
fn value(number: u64) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&number.to_ne_bytes());
    value[8..].copy_from_slice(&number.to_ne_bytes());
    value
}

fn number(value: [u8; 16]) -> u64 {
    assert_eq!(value[..8], value[8..], "torn");
    u64::from_ne_bytes(value[..8].try_into().unwrap())
}

fn act(map: &Map, act: Act) -> Answer {
    let mut room = [0; 16];
    match act {
        Store(key, new, flags) => map
            .update(&key.to_ne_bytes(), &value(new), flags)
            .map(|()| 0),
        Delete(key) => map.delete(&key.to_ne_bytes()).map(|()| 0),
        Look(key) => map
            .lookup(&key.to_ne_bytes(), &mut room, 0)
            .map(|()| number(room)),
        Take(key) => map
            .lookup_and_delete(&key.to_ne_bytes(), &mut room, 0)
            .map(|()| number(room)),
    }
}

/// What a map of one entry, used by one process, would answer. An element counts
/// until who deletes its key has freed it, so it may be `full` with none.
fn expected(entries: &mut Entries, act: Act, answer: Answer) -> bool {
    let right = match act {
        Store(key, _, BPF_NOEXIST) if entries.contains_key(&key) => Err(Errno::EEXIST),
        Store(key, _, BPF_EXIST) if !entries.contains_key(&key) => Err(Errno::ENOENT),
        Store(key, ..) if !entries.contains_key(&key) && answer == Err(Errno::E2BIG) => answer,
        Store(key, new, _) => {
            entries.insert(key, new);
            Ok(0)
        }
        Delete(key) => entries.remove(&key).map(|_| 0).ok_or(Errno::ENOENT),
        Look(key) => entries.get(&key).copied().ok_or(Errno::ENOENT),
        Take(key) => entries.remove(&key).ok_or(Errno::ENOENT),
    };
    right == answer
}

/// Whether there is an order of what all did that explains the answers and
/// what is left.
fn explained(entries: &Entries, done: &[&[(Act, Answer)]], left: &Entries) -> bool {
    if done.iter().all(|one| one.is_empty()) {
        return entries == left;
    }
    (0..done.len()).any(|turn| {
        let Some(((act, answer), rest)) = done[turn].split_first() else {
            return false;
        };
        let mut others = done.to_vec();
        others[turn] = rest;
        let mut after = entries.clone();
        expected(&mut after, *act, *answer) && explained(&after, &others, left)
    })
}

struct Story {
    /// What was done before.
    before: &'static [Act],
    /// What processes do.
    acts: &'static [&'static [Act]],
}

const STORIES: [Story; 6] = [
    // Two changes of a value and a reader.
    Story {
        before: &[Store(1, 1, BPF_ANY), Store(1, 2, BPF_ANY)],
        acts: &[
            &[Look(1)],
            &[Store(1, 3, BPF_ANY)],
            &[Store(1, 4, BPF_EXIST)],
        ],
    },
    // A change, a deletion, and a return.
    Story {
        before: &[Store(1, 1, BPF_ANY)],
        acts: &[
            &[Store(1, 4, BPF_EXIST), Look(1)],
            &[Delete(1), Store(1, 3, BPF_NOEXIST)],
        ],
    },
    // A key is deleted and comes back under a reader.
    Story {
        before: &[Store(1, 1, BPF_ANY)],
        acts: &[&[Look(1), Look(1)], &[Delete(1), Store(1, 3, BPF_ANY)]],
    },
    // Two bring a key back, one of them may.
    Story {
        before: &[Store(1, 1, BPF_ANY), Delete(1)],
        acts: &[
            &[Store(1, 3, BPF_NOEXIST), Look(1)],
            &[Store(1, 4, BPF_NOEXIST)],
        ],
    },
    // A value is taken out while it changes.
    Story {
        before: &[Store(1, 1, BPF_ANY), Store(1, 2, BPF_ANY)],
        acts: &[&[Take(1)], &[Store(1, 3, BPF_EXIST)]],
    },
    // The element of a deleted key becomes another's under a reader.
    Story {
        before: &[Store(1, 1, BPF_ANY), Delete(1)],
        acts: &[&[Store(2, 5, BPF_ANY)], &[Look(2)]],
    },
];

fn begin(region: &Region, story: &Story) -> (Map, Entries) {
    // SAFETY: the whole region, which nobody uses between two runs.
    unsafe { region.as_ptr().write_bytes(0, region.len() as usize) };
    let map = map(region);
    let mut entries = Entries::new();
    for &step in story.before {
        let answer = act(&map, step);
        assert!(expected(&mut entries, step, answer), "{answer:?}");
    }
    model::share(region.as_ptr(), region.len());
    (map, entries)
}

fn all(map: &Map) -> Entries {
    let found = [1, 2].map(|key| (key, act(map, Look(key))));
    let there = found
        .into_iter()
        .filter_map(|(key, found)| Some((key, found.ok()?)));
    there.collect()
}

/// All of them at a time.
fn tell(region: &Region, story: &'static Story) {
    let (own, entries) = begin(region, story);
    let run = |map: &Map, acts: &[Act]| -> Vec<(Act, Answer)> {
        acts.iter().map(|&one| (one, act(map, one))).collect()
    };
    let threads: Vec<_> = story
        .acts
        .iter()
        .map(|acts| {
            let map = map(region);
            model::spawn(move || run(&map, acts))
        })
        .collect();
    let done: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let left = all(&own);
    let done: Vec<_> = done.iter().map(Vec::as_slice).collect();
    assert!(explained(&entries, &done, &left), "{done:?} left {left:?}");
}

fn check(number: usize, preemptions: usize) {
    let story = &STORIES[number];
    let region = memory::region(BYTES);
    let runs = Model::preempted(preemptions).check(move || tell(&region, story));
    assert!(runs > 100, "{runs}");
}

#[test]
fn a_value_changes_under_its_readers() {
    check(0, 2);
}

#[test]
fn a_key_changes_goes_and_comes() {
    check(1, 2);
}

#[test]
fn a_key_goes_and_comes_under_its_readers() {
    check(2, 2);
}

#[test]
fn one_of_two_brings_a_key_back() {
    check(3, 2);
}

#[test]
fn what_is_taken_out_is_the_last_value() {
    check(4, 2);
}

#[test]
fn an_element_changes_hands() {
    check(5, 1);
}
