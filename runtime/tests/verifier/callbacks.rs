//! Functions that helpers call back.

use bpftime_runtime::maps::MapSpec;
use uapi::Errno;
use uapi::map::{
    BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_RINGBUF,
};

use super::Case;

/// A program with `callbacks` static functions besides the first.
fn case(text: &str, callbacks: usize) -> Case {
    let mut case = Case::new(text);
    let int = case.types.int("int", 4);
    case.functions.push(case.types.func("main", true, int, &[]));
    for number in 0..callbacks {
        let name = format!("cb{number}");
        case.functions.push(case.types.func(&name, false, int, &[]));
    }
    case
}

/// `bpf_loop` of `cb` over the 8 bytes below the frame pointer, then `after`.
fn looped(count: &str, before: &str, callback: &str, after: &str) -> Case {
    case(
        &format!(
            "{before}\nr1 = {count}\nr2 = func[cb]\nr3 = r10\nr3 += -8\nr4 = 0\ncall 181\n{after}\ncb:\n{callback}"
        ),
        1,
    )
}

const START: &str = "*(u64 *)(r10 - 8) = 0";
const END: &str = "r0 = 0\nexit";
const COUNT: &str = "r3 = *(u64 *)(r2 + 0)\nr3 += 1\n*(u64 *)(r2 + 0) = r3\nr0 = 0\nexit";

#[test]
fn a_loop_converges_however_often_it_may_turn() {
    looped("100", START, COUNT, END).accepted(&[]);
    looped("8388608", START, COUNT, END).accepted(&[]);
    let stop = "r3 = *(u64 *)(r2 + 0)\nr0 = 1\nif r3 > 10 goto end\nr3 += 1\n*(u64 *)(r2 + 0) = r3\nr0 = 0\nend:\nexit";
    looped("1000", START, stop, END).accepted(&[]);
}

#[test]
fn what_a_callback_changes_is_not_known_after() {
    let after = "r1 = *(u64 *)(r10 - 8)\nr2 = r10\nr2 += r1\nr0 = *(u8 *)(r2 - 8)\nr0 = 0\nexit";
    looped("100", START, COUNT, after)
        .refused(Errno::EACCES, &["invalid read from stack R2 off=0"]);
    // It may not have run at all.
    let set = "*(u64 *)(r2 + 0) = 4\nr0 = 0\nexit";
    let after = "r1 = *(u64 *)(r10 - 8)\nr2 = r10\nr2 += r1\nr0 = *(u8 *)(r2 - 8)\nr0 = 0\nexit";
    looped("100", "*(u64 *)(r10 - 8) = 8", set, after)
        .refused(Errno::EACCES, &["invalid read from stack R2 off=0"]);
    looped("100", START, set, after).accepted(&[]);
}

#[test]
fn a_constant_count_is_a_count() {
    // After one turn the index is in bounds, after two it is not.
    let add = "r3 = *(u64 *)(r2 + 0)\nr3 += 8\n*(u64 *)(r2 + 0) = r3\nr0 = 0\nexit";
    let after = "r1 = *(u64 *)(r10 - 8)\nr2 = r10\nr2 += r1\nr0 = *(u8 *)(r2 - 16)\nr0 = 0\nexit";
    looped("1", START, add, after).accepted(&[]);
    looped("2", START, add, after).refused(Errno::EACCES, &["R2 off=0 size=1"]);
    looped("0", START, add, after).accepted(&[]);
}

#[test]
fn what_a_callback_gets() {
    // An unknown index.
    let index = "r3 = r10\nr3 += r1\nr0 = *(u8 *)(r3 - 8)\nr0 = 0\nexit";
    looped("4", START, index, END).refused(Errno::EINVAL, &["unbounded"]);
    // No third argument.
    looped("4", START, "r0 = r3\nexit", END).refused(Errno::EACCES, &["R3 !read_ok"]);
    // Its own frame is not the caller's.
    looped("4", START, "r0 = *(u64 *)(r2 + 8)\nr0 = 0\nexit", END)
        .refused(Errno::EACCES, &["R2 off=0 size=8"]);
    let null = "r1 = 4\nr2 = func[cb]\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\ncb:\n";
    case(&format!("{null}r0 = r2\nexit"), 1).accepted(&[]);
    case(&format!("{null}r0 = *(u64 *)(r2 + 0)\nexit"), 1)
        .refused(Errno::EACCES, &["R2 invalid mem access 'scalar'"]);
}

#[test]
fn a_callback_returns_zero_or_one() {
    looped("4", START, "r0 = 2\nexit", END).refused(
        Errno::EINVAL,
        &["At callback return the register R0 has smin=2 smax=2 should have been in [0, 1]"],
    );
    looped("4", START, "r0 = r1\nexit", END).refused(
        Errno::EINVAL,
        &["At callback return the register R0 has unknown scalar value should have been in [0, 1]"],
    );
    looped("4", START, "r0 = r1\nr0 &= 1\nexit", END).accepted(&[]);
    looped("4", START, "r0 = r2\nexit", END).refused(
        Errno::EINVAL,
        &["cannot return stack pointer to the caller"],
    );
}

