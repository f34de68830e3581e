//! Runs accepted programs for real, in the interpreter and as machine code,
//! with every object that they may touch at the end, or at the start, of a
//! mapping between pages that nobody may touch. Both must leave the same
//! result, memory and calls of helpers. A program that leaves its memory ends
//! the test with a signal; it is then in `target/tmp/execute.txt`.
//!
//! Memory contents, helper results and NULLs come from a stream of numbers,
//! inside each helper's contract.

use std::collections::BTreeMap;
use std::ptr;

use uapi::Insn;
use uapi::helper::*;
use uapi::insn::{BPF_DW, BPF_JCOND, BPF_JMP, BPF_MEM, BPF_ST, MAX_BPF_STACK};
use uapi::map::*;
use uapi::prog::*;
use vm::disasm::disassemble;
use vm::helper::{Arg, Ret, kernel};
use vm::interp::Interpreter;
use vm::jit::CompiledProgram;
use vm::link::{HelperFn, Linker, Run, TailCallFn};
use vm::verifier::{MapInfo, verify};

use super::generate;
use super::mutate::{Stream, mutate};
use super::pack::Pack;

const PAGE: usize = 4096;

/// Bytes between two pages without access.
struct Guarded {
    base: *mut u8,
    pages: usize,
    start: usize,
    size: usize,
}

impl Guarded {
    /// Room for `size` bytes.
    fn new(size: usize) -> Guarded {
        let pages = size.div_ceil(PAGE).max(1);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                (pages + 2) * PAGE,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        let base = base.cast::<u8>();
        Guarded {
            base,
            pages,
            start: PAGE,
            size,
        }
    }

    /// Makes it `size` bytes that end (or begin) where access ends, 8-byte
    /// aligned, with new contents.
    fn renew(&mut self, size: usize, at_end: bool, stream: &Stream) {
        assert!(size <= self.pages * PAGE);
        let start = if at_end {
            (self.pages * PAGE - size) & !7
        } else {
            0
        };
        (self.start, self.size) = (PAGE + start, size);
        self.protect(libc::PROT_READ | libc::PROT_WRITE);
        self.fill(stream);
    }

    fn protect(&self, protection: i32) {
        // SAFETY: the inner pages of our own mapping.
        let done =
            unsafe { libc::mprotect(self.base.add(PAGE).cast(), self.pages * PAGE, protection) };
        assert_eq!(done, 0);
    }

    fn address(&self) -> u64 {
        self.base as u64 + self.start as u64
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: inside the mapping, which nobody else refers to meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(self.start), self.size) }
    }

    fn fill(&mut self, stream: &Stream) {
        let style = stream.below(3);
        for byte in self.bytes() {
            *byte = match style {
                0 => stream.next() as u8,
                1 => stream.pick(&[0, 0, 0, 1, 8, 31, 32, 0x7f, 0x80, 0xff]),
                _ => stream.pick(&[0, 0xff]),
            };
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole of our own mapping.
        unsafe { libc::munmap(self.base.cast(), (self.pages + 2) * PAGE) };
    }
}

/// What one run needs and leaves: it is the run context of the helpers.
struct World<'a> {
    pack: &'a Pack,
    stream: Stream,
    at_end: bool,
    ctx: Guarded,
    /// The one value that every key of a map leads to.
    values: BTreeMap<u32, Guarded>,
    /// Room for records, and how many were reserved.
    records: Vec<Guarded>,
    reserved: usize,
    held: Vec<u64>,
    /// What helpers were called with, mixed.
    calls: u64,
    /// A helper's contract that the program broke.
    broken: Option<String>,
}

/// Handles of maps: no addresses.
const MAP_HANDLE: u64 = 0x7fff_0000_0000_0000;
/// Records that one run may reserve, and the largest.
const RECORDS: usize = 16;
const MAX_RECORD: usize = PAGE;

