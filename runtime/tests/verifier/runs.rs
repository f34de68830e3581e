//! What programs with callbacks compute: in the JIT, in the interpreter and
//! in the running kernel.

use std::sync::Arc;

use bpftime_runtime::command::info::prog_info;
use bpftime_runtime::command::prog::{ProgBtf, ProgLoad};
use bpftime_runtime::command::{Bpf, MapObject};
use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::program::{linker, verify};
use bpftime_runtime::run::RunState;
use bpftime_runtime::session::{Dirs, Session};
use bpftime_runtime::types::Records;
use uapi::insn::{BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE};
use uapi::map::{
    BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH,
};
use vm::ProgramSpec;
use vm::interp::Interpreter;

use super::{Case, kernel};

/// bpf(2) on a session of its own, which lives as long as the directory.
pub fn session() -> (tempfile::TempDir, Bpf) {
    let root = tempfile::tempdir().expect("a directory");
    let dirs = Dirs {
        state: root.path().join("state"),
        sessions: root.path().join("sessions"),
    };
    let bpf = Bpf::new(Session::create(&dirs).expect("a session"));
    (root, bpf)
}

/// r0 of a run in the JIT and in one of the interpreter, each on fresh maps.
fn ours(case: &Case) -> [u32; 2] {
    let (_root, bpf) = session();
    ours_in(&bpf, case)
}

/// As [`ours`], in a session.
pub fn ours_in(bpf: &Bpf, case: &Case) -> [u32; 2] {
    let object = bpf.btf_load(case.types.finish()).expect("BTF");
    [false, true].map(|interpret| {
        let maps = case.maps.iter().map(|spec| {
            let btf = (spec.btf_value_type_id != 0).then(|| object.clone());
            bpf.map_create(*spec, btf, None).expect("a map")
        });
        let maps: Vec<Arc<MapObject>> = maps.collect();
        let mut insns = case.insns();
        for insn in &mut insns {
            if insn.code == 0x18 && matches!(insn.src(), BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE) {
                insn.imm = maps[insn.imm as usize - 1].id() as i32;
            }
        }
        let load = ProgLoad {
            spec: ProgramSpec {
                prog_type: case.prog_type,
                gpl: true,
                insns,
                ..ProgramSpec::default()
            },
            maps,
            btf: Some(ProgBtf {
                object: object.clone(),
                functions: case.func_info(),
                lines: Records::default(),
            }),
        };
        let prog = bpf.prog_load(load, None).expect("a program");
        if !interpret {
            return bpf.prog_test_run(&prog, &[]).expect("a run");
        }
        let session = bpf.session().expect("the session");
        // As an agent does: from what lies in the session.
        let stored = session.program(prog.id()).expect("the program");
        let verified = verify(session, stored, None).expect("verified once more");
        let interpreter = Interpreter::new(&verified, &linker(session)).expect("an interpreter");
        let mut run = RunState::new(std::ptr::null(), std::ptr::null(), 0, 0);
        run.vcpu = 0;
        // SAFETY: the program reads no ctx and calls helpers that need no more
        // of a run than its vCPU, which no other run holds here.
        unsafe { interpreter.run(std::ptr::null_mut(), run.as_run()) as u32 }
    })
}

/// All engines return `expected`.
#[track_caller]
fn returns(case: &Case, expected: u32) {
    assert_eq!(
        ours(case),
        [expected; 2],
        "JIT and interpreter\n{}",
        case.text
    );
    if let Some(theirs) = kernel::run(case) {
        assert_eq!(theirs, expected, "the kernel\n{}", case.text);
    }
}

/// A program with `callbacks` static functions, and a map.
pub fn case(text: &str, callbacks: usize, map_type: u32) -> Case {
    let mut case = Case::new(text);
    case.functions.push(case.types.func("main", true, 1, &[]));
    for number in 0..callbacks {
        let name = format!("cb{number}");
        case.functions.push(case.types.func(&name, false, 1, &[]));
    }
    case.maps.push(MapSpec {
        map_type,
        key_size: 4,
        value_size: 8,
        max_entries: 8,
        ..MapSpec::default()
    });
    case
}

