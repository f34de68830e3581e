//! What the kernel writes of sampled threads: samples, and what happens to the
//! threads. It knows no process.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use runtime::mapped::Mapping;
use runtime::sample::COMM;
use runtime::thread::ThreadIds;
use uapi::PtRegs;

use crate::perf::ring::Record;

/// `PERF_RECORD_*`.
const LOST: u32 = 2;
const COMMAND: u32 = 3;
const EXIT: u32 = 4;
const FORK: u32 = 7;
const SAMPLE: u32 = 9;
const MMAP2: u32 = 10;
/// `PERF_RECORD_MISC_COMM_EXEC`.
const MISC_COMM_EXEC: u16 = 1 << 13;
/// `PROT_EXEC` in a record of a mapping.
const EXECUTABLE: u32 = 4;
/// Bytes that end every record but a sample: ids, time, CPU, event.
const TRAILER: usize = 32;
/// `PERF_SAMPLE_REGS_ABI_64`.
const ABI_64: u64 = 2;

/// Something that happened at a time.
pub struct Happened {
    /// `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Where.
    pub cpu: u32,
    /// To whom.
    pub ids: ThreadIds,
    /// The event whose record it is.
    pub event: u64,
    /// What.
    pub what: What,
}

/// What happens to threads.
pub enum What {
    /// It was sampled.
    Sample(Box<Taken>),
    /// It was made by this thread.
    Made(ThreadIds),
    /// It ended.
    Ended,
    /// It has another name; `true` as it executes a program.
    Named([u8; COMM], bool),
    /// Its process has mapped text.
    Mapped(Mapping),
    /// So many records found no room.
    Lost(u64),
}

/// A sample's own.
pub struct Taken {
    /// Registers; all zeros where there were none.
    pub regs: PtRegs,
    /// The copied stack.
    pub stack: Vec<u8>,
}

/// Reads words one after the other.
struct Words<'b>(&'b [u8]);

impl Words<'_> {
    fn u64(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    /// Two words of 32 bits.
    fn pair(&mut self) -> Option<(u32, u32)> {
        let word = self.u64()?;
        Some((word as u32, (word >> 32) as u32))
    }

    fn ids(&mut self) -> Option<ThreadIds> {
        let (pid, tid) = self.pair()?;
        Some(ThreadIds {
            pid: pid as i32,
            tid: tid as i32,
        })
    }
}

impl Happened {
    /// What a record says, if it is one that we look at.
    pub fn of(record: &Record) -> Option<Happened> {
        if record.kind == SAMPLE {
            return Happened::sample(&record.body);
        }
        let cut = record.body.len().checked_sub(TRAILER)?;
        let (own, trailer) = record.body.split_at(cut);
        let mut trailer = Words(trailer);
        let (trailing, time) = (trailer.ids()?, trailer.u64()?);
        let (cpu, event) = (trailer.pair()?.0, trailer.u64()?);
        let mut own = Words(own);
        let (ids, what) = match record.kind {
            FORK | EXIT => {
                let (pid, ppid) = own.pair()?;
                let (tid, ptid) = own.pair()?;
                let of = |pid: u32, tid: u32| ThreadIds {
                    pid: pid as i32,
                    tid: tid as i32,
                };
                let what = match record.kind {
                    FORK => What::Made(of(ppid, ptid)),
                    _ => What::Ended,
                };
                (of(pid, tid), what)
            }
            COMMAND => {
                let ids = own.ids()?;
                let mut name = [0; COMM];
                let text = own.0.iter().take_while(|&&byte| byte != 0);
                for (to, from) in name.iter_mut().take(COMM - 1).zip(text) {
                    *to = *from;
                }
                (ids, What::Named(name, record.misc & MISC_COMM_EXEC != 0))
            }
            MMAP2 => (own.ids()?, What::Mapped(mapping(own)?)),
            LOST => {
                own.u64()?;
                (trailing, What::Lost(own.u64()?))
            }
            _ => return None,
        };
        Some(Happened {
            time,
            cpu,
            ids,
            event,
            what,
        })
    }

    fn sample(body: &[u8]) -> Option<Happened> {
        let mut words = Words(body);
        let (event, ids, time) = (words.u64()?, words.ids()?, words.u64()?);
        let cpu = words.pair()?.0;
        let mut taken = Taken {
            regs: PtRegs::default(),
            stack: Vec::new(),
        };
        let abi = words.u64()?;
        if abi != 0 {
            taken.regs = registers(&mut words)?;
        }
        // Without a copy of the stack the record ends here.
        if let Some(size) = words.u64() {
            let copy = words.0.get(..size as usize)?;
            words.0 = words.0.get(size as usize..)?;
            let there = if size == 0 { 0 } else { words.u64()? };
            // Words of 32-bit processes are of another size.
            let used = if abi == ABI_64 { there as usize } else { 0 };
            taken.stack = copy.get(..used)?.to_vec();
        }
        Some(Happened {
            time,
            cpu,
            ids,
            event,
            what: What::Sample(Box::new(taken)),
        })
    }
}