impl<'a> World<'a> {
    fn new(pack: &'a Pack, at_end: bool) -> World<'a> {
        let bytes = match pack.spec.prog_type {
            BPF_PROG_TYPE_KPROBE => size_of::<uapi::PtRegs>(),
            BPF_PROG_TYPE_PERF_EVENT => size_of::<uapi::PtRegs>() + 16,
            BPF_PROG_TYPE_RAW_TRACEPOINT => 96,
            _ => 8192,
        };
        let value = |info: &MapInfo| (info.id, Guarded::new(info.value_size as usize));
        let mut world = World {
            pack,
            stream: Stream::new(0),
            at_end,
            ctx: Guarded::new(bytes),
            values: pack.maps.iter().map(value).collect(),
            records: (0..RECORDS).map(|_| Guarded::new(MAX_RECORD)).collect(),
            reserved: 0,
            held: Vec::new(),
            calls: 0,
            broken: None,
        };
        // Gives every area its place.
        world.renew(0);
        world
    }

    /// As it was before a run with this seed.
    fn renew(&mut self, seed: u64) {
        self.stream = Stream::new(seed);
        self.ctx.renew(self.ctx.size, self.at_end, &self.stream);
        for info in &self.pack.maps {
            let Some(area) = self.values.get_mut(&info.id) else {
                continue;
            };
            area.renew(info.value_size as usize, self.at_end, &self.stream);
            if let Some(rodata) = &info.rodata {
                area.bytes().copy_from_slice(rodata);
            }
            if info.map_flags & BPF_F_RDONLY_PROG != 0 {
                area.protect(libc::PROT_READ);
            }
        }
        (self.reserved, self.calls, self.broken) = (0, 0, None);
        self.held.clear();
    }

    /// What a run left.
    fn left(&mut self, r0: u64) -> Left {
        let records = &mut self.records[..self.reserved];
        let areas = self.values.values_mut().chain(records);
        Left {
            r0,
            memory: areas.map(|area| area.bytes().to_vec()).collect(),
            calls: self.calls,
            broken: self.broken.take(),
            held: self.held.len(),
        }
    }

    fn reserve(&mut self, size: usize) -> u64 {
        let Some(record) = self.records.get_mut(self.reserved) else {
            return 0;
        };
        if size > MAX_RECORD {
            return 0;
        }
        record.renew(size, self.at_end, &self.stream);
        self.reserved += 1;
        self.held.push(record.address());
        record.address()
    }

    fn mix(&mut self, n: u64) {
        self.calls = (self.calls ^ n)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(17);
    }

    /// An address as a number that is the same in every world.
    fn place(&self, address: u64) -> u64 {
        let areas = self.values.values().chain(&self.records).chain([&self.ctx]);
        areas
            .zip(1..)
            .find(|(area, _)| address.wrapping_sub(area.address()) <= area.size as u64)
            .map_or(0, |(area, n)| (n << 32) + address - area.address())
    }

    fn read(&mut self, address: u64, size: u64) {
        for n in 0..size {
            // SAFETY: the verifier promised that these bytes can be read; if
            // not, the fault ends the test, which is what it is for.
            let byte = unsafe { ptr::read_volatile((address + n) as *const u8) };
            self.mix(byte.into());
        }
    }

    fn write(&mut self, address: u64, size: u64) {
        let byte = self.stream.next() as u8;
        for n in 0..size {
            // SAFETY: as for reading.
            unsafe { ptr::write_volatile((address + n) as *mut u8, byte) };
        }
    }

    fn helper(&mut self, id: u32, args: [u64; 5]) -> u64 {
        self.mix(id.into());
        let row = kernel::find(id, self.pack.spec.prog_type).expect("a verified program's helper");
        let (mut map, mut alloc, mut max) = (None, 0, 0);
        for (n, &arg) in row.proto.args.iter().enumerate() {
            let info = map.and_then(|id| self.pack.maps.iter().find(|m| m.id == id));
            let (key, value) = info.map_or((0, 0), |m| (m.key_size, m.value_size));
            match arg {
                Arg::Map => {
                    map = Some((args[n] - MAP_HANDLE) as u32);
                    self.mix(args[n]);
                }
                Arg::MapKey => self.read(args[n], key.into()),
                Arg::MapValue => self.read(args[n], value.into()),
                Arg::UninitMapValue => self.write(args[n], value.into()),
                Arg::Mem | Arg::MemOrNull => self.read(args[n], args[n + 1]),
                Arg::UninitMem => {
                    max = args[n + 1];
                    self.write(args[n], max);
                }
                Arg::ConstAllocSize => alloc = args[n],
                Arg::RingbufRecord => match self.held.iter().position(|&r| r == args[n]) {
                    Some(place) => drop(self.held.remove(place)),
                    None => self.broken = Some(format!("{:#x} is no record", args[n])),
                },
                Arg::Ctx if args[n] != self.ctx.address() => {
                    self.broken = Some("the ctx is another".to_owned());
                }
                Arg::Scalar | Arg::Size | Arg::SizeOrZero => self.mix(args[n]),
                _ => self.mix(self.place(args[n])),
            }
        }
        let null = self.stream.below(3) == 0;
        match row.proto.ret {
            Ret::MapValueOrNull if null => 0,
            Ret::MapValueOrNull => map.map_or(0, |id| self.values[&id].address()),
            Ret::RingbufRecordOrNull if null => 0,
            Ret::RingbufRecordOrNull => self.reserve(alloc as usize),
            _ if writes_a_string(id) => {
                self.stream.pick(&[max, max.min(1), max / 2, -14i64 as u64])
            }
            _ => {
                let n = self.stream.next();
                self.stream.pick(&[0, 1, n, -14i64 as u64])
            }
        }
    }
}

/// Helpers that return at most the size that they were given.
fn writes_a_string(id: u32) -> bool {
    matches!(
        id,
        BPF_FUNC_PROBE_READ_STR
            | BPF_FUNC_PROBE_READ_USER_STR
            | BPF_FUNC_PROBE_READ_KERNEL_STR
            | BPF_FUNC_GET_STACK
    )
}

unsafe extern "C" fn helper<const ID: u32>(
    r1: u64,
    r2: u64,
    r3: u64,
    r4: u64,
    r5: u64,
    run: *mut Run,
) -> u64 {
    // SAFETY: programs here run with a `World`, which only helpers touch meanwhile.
    let world = unsafe { &mut *run.cast::<World<'_>>() };
    world.helper(ID, [r1, r2, r3, r4, r5])
}

macro_rules! helpers {
    ($($id:ident)*) => {
        fn helper_fn(id: u32) -> Option<HelperFn> {
            match id {
                $($id => Some(helper::<{ $id }>),)*
                _ => None,
            }
        }
    };
}

helpers! {
    BPF_FUNC_MAP_LOOKUP_ELEM BPF_FUNC_MAP_UPDATE_ELEM BPF_FUNC_MAP_DELETE_ELEM
    BPF_FUNC_PROBE_READ BPF_FUNC_KTIME_GET_NS BPF_FUNC_TRACE_PRINTK
    BPF_FUNC_GET_PRANDOM_U32 BPF_FUNC_GET_SMP_PROCESSOR_ID
    BPF_FUNC_GET_CURRENT_PID_TGID BPF_FUNC_GET_CURRENT_UID_GID
    BPF_FUNC_GET_CURRENT_COMM BPF_FUNC_PERF_EVENT_OUTPUT BPF_FUNC_GET_STACKID
    BPF_FUNC_GET_CURRENT_TASK BPF_FUNC_PROBE_READ_STR BPF_FUNC_GET_STACK
    BPF_FUNC_PROBE_READ_USER BPF_FUNC_PROBE_READ_KERNEL BPF_FUNC_PROBE_READ_USER_STR
    BPF_FUNC_PROBE_READ_KERNEL_STR BPF_FUNC_RINGBUF_OUTPUT BPF_FUNC_RINGBUF_RESERVE
    BPF_FUNC_RINGBUF_SUBMIT BPF_FUNC_RINGBUF_DISCARD BPF_FUNC_RINGBUF_QUERY
    BPF_FUNC_KTIME_GET_BOOT_NS BPF_FUNC_GET_FUNC_IP BPF_FUNC_GET_ATTACH_COOKIE
}

struct Names<'a>(&'a World<'a>);

impl Linker for Names<'_> {
    fn map(&self, id: u32) -> Option<u64> {
        Some(MAP_HANDLE + u64::from(id))
    }

    fn map_value(&self, id: u32, offset: u32) -> Option<u64> {
        let area = self.0.values.get(&id)?;
        Some(area.address() + u64::from(offset))
    }

    fn helper(&self, id: u32) -> Option<HelperFn> {
        helper_fn(id)
    }

    fn kfunc(&self, _: u32) -> Option<HelperFn> {
        None
    }

    fn tail_call(&self) -> TailCallFn {
        no_target
    }
}

unsafe extern "C" fn no_target(_: u64, _: u64, _: *mut Run) -> *const u8 {
    ptr::null()
}

/// What a run leaves.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    r0: u64,
    memory: Vec<Vec<u8>>,
    calls: u64,
    broken: Option<String>,
    /// Records that were not given back.
    held: usize,
}

