//! Helpers called as an engine calls them.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};

use bpftime_runtime::helpers;
use bpftime_runtime::maps::{Map, MapSpec};
use bpftime_runtime::run::{ProcessEnv, RunState};
use bpftime_runtime::thread;
use bpftime_runtime::vcpu::{CLAIM_BYTES, Vcpus};
use shm::{Region, Segment};
use uapi::helper::*;
use uapi::map::*;
use uapi::{Errno, PtRegs};
use vm::link::HelperFn;

fn segment(bytes: u64) -> Region {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = CString::new(dir.path().join("data").as_os_str().as_bytes()).unwrap();
    let (segment, _fd) = Segment::create(&path, bytes).unwrap();
    segment.region(0, bytes).unwrap()
}

/// A run on its own little session.
struct Bench {
    env: Box<ProcessEnv>,
    regs: PtRegs,
    at_entry: bool,
}

impl Bench {
    fn new() -> Bench {
        let region = segment(3 * shm::PAGE);
        let vcpus = region.sub(0, 2 * CLAIM_BYTES).unwrap();
        let doorbell = region.sub(shm::PAGE, shm::PAGE).unwrap();
        Bench {
            env: Box::new(ProcessEnv::new(vcpus, doorbell).unwrap()),
            regs: PtRegs::default(),
            at_entry: false,
        }
    }

    fn call(&self, id: u32, args: [u64; 5]) -> i64 {
        let mut run = RunState::new(&raw const *self.env, &raw const self.regs, 0xc00c1e, 0xf00);
        run.at_entry = self.at_entry;
        let [a, b, c, d, e] = args;
        let helper = helpers::lookup(id).unwrap_or_else(|| panic!("no helper {id}"));
        // SAFETY: each test passes what the helper's prototype demands.
        unsafe { (helper.call)(a, b, c, d, e, run.as_run()) as i64 }
    }
}

fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<u8>() as u64
}

/// A page followed by one that is not mapped.
fn page_before_a_hole() -> *mut u8 {
    // SAFETY: a fresh mapping; its second page is given back at once.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            8192,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(page, libc::MAP_FAILED);
        libc::munmap(page.byte_add(4096), 4096);
        page.cast()
    }
}

#[test]
fn tasks_that_no_session_describes_cannot_be_read() {
    let bench = Bench::new();
    let task = bench.call(BPF_FUNC_GET_CURRENT_TASK, [0; 5]) as u64;
    assert_eq!(task >> 47, (1 << 17) - 1, "the kernel's half");
    for id in [
        BPF_FUNC_PROBE_READ,
        BPF_FUNC_PROBE_READ_USER,
        BPF_FUNC_PROBE_READ_KERNEL,
        BPF_FUNC_PROBE_READ_KERNEL_STR,
    ] {
        let mut to = [0xffu8; 8];
        let ret = bench.call(id, [address(&raw mut to), 8, task + 2500, 0, 0]);
        assert_eq!((ret, to), (Errno::EFAULT.ret(), [0; 8]), "{id}");
    }
}

#[test]
fn reads_copy_or_fail_whole() {
    let bench = Bench::new();
    let from = *b"0123456789abcdef";
    let mut to = [0xffu8; 16];
    for id in [
        BPF_FUNC_PROBE_READ,
        BPF_FUNC_PROBE_READ_USER,
        BPF_FUNC_PROBE_READ_KERNEL,
        BPF_FUNC_COPY_FROM_USER,
    ] {
        to.fill(0xff);
        assert_eq!(bench.call(id, [address(&to), 16, address(&from), 0, 0]), 0);
        assert_eq!(to, from);
        for bad in [
            0,
            1,
            4096,
            0x7fff_ffff_f000,
            0xffff_8000_0000_0000,
            u64::MAX,
        ] {
            to.fill(0xff);
            let ret = bench.call(id, [address(&to), 16, bad, 0, 0]);
            // This one looks whether it is an address of the kernel.
            let errno = match (id, bad) {
                (BPF_FUNC_PROBE_READ, 0x7fff_ffff_f000) => Errno::ERANGE,
                _ => Errno::EFAULT,
            };
            assert_eq!(ret, errno.ret());
            assert_eq!(to, [0; 16], "the kernel zeroes the destination");
        }
        to.fill(0xff);
        assert_eq!(bench.call(id, [address(&to), 0, 0, 0, 0]), 0);
        assert_eq!(to, [0xff; 16]);
    }
    let edge = page_before_a_hole() as u64 + 4096 - 8;
    let read = |len| bench.call(BPF_FUNC_PROBE_READ_USER, [address(&to), len, edge, 0, 0]);
    assert_eq!(read(8), 0);
    assert_eq!(read(9), Errno::EFAULT.ret());
}

