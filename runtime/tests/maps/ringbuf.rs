//! Ring buffers as libbpf consumes them, written by processes that may die.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bpftime_runtime::maps::{Map, Ring};
use shm::{DoubleMapping, Region};
use uapi::Errno;
use uapi::map::*;

use crate::process::{Child, Random};
use crate::segment;

/// A reader that does what libbpf's `ringbuf_process_ring` does.
struct Reader {
    storage: Region,
    data: DoubleMapping,
    size: u64,
}

impl Reader {
    fn new(map: &Map, storage: &Region) -> Reader {
        let size = u64::from(map.spec().max_entries);
        assert_eq!(map.mmap(0, 4096, true), Ok(vec![(0, 4096)]));
        assert_eq!(
            map.mmap(4096, 4096 + 2 * size, false),
            Ok(vec![(4096, 4096 + size), (8192, size)])
        );
        Reader {
            storage: storage.clone(),
            data: storage.map_double(8192, size).unwrap(),
            size,
        }
    }

    /// Hands all committed records to `each`; how many.
    fn consume(&self, mut each: impl FnMut(&[u8])) -> usize {
        let consumer = self.storage.u64_at(0).unwrap();
        let producer = self.storage.u64_at(4096).unwrap();
        let mut at = consumer.load(Ordering::Acquire);
        let mut seen = 0;
        while at < producer.load(Ordering::Acquire) {
            let offset = at & (self.size - 1);
            let len = self.storage.u32_at(8192 + offset).unwrap();
            let len = len.load(Ordering::Acquire);
            if len & BPF_RINGBUF_BUSY_BIT != 0 {
                break;
            }
            let bytes = u64::from(len & !BPF_RINGBUF_DISCARD_BIT);
            assert!(bytes < self.size, "header {len:#x} at {at}");
            if len & BPF_RINGBUF_DISCARD_BIT == 0 {
                let from = self.data.as_ptr().wrapping_add(offset as usize + 8);
                // SAFETY: inside the double mapping; committed records are not
                // written until we move the consumer's position.
                each(unsafe { std::slice::from_raw_parts(from, bytes as usize) });
                seen += 1;
            }
            at += (bytes + 8).next_multiple_of(8);
            consumer.store(at, Ordering::Release);
        }
        seen
    }
}

fn ring(bytes: u32) -> (Map, Region) {
    segment::map_and_storage(segment::spec(BPF_MAP_TYPE_RINGBUF, 0, 0, bytes, 0)).unwrap()
}

/// A record that can be checked: producer, number, and bytes that follow from
/// both.
fn record(producer: u32, number: u32, random: &mut Random) -> Vec<u8> {
    let mut bytes = [producer.to_ne_bytes(), number.to_ne_bytes()].concat();
    let len = 8 + random.below(150) as usize;
    let fill = (producer * 31 + number * 7) as u8;
    bytes.resize(len, fill);
    bytes
}

fn check(bytes: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let (producer, number) = (word(0), word(4));
    let fill = (producer
        .wrapping_mul(31)
        .wrapping_add(number.wrapping_mul(7))) as u8;
    assert!(
        bytes[8..].iter().all(|&byte| byte == fill),
        "torn: {bytes:?}"
    );
    (producer, number)
}

#[test]
fn a_record_is_busy_until_it_is_committed() {
    let (map, storage) = ring(4096);
    let reader = Reader::new(&map, &storage);
    let ring = map.ring().unwrap();
    let first = ring.reserve(5);
    let second = ring.reserve(8);
    assert!(!first.is_null() && !second.is_null());
    assert!(ring.contains(first) && !ring.contains(first.wrapping_sub(16)));
    assert_eq!(ring.query(0), 32);
    assert_eq!((ring.query(1), ring.query(2), ring.query(3)), (4096, 0, 32));
    assert_eq!(ring.query(4), 0);
    assert!(!map.ready());
    // The reader waits for the first one, whose producer may be dead: it is
    // told to look, and finds nothing to read.
    assert!(ring.commit(second, 0, false));
    assert!(!map.ready());
    assert_eq!(reader.consume(|_| ()), 0);
    assert!(ring.commit(first, 0, false));
    assert!(map.ready());
    let mut lens = Vec::new();
    reader.consume(|bytes| lens.push(bytes.len()));
    assert_eq!(lens, [5, 8]);
    assert!(!map.ready());
}