#[test]
fn arguments_of_the_helper() {
    let text = "r1 = 4\nr2 = 0\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit";
    case(text, 0).refused(Errno::EACCES, &["R2 type=scalar expected=func"]);
    let text = "r3 = r1\nr1 = 4\nr2 = func[cb]\nr4 = 0\ncall 181\nr0 = 0\nexit\ncb:\nr0 = 0\nexit";
    case(text, 1).refused(Errno::EACCES, &["R3 type=ctx expected=fp"]);
    // A callback needs types, and is static.
    let text = "r1 = 4\nr2 = func[cb]\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\ncb:\nr0 = 0\nexit";
    let mut untyped = case(text, 1);
    untyped.functions.clear();
    untyped.refused(Errno::EINVAL, &["missing btf func_info"]);
    let mut global = case(text, 1);
    let int = 1;
    global.functions[1] = global.types.func("g", true, int, &[]);
    global.refused(Errno::EINVAL, &["callback function not static"]);
}

#[test]
fn callbacks_nest_up_to_the_last_frame() {
    let inner =
        "r1 = 3\nr2 = func[deeper]\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\ndeeper:\nr0 = 0\nexit";
    case(
        &format!("r1 = 3\nr2 = func[cb]\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\ncb:\n{inner}"),
        2,
    )
    .accepted(&[]);
    let itself = "r1 = 3\nr2 = func[cb]\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\ncb:\nr1 = 3\nr2 = func[cb]\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit";
    case(itself, 1).refused(Errno::E2BIG, &["the call stack of"]);
}

/// `bpf_for_each_map_elem` over a map of this type.
fn each(map_type: u32, key_size: u32, callback: &str) -> Case {
    let text = format!(
        "r1 = map[1]\nr2 = func[cb]\nr3 = 0\nr4 = 0\ncall 164\nr0 = 0\nexit\ncb:\n{callback}"
    );
    let mut case = case(&text, 1);
    case.maps.push(MapSpec {
        map_type,
        key_size,
        value_size: if map_type == BPF_MAP_TYPE_RINGBUF {
            0
        } else {
            16
        },
        max_entries: if map_type == BPF_MAP_TYPE_RINGBUF {
            4096
        } else {
            4
        },
        ..MapSpec::default()
    });
    case
}

#[test]
fn elements_are_key_and_value() {
    let sum = "r5 = *(u32 *)(r2 + 0)\nr6 = *(u64 *)(r3 + 8)\nr6 += r5\n*(u64 *)(r3 + 8) = r6\nr0 = 0\nexit";
    for (map_type, key) in [
        (BPF_MAP_TYPE_ARRAY, 4),
        (BPF_MAP_TYPE_HASH, 8),
        (BPF_MAP_TYPE_PERCPU_ARRAY, 4),
    ] {
        each(map_type, key, sum).accepted(&[]);
    }
    each(BPF_MAP_TYPE_HASH, 8, "r0 = *(u64 *)(r2 + 4)\nr0 = 0\nexit")
        .refused(Errno::EACCES, &["off=4 size=8"]);
    each(BPF_MAP_TYPE_HASH, 8, "*(u64 *)(r2 + 0) = 1\nr0 = 0\nexit")
        .refused(Errno::EACCES, &["write to change key R2 not allowed"]);
    each(BPF_MAP_TYPE_HASH, 8, "r0 = *(u64 *)(r3 + 16)\nr0 = 0\nexit").refused(
        Errno::EACCES,
        &["invalid access to map value, value_size=16 off=16 size=8"],
    );
    // Keys and maps may be passed on.
    each(BPF_MAP_TYPE_HASH, 8, "call 3\nr0 = 0\nexit").accepted(&[]);
    each(BPF_MAP_TYPE_RINGBUF, 0, "r0 = 0\nexit")
        .refused(Errno::ENOTSUPP, &["callback function not allowed for map"]);
}

#[test]
fn a_callback_gives_back_what_it_took() {
    let take = "r1 = map[1]\nr2 = 8\nr3 = 0\ncall 131\n";
    let program = |callback: &str| {
        let text = format!(
            "r1 = 4\nr2 = func[cb]\nr3 = 0\nr4 = 0\ncall 181\nr0 = 0\nexit\ncb:\n{callback}"
        );
        let mut case = case(&text, 1);
        case.maps.push(MapSpec {
            map_type: BPF_MAP_TYPE_RINGBUF,
            max_entries: 4096,
            ..MapSpec::default()
        });
        case
    };
    let give = "if r0 == 0 goto end\nr1 = r0\nr2 = 0\ncall 132\nend:\nr0 = 0\nexit";
    program(&format!("{take}{give}")).accepted(&[]);
    program(&format!("{take}r0 = 0\nexit")).refused(Errno::EINVAL, &["Unreleased reference id="]);
}
