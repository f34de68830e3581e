//! Queues and stacks under threads that come and go in the middle of things:
//! nothing lost, nothing twice, and the order kept.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bpftime_runtime::maps::Map;
use uapi::Errno;
use uapi::map::*;

use crate::process::{self, Child, Random};
use crate::segment;

/// Bytes of a value: long enough to tear.
const VALUE: usize = 40;

fn map(map_type: u32, entries: u32) -> Map {
    segment::map(segment::spec(map_type, 0, VALUE as u32, entries, 0)).unwrap()
}

fn value(number: u64) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    for (at, word) in value.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&number.wrapping_add(at as u64).to_ne_bytes());
    }
    value
}

fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, value(number), "torn");
    number
}

fn push(map: &Map, item: u64, flags: u64) -> Result<(), Errno> {
    map.update(&[], &value(item), flags)
}

fn pop(map: &Map) -> Result<u64, Errno> {
    let mut bytes = [0; VALUE];
    map.lookup_and_delete(&[], &mut bytes, 0)?;
    Ok(number(&bytes))
}

fn peek(map: &Map) -> Result<u64, Errno> {
    let mut bytes = [0; VALUE];
    map.lookup(&[], &mut bytes, 0)?;
    Ok(number(&bytes))
}

/// Eight threads push what they have numbered and pop what they find.
fn threads_exchange(map_type: u32) {
    const THREADS: u64 = 8;
    const ITEMS: u64 = 20_000;
    let map = map(map_type, 64);
    let popped = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (map, popped) = (&map, &popped);
            scope.spawn(move || {
                let mut mine = Vec::new();
                for item in 0..ITEMS {
                    while let Err(errno) = push(map, thread << 32 | item, BPF_ANY) {
                        assert_eq!(errno, Errno::E2BIG);
                        mine.extend(pop(map));
                    }
                    if item % 2 == 0 {
                        mine.extend(pop(map));
                    }
                    match peek(map) {
                        Ok(_) | Err(Errno::ENOENT) => {}
                        Err(errno) => panic!("{errno:?}"),
                    }
                }
                popped.lock().unwrap().push(mine);
            });
        }
    });
    let mut lists = popped.into_inner().unwrap();
    lists.push(std::iter::from_fn(|| pop(&map).ok()).collect());
    if map_type == BPF_MAP_TYPE_QUEUE {
        for list in &lists {
            for thread in 0..THREADS {
                let of = list.iter().filter(|&&item| item >> 32 == thread);
                assert!(of.is_sorted(), "the order of thread {thread}");
            }
        }
    }
    let all: Vec<u64> = lists.concat();
    let set: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(all.len() as u64, THREADS * ITEMS);
    assert_eq!(set.len(), all.len(), "an element twice");
    // Nothing leaked: it takes as many as before, and no more.
    for item in 0..64 {
        assert_eq!(push(&map, item, BPF_ANY), Ok(()));
    }
    assert_eq!(push(&map, 64, BPF_ANY), Err(Errno::E2BIG));
}

#[test]
fn queues_lose_nothing_between_threads() {
    threads_exchange(BPF_MAP_TYPE_QUEUE);
}

#[test]
fn stacks_lose_nothing_between_threads() {
    threads_exchange(BPF_MAP_TYPE_STACK);
}

/// What is pushed into a full map drops the oldest, and only that.
#[test]
fn replacing_pushes_keep_a_full_map_full() {
    for map_type in [BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK] {
        let map = map(map_type, 5);
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let map = &map;
                scope.spawn(move || {
                    for item in 0..20_000 {
                        push(map, thread << 32 | item, BPF_EXIST).unwrap();
                        if item > 5 {
                            peek(map).expect("it is full");
                        }
                    }
                });
            }
        });
        let left: Vec<u64> = std::iter::from_fn(|| pop(&map).ok()).collect();
        assert_eq!(left.len(), 5);
        for item in &left {
            assert!(item & 0xffff_ffff >= 20_000 - 5, "an old one stayed");
        }
    }
}

/// Pushes numbers of its own and pops, telling each time what it will do and
/// what it has done.
fn work(map: &Map, log: &shm::Region, child: u64, first: u64, seed: u64) -> i32 {
    let word = |at: u64| -> &AtomicU64 { log.u64_at(at).unwrap() };
    let mut random = Random(seed);
    let mut item = first;
    loop {
        if random.below(2) == 0 {
            word(0).store(item + 1, SeqCst);
            let flags = random.below(2) * BPF_EXIST;
            match push(map, child << 32 | item, flags) {
                Ok(()) | Err(Errno::E2BIG) => {}
                Err(_) => return 1,
            }
            item += 1;
        } else {
            match pop(map) {
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(_) => return 2,
            }
        }
    }
}

fn killed_processes(map_type: u32) {
    const CHILDREN: u64 = 3;
    const ENTRIES: u32 = 16;
    let map = map(map_type, ENTRIES);
    let logs: Vec<shm::Region> = (0..CHILDREN)
        .map(|_| segment::segment(4096).region(0, 4096).unwrap())
        .collect();
    let mut random = Random(5);
    for round in 0..process::rounds(60, 600) {
        let told = |log: &shm::Region| log.u64_at(0).unwrap().load(SeqCst);
        let children: Vec<Child> = (0..CHILDREN)
            .map(|child| {
                let log = &logs[child as usize];
                let first = told(log);
                Child::fork(|| work(&map, log, child, first, random.next()))
            })
            .collect();
        std::thread::sleep(Duration::from_micros(200 + random.below(2000)));
        children.into_iter().for_each(Child::kill);
        let mut left = Vec::new();
        while left.len() <= ENTRIES as usize {
            match pop(&map) {
                Ok(item) => left.push(item),
                Err(errno) => {
                    assert_eq!(errno, Errno::ENOENT);
                    break;
                }
            }
        }
        assert!(left.len() <= ENTRIES as usize, "round {round}");
        for (child, log) in (0..CHILDREN).zip(&logs) {
            let of: Vec<u64> = left
                .iter()
                .filter(|&&item| item >> 32 == child)
                .map(|item| item & 0xffff_ffff)
                .collect();
            let sorted = match map_type == BPF_MAP_TYPE_QUEUE {
                true => of.is_sorted_by(|a, b| a < b),
                false => of.is_sorted_by(|a, b| a > b),
            };
            assert!(sorted, "child {child}, round {round}: {of:?}");
            assert!(of.iter().all(|&item| item < told(log)), "never pushed");
        }
        map.reclaim();
        for item in 0..u64::from(ENTRIES) {
            assert_eq!(push(&map, item, BPF_ANY), Ok(()), "round {round}: leaked");
        }
        assert_eq!(push(&map, 0, BPF_ANY), Err(Errno::E2BIG));
        // A replacing push needs an element beyond those.
        assert_eq!(push(&map, 99, BPF_EXIST), Ok(()));
        for item in left.iter().rev() {
            push(&map, *item, BPF_EXIST).unwrap();
        }
        while pop(&map).is_ok() {}
    }
}

#[test]
fn killed_users_of_queues_leave_them_whole() {
    killed_processes(BPF_MAP_TYPE_QUEUE);
}

#[test]
fn killed_users_of_stacks_leave_them_whole() {
    killed_processes(BPF_MAP_TYPE_STACK);
}
