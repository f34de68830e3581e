//! What programs get from the helpers of maps: the same calls by a program in
//! the kernel and by one of ours, on maps of every type that has keys or
//! takes elements. They know no expected result: the kernel does.

use std::collections::HashMap;
use std::fmt::Write;
use std::os::fd::AsRawFd;

use bpftime_runtime::command::prog::ProgLoad;
use bpftime_runtime::maps::MapSpec;
use uapi::Errno;
use uapi::helper::*;
use uapi::map::*;
use uapi::prog::{BPF_F_SLEEPABLE, BPF_PROG_TYPE_KPROBE};
use vm::ProgramSpec;

use super::{commands, kernels, ours, renamed, results, their_maps, their_program};

/// Calls of one program, and results that each leaves: three words.
const CALLS: u32 = 24;
const RESULT: u32 = 24;
/// Programs of each map.
const PROGRAMS: u64 = 12;

/// A small generator of numbers, seeded.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % end
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// A key's eight bytes.
fn key(spec: &MapSpec, random: &mut Random) -> u64 {
    let number = random.below(10);
    if spec.map_type != BPF_MAP_TYPE_LPM_TRIE {
        return number;
    }
    let length = random.of(&[0, 7, 8, 16, 24, 31, 32, 33]);
    length | random.of(&[0x0000_0000u64, 0x0000_00c0, 0x0001_a8c0, 0xffff_ffff]) << 32
}

/// What can be called on a map.
fn calls(spec: &MapSpec) -> &'static [u32] {
    match spec.map_type {
        BPF_MAP_TYPE_QUEUE | BPF_MAP_TYPE_STACK => &[
            BPF_FUNC_MAP_PUSH_ELEM,
            BPF_FUNC_MAP_PUSH_ELEM,
            BPF_FUNC_MAP_POP_ELEM,
            BPF_FUNC_MAP_PEEK_ELEM,
        ],
        BPF_MAP_TYPE_BLOOM_FILTER => &[
            BPF_FUNC_MAP_PUSH_ELEM,
            BPF_FUNC_MAP_PEEK_ELEM,
            BPF_FUNC_MAP_PEEK_ELEM,
        ],
        BPF_MAP_TYPE_PERCPU_HASH | BPF_MAP_TYPE_PERCPU_ARRAY | BPF_MAP_TYPE_LRU_PERCPU_HASH => &[
            BPF_FUNC_MAP_UPDATE_ELEM,
            BPF_FUNC_MAP_LOOKUP_ELEM,
            BPF_FUNC_MAP_DELETE_ELEM,
            BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM,
        ],
        _ => &[
            BPF_FUNC_MAP_UPDATE_ELEM,
            BPF_FUNC_MAP_UPDATE_ELEM,
            BPF_FUNC_MAP_LOOKUP_ELEM,
            BPF_FUNC_MAP_DELETE_ELEM,
        ],
    }
}

/// One call: the key is at -8, the value at -24, r6 to r8 become results.
fn call(spec: &MapSpec, number: u32, random: &mut Random) -> String {
    let id = random.of(calls(spec));
    let mut text = format!("r6 = 0\nr7 = 0\nr8 = 0\nr1 = {} ll\n", key(spec, random));
    // Few values, so that a bloom filter knows some.
    text += "*(u64 *)(r10 - 8) = r1\n";
    let word = random.below(12) * 0x0101_0101;
    let _ = write!(
        text,
        "r1 = {word} ll\n*(u64 *)(r10 - 24) = r1\n*(u64 *)(r10 - 16) = r1\nr1 = map[2]\n"
    );
    let flags = random.of(&[0u64, 0, 0, 1, 2, 3, 8, 1 << 33]);
    let value = "r6 = r0\nr7 = *(u64 *)(r10 - 24)\nr8 = *(u64 *)(r10 - 16)\n";
    match id {
        BPF_FUNC_MAP_PUSH_ELEM => {
            let _ = write!(
                text,
                "r2 = r10\nr2 += -24\nr3 = {flags} ll\ncall {id}\nr6 = r0\n"
            );
        }
        BPF_FUNC_MAP_POP_ELEM | BPF_FUNC_MAP_PEEK_ELEM => {
            let _ = write!(text, "r2 = r10\nr2 += -24\ncall {id}\n{value}");
        }
        BPF_FUNC_MAP_UPDATE_ELEM => {
            let room = "r2 = r10\nr2 += -8\nr3 = r10\nr3 += -24\n";
            let _ = write!(text, "{room}r4 = {flags} ll\ncall {id}\nr6 = r0\n");
        }
        BPF_FUNC_MAP_DELETE_ELEM => {
            let _ = write!(text, "r2 = r10\nr2 += -8\ncall {id}\nr6 = r0\n");
        }
        // On another CPU than the own one values are the kernel's own affair:
        // a CPU that is not there.
        BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM => {
            let end = format!("if r0 == 0 goto none{number}\nr6 = 1\nnone{number}:\n");
            let cpu = random.of(&[0, 0x7fff_ffff]);
            let _ = write!(text, "r2 = r10\nr2 += -8\nr3 = {cpu}\ncall {id}\n{end}");
        }
        _ => {
            let _ = write!(
                text,
                "r2 = r10\nr2 += -8\ncall {id}\nif r0 == 0 goto none{number}\n"
            );
            text += "r6 = 1\nr7 = *(u64 *)(r0 + 0)\nr8 = *(u64 *)(r0 + 8)\n";
            if random.below(2) == 0 {
                text += "r1 = 1\nlock *(u64 *)(r0 + 8) += r1\n*(u64 *)(r0 + 0) = r8\n";
            }
            let _ = writeln!(text, "none{number}:");
        }
    }
    let at = number * RESULT;
    text += "r9 = map_value[1]\n";
    for (register, place) in [(6, at), (7, at + 8), (8, at + 16)] {
        let _ = writeln!(text, "*(u64 *)(r9 + {place}) = r{register}");
    }
    text
}

