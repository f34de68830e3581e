//! Spin locks, and other parts of map values that are more than bytes.

use bpftime_runtime::maps::MapSpec;
use uapi::Errno;
use uapi::map::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH};
use uapi::prog::{
    BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_PERF_EVENT, BPF_PROG_TYPE_RAW_TRACEPOINT,
    BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_TRACEPOINT,
};

use super::Case;

/// Puts an element of `map[1]` into r6, or leaves.
const LOOKUP: &str = "*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\nr1 = map[1]\ncall 1\nif r0 == 0 goto out\nr6 = r0\n";
/// Takes and gives back the lock of the value in r6.
const TAKE: &str = "r1 = r6\nr1 += 4\ncall 93\n";
const GIVE: &str = "r1 = r6\nr1 += 4\ncall 94\n";
const OUT: &str = "out:\nr0 = 0\nexit\n";

/// A traffic control program with a hash of {int, lock, int} of this part.
fn with(part: &str, bytes: u32, text: &str) -> Case {
    let mut case = Case::new(text);
    case.prog_type = BPF_PROG_TYPE_SCHED_CLS;
    let types = &mut case.types;
    let int = types.int("int", 4);
    let long = types.int("long", 8);
    let words: Vec<(&str, u32, u32)> = match bytes {
        4 => vec![("w", int, 0)],
        _ => (0..bytes / 8).map(|n| ("w", long, n * 8)).collect(),
    };
    let part = types.structure(part, bytes, &words);
    let at = if bytes == 4 { 4 } else { 8 };
    let value = types.structure(
        "value",
        at + bytes + 8,
        &[("a", int, 0), ("part", part, at), ("b", int, at + bytes)],
    );
    case.functions.push(types.func("main", true, int, &[]));
    case.maps.push(MapSpec {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: 4,
        value_size: at + bytes + 8,
        max_entries: 4,
        btf_key_type_id: int,
        btf_value_type_id: value,
        ..MapSpec::default()
    });
    case
}

fn locked(body: &str) -> Case {
    with("bpf_spin_lock", 4, &format!("{LOOKUP}{body}{OUT}"))
}

#[test]
fn a_lock_is_taken_and_given_back() {
    locked(&format!(
        "{TAKE}r0 = *(u32 *)(r6 + 0)\nr0 += 1\n*(u32 *)(r6 + 0) = r0\n{GIVE}"
    ))
    .accepted(&[]);
    locked(&format!("{TAKE}{GIVE}{TAKE}{GIVE}")).accepted(&[]);
    let leave = "BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region";
    locked(TAKE).refused(Errno::EINVAL, &[leave]);
    locked(&format!(
        "{TAKE}r0 = *(u32 *)(r6 + 0)\nif r0 == 1 goto out\n{GIVE}"
    ))
    .refused(Errno::EINVAL, &[leave]);
    locked(GIVE).refused(Errno::EINVAL, &["bpf_spin_unlock without taking a lock"]);
    locked(&format!("{TAKE}{GIVE}{GIVE}"))
        .refused(Errno::EINVAL, &["bpf_spin_unlock without taking a lock"]);
}

#[test]
fn one_lock_at_a_time_and_no_calls() {
    locked(&format!("{TAKE}{TAKE}{GIVE}")).refused(
        Errno::EINVAL,
        &["function calls are not allowed while holding a lock"],
    );
    locked(&format!("{TAKE}call 5\n{GIVE}")).refused(
        Errno::EINVAL,
        &["function calls are not allowed while holding a lock"],
    );
    // Another value of the same map is another lock.
    let other = "r7 = r6\nr2 = r10\nr2 += -4\nr1 = map[1]\ncall 1\nif r0 == 0 goto out\nr6 = r0\n";
    let text = format!("{other}{TAKE}r6 = r7\n{GIVE}");
    locked(&text).refused(Errno::EINVAL, &["bpf_spin_unlock of different lock"]);
    // A function of the program may be called, a global one not.
    let text = format!("{LOOKUP}{TAKE}call f\n{GIVE}{OUT}f:\nr0 = 0\nexit");
    let calls = |global: bool| {
        let mut case = with("bpf_spin_lock", 4, &text);
        let function = case.types.func("f", global, 1, &[]);
        case.functions.push(function);
        case
    };
    calls(false).accepted(&[]);
    calls(true).refused(
        Errno::EINVAL,
        &[
            "global function calls are not allowed while holding a lock,",
            "use static function instead",
        ],
    );
}

