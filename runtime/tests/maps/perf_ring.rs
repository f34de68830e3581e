//! Perf rings as libbpf and bcc read them.

use std::sync::atomic::Ordering;

use bpftime_runtime::maps::PerfRing;
use shm::Region;
use uapi::Errno;

use crate::process::Random;
use crate::segment;

const PAGE: u64 = 4096;
const RECORD_LOST: u32 = 2;
const RECORD_SAMPLE: u32 = 9;

struct Reader {
    storage: Region,
    size: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Record {
    /// Raw data with its padding.
    Sample(Vec<u8>),
    Lost(u64),
}

impl Reader {
    fn word(&self, at: u64) -> u64 {
        self.storage.u64_at(at).unwrap().load(Ordering::Acquire)
    }

    fn bytes(&self, at: u64, len: u64) -> Vec<u8> {
        (at..at + len)
            .map(|at| {
                let mut byte = [0];
                let offset = PAGE + at % self.size;
                self.storage.read(offset, &mut byte).unwrap();
                byte[0]
            })
            .collect()
    }

    /// What `perf_event_read_simple` of libbpf does.
    fn read(&self) -> Vec<Record> {
        assert_eq!((self.word(1040), self.word(1048)), (PAGE, self.size));
        let (head, mut tail) = (self.word(1024), self.word(1032));
        let mut records = Vec::new();
        while tail != head {
            let header = self.bytes(tail, 8);
            let kind = u32::from_ne_bytes(header[..4].try_into().unwrap());
            let size = u64::from(u16::from_ne_bytes(header[6..].try_into().unwrap()));
            assert!(size >= 8 && size.is_multiple_of(8));
            let body = self.bytes(tail + 8, size - 8);
            records.push(match kind {
                RECORD_SAMPLE => {
                    let len = u32::from_ne_bytes(body[..4].try_into().unwrap());
                    assert_eq!(len as usize, body.len() - 4);
                    Record::Sample(body[4..].to_vec())
                }
                RECORD_LOST => {
                    assert_eq!(body[..8], [0; 8]);
                    Record::Lost(u64::from_ne_bytes(body[8..].try_into().unwrap()))
                }
                kind => panic!("record type {kind}"),
            });
            tail += size;
        }
        let consumed = self.storage.u64_at(1032).unwrap();
        consumed.store(tail, Ordering::Release);
        records
    }
}

fn ring(pages: u32, wakeup_events: u32) -> (PerfRing, Reader) {
    let bytes = PerfRing::storage_size(pages);
    let storage = segment::segment(bytes).region(0, bytes).unwrap();
    let reader = Reader {
        storage: storage.clone(),
        size: u64::from(pages) * PAGE,
    };
    (PerfRing::create(storage, wakeup_events), reader)
}

fn put(ring: &PerfRing, data: &[u8]) -> Result<bool, Errno> {
    let (front, back) = data.split_at(data.len() / 3);
    // SAFETY: the slices' bytes; the test is the only writer.
    unsafe { ring.output(&[(front.as_ptr(), front.len()), (back.as_ptr(), back.len())]) }
}

/// As the kernel pads it: with its size word a multiple of 8.
fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize((data.len() + 4).next_multiple_of(8) - 4, 0);
    data
}

#[test]
fn records_come_out_as_they_went_in() {
    let (ring, reader) = ring(2, 1);
    let mut random = Random(5);
    for turn in 0..3000u64 {
        assert!(!ring.ready());
        let mut expected = Vec::new();
        for _ in 0..random.below(5) {
            let data = vec![turn as u8 | 1; random.below(400) as usize];
            assert_eq!(put(&ring, &data), Ok(true));
            expected.push(Record::Sample(padded(&data)));
        }
        assert_eq!(ring.ready(), !expected.is_empty());
        assert_eq!(reader.read(), expected);
    }
}

#[test]
fn what_does_not_fit_is_counted_and_told() {
    let (ring, reader) = ring(1, 1);
    // 8 header, 4 size, 1012 data: 1,024 bytes; one byte of the ring is free.
    let data = [1; 1012];
    for _ in 0..3 {
        assert_eq!(put(&ring, &data), Ok(true));
    }
    for _ in 0..2 {
        assert_eq!(put(&ring, &data), Err(Errno::ENOSPC));
    }
    let sample = || Record::Sample(data.to_vec());
    assert_eq!(reader.read(), [sample(), sample(), sample()]);
    assert_eq!(put(&ring, &data), Ok(true));
    assert_eq!(reader.read(), [Record::Lost(2), sample()]);
    assert_eq!(ring.dropped(), 2);
    assert_eq!(put(&ring, &[0; 1 << 16]), Err(Errno::E2BIG));
    assert_eq!(put(&ring, &[0; 4096]), Err(Errno::ENOSPC));
    assert_eq!(put(&ring, &[]), Ok(true));
    assert_eq!(reader.read(), [Record::Lost(1), Record::Sample(vec![0; 4])]);
}

#[test]
fn wakeups_come_as_often_as_asked() {
    let (ring, reader) = self::ring(1, 3);
    let wakes: Vec<bool> = (0..9).map(|_| put(&ring, &[1; 4]).unwrap()).collect();
    assert_eq!(wakes, [false, false, true].repeat(3));
    reader.read();
    // Without a number: whenever half the ring was written.
    let (ring, reader) = self::ring(1, 0);
    let mut wakes = 0;
    for _ in 0..64 {
        wakes += u32::from(put(&ring, &[1; 4 + 240]).unwrap());
        reader.read();
    }
    assert!(
        (7..=8).contains(&wakes),
        "{wakes} for 16 KiB in a ring of 4"
    );
}

#[test]
fn a_reader_that_writes_nonsense_harms_only_itself() {
    let (ring, reader) = ring(1, 1);
    for tail in [7, 8, 4096, u64::MAX, 1 << 63, u64::MAX - 4096] {
        reader
            .storage
            .u64_at(1032)
            .unwrap()
            .store(tail, Ordering::Relaxed);
        reader
            .storage
            .u64_at(1024)
            .unwrap()
            .store(!tail, Ordering::Relaxed);
        for _ in 0..20 {
            let _ = put(&ring, &[1; 700]);
        }
    }
}
