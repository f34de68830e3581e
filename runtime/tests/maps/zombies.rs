//! Processes that were killed and whose parents do not wait for them: they hold
//! nothing, as in a container whose first process is no shell. Of elements,
//! `states.rs` says the same.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bpftime_runtime::thread;
use bpftime_runtime::vcpu::{CLAIM_BYTES, Vcpus};
use uapi::map::*;
use vm::verifier::{FieldKind, MapField, MapFields};

use crate::process::Zombie;
use crate::segment;

#[test]
fn a_virtual_cpu() {
    let vcpus = Vcpus::new(segment::segment(4096).region(0, CLAIM_BYTES).unwrap()).unwrap();
    let _zombie = Zombie::after(|| _ = vcpus.claim(thread::ids()));
    assert_eq!(vcpus.claim(thread::ids()), Some(0));
}

#[test]
fn a_record() {
    let spec = segment::spec(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0);
    let (map, storage) = segment::map_and_storage(spec).unwrap();
    let ring = map.ring().unwrap();
    let _zombie = Zombie::after(|| assert!(!ring.reserve(1000).is_null()));
    let header = storage.u32_at(2 * 4096).unwrap();
    assert_eq!(header.load(SeqCst), 1000 | BPF_RINGBUF_BUSY_BIT);
    map.reclaim();
    assert_eq!(header.load(SeqCst), 1000 | BPF_RINGBUF_DISCARD_BIT);
}

/// The lock's word holds the id of a thread.
#[test]
fn a_lock() {
    const LOCK: u32 = 8;
    let mut spec = segment::spec(BPF_MAP_TYPE_ARRAY, 4, 16, 1, 0);
    spec.set_fields(&MapFields {
        list: vec![MapField {
            kind: FieldKind::SpinLock,
            offset: LOCK,
            size: 4,
        }],
    });
    let (map, storage) = segment::map_and_storage(spec).unwrap();
    let zombie = Zombie::after(|| ());
    let word = storage.u32_at(u64::from(LOCK)).unwrap();
    let take = |_| {
        word.store(zombie.0 as u32, SeqCst);
        let begun = Instant::now();
        map.update(&[0; 4], &[7; 16], BPF_F_LOCK).unwrap();
        assert_eq!(word.load(SeqCst), 0);
        begun.elapsed()
    };
    // The living are waited for, a tenth of a second.
    let fastest = (0..10).map(take).min().unwrap();
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}