#[test]
fn strings_end_where_they_end() {
    let bench = Bench::new();
    let read = |to: &mut [u8], from: u64| {
        let args = [address(&*to), to.len() as u64, from, 0, 0];
        bench.call(BPF_FUNC_PROBE_READ_USER_STR, args)
    };
    let from = *b"hello\0junk that must stay out\0";
    let mut to = [0xff; 24];
    assert_eq!(read(&mut to, address(&from)), 6);
    assert_eq!(
        &to[..8],
        b"hello\0\0\0",
        "up to the word's end, as the kernel"
    );
    assert_eq!(to[8..], [0xff; 16]);

    let mut short = [0xff; 4];
    assert_eq!(read(&mut short, address(&from)), 4);
    assert_eq!(&short, b"hel\0");
    let mut one = [0xff; 1];
    assert_eq!(read(&mut one, address(&from)), 1);
    assert_eq!(one, [0]);
    assert_eq!(read(&mut [], address(&from)), 0);

    let edge = page_before_a_hole().wrapping_add(4096 - 4);
    // SAFETY: the last four bytes of a mapped page.
    unsafe { std::ptr::copy_nonoverlapping(c"end".as_ptr().cast(), edge, 4) };
    let mut to = [0xff; 64];
    assert_eq!(read(&mut to, edge as u64), 4);
    assert_eq!(&to[..4], b"end\0");
    // SAFETY: the last byte of that page.
    unsafe { edge.add(3).write(b'!') };
    assert_eq!(read(&mut to, edge as u64), Errno::EFAULT.ret());
    assert_eq!(to, [0; 64]);

    let long = [b'x'; 1000];
    let mut to = [0; 700];
    assert_eq!(read(&mut to, address(&long)), 700);
    assert_eq!((&to[..699], to[699]), (&long[..699], 0));
}

