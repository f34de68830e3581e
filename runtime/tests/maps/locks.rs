//! Values with locks, whose holders are killed or stopped.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bpftime_runtime::maps::Map;
use uapi::map::*;
use vm::verifier::{FieldKind, MapField, MapFields};

use crate::process::{self, Child, Random};
use crate::segment;

/// Where the lock lies, and bytes of a value.
const LOCK: u32 = 8;
const VALUE: usize = 256;

fn map(map_type: u32) -> (Map, shm::Region) {
    let mut spec = segment::spec(map_type, 4, VALUE as u32, 2, 0);
    spec.set_fields(&MapFields {
        list: vec![MapField {
            kind: FieldKind::SpinLock,
            offset: LOCK,
            size: 4,
        }],
    });
    segment::map_and_storage(spec).unwrap()
}

const KEY: [u8; 4] = [1, 0, 0, 0];

#[test]
fn who_is_killed_with_a_lock_holds_nobody_up() {
    for map_type in [BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH] {
        let (map, _) = map(map_type);
        map.update(&KEY, &[7; VALUE], BPF_ANY).unwrap();
        let mut random = Random(map_type.into());
        let mut seen = [0; VALUE];
        for _ in 0..process::rounds(60, 1000) {
            let children = [1, 2].map(|byte| {
                let map = &map;
                Child::fork(move || {
                    while map.update(&KEY, &[byte; VALUE], BPF_F_LOCK).is_ok() {}
                    1
                })
            });
            let until = Instant::now() + Duration::from_micros(random.below(2000));
            while Instant::now() < until {
                map.lookup(&KEY, &mut seen, BPF_F_LOCK).unwrap();
                assert_eq!(seen[LOCK as usize..][..4], [0; 4]);
                assert!(
                    seen[LOCK as usize + 4..]
                        .iter()
                        .all(|byte| *byte == seen[0])
                );
            }
            children.into_iter().for_each(Child::kill);
            let begun = Instant::now();
            map.update(&KEY, &[7; VALUE], BPF_F_LOCK).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(1));
        }
    }
}

#[test]
fn nonsense_in_a_lock_hangs_nobody() {
    let (map, storage) = map(BPF_MAP_TYPE_ARRAY);
    let word = storage.u32_at(VALUE as u64 + u64::from(LOCK)).unwrap();
    let mut seen = [0; VALUE];
    for nonsense in [1, u32::MAX, 1 << 31, std::process::id()] {
        word.store(nonsense, SeqCst);
        assert_eq!(map.lookup(&KEY, &mut seen, BPF_F_LOCK), Ok(()));
        assert_eq!(word.load(SeqCst), 0);
    }
}