#[test]
fn the_lock_is_where_the_types_say() {
    locked("r1 = r6\ncall 93\n").refused(
        Errno::EINVAL,
        &["off 0 doesn't point to 'struct bpf_spin_lock' that is at 4"],
    );
    locked("r7 = *(u32 *)(r6 + 0)\nr7 &= 4\nr1 = r6\nr1 += r7\ncall 93\n").refused(
        Errno::EINVAL,
        &["R1 doesn't have constant offset. bpf_spin_lock has to be at the constant offset"],
    );
    locked("r1 = r10\nr1 += -4\ncall 93\n").refused(Errno::EACCES, &["R1 type=fp expected="]);
    with("other", 4, &format!("{LOOKUP}{TAKE}{GIVE}{OUT}"))
        .refused(Errno::EINVAL, &["has no valid bpf_spin_lock"]);
}

#[test]
fn nobody_looks_into_a_lock() {
    let direct = "bpf_spin_lock cannot be accessed directly by load/store";
    locked("r0 = *(u32 *)(r6 + 4)\n").refused(Errno::EACCES, &[direct]);
    locked("*(u8 *)(r6 + 7) = 1\n").refused(Errno::EACCES, &[direct]);
    locked("r0 = *(u64 *)(r6 + 0)\n").refused(Errno::EACCES, &[direct]);
    locked("r0 = *(u32 *)(r6 + 8)\nr0 = *(u32 *)(r6 + 0)\n").accepted(&[]);
    // Nor through a helper, nor at an offset that may hit it.
    locked("r1 = r6\nr2 = 8\nr3 = r6\nr4 = 0\ncall 6\n").refused(Errno::EACCES, &[direct]);
    locked("r1 = *(u32 *)(r6 + 0)\nr1 &= 7\nr6 += r1\nr0 = *(u8 *)(r6 + 0)\n")
        .refused(Errno::EACCES, &[direct]);
    for (part, bytes) in [("bpf_timer", 16), ("bpf_wq", 16)] {
        let case = with(
            part,
            bytes,
            &format!("{LOOKUP}r0 = *(u64 *)(r6 + 16)\n{OUT}"),
        );
        let text = format!("{part} cannot be accessed directly by load/store");
        case.refused(Errno::EACCES, &[&text]);
    }
}

#[test]
fn the_only_value_of_a_map_has_one_lock() {
    let text = format!("r6 = map_value[1] + 0\n{TAKE}r6 = map_value[1] + 0\n{GIVE}r0 = 0\nexit");
    let mut case = with("bpf_spin_lock", 4, &text);
    case.maps[0].map_type = BPF_MAP_TYPE_ARRAY;
    case.maps[0].max_entries = 1;
    case.accepted(&[]);
    let map = case.maps[0];
    case.maps.push(map);
    case.text = format!("r6 = map_value[1] + 0\n{TAKE}r6 = map_value[2] + 0\n{GIVE}r0 = 0\nexit");
    case.refused(Errno::EINVAL, &["bpf_spin_unlock of different lock"]);
}

#[test]
fn tracing_programs_have_no_locks() {
    for prog_type in [
        BPF_PROG_TYPE_KPROBE,
        BPF_PROG_TYPE_TRACEPOINT,
        BPF_PROG_TYPE_PERF_EVENT,
        BPF_PROG_TYPE_RAW_TRACEPOINT,
    ] {
        let mut case = locked("");
        case.prog_type = prog_type;
        case.refused(
            Errno::EINVAL,
            &["tracing progs cannot use bpf_spin_lock yet"],
        );
        let mut case = with("bpf_timer", 16, &format!("{LOOKUP}{OUT}"));
        case.prog_type = prog_type;
        case.refused(Errno::EINVAL, &["tracing progs cannot use bpf_timer yet"]);
    }
    let mut case = locked("");
    case.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    case.refused(
        Errno::EINVAL,
        &["socket filter progs cannot use bpf_spin_lock yet"],
    );
}

#[test]
fn a_lock_in_a_map_of_maps_is_out_of_sight() {
    let text = format!(
        "r1 = map[2]\n*(u32 *)(r10 - 4) = 0\nr2 = r10\nr2 += -4\ncall 1\nif r0 == 0 goto out\nr1 = r0\nr2 = r10\nr2 += -4\ncall 1\nif r0 == 0 goto out\nr6 = r0\n{TAKE}{GIVE}{OUT}"
    );
    let mut case = with("bpf_spin_lock", 4, &text);
    case.maps.push(MapSpec {
        map_type: uapi::map::BPF_MAP_TYPE_ARRAY_OF_MAPS,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        ..MapSpec::default()
    });
    case.inner = vec![0, 1];
    case.accepted(&[]);
    case.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT;
    case.accepted(&[]);
}