#[test]
fn who_runs() {
    thread::init();
    let bench = Bench::new();
    let call = |id| bench.call(id, [0; 5]) as u64;
    // SAFETY: no preconditions.
    let (tid, uid, gid) = unsafe { (libc::gettid(), libc::getuid(), libc::getgid()) };
    let pid = u64::from(std::process::id());
    assert_eq!(call(BPF_FUNC_GET_CURRENT_PID_TGID), pid << 32 | tid as u64);
    let ids = u64::from(gid) << 32 | u64::from(uid);
    assert_eq!(call(BPF_FUNC_GET_CURRENT_UID_GID), ids);
    assert_eq!(call(BPF_FUNC_GET_ATTACH_COOKIE), 0xc00c1e);
    assert_eq!(call(BPF_FUNC_GET_FUNC_IP), 0xf00);

    let named = std::thread::Builder::new().name("fifteen-letters".into());
    let thread = named.spawn(|| {
        let bench = Bench::new();
        let mut comm = [0xff; 20];
        let room = [address(&comm), 20, 0, 0, 0];
        assert_eq!(bench.call(BPF_FUNC_GET_CURRENT_COMM, room), 0);
        assert_eq!(&comm, b"fifteen-letters\0\0\0\0\0");
        comm.fill(0xff);
        let room = [address(&comm), 4, 0, 0, 0];
        assert_eq!(bench.call(BPF_FUNC_GET_CURRENT_COMM, room), 0);
        assert_eq!(&comm[..5], b"fif\0\xff");
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn clocks_are_the_kernels() {
    let bench = Bench::new();
    for (id, clock) in [
        (BPF_FUNC_KTIME_GET_NS, libc::CLOCK_MONOTONIC),
        (BPF_FUNC_KTIME_GET_BOOT_NS, libc::CLOCK_BOOTTIME),
        (BPF_FUNC_KTIME_GET_TAI_NS, libc::CLOCK_TAI),
    ] {
        let before = shm::sys::clock_ns(clock);
        let now = bench.call(id, [0; 5]) as u64;
        let after = shm::sys::clock_ns(clock);
        assert!(before > 0 && before <= now && now <= after, "helper {id}");
    }
}

#[test]
fn strncmp_is_strncmp() {
    let bench = Bench::new();
    let compare = |a: &[u8], b: &[u8]| {
        let args = [address(a), a.len() as u64, address(b), 0, 0];
        bench.call(BPF_FUNC_STRNCMP, args).signum()
    };
    assert_eq!(compare(b"abc", b"abcdef\0"), 0);
    assert_eq!(compare(b"abc\0", b"abcdef\0"), -1);
    assert_eq!(compare(b"abd", b"abc\0"), 1);
    assert_eq!(compare(b"\0zz", b"\0"), 0);
}

#[test]
fn stacks_are_walked_over_frame_pointers() {
    use uapi::map::{BPF_F_USER_BUILD_ID, BPF_F_USER_STACK};
    let mut bench = Bench::new();
    // Two frames of {caller's frame, return address}; the last has no caller.
    let mut memory = [0u64; 5];
    let at = |index: usize, memory: &[u64]| address(&raw const memory[index]);
    memory[0] = 0x2222;
    memory[1] = at(3, &memory);
    memory[2] = 0x3333;
    memory[3] = 0;
    memory[4] = 0x4444;
    bench.regs.ip = 0x1111;
    bench.regs.sp = at(0, &memory);
    bench.regs.bp = at(1, &memory);
    let stack = |bench: &Bench, bytes: u64, flags: u64| {
        let to = [u64::MAX; 6];
        let args = [0, address(&to), bytes, flags, 0];
        (bench.call(BPF_FUNC_GET_STACK, args), to)
    };
    let (ret, to) = stack(&bench, 40, BPF_F_USER_STACK);
    assert_eq!((ret, to), (24, [0x1111, 0x3333, 0x4444, 0, 0, u64::MAX]));
    bench.at_entry = true;
    let (ret, to) = stack(&bench, 24, BPF_F_USER_STACK);
    assert_eq!(
        (ret, &to[..4]),
        (24, &[0x1111, 0x2222, 0x3333, u64::MAX][..])
    );
    let (ret, to) = stack(&bench, 24, BPF_F_USER_STACK | 3);
    assert_eq!((ret, &to[..4]), (8, &[0x4444, 0, 0, u64::MAX][..]));
    assert_eq!(stack(&bench, 24, BPF_F_USER_STACK | 4).0, 0);
    assert_eq!(
        stack(&bench, 24, BPF_F_USER_STACK | 5).0,
        Errno::EFAULT.ret()
    );
    assert_eq!(
        stack(&bench, 24, 0).0,
        Errno::EFAULT.ret(),
        "no kernel stack"
    );
    assert_eq!(stack(&bench, 20, BPF_F_USER_STACK).0, Errno::EINVAL.ret());
    let build_id = BPF_F_USER_STACK | BPF_F_USER_BUILD_ID;
    assert_eq!(stack(&bench, 24, build_id).0, Errno::EINVAL.ret());
    // Nobody knows these addresses: {status, no build id, address}.
    let (ret, to) = stack(&bench, 32, build_id);
    assert_eq!((ret, &to[..4]), (32, &[2, 0, 0, 0x1111][..]));
    assert_eq!(
        stack(&bench, 32, BPF_F_USER_BUILD_ID).0,
        Errno::EINVAL.ret(),
        "of a kernel stack"
    );
}

#[test]
fn a_vcpu_has_one_holder() {
    const THREADS: usize = 8;
    const ROUNDS: u64 = 200_000;
    thread::init();
    let region = segment(2 * shm::PAGE);
    let vcpus = Vcpus::new(region.sub(0, 2 * CLAIM_BYTES).unwrap()).unwrap();
    let values = region.sub(shm::PAGE, 2 * 64).unwrap();
    let missed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let Some(slot) = vcpus.claim(thread::ids()) else {
                        missed.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    // A program's `(*v)++`: a load and a store.
                    let value = values.u64_at(u64::from(slot) * 64).unwrap();
                    value.store(value.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    vcpus.release(slot);
                }
            });
        }
    });
    let read = |slot: u64| values.u64_at(slot * 64).unwrap().load(Ordering::Relaxed);
    assert_eq!(missed.into_inner(), 0);
    assert_eq!(read(0) + read(1), THREADS as u64 * ROUNDS);
}