/// Leaves a pattern where the next call's frames will lie.
#[inline(never)]
fn scribble(pattern: u8) {
    let mut below = [pattern; 32 << 10];
    std::hint::black_box(&mut below);
}

/// Calls `f` with its stack elsewhere than usual.
#[inline(never)]
fn deeper(f: &mut dyn FnMut() -> u64) -> u64 {
    let mut above = [0u8; 3008];
    std::hint::black_box(&mut above);
    let result = f();
    std::hint::black_box(&mut above);
    result
}

/// Runs once over a stack of zeros and once elsewhere over another pattern.
/// `None` when that changes what it leaves: the program reads stack that it
/// did not write, or tells addresses.
fn run_twice(
    world: &mut World<'_>,
    seed: u64,
    run: &dyn Fn(*mut u8, *mut Run) -> u64,
) -> Option<Left> {
    let mut once = |elsewhere: bool| {
        world.renew(seed);
        let ctx = world.ctx.address() as *mut u8;
        let context = ptr::from_mut(world).cast::<Run>();
        scribble(if elsewhere { 0xa5 } else { 0 });
        let r0 = if elsewhere {
            deeper(&mut || run(ctx, context))
        } else {
            run(ctx, context)
        };
        world.left(r0)
    };
    let (first, second) = (once(false), once(true));
    (first == second).then_some(first)
}

