//! Maps of maps: what a program gets is a map that this process has opened
//! and that is like the template, whatever lies in storage.

use std::sync::Arc;

use bpftime_runtime::maps::{Map, MapSpec};
use uapi::Errno;
use uapi::map::*;

use crate::process::Random;
use crate::segment;

fn outer(map_type: u32, template: &MapSpec) -> (Map, shm::Region) {
    let spec = MapSpec {
        inner: template.as_template().unwrap(),
        ..segment::spec(map_type, 4, 4, 8, 0)
    };
    segment::map_and_storage(spec).unwrap()
}

fn found(map: &Map, key: u32) -> *const Map {
    // SAFETY: the key has the map's key size.
    unsafe { map.lookup_ptr(key.to_ne_bytes().as_ptr(), 0) }
        .cast_const()
        .cast()
}

fn put(map: &Map, key: u32, id: u32) {
    map.update(&key.to_ne_bytes(), &id.to_ne_bytes(), BPF_ANY)
        .unwrap();
}

#[test]
fn programs_find_what_is_open_here() {
    let like = segment::spec(BPF_MAP_TYPE_HASH, 4, 8, 3, 0);
    for map_type in [BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS] {
        let (map, _) = outer(map_type, &like);
        let inner = Arc::new(segment::map(like).unwrap());
        put(&map, 1, 77);
        assert!(found(&map, 1).is_null(), "not opened yet");
        map.add_inner(77, &inner);
        assert_eq!(found(&map, 1), Arc::as_ptr(&inner));
        assert!(found(&map, 2).is_null() && found(&map, 1000).is_null());
        // Ids that share a place in a table are not mixed up.
        put(&map, 2, 77 + (1 << 16));
        assert!(found(&map, 2).is_null());

        let gone = map.part_from_inner(&|id| id != 77);
        assert!(Arc::ptr_eq(&gone[0], &inner) && gone.len() == 1);
        assert!(found(&map, 1).is_null());
        assert_eq!(map.delete(&1u32.to_ne_bytes()), Ok(()));
        let mut id = [0; 4];
        let nothing = map.lookup(&1u32.to_ne_bytes(), &mut id, 0);
        assert_eq!(nothing, Err(Errno::ENOENT));
    }
}

#[test]
fn nothing_but_what_is_like_the_template_is_found() {
    let like = segment::spec(BPF_MAP_TYPE_ARRAY, 4, 8, 3, 0);
    let shapes = [
        segment::spec(BPF_MAP_TYPE_ARRAY, 4, 8, 2, 0),
        segment::spec(BPF_MAP_TYPE_ARRAY, 4, 16, 3, 0),
        segment::spec(BPF_MAP_TYPE_HASH, 4, 8, 3, 0),
        segment::spec(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 3, 0),
    ];
    let (map, _) = outer(BPF_MAP_TYPE_ARRAY_OF_MAPS, &like);
    for (id, shape) in (1..).zip(shapes) {
        let other = Arc::new(segment::map(shape).unwrap());
        map.add_inner(id, &other);
        put(&map, 0, id);
        assert!(found(&map, 0).is_null(), "{shape:?}");
    }
}

#[test]
fn storage_is_not_believed() {
    let like = segment::spec(BPF_MAP_TYPE_ARRAY, 4, 8, 3, 0);
    let inner: Vec<Arc<Map>> = (0..3)
        .map(|_| Arc::new(segment::map(like).unwrap()))
        .collect();
    let addresses: Vec<*const Map> = inner.iter().map(Arc::as_ptr).collect();
    // A list that leads nowhere costs a look-up its many attempts.
    let types = [
        (BPF_MAP_TYPE_ARRAY_OF_MAPS, 20_000),
        (BPF_MAP_TYPE_HASH_OF_MAPS, 500),
    ];
    for (map_type, rounds) in types {
        let (map, storage) = outer(map_type, &like);
        for (id, inner) in (1..).zip(&inner) {
            map.add_inner(id, inner);
            put(&map, id, id);
        }
        let mut random = Random(map_type.into());
        let mut hits = 0;
        for _ in 0..rounds {
            let at = random.below(storage.len() / 4) * 4;
            let word = storage.u32_at(at).unwrap();
            let number = match random.below(3) {
                0 => random.below(5) as u32,
                1 => random.below(1 << 32) as u32,
                _ => u32::MAX,
            };
            word.store(number, std::sync::atomic::Ordering::Relaxed);
            let found = found(&map, random.below(9) as u32);
            assert!(found.is_null() || addresses.contains(&found));
            hits += u32::from(!found.is_null());
        }
        assert!(hits > 0, "a test that finds nothing");
    }
}