#[test]
fn a_dead_holder_loses_its_vcpu() {
    thread::init();
    let region = segment(shm::PAGE);
    let vcpus = Vcpus::new(region.sub(0, 2 * CLAIM_BYTES).unwrap()).unwrap();
    // SAFETY: the child stores two words and is gone.
    let child = unsafe { libc::fork() };
    if child == 0 {
        for slot in 0..2 {
            let owner = region.u64_at(slot * CLAIM_BYTES).unwrap();
            owner.store(thread::ids().pid_tgid(), Ordering::Release);
        }
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    let held = |slot| {
        region
            .u64_at(slot * CLAIM_BYTES)
            .unwrap()
            .load(Ordering::Acquire)
    };
    assert_eq!((status, held(0) >> 32), (0, child as u64));
    let slot = vcpus.claim(thread::ids()).unwrap();
    assert_eq!(held(u64::from(slot)), thread::ids().pid_tgid());
    vcpus.release(slot);
    assert_eq!(held(u64::from(slot)), 0);
}

/// What a helper does for a map, and what is there in its place, if there is.
fn calls(map: &Map, id: u32) -> Vec<(HelperFn, u64)> {
    let helper = helpers::lookup(id).expect("a helper");
    let direct = map.direct(id).map(|direct| (direct.call, direct.map));
    [(helper.call, address(map))]
        .into_iter()
        .chain(direct)
        .collect()
}

#[test]
fn a_hash_answers_directly_as_by_helpers() {
    let bench = Bench::new();
    for key_size in [4u32, 8, 12] {
        let spec = |map_type| MapSpec {
            map_type,
            key_size,
            value_size: 24,
            max_entries: 2,
            ..MapSpec::default()
        };
        let make = |spec: &MapSpec| {
            let bytes = Map::storage_size(spec, 2)
                .unwrap()
                .next_multiple_of(shm::PAGE);
            Map::create(*spec, segment(bytes), 2).unwrap()
        };
        let others = [BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_PERCPU_HASH];
        for other in others.map(|other| make(&spec(other))) {
            assert!(other.direct(BPF_FUNC_MAP_LOOKUP_ELEM).is_none());
        }
        let spec = spec(BPF_MAP_TYPE_HASH);
        let directs = [BPF_FUNC_MAP_LOOKUP_ELEM, BPF_FUNC_MAP_UPDATE_ELEM]
            .map(|id| make(&spec).direct(id).is_some());
        assert_eq!(directs, [key_size != 12; 2]);

        // The same calls with every mixture of both.
        let mut answers = Vec::new();
        for way in 0..2 {
            let map = make(&spec);
            let call = |id, args: [u64; 3]| {
                let calls = calls(&map, id);
                let (call, first) = calls[way % calls.len()];
                let regs = &raw const bench.regs;
                let mut run = RunState::new(&raw const *bench.env, regs, 0, 0);
                let [key, value, flags] = args;
                // SAFETY: keys and values have the map's sizes, or are null.
                unsafe { call(first, key, value, flags, 0, run.as_run()) }
            };
            let mut said = Vec::new();
            for (step, key) in [0u8, 1, 0, 2, 1, 0].into_iter().enumerate() {
                // At every distance from a multiple of 8.
                let mut room = [0u64; 4];
                let at = room.as_mut_ptr().cast::<u8>().wrapping_add(step * 3 % 8);
                // SAFETY: 12 of the 32 bytes, none of which is used otherwise.
                unsafe { at.write_bytes(key, key_size as usize) };
                let value = [step as u64, u64::from(key), !0];
                let key = at as u64;
                for flags in [BPF_EXIST, BPF_NOEXIST, BPF_ANY, BPF_ANY, 4] {
                    let args = [key, address(&value), flags];
                    said.push(call(BPF_FUNC_MAP_UPDATE_ELEM, args) as i64);
                }
                let found = call(BPF_FUNC_MAP_LOOKUP_ELEM, [key, 0, 0]) as *const [u64; 3];
                // SAFETY: null or a value of the map.
                said.extend(unsafe { found.as_ref() }.map_or([-1; 3], |v| v.map(|w| w as i64)));
            }
            said.push(call(BPF_FUNC_MAP_UPDATE_ELEM, [0, 0, 0]) as i64);
            said.push(call(BPF_FUNC_MAP_LOOKUP_ELEM, [0, 0, 0]) as i64);
            answers.push(said);
        }
        let [helpers, direct] = answers.try_into().expect("two");
        assert_eq!(helpers, direct);
        let full = [Errno::ENOENT, Errno::E2BIG, Errno::E2BIG].map(Errno::ret);
        // The third key finds the map full.
        assert_eq!(helpers[3 * 8..3 * 8 + 3], full);
    }
}
