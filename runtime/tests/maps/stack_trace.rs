//! Stack maps: ids, collisions, and stacks that are never torn.

use bpftime_runtime::maps::Map;
use uapi::Errno;
use uapi::map::*;

use crate::kernel::KernelMap;
use crate::process::{self, Child, Random};
use crate::segment;

const DEPTH: usize = 127;

fn map(entries: u32) -> Map {
    let value = (DEPTH * 8) as u32;
    segment::map(segment::spec(
        BPF_MAP_TYPE_STACK_TRACE,
        4,
        value,
        entries,
        0,
    ))
    .unwrap()
}

fn lookup(map: &Map, id: i64) -> Result<Vec<u64>, Errno> {
    let mut value = vec![0xff; DEPTH * 8];
    map.lookup(&(id as u32).to_ne_bytes(), &mut value, 0)?;
    let (words, _) = value.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_ne_bytes(*word)).collect())
}

fn padded(frames: &[u64]) -> Vec<u64> {
    let mut frames = frames[..frames.len().min(DEPTH)].to_vec();
    frames.resize(DEPTH, 0);
    frames
}

#[test]
fn the_same_stack_has_the_same_id() {
    let map = map(1024);
    let stack = [1u64, 2, 3];
    let id = map.stack_put(&stack, BPF_F_USER_STACK);
    assert!(id >= 0);
    assert_eq!(map.stack_put(&stack, BPF_F_USER_STACK), id);
    assert_eq!(map.stack_put(&[9, 1, 2, 3], BPF_F_USER_STACK | 1), id);
    assert_eq!(lookup(&map, id), Ok(padded(&stack)));
    assert_eq!(map.stack_put(&stack, 3), Errno::EFAULT.ret());
    assert_eq!(map.stack_put(&stack, 1 << 11), Errno::EINVAL.ret());
    let deep: Vec<u64> = (1..=200).collect();
    let deep_id = map.stack_put(&deep, 0);
    assert_eq!(lookup(&map, deep_id), Ok(padded(&deep)));
    let mut value = [0; DEPTH * 8];
    let key = (id as u32).to_ne_bytes();
    assert_eq!(map.lookup_and_delete(&key, &mut value, 0), Ok(()));
    assert_eq!(lookup(&map, id), Err(Errno::ENOENT));
    assert_eq!(map.delete(&key), Err(Errno::ENOENT));
    assert_eq!(map.delete(&(deep_id as u32).to_ne_bytes()), Ok(()));
    assert_eq!(map.delete(&1024u32.to_ne_bytes()), Err(Errno::E2BIG));
    assert_eq!(map.update(&key, &value, 0), Err(Errno::EINVAL));
    assert_eq!(map.next_key(None, &mut [0; 4]), Err(Errno::ENOENT));
}

#[test]
fn another_stack_at_the_same_place_is_refused_or_replaces() {
    let map = map(1);
    assert_eq!(map.stack_put(&[1, 2], 0), 0);
    assert_eq!(map.stack_put(&[3], 0), Errno::EEXIST.ret());
    assert_eq!(map.stack_put(&[3], BPF_F_REUSE_STACKID), 0);
    assert_eq!(lookup(&map, 0), Ok(padded(&[3])));
    let mut next = [0xff; 4];
    assert_eq!(map.next_key(None, &mut next), Ok(()));
    assert_eq!(next, [0; 4]);
    assert_eq!(
        map.next_key(Some(&next.clone()), &mut next),
        Err(Errno::ENOENT)
    );
    assert_eq!(map.next_key(Some(&[7; 4]), &mut next), Ok(()));
}

#[test]
fn the_kernel_refuses_the_same_specs() {
    if KernelMap::create(&segment::spec(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0)).is_err() {
        return;
    }
    for key in [0, 4, 8] {
        for value in [0, 4, 8, 12, 1016, 1024] {
            for entries in [0, 1, 100] {
                for flags in [0, BPF_F_RDONLY, BPF_F_RDONLY_PROG, BPF_F_NO_PREALLOC] {
                    let spec = segment::spec(BPF_MAP_TYPE_STACK_TRACE, key, value, entries, flags);
                    let ours = Map::storage_size(&spec, 1).map(drop);
                    assert_eq!(ours, KernelMap::create(&spec).map(drop), "{spec:?}");
                }
            }
        }
    }
    let theirs =
        KernelMap::create(&segment::spec(BPF_MAP_TYPE_STACK_TRACE, 4, 1016, 5, 0)).unwrap();
    let ours = map(5);
    let (key, mut value) = ([2, 0, 0, 0], [0; 1016]);
    let far = [9, 0, 0, 0];
    for key in [&key, &far] {
        assert_eq!(ours.delete(key), theirs.delete(key));
        assert_eq!(ours.update(key, &value, 0), theirs.update(key, &value, 0));
        assert_eq!(
            ours.lookup(key, &mut value, 0),
            theirs.lookup(key, &mut value, 0)
        );
        assert_eq!(
            ours.lookup_and_delete(key, &mut value, 0),
            theirs.lookup_and_delete(key, &mut value, 0)
        );
    }
}

#[test]
fn stacks_are_never_torn_though_their_writers_die() {
    let map = map(1);
    let mut random = Random(3);
    for _ in 0..process::rounds(60, 1000) {
        let writers: Vec<Child> = (1..=2)
            .map(|writer: u64| {
                Child::fork(|| {
                    for word in (writer << 32).. {
                        let stack = [word; DEPTH];
                        map.stack_put(&stack, BPF_F_REUSE_STACKID);
                    }
                    0
                })
            })
            .collect();
        for _ in 0..random.below(300) {
            match lookup(&map, 0) {
                Ok(stack) => assert!(stack.iter().all(|word| *word == stack[0]), "{stack:x?}"),
                Err(errno) => assert_eq!(errno, Errno::ENOENT),
            }
        }
        drop(writers);
        // Whatever a dead writer left, the place can be used.
        assert_eq!(map.stack_put(&[5; DEPTH], BPF_F_REUSE_STACKID), 0);
        assert_eq!(lookup(&map, 0), Ok(vec![5; DEPTH]));
    }
}