/// How many runs there were.
#[derive(Default)]
struct Counts {
    accepted: usize,
    compared: usize,
    vague: usize,
}

fn check(pack: &Pack, seed: u64, counts: &mut Counts) {
    let Ok(verified) = verify(pack.spec.clone(), pack, None) else {
        return;
    };
    let mut world = World::new(pack, !seed.is_multiple_of(4));
    let names = Names(&world);
    let Ok(interpreter) = Interpreter::new(&verified, &names) else {
        // A helper that this world lacks.
        return;
    };
    let compiled = CompiledProgram::compile(&verified, &names).expect("what links also compiles");
    counts.accepted += 1;
    for round in 0..4 {
        let seed = seed ^ (round << 56);
        // SAFETY: the verifier's promise; that it holds is what is tested.
        let slow = |ctx: *mut u8, run: *mut Run| unsafe { interpreter.run(ctx, run) };
        // SAFETY: as above.
        let fast = |ctx: *mut u8, run: *mut Run| unsafe { compiled.run(ctx, run) };
        let left = (
            run_twice(&mut world, seed, &slow),
            run_twice(&mut world, seed, &fast),
        );
        let (Some(slow), Some(fast)) = left else {
            counts.vague += 1;
            continue;
        };
        counts.compared += 1;
        let listing = || disassemble(&pack.spec.insns);
        assert_eq!((&fast.broken, fast.held), (&None, 0), "{}", listing());
        assert_eq!(slow, fast, "seed {seed:#x}\n{}", listing());
    }
}

/// Instructions that write the whole frame: what was there before is the only
/// thing that engines may disagree about.
fn clear_stack() -> impl Iterator<Item = Insn> {
    let slots = (1..=MAX_BPF_STACK as i16 / 8).map(|n| -8 * n);
    slots.map(|off| Insn::new(BPF_ST | BPF_MEM | BPF_DW, 10, 0, off, 0))
}

#[test]
fn accepted_programs_stay_in_their_memory_and_engines_agree() {
    let last = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("execute.txt");
    let seed = super::oracle::number("BPFTIME_SEED", 1);
    let stream = Stream::new(0x51ed_2701_89ab_cdef ^ seed);
    let mut counts = Counts::default();
    let mut endless = 0;
    for _ in 0..super::oracle::number("BPFTIME_EXECUTED", 5000) {
        let mut pack = generate::program(&stream);
        if stream.below(3) == 0 {
            mutate(&stream, &mut pack.spec.insns);
        }
        // Its budget is millions of rounds; one such program is enough.
        let spends = |insn: &Insn| insn.code == BPF_JMP | BPF_JCOND;
        if pack.spec.insns.iter().any(spends) {
            endless += 1;
            if endless > 1 {
                continue;
            }
        }
        pack.spec.insns.splice(0..0, clear_stack());
        let text = disassemble(&pack.spec.insns);
        std::fs::write(&last, text).expect("target/tmp is writable");
        check(&pack, stream.next(), &mut counts);
    }
    let Counts {
        accepted,
        compared,
        vague,
    } = counts;
    eprintln!("{accepted} accepted, {compared} runs compared, {vague} vague");
    // Few generated programs read stack that they did not write.
    assert!(compared > vague && accepted > 0);
}