#[test]
fn flags_say_whether_to_wake() {
    let (map, storage) = ring(4096);
    let reader = Reader::new(&map, &storage);
    let ring = map.ring().unwrap();
    let data = [7u8; 16];
    // SAFETY: 16 bytes.
    let output = |flags| unsafe { ring.output(data.as_ptr(), 16, flags) };
    assert_eq!(output(BPF_RB_NO_WAKEUP), Ok(false));
    assert_eq!(output(0), Ok(false), "the reader has not caught up");
    assert_eq!(output(BPF_RB_FORCE_WAKEUP), Ok(true));
    assert_eq!(output(BPF_RB_FORCE_WAKEUP | BPF_RB_NO_WAKEUP), Ok(true));
    assert_eq!(output(4), Err(Errno::EINVAL));
    assert_eq!(reader.consume(|bytes| assert_eq!(bytes, data)), 4);
    assert_eq!(output(0), Ok(true));
    let discarded = ring.reserve(16);
    ring.commit(discarded, 0, true);
    assert_eq!(reader.consume(|_| ()), 1);
    assert_eq!(ring.query(0), 0);
}

#[test]
fn a_full_ring_takes_as_much_as_the_kernels() {
    for size in [8u64, 16, 100, 1024, 4088, 4080] {
        let (map, storage) = ring(4096);
        let reader = Reader::new(&map, &storage);
        let ring = map.ring().unwrap();
        let step = (size + 8).next_multiple_of(8);
        // __bpf_ringbuf_reserve: the whole is at most 4095 bytes.
        let fit = 4095 / step;
        for lap in 0..5 {
            for _ in 0..fit {
                let record = ring.reserve(size);
                assert!(!record.is_null(), "{size} in lap {lap}");
                ring.commit(record, 0, false);
            }
            assert!(ring.reserve(size).is_null());
            assert_eq!(ring.dropped(), lap + 1);
            assert_eq!(reader.consume(|_| ()), fit as usize);
        }
    }
    let (map, _storage) = ring(4096);
    assert!(map.ring().unwrap().reserve(u64::MAX).is_null());
    assert!(map.ring().unwrap().reserve(4089).is_null());
}

#[test]
fn specs_that_the_kernel_refuses() {
    let size = |key, value, entries, flags| {
        let spec = segment::spec(BPF_MAP_TYPE_RINGBUF, key, value, entries, flags);
        Map::storage_size(&spec, 2).map(drop)
    };
    assert_eq!(size(0, 0, 4096, 0), Ok(()));
    assert_eq!(size(0, 0, 2048, 0), Err(Errno::EINVAL));
    assert_eq!(size(0, 0, 3 * 4096, 0), Err(Errno::EINVAL));
    assert_eq!(size(4, 0, 4096, 0), Err(Errno::EINVAL));
    assert_eq!(size(0, 4, 4096, 0), Err(Errno::EINVAL));
    assert_eq!(size(0, 0, 4096, BPF_F_MMAPABLE), Err(Errno::EINVAL));
    let (map, _storage) = ring(4096);
    assert_eq!(map.mmap(0, 8192, true), Err(Errno::EPERM));
    assert_eq!(map.mmap(4096, 4096, true), Err(Errno::EPERM));
    assert_eq!(map.mmap(4096, 3 * 4096 + 1, false), Err(Errno::EINVAL));
    assert_eq!(map.lookup(&[], &mut [], 0), Err(Errno::ENOTSUPP));
    assert_eq!(map.next_key(None, &mut []), Err(Errno::ENOTSUPP));
}

/// Puts a record into the ring, in one step or in two; `false` when it is full.
fn put(ring: &Ring, record: &[u8], at_once: bool) -> bool {
    let len = record.len() as u64;
    if at_once {
        // SAFETY: the record's bytes.
        return unsafe { ring.output(record.as_ptr(), len, 0) }.is_ok();
    }
    let room = ring.reserve(len);
    if room.is_null() {
        return false;
    }
    // SAFETY: room for `len` bytes.
    unsafe { room.copy_from_nonoverlapping(record.as_ptr(), record.len()) };
    ring.commit(room, 0, false);
    true
}