/// `bpf_loop` with the 8 bytes below the frame pointer, which start as 7;
/// returns 1000 times its result plus those.
fn looped(count: &str, flags: &str, callback: &str) -> Case {
    let text = format!(
        "*(u64 *)(r10 - 8) = 7\nr1 = {count}\nr2 = func[cb]\nr3 = r10\nr3 += -8\nr4 = {flags}\ncall 181\n\
         r0 *= 1000\nr1 = *(u64 *)(r10 - 8)\nr0 += r1\nexit\ncb:\n{callback}"
    );
    case(&text, 1, BPF_MAP_TYPE_ARRAY)
}

#[test]
fn loops_count_from_zero() {
    let sum = "r3 = *(u64 *)(r2 + 0)\nr3 += r1\n*(u64 *)(r2 + 0) = r3\nr0 = 0\nexit";
    returns(&looped("10", "0", sum), 10_052);
    returns(&looped("1", "0", sum), 1_007);
    returns(&looped("0", "0", sum), 7);
    let stop = "r3 = *(u64 *)(r2 + 0)\nr3 += r1\n*(u64 *)(r2 + 0) = r3\nr0 = 0\nif r1 != 4 goto end\nr0 = 1\nend:\nexit";
    returns(&looped("10", "0", stop), 5_017);
}

#[test]
fn loops_that_the_kernel_refuses() {
    let add = "r0 = 0\nexit";
    let negative = |errno: i32| (-1000 * errno + 7) as u32;
    returns(&looped("4", "1", add), negative(libc::EINVAL));
    returns(&looped("8388609", "0", add), negative(libc::E2BIG));
    returns(&looped("-1", "0", add), negative(libc::E2BIG));
    returns(&looped("0x100000002 ll", "0", add), negative(libc::E2BIG));
    returns(
        &looped("8388608", "0", add),
        (8_388_608u32.wrapping_mul(1000)).wrapping_add(7),
    );
}

#[test]
fn loops_nest() {
    let call = |inner: &str| {
        format!("r6 = r2\nr1 = 3\nr2 = func[{inner}]\nr3 = r6\nr4 = 0\ncall 181\nr0 = 0\nexit\n")
    };
    let callback = format!(
        "{}cc:\n{}cd:\nr3 = *(u64 *)(r2 + 0)\nr3 += 1\n*(u64 *)(r2 + 0) = r3\nr0 = 0\nexit",
        call("cc"),
        call("cd")
    );
    let mut nested = looped("5", "0", &callback);
    for name in ["cc", "cd"] {
        let function = nested.types.func(name, false, 1, &[]);
        nested.functions.push(function);
    }
    returns(&nested, 5_052);
}

/// Fills `map[1]` with value 10 n under key n of `keys`, runs `callback` for
/// each element with the 8 bytes below the frame pointer, which start as 1,
/// and returns 1000000 times the result plus those.
fn each(map_type: u32, keys: &[u32], flags: &str, callback: &str) -> Case {
    let mut text = String::new();
    for key in keys {
        text.push_str(&format!(
            "*(u32 *)(r10 - 12) = {key}\n*(u64 *)(r10 - 24) = {}\nr1 = map[1]\nr2 = r10\nr2 += -12\n\
             r3 = r10\nr3 += -24\nr4 = 0\ncall 2\n",
            10 * key
        ));
    }
    text.push_str(&format!(
        "*(u64 *)(r10 - 8) = 1\nr1 = map[1]\nr2 = func[cb]\nr3 = r10\nr3 += -8\nr4 = {flags}\ncall 164\n\
         r0 *= 1000000\nr1 = *(u64 *)(r10 - 8)\nr0 += r1\nexit\ncb:\n{callback}"
    ));
    case(&text, 1, map_type)
}

/// Adds key and value to what the ctx points to.
const SUM: &str = "r5 = *(u32 *)(r2 + 0)\nr6 = *(u64 *)(r3 + 0)\nr5 += r6\nr6 = *(u64 *)(r4 + 0)\nr6 += r5\n*(u64 *)(r4 + 0) = r6\nr0 = 0\nexit";

