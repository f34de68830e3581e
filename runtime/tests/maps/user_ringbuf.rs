//! User ring buffers whose drainers are killed, and whose words are nonsense.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use bpftime_runtime::maps::Map;
use shm::Region;
use uapi::Errno;
use uapi::map::BPF_MAP_TYPE_USER_RINGBUF;

use crate::process::{Child, Random};
use crate::segment;

const SIZE: u64 = 4096;
const PAGE: u64 = 4096;

fn ring() -> (Map, Region) {
    let spec = segment::spec(BPF_MAP_TYPE_USER_RINGBUF, 0, 0, SIZE as u32, 0);
    segment::map_and_storage(spec).unwrap()
}

/// As libbpf's producer: a sample of 8 bytes; `false` without room.
fn send(storage: &Region, number: u64) -> bool {
    let [consumer, producer] = [0, PAGE].map(|at| storage.u64_at(at).unwrap());
    let at = producer.load(Relaxed);
    if at - consumer.load(Acquire) > SIZE - 16 {
        return false;
    }
    let data = |at: u64| storage.u64_at(2 * PAGE + at % SIZE).unwrap();
    data(at + 8).store(number, Relaxed);
    data(at).store(8, Release);
    producer.store(at + 16, Release);
    true
}

/// Drains with `turn`, which gets the numbers.
fn drain(map: &Map, turn: &mut dyn FnMut(u64) -> bool) -> i64 {
    let ring = map.user_ring().unwrap();
    ring.drain(1, 0, &mut |at, len| {
        assert_eq!(len, 8);
        // SAFETY: a sample of 8 bytes, aligned to 8.
        turn(unsafe { at.cast::<u64>().read_volatile() })
    })
    .ret
}

#[test]
fn who_is_killed_while_it_drains_holds_nobody_up() {
    let (map, storage) = ring();
    let told = segment::segment(4096).region(0, 4096).unwrap();
    let last = told.u64_at(0).unwrap();
    let mut random = Random(5);
    let mut number = 0;
    for round in 0..150 {
        let child = Child::fork(|| {
            loop {
                drain(&map, &mut |number| {
                    // What is told was met; what was met is drained or met again.
                    let before = last.swap(number, Relaxed);
                    before == number || before + 1 == number
                });
            }
        });
        let until = Instant::now() + Duration::from_micros(random.below(3000));
        while Instant::now() < until {
            number += u64::from(send(&storage, number + 1));
        }
        child.kill();
        let mut met = Vec::new();
        let ret = drain(&map, &mut |number| {
            met.push(number);
            true
        });
        assert_eq!(ret, met.len() as i64, "round {round}");
        let told = last.swap(number, Relaxed);
        let first = met.first().copied().unwrap_or(number + 1);
        assert!(first == told || first == told + 1, "{first} after {told}");
        assert!(met.into_iter().eq(first..=number));
    }
    assert!(number > 1000, "{number}");
}

#[test]
fn nobody_drains_beside_a_drainer_that_lives() {
    let (map, storage) = ring();
    assert!(send(&storage, 1));
    let go = segment::segment(4096).region(0, 4096).unwrap();
    let word = go.u64_at(0).unwrap();
    let child = Child::fork(|| {
        drain(&map, &mut |_| {
            word.store(1, Release);
            while word.load(Acquire) != 2 {
                std::thread::yield_now();
            }
            true
        }) as i32
    });
    while word.load(Acquire) != 1 {
        std::thread::yield_now();
    }
    assert_eq!(drain(&map, &mut |_| true), Errno::EBUSY.ret());
    word.store(2, Release);
    assert_eq!(child.join(), 1);
    assert_eq!(drain(&map, &mut |_| true), 0);
}

#[test]
fn nonsense_is_no_sample() {
    let (map, storage) = ring();
    let mut random = Random(9);
    let mut samples = 0;
    for _ in 0..20_000 {
        for at in [0, PAGE, 2 * PAGE + random.below(SIZE / 8) * 8] {
            let number = match random.below(4) {
                0 => random.below(1 << 14),
                1 => random.below(1 << 14) * 8,
                2 => random.below(1 << 32),
                _ => random.below(u64::MAX),
            };
            storage.u64_at(at).unwrap().store(number, Relaxed);
        }
        let ring = map.user_ring().unwrap();
        let drained = ring.drain(1, 0, &mut |at, len| {
            samples += 1;
            // SAFETY: what is called a sample can be read.
            let ends = unsafe {
                (
                    at.read_volatile(),
                    at.wrapping_add(len as usize).wrapping_sub(1),
                )
            };
            if len > 0 {
                // SAFETY: as above.
                unsafe { ends.1.read_volatile() };
            }
            samples % 50 != 0
        });
        assert!(drained.ret <= 128 << 10);
        storage.u64_at(2 * PAGE + SIZE).unwrap().store(0, Relaxed);
    }
    assert!(samples > 100, "{samples}");
}