fn program(spec: &MapSpec, random: &mut Random) -> String {
    let calls: String = (0..CALLS)
        .map(|number| call(spec, number, random))
        .collect();
    calls + "r0 = 7\nexit\n"
}

fn specs() -> Vec<MapSpec> {
    let of = |map_type, key_size, max_entries, map_flags| MapSpec {
        map_type,
        key_size,
        value_size: 16,
        max_entries,
        map_flags,
        ..MapSpec::default()
    };
    vec![
        of(BPF_MAP_TYPE_ARRAY, 4, 7, 0),
        of(BPF_MAP_TYPE_PERCPU_ARRAY, 4, 7, 0),
        of(BPF_MAP_TYPE_HASH, 8, 4, 0),
        of(BPF_MAP_TYPE_HASH, 8, 4, BPF_F_NO_PREALLOC),
        of(BPF_MAP_TYPE_PERCPU_HASH, 8, 4, 0),
        of(BPF_MAP_TYPE_LRU_HASH, 8, 2000, 0),
        of(BPF_MAP_TYPE_LRU_HASH, 8, 2000, BPF_F_NO_COMMON_LRU),
        of(BPF_MAP_TYPE_LRU_PERCPU_HASH, 8, 2000, 0),
        of(BPF_MAP_TYPE_LPM_TRIE, 8, 4, BPF_F_NO_PREALLOC),
        of(BPF_MAP_TYPE_LPM_TRIE, 8, 100, BPF_F_NO_PREALLOC),
        of(BPF_MAP_TYPE_QUEUE, 0, 3, 0),
        of(BPF_MAP_TYPE_STACK, 0, 3, 0),
        of(BPF_MAP_TYPE_BLOOM_FILTER, 0, 20, BPF_F_ZERO_SEED),
    ]
}

#[test]
fn helpers_answer_programs_as_the_kernel_does() {
    let mut compared = 0;
    let (commands, _root) = commands();
    for spec in specs() {
        for seed in 0..PROGRAMS {
            let text = program(&spec, &mut Random(seed));
            let insns = super::program(&text);
            let specs = [results(CALLS * RESULT), spec];
            let ours = ours(&commands, &insns, &HashMap::new(), &specs);
            match kernels(&insns, &HashMap::new(), &specs) {
                Ok(kernels) => assert_eq!(ours, kernels, "{spec:?}\n{text}"),
                Err(errno) => {
                    let may = std::env::var_os("CI").is_none() && errno == Errno::EPERM;
                    assert!(may, "the kernel says {errno}");
                    return;
                }
            }
            compared += 1;
        }
    }
    assert_eq!(compared, specs().len() as u64 * PROGRAMS);
}

/// Maps whose elements may go while a program sleeps are not for those that
/// may.
#[test]
fn sleepable_programs_name_the_maps_that_the_kernel_lets_them() {
    let (commands, _root) = commands();
    let others = [BPF_MAP_TYPE_PROG_ARRAY, BPF_MAP_TYPE_PERF_EVENT_ARRAY].map(|map_type| MapSpec {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 2,
        ..MapSpec::default()
    });
    let stacks = MapSpec {
        map_type: BPF_MAP_TYPE_STACK_TRACE,
        value_size: 80,
        ..others[0]
    };
    for spec in specs().into_iter().chain(others).chain([stacks]) {
        for flags in [0, BPF_F_SLEEPABLE] {
            let map = commands.map_create(spec, None, None).unwrap();
            let insns = super::program("r1 = map[1]\nr0 = 0\nexit\n");
            let load = ProgLoad {
                spec: ProgramSpec {
                    prog_type: BPF_PROG_TYPE_KPROBE,
                    prog_flags: flags,
                    gpl: true,
                    insns: renamed(&insns, |_| map.id() as i32, |_| 0),
                    ..ProgramSpec::default()
                },
                maps: vec![map.clone()],
                btf: None,
            };
            let ours = commands.prog_load(load, None).map(drop);
            let theirs = their_maps(&[spec]).and_then(|maps| {
                let insns = renamed(&insns, |_| maps[0].as_raw_fd(), |_| 0);
                their_program(BPF_PROG_TYPE_KPROBE, flags, &insns).map(drop)
            });
            if theirs == Err(Errno::EPERM) {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "in CI the kernel loads programs"
                );
                return;
            }
            assert_eq!(ours, theirs, "flags {flags}: {spec:?}");
        }
    }
}