#[test]
fn elements_of_arrays_come_in_order() {
    for map_type in [BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY] {
        returns(&each(map_type, &[3, 1], "0", SUM), 8_000_000 + 1 + 28 + 40);
        // Multiplied by 3 before each key is added: the order tells.
        let order = "r5 = *(u32 *)(r2 + 0)\nr6 = *(u64 *)(r4 + 0)\nr6 *= 3\nr6 += r5\n*(u64 *)(r4 + 0) = r6\nr0 = 0\nexit";
        let digits = (0..8).fold(1u32, |sum, key| sum * 3 + key);
        returns(&each(map_type, &[], "0", order), 8_000_000 + digits);
        let stop = "r0 = 1\nr1 = *(u32 *)(r2 + 0)\nif r1 == 5 goto end\nr0 = 0\nend:\nexit";
        returns(&each(map_type, &[], "0", stop), 6_000_001);
    }
}

#[test]
fn elements_of_hashes_come_once() {
    for map_type in [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_HASH] {
        returns(
            &each(map_type, &[3, 1, 700, 6], "0", SUM),
            4_000_000 + 1 + 11 * 710,
        );
        returns(&each(map_type, &[], "0", SUM), 1);
        returns(&each(map_type, &[3, 1, 7], "0", "r0 = 1\nexit"), 1_000_001);
        returns(
            &each(map_type, &[3], "4", SUM),
            (-1_000_000 * libc::EINVAL + 1) as u32,
        );
    }
}

#[test]
fn a_callback_may_delete_what_it_sees() {
    // Every element goes; the second walk finds none.
    let again = "r6 = r0\nr1 = map[1]\nr2 = func[cb]\nr3 = r10\nr3 += -8\nr4 = 0\ncall 164\nr0 *= 100\nr0 += r6\nr0 *= 1000000\n";
    let mut case = each(
        BPF_MAP_TYPE_HASH,
        &[3, 1, 7, 5, 2],
        "0",
        "call 3\nr0 = 0\nexit",
    );
    case.text = case.text.replace("r0 *= 1000000\n", again);
    returns(&case, 5_000_001);
}

#[test]
fn a_callback_changes_values_in_place() {
    let double = "r5 = *(u64 *)(r3 + 0)\nr5 *= 2\n*(u64 *)(r3 + 0) = r5\nr0 = 0\nexit";
    let again = "*(u32 *)(r10 - 12) = 3\nr1 = map[1]\nr2 = r10\nr2 += -12\ncall 1\nif r0 == 0 goto +1\nr0 = *(u64 *)(r0 + 0)\n";
    for map_type in [
        BPF_MAP_TYPE_HASH,
        BPF_MAP_TYPE_ARRAY,
        BPF_MAP_TYPE_PERCPU_ARRAY,
        BPF_MAP_TYPE_PERCPU_HASH,
    ] {
        let mut case = each(map_type, &[3, 1], "0", double);
        case.text = case.text.replace("r0 *= 1000000\n", again);
        returns(&case, 61);
    }
}

#[test]
fn programs_tell_their_functions_and_lines() {
    let mut case = case(
        "call f\nr0 = 0\nexit\nf:\nr0 = 0\nexit",
        1,
        BPF_MAP_TYPE_ARRAY,
    );
    case.lines = vec![0, 1, 3];
    let (_root, bpf) = session();
    let object = bpf.btf_load(case.types.finish()).expect("BTF");
    let load = ProgLoad {
        spec: ProgramSpec {
            prog_type: case.prog_type,
            gpl: true,
            insns: case.insns(),
            ..ProgramSpec::default()
        },
        maps: Vec::new(),
        btf: Some(ProgBtf {
            object: object.clone(),
            functions: case.func_info(),
            lines: case.line_info(),
        }),
    };
    let prog = bpf.prog_load(load, None).expect("a program");
    let info = prog_info(&prog);
    let word = |at: usize| u32::from_le_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    // btf_id, func_info_rec_size, nr_func_info, nr_line_info, line_info_rec_size
    let words = [128, 132, 144, 148, 172].map(word);
    assert_eq!(words, [object.id(), 8, 2, 3, 16]);
    let btf = prog.btf().expect("types");
    assert_eq!(btf.functions.bytes, case.func_info().bytes);
    assert_eq!(btf.lines.bytes, case.line_info().bytes);
}
