//! Producers that are killed at each step of a record.

use std::ffi::CString;

use shm::sync::Ordering::{Relaxed, Release, SeqCst};

use super::header::HEADER;
use super::*;

fn ring() -> Ring {
    let bytes = DATA + PAGE + own::CLAIMS + Claims::BYTES;
    let path = format!(
        "/dev/shm/bpftime-ring-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    let path = CString::new(path).unwrap();
    let (segment, _fd) = shm::Segment::create(&path, bytes).unwrap();
    // SAFETY: a path.
    unsafe { libc::unlink(path.as_ptr()) };
    Ring::new(segment.region(0, bytes).unwrap(), PAGE).unwrap()
}

/// Runs `steps` in a process that then is gone.
fn killed_after(steps: impl FnOnce()) {
    // SAFETY: the child calls nothing that another thread may hold a lock of.
    let child = unsafe { libc::fork() };
    if child == 0 {
        steps();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let mut status = -1;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
}

/// The records that the reader gets: first bytes of those not discarded; then
/// nothing is left.
fn read_all(ring: &Ring) -> Vec<u64> {
    let mut found = Vec::new();
    let mut at = ring.consumer().load(Acquire);
    while at != ring.producer().load(Acquire) {
        let header = Header(ring.header(at).load(Acquire));
        assert!(!header.is_busy() && ring.tagged(header, at));
        if header.0 as u32 & uapi::map::BPF_RINGBUF_DISCARD_BIT == 0 {
            found.push(ring.header(at + HEADER).load(Relaxed));
        }
        at += header.step();
        ring.consumer().store(at, Release);
    }
    assert!(ring.is_empty());
    found
}

fn output(ring: &Ring, value: u64) {
    // SAFETY: the 8 bytes of the value.
    let woken = unsafe { ring.output((&raw const value).cast(), 8, 0) };
    assert!(woken.is_ok());
}

/// A dead producer's steps leave `left` of its record, whether another one
/// follows or not.
fn check(steps: impl Fn(&Ring), left: &[u64]) {
    for follows in [false, true] {
        for before in [0, 1, 40] {
            let ring = ring();
            (0..before).for_each(|number| output(&ring, number));
            assert_eq!(read_all(&ring), (0..before).collect::<Vec<u64>>());
            killed_after(|| steps(&ring));
            if follows {
                output(&ring, 100);
            }
            ring.reclaim();
            let mut expected = left.to_vec();
            expected.extend(follows.then_some(100));
            assert_eq!(read_all(&ring), expected, "{before} before, {follows}");
            // And so on, past the end of the data.
            for number in 0..200 {
                output(&ring, number);
                assert_eq!(read_all(&ring), [number]);
            }
        }
    }
}

#[test]
fn killed_before_it_reserved() {
    check(|ring| assert!(ring.claims.take().is_some()), &[]);
    let tries = |ring: &Ring| {
        let claim = ring.claims.take().unwrap();
        claim.tries(ring.reserved().load(Acquire), 16);
    };
    check(tries, &[]);
}

#[test]
fn killed_before_its_header() {
    check(|ring| assert!(ring.begin(8).is_some()), &[]);
    let not_yet_noted = |ring: &Ring| {
        let claim = ring.claims.take().unwrap();
        let at = ring.reserved().load(Acquire);
        claim.tries(at, 16);
        ring.reserved().store(at + 16, SeqCst);
    };
    check(not_yet_noted, &[]);
}

#[test]
fn killed_while_it_writes() {
    check(|ring| assert!(!ring.reserve(8).is_null()), &[]);
    let two = |ring: &Ring| {
        assert!(!ring.reserve(8).is_null());
        assert!(!ring.reserve(24).is_null());
    };
    check(two, &[]);
}

#[test]
fn killed_before_it_is_published() {
    let done = |ring: &Ring| {
        let (claim, at) = ring.begin(8).unwrap();
        ring.header(at + HEADER).store(77, Relaxed);
        let header = Header::busy(8, at, ring.log2_size, claim.number);
        ring.header(at).store(header.done(false).0, Release);
    };
    check(done, &[77]);
}

#[test]
fn killed_before_it_leaves_its_record() {
    let done = |ring: &Ring| {
        assert!(!ring.reserve(8).is_null());
        let (claim, at) = ring.begin(8).unwrap();
        ring.header(at + HEADER).store(77, Relaxed);
        let header = Header::busy(8, at, ring.log2_size, claim.number);
        ring.header(at).store(header.done(false).0, Release);
    };
    check(done, &[77]);
}

#[test]
fn killed_after_it_left_its_record() {
    let left = |ring: &Ring| {
        assert!(!ring.reserve(8).is_null());
        output(ring, 77);
    };
    check(left, &[77]);
}

#[test]
fn killed_behind_its_store() {
    let stored = |ring: &Ring| {
        let (claim, at) = ring.begin(8).unwrap();
        output(ring, 78);
        ring.header(at + HEADER).store(77, Relaxed);
        let header = Header::busy(8, at, ring.log2_size, claim.number);
        ring.header(at).store(header.done(false).0, Release);
        ring.producer().store(at + 16, Release);
    };
    check(stored, &[77, 78]);
}

#[test]
fn who_marks_the_ring_as_shared_calls_the_tool() {
    let ring = ring();
    let first = ring.reserve(8);
    // SAFETY: the 8 bytes of a value.
    let output = || unsafe { ring.output([7u8; 8].as_ptr(), 8, 1) };
    assert_eq!((output(), output()), (Ok(true), Ok(false)));
    assert!(ring.reserved().load(Acquire) & SHARED != 0 && !ring.ready());
    // The others want nobody to be woken, and the reader waits for this one.
    assert!(!ring.commit(first, 1, false));
    assert!(ring.ready());
    assert_eq!(read_all(&ring).len(), 3);
    assert!(!ring.ready());
    assert!(ring.reserved().load(Acquire) & SHARED == 0);
    assert_eq!(output(), Ok(false));
}

/// The reader caught up with a record before its owner saw what was left behind.
#[test]
fn who_moves_over_a_record_wakes_for_it() {
    for flags in [0, 1] {
        let ring = ring();
        let (claim, at) = ring.begin(8).unwrap();
        // SAFETY: the 8 bytes of a value.
        let output = || unsafe { ring.output([7u8; 8].as_ptr(), 8, flags) };
        assert!(output().is_ok());
        let header = Header::busy(8, at, ring.log2_size, claim.number);
        ring.header(at).store(header.done(false).0, Release);
        ring.producer().store(at + 16, Release);
        ring.consumer().store(at + 16, Release);
        assert_eq!(ring.advance(), flags == 0);
        assert_eq!(ring.producer().load(Acquire), 32);
    }
}

#[test]
fn killed_before_it_gives_its_claim_back() {
    let published = |ring: &Ring| {
        let (claim, at) = ring.begin(8).unwrap();
        ring.header(at + HEADER).store(77, Relaxed);
        let header = Header::busy(8, at, ring.log2_size, claim.number);
        ring.publish(at, header.done(false), false);
    };
    check(published, &[77]);
}

#[test]
fn a_record_behind_one_that_has_no_header_waits_for_it() {
    let ring = ring();
    let (claim, at) = ring.begin(8).unwrap();
    output(&ring, 2);
    assert_eq!(ring.producer().load(Acquire), 0);
    assert_eq!(
        (ring.query(query::AVAIL_DATA), ring.query(query::PROD_POS)),
        (32, 32)
    );
    ring.header(at + HEADER).store(1, Relaxed);
    let header = Header::busy(8, at, ring.log2_size, claim.number);
    ring.publish(at, header.done(false), false);
    claim.release();
    assert_eq!(read_all(&ring), [1, 2]);
}