/// In the order of `enum perf_event_x86_regs`, as many as are asked for.
fn registers(words: &mut Words<'_>) -> Option<PtRegs> {
    let mut regs = PtRegs::default();
    let in_order = [
        &mut regs.ax,
        &mut regs.bx,
        &mut regs.cx,
        &mut regs.dx,
        &mut regs.si,
        &mut regs.di,
        &mut regs.bp,
        &mut regs.sp,
        &mut regs.ip,
        &mut regs.flags,
        &mut regs.cs,
        &mut regs.ss,
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r11,
        &mut regs.r12,
        &mut regs.r13,
        &mut regs.r14,
        &mut regs.r15,
    ];
    for register in in_order {
        *register = words.u64()?;
    }
    Some(regs)
}

/// A mapping of a file, of text.
fn mapping(mut words: Words<'_>) -> Option<Mapping> {
    let (start, len, offset) = (words.u64()?, words.u64()?, words.u64()?);
    let (major, minor) = words.pair()?;
    let (ino, _generation) = (words.u64()?, words.u64()?);
    let (protection, _flags) = words.pair()?;
    let name: Vec<u8> = words
        .0
        .iter()
        .copied()
        .take_while(|&byte| byte != 0)
        .collect();
    let is_text = protection & EXECUTABLE != 0 && ino != 0;
    is_text.then(|| Mapping {
        range: start as usize..start.saturating_add(len) as usize,
        offset,
        dev: libc::makedev(major, minor),
        ino,
        path: OsString::from_vec(name).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, misc: u16, words: &[u64]) -> Option<Happened> {
        let body = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Happened::of(&Record { kind, misc, body })
    }

    const IDS: u64 = 7 | 8 << 32;
    const TRAILING: [u64; 4] = [1 | 2 << 32, 1000, 3, 44];

    #[test]
    fn what_happens_to_threads() {
        let with = |own: &[u64]| [own, &TRAILING].concat();
        let made = record(FORK, 0, &with(&[9 | 7 << 32, 10 | 8 << 32, 0])).unwrap();
        assert_eq!((made.ids.pid, made.ids.tid), (9, 10));
        assert!(matches!(
            made.what,
            What::Made(ThreadIds { pid: 7, tid: 8 })
        ));
        assert_eq!((made.time, made.cpu, made.event), (1000, 3, 44));
        let name = u64::from_le_bytes(*b"abc\0\0\0\0\0");
        let named = record(COMMAND, MISC_COMM_EXEC, &with(&[IDS, name])).unwrap();
        assert!(matches!(named.what, What::Named(name, true) if name.starts_with(b"abc\0")));
        let path = u64::from_le_bytes(*b"/lib/a\0\0");
        let text = [
            IDS,
            0x1000,
            0x2000,
            0x3000,
            8 | 1 << 32,
            5,
            0,
            5 | 2 << 32,
            path,
        ];
        let mapped = record(MMAP2, 0, &with(&text)).unwrap();
        let What::Mapped(mapping) = mapped.what else {
            panic!("a mapping");
        };
        assert_eq!(mapping.range, 0x1000..0x3000);
        assert_eq!((mapping.offset, mapping.ino), (0x3000, 5));
        assert_eq!(mapping.path.to_str(), Some("/lib/a"));
        let data = [
            IDS,
            0x1000,
            0x2000,
            0x3000,
            8 | 1 << 32,
            5,
            0,
            3 | 2 << 32,
            path,
        ];
        assert!(record(MMAP2, 0, &with(&data)).is_none(), "no text");
        let lost = record(LOST, 0, &with(&[44, 6])).unwrap();
        assert!(matches!(lost.what, What::Lost(6)));
    }

    #[test]
    fn samples_have_registers_and_stacks() {
        let registers: Vec<u64> = (100..120).collect();
        let begin = [44, IDS, 1000, 3, ABI_64];
        let stack = [16, 1, 2, 8];
        let whole = [&begin[..], &registers, &stack].concat();
        let sampled = record(SAMPLE, 0, &whole).unwrap();
        assert_eq!((sampled.event, sampled.ids.tid), (44, 8));
        let What::Sample(taken) = sampled.what else {
            panic!("a sample");
        };
        assert_eq!(
            (taken.regs.ax, taken.regs.sp, taken.regs.ip),
            (100, 107, 108)
        );
        assert_eq!((taken.regs.r8, taken.regs.r15), (112, 119));
        assert_eq!(taken.stack, 1u64.to_le_bytes());
        assert!(record(SAMPLE, 0, &whole[..20]).is_none(), "cut");
        let none = record(SAMPLE, 0, &[44, IDS, 1000, 3, 0, 0]).unwrap();
        assert!(matches!(none.what, What::Sample(taken) if taken.stack.is_empty()));
    }
}
