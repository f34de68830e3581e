//! Storage of threads: one value each, gone with them, whoever is killed.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bpftime_runtime::maps::{Map, MapSpec};
use uapi::Errno;
use uapi::map::{BPF_F_NO_PREALLOC, BPF_MAP_TYPE_TASK_STORAGE};

use crate::process::{Child, Random};
use crate::segment;

/// Threads that a map has room for.
const ROOM: usize = 1 << 15;
/// Threads that are there at once.
const BATCH: usize = 128;

fn storage() -> Map {
    let spec = segment::spec(BPF_MAP_TYPE_TASK_STORAGE, 4, 16, 0, BPF_F_NO_PREALLOC);
    let spec = MapSpec {
        btf_key_type_id: 1,
        btf_value_type_id: 2,
        ..spec
    };
    segment::map(spec).unwrap()
}

fn tid() -> i32 {
    // SAFETY: takes nothing.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// Where this thread's value is; null without one.
fn at(map: &Map, create: bool) -> *mut [u64; 2] {
    // SAFETY: no initial value.
    let value = unsafe {
        map.task_storage()
            .unwrap()
            .get(tid(), std::ptr::null(), create)
    };
    value.cast()
}

/// This thread's value: made if there is none; `None` without room.
fn own(map: &Map, create: bool) -> Option<[u64; 2]> {
    let value = at(map, create);
    // SAFETY: the value has 16 bytes, which are the thread's.
    (!value.is_null()).then(|| unsafe { value.read() })
}

fn set(map: &Map, words: [u64; 2]) {
    // SAFETY: as in `own`; there is one.
    unsafe { at(map, false).write(words) }
}

fn gone(map: &Map) -> Result<(), Errno> {
    map.task_storage().unwrap().remove(tid())
}

#[test]
fn a_value_is_a_threads_and_a_processes_own() {
    let map = storage();
    assert_eq!(own(&map, false), None);
    assert_eq!(own(&map, true), Some([0, 0]));
    set(&map, [5, 0]);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert_eq!(own(&map, false), None);
            own(&map, true);
            set(&map, [6, 0]);
            own(&map, false).unwrap()[0]
        });
        assert_eq!(other.join().unwrap(), 6);
    });
    // The child remembers what its parent remembered of itself.
    let child = Child::fork(|| {
        let fresh = own(&map, false).is_none() && own(&map, true) == Some([0, 0]);
        i32::from(!fresh || gone(&map).is_err())
    });
    assert_eq!(child.join(), 0);
    assert_eq!(own(&map, false), Some([5, 0]));
    assert_eq!((gone(&map), gone(&map)), (Ok(()), Err(Errno::ENOENT)));
    assert_eq!(own(&map, false), None);
}

#[test]
fn dead_threads_make_room() {
    let map = storage();
    own(&map, true);
    set(&map, [7, 0]);
    for _ in 0..ROOM / BATCH + 2 {
        std::thread::scope(|scope| {
            let small = || std::thread::Builder::new().stack_size(64 << 10);
            let made = || small().spawn_scoped(scope, || own(&map, true).is_some());
            let threads: Vec<_> = (0..BATCH).map(|_| made().unwrap()).collect();
            for thread in threads {
                assert!(thread.join().unwrap());
            }
        });
    }
    assert_eq!(own(&map, false), Some([7, 0]));
    map.reclaim();
    assert_eq!(own(&map, false), Some([7, 0]));
}

/// Processes that get and drop values are killed anywhere: nobody hangs, the
/// living keep theirs.
#[test]
fn kills_cost_nothing() {
    let map = storage();
    own(&map, true);
    set(&map, [9, 0]);
    let told = segment::segment(4096).region(0, 4096).unwrap();
    let steps = told.u64_at(0).unwrap();
    let mut random = Random(3);
    for _ in 0..200 {
        let before = steps.load(SeqCst);
        let child = Child::fork(|| {
            loop {
                let Some(value) = own(&map, true) else {
                    return 1;
                };
                assert_eq!(value[0], value[1]);
                set(&map, [value[0] + 1, value[0] + 1]);
                if value[0] == 2 && gone(&map).is_err() {
                    return 2;
                }
                steps.fetch_add(1, SeqCst);
            }
        });
        let until = Instant::now() + Duration::from_micros(random.below(2000));
        while steps.load(SeqCst) == before || Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill();
        assert_eq!(own(&map, false), Some([9, 0]));
    }
    map.reclaim();
    assert_eq!(own(&map, false), Some([9, 0]));
}
