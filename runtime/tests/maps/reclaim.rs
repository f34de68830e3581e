//! What a killed target held comes back when the tool learns of its death.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::session::{Dirs, Role, Roster, Session, SessionView};
use uapi::map::{BPF_MAP_TYPE_RINGBUF, BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT};

use crate::process::Child;
use crate::segment;

#[test]
fn the_death_of_a_target_is_noticed_once() {
    let root = tempfile::tempdir().unwrap();
    let dirs = Dirs {
        state: root.path().join("state"),
        sessions: root.path().join("sessions"),
    };
    let session = Session::create(&dirs).unwrap();
    let spec = MapSpec {
        max_entries: 4096,
        ..segment::spec(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0)
    };
    let (id, ..) = session.create_map(spec).unwrap();
    let storage = session.map_storage(id).unwrap();
    let file = std::fs::File::from(storage.fd);
    // The header of the first record, as a reader sees it.
    let header = || {
        let mut word = [0; 4];
        let at = storage.offset + 2 * 4096;
        file.read_exact_at(&mut word, at).unwrap();
        u32::from_le_bytes(word)
    };
    assert!(!session.reclaim(), "nobody was there");
    // A target that takes a record and is killed with it.
    let target = Child::fork(|| {
        let slot = Roster::open(&dirs).and_then(|roster| roster.join(Role::Agent));
        let view = SessionView::open(session.path()).unwrap();
        let map = view.map(id).unwrap();
        assert!(slot.is_ok() && !map.ring().unwrap().reserve(40).is_null());
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let begun = Instant::now();
    while header() & BPF_RINGBUF_BUSY_BIT == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
    assert!(!session.reclaim(), "it lives");
    assert_ne!(header() & BPF_RINGBUF_BUSY_BIT, 0);
    target.kill();
    assert!(session.reclaim());
    assert_eq!(header() & BPF_RINGBUF_BUSY_BIT, 0);
    assert_ne!(header() & BPF_RINGBUF_DISCARD_BIT, 0);
    assert!(!session.reclaim(), "once");
}