#[test]
fn eight_producers_lose_repeat_and_tear_nothing() {
    const PRODUCERS: u32 = 8;
    const RECORDS: u32 = 50_000;
    for bytes in [4096, 1 << 18] {
        let (map, storage) = ring(bytes);
        let reader = Reader::new(&map, &storage);
        let children: Vec<Child> = (0..PRODUCERS)
            .map(|producer| {
                Child::fork(|| {
                    let ring = map.ring().unwrap();
                    let mut random = Random(u64::from(producer));
                    for number in 0..RECORDS {
                        let record = record(producer, number, &mut random);
                        while !put(ring, &record, number % 2 == 0) {
                            std::thread::yield_now();
                        }
                    }
                    0
                })
            })
            .collect();
        let mut next = [0; PRODUCERS as usize];
        let deadline = Instant::now() + Duration::from_secs(100);
        while next != [RECORDS; PRODUCERS as usize] {
            let seen = reader.consume(|bytes| {
                let (producer, number) = check(bytes);
                assert_eq!(number, next[producer as usize], "of {producer}");
                next[producer as usize] += 1;
            });
            assert!(Instant::now() < deadline, "stuck at {next:?}");
            if seen == 0 {
                std::thread::yield_now();
            }
        }
        assert!(children.into_iter().all(|child| child.join() == 0));
        assert_eq!(map.ring().unwrap().query(0), 0);
    }
}

#[test]
fn killed_producers_do_not_stop_the_others() {
    const RECORDS: u32 = 20_000;
    let (map, storage) = ring(1 << 14);
    let reader = Reader::new(&map, &storage);
    let produce = |producer: u32, records: u32| {
        let ring = map.ring().unwrap();
        let mut random = Random(u64::from(producer));
        for number in 0..records {
            let record = record(producer, number, &mut random);
            // SAFETY: the record's bytes.
            while unsafe { ring.output(record.as_ptr(), record.len() as u64, 0) }.is_err() {
                std::thread::yield_now();
            }
        }
        0
    };
    let steady = Child::fork(|| produce(0, RECORDS));
    let mut random = Random(1);
    let mut next = vec![0u32; 1];
    let mut victim: Option<Child> = None;
    let deadline = Instant::now() + Duration::from_secs(100);
    while next[0] != RECORDS || next.len() < 200 {
        let seen = reader.consume(|bytes| {
            let (producer, number) = check(bytes);
            assert_eq!(number, next[producer as usize], "of {producer}");
            next[producer as usize] += 1;
        });
        if seen == 0 && !map.ready() {
            std::thread::yield_now();
        }
        if random.below(40) == 0 && next.len() < 200 {
            if let Some(victim) = victim.take() {
                victim.kill();
            }
            let producer = next.len() as u32;
            next.push(0);
            victim = Some(Child::fork(|| produce(producer, u32::MAX)));
        }
        assert!(
            Instant::now() < deadline,
            "stuck at {} of {RECORDS}",
            next[0]
        );
    }
    drop(victim);
    assert_eq!(steady.join(), 0);
    map.reclaim();
    reader.consume(|bytes| {
        check(bytes);
    });
    assert_eq!(
        map.ring().unwrap().query(0),
        0,
        "a dead producer's record stays"
    );
}

#[test]
fn a_producer_killed_while_it_holds_a_record_is_discarded() {
    let (map, storage) = ring(4096);
    let reader = Reader::new(&map, &storage);
    let ring = map.ring().unwrap();
    let child = Child::fork(|| i32::from(ring.reserve(64).is_null()));
    assert_eq!(child.join(), 0);
    // SAFETY: 8 bytes.
    assert_eq!(unsafe { ring.output([1u8; 8].as_ptr(), 8, 0) }, Ok(true));
    assert_eq!(reader.consume(|_| ()), 0);
    assert!(map.ready(), "the dead producer's record is in the way");
    assert_eq!(reader.consume(|bytes| assert_eq!(bytes, [1; 8])), 1);
}
