//! Global functions.

use bpftime_runtime::maps::MapSpec;
use uapi::Errno;
use uapi::btf::BTF_KIND_FWD;
use uapi::map::BPF_MAP_TYPE_PROG_ARRAY;

use super::Case;

/// Ids of the types that the functions here need.
struct Types {
    int: u32,
    /// Pointer to a structure of 8 bytes.
    pair: u32,
}

fn types(case: &mut Case) -> Types {
    let int = case.types.int("int", 4);
    let pair = case
        .types
        .structure("pair", 8, &[("a", int, 0), ("b", int, 4)]);
    let pair = case.types.ptr(pair);
    Types { int, pair }
}

/// A program of a static main and one function `f` of such parameters.
fn with_function(text: &str, global: bool, params: impl Fn(&mut Case, &Types) -> Vec<u32>) -> Case {
    let mut case = Case::new(text);
    let types = types(&mut case);
    let params = params(&mut case, &types);
    let params: Vec<(&str, u32)> = params.into_iter().map(|ty| ("p", ty)).collect();
    let main = case.types.func("main", true, types.int, &[]);
    let function = case.types.func("f", global, types.int, &params);
    case.functions = vec![main, function];
    case
}

#[test]
fn a_global_function_is_verified_once_and_assumed_valid() {
    let text = "r1 = 7\ncall f\nr1 = r0\ncall f\nr0 = 0\nexit\nf:\nr0 = r1\nexit";
    let case = with_function(text, true, |_, types| vec![types.int]);
    case.accepted(&[
        "Func#1 ('f') is global and assumed valid.",
        "Validating f() func#1...",
        "Func#1 ('f') is safe for any args that match its prototype",
    ]);
}

#[test]
fn what_a_global_function_returns_is_any_number() {
    // As a static function it returns 0, and memory below 0 is not touched.
    let text = "call f\nr1 = r10\nr1 += r0\nr0 = *(u64 *)(r1 - 8)\nr0 = 0\nexit\nf:\nr0 = 0\nexit";
    let case = with_function(text, true, |_, _| vec![]);
    case.refused(Errno::EINVAL, &["unbounded min value"]);
    with_function(text, false, |_, _| vec![]).accepted(&[]);
}

#[test]
fn a_global_function_knows_only_its_prototype() {
    // The caller passes 0, the function must be safe for any number.
    let text =
        "r1 = 0\ncall f\nexit\nf:\nr2 = r10\nr2 += -8\nr2 += r1\n*(u8 *)(r2 + 0) = 0\nr0 = 0\nexit";
    with_function(text, false, |_, types| vec![types.int]).accepted(&[]);
    let case = with_function(text, true, |_, types| vec![types.int]);
    case.refused(Errno::EINVAL, &["Validating f() func#1...", "unbounded"]);
}

const STACK_PAIR: &str = "*(u64 *)(r10 - 8) = 0\nr1 = r10\nr1 += -8\ncall f\nr0 = 0\nexit\nf:\n";

#[test]
fn memory_is_checked_for_null_by_the_function() {
    let pair = |_: &mut Case, types: &Types| vec![types.pair];
    let text =
        format!("{STACK_PAIR}r0 = 0\nif r1 == 0 goto end\nr0 = *(u32 *)(r1 + 4)\nend:\nexit");
    with_function(&text, true, pair).accepted(&["R1=mem_or_null(id=", "sz=8)"]);
    let text = format!("{STACK_PAIR}r0 = *(u32 *)(r1 + 4)\nexit");
    with_function(&text, true, pair)
        .refused(Errno::EACCES, &["R1 invalid mem access 'mem_or_null'"]);
    let text =
        format!("{STACK_PAIR}r0 = 0\nif r1 == 0 goto end\nr0 = *(u64 *)(r1 + 4)\nend:\nexit");
    with_function(&text, true, pair).refused(
        Errno::EACCES,
        &["invalid access to memory, mem_size=8 off=4 size=8"],
    );
}

#[test]
fn callers_lend_memory_that_is_there() {
    let pair = |_: &mut Case, types: &Types| vec![types.pair];
    let function = "call f\nr0 = 0\nexit\nf:\nr0 = 0\nexit";
    let call = |before: &str| format!("{before}\n{function}");
    with_function(&call("r1 = 0"), true, pair).accepted(&[]);
    with_function(&call("r1 = 1"), true, pair).refused(
        Errno::EINVAL,
        &["Caller passes invalid args into func#1 ('f')"],
    );
    with_function(&call("r1 = r10\nr1 += -4"), true, pair).refused(
        Errno::EINVAL,
        &["Caller passes invalid args into func#1 ('f')"],
    );
    with_function(&call("r2 = 0"), true, pair).refused(
        Errno::EINVAL,
        &["Caller passes invalid args into func#1 ('f')"],
    );
    with_function(&call("r0 = 0"), true, |_, types| vec![types.int])
        .refused(Errno::EINVAL, &["R1 is not a scalar"]);
}

#[test]
fn what_was_lent_may_have_changed() {
    // r2 holds 0 before the call and anything after it.
    let text = format!(
        "{}r0 = 0\nexit",
        STACK_PAIR.replace(
            "call f\n",
            "call f\nr1 = r10\nr2 = *(u64 *)(r10 - 8)\nr1 += r2\nr0 = *(u8 *)(r1 - 16)\n"
        )
    );
    let case = with_function(&text, true, |_, types| vec![types.pair]);
    case.refused(Errno::EINVAL, &["unbounded min value"]);
}

#[test]
fn tags_say_what_a_pointer_is() {
    let tagged = |text: &str, tag: &str| {
        let mut case = with_function(text, true, |_, types| vec![types.pair]);
        let function = case.functions[1];
        case.types.tag(tag, function, 0);
        case
    };
    let text = format!("{STACK_PAIR}r0 = *(u32 *)(r1 + 4)\nexit");
    tagged(&text, "arg:nonnull").accepted(&["R1=mem(sz=8)"]);
    tagged(&text, "arg:nullable")
        .refused(Errno::EINVAL, &["arg#0 has invalid combination of tags"]);
    tagged(&text, "arg:other").refused(Errno::EOPNOTSUPP, &["arg#0 has unsupported set of tags"]);
    tagged(&text, "arg:ctx").refused(
        Errno::EINVAL,
        &["arg#0 should be `struct bpf_raw_tracepoint_args *`"],
    );
    let ctx = "call f\nr0 = 0\nexit\nf:\nr0 = *(u64 *)(r1 + 8)\nexit";
    let ctx_case = |text: &str| {
        let mut case = with_function(text, true, |case, _| vec![case.types.ptr(0)]);
        let function = case.functions[1];
        case.types.tag("arg:ctx", function, 0);
        case
    };
    ctx_case(ctx).accepted(&["R1=ctx()"]);
    ctx_case(&format!("r1 = 0\n{ctx}")).refused(Errno::EINVAL, &["arg#0 expects pointer to ctx"]);
    ctx_case(&format!("r1 += 8\n{ctx}"))
        .refused(Errno::EACCES, &["dereference of modified ctx ptr R1"]);
}

#[test]
fn prototypes_that_cannot_be_verified() {
    let call = "r1 = 0\ncall f\nr0 = 0\nexit\nf:\nr0 = 0\nexit";
    let refused = |params: &dyn Fn(&mut Case, &Types) -> Vec<u32>, words: &str| {
        let words = [words, "Caller passes invalid args into func#1 ('f')"];
        with_function(call, true, params).refused(Errno::EINVAL, &words);
        with_function(call, false, params).accepted(&[]);
    };
    refused(
        &|case, _| vec![case.types.ptr(0)],
        "arg#0 reference type('UNKNOWN ') size cannot be determined: -22",
    );
    refused(
        &|case, _| {
            let later = case.types.raw("later", BTF_KIND_FWD, 0, 0, &[]);
            vec![case.types.ptr(later)]
        },
        "arg#0 reference type('FWD later') size cannot be determined: -22",
    );
    refused(
        &|case, types| vec![case.types.structure("s", 4, &[("a", types.int, 0)])],
        "Arg#0 type STRUCT in f() is not supported yet.",
    );
    refused(
        &|_, types| vec![types.int; 6],
        "Global function f() with 6 > 5 args. Buggy compiler.",
    );
    let mut case = Case::new(call);
    let types = types(&mut case);
    let main = case.types.func("main", true, types.int, &[]);
    let function = case.types.func("f", true, types.pair, &[]);
    case.functions = vec![main, function];
    case.refused(
        Errno::EINVAL,
        &["Global function f() doesn't return scalar. Only those are supported."],
    );
}

#[test]
fn a_global_function_returns_a_number_and_keeps_nothing() {
    let text = "r1 = 0\ncall f\nr0 = 0\nexit\nf:\nr0 = r10\nexit";
    with_function(text, true, |_, types| vec![types.int]).refused(
        Errno::EINVAL,
        &["At subprogram exit the register R0 is not a scalar value (fp)"],
    );
    // Both may call themselves only so often.
    let text = "call f\nr0 = 0\nexit\nf:\ncall f\nr0 = 0\nexit";
    with_function(text, true, |_, _| vec![]).refused(Errno::E2BIG, &["the call stack of"]);
}

#[test]
fn a_function_that_nothing_reaches_is_not_walked() {
    let text =
        "r0 = 0\nif r0 == 0 goto end\ncall f\nend:\nr0 = 0\nexit\nf:\nr0 = *(u64 *)(r1 + 0)\nexit";
    with_function(text, true, |_, types| vec![types.int]).accepted(&[]);
}

#[test]
fn functions_are_where_the_types_say() {
    let text = "r1 = 0\ncall f\nr0 = 0\nexit\nf:\nr0 = 0\nexit";
    let mut case = with_function(text, false, |_, types| vec![types.int]);
    let both = case.functions.clone();
    case.functions = vec![both[0]];
    case.refused(
        Errno::EINVAL,
        &["number of funcs in func_info doesn't match number of subprogs"],
    );
    case.functions = vec![both[0], 1];
    case.refused(Errno::EINVAL, &["invalid type id 1 in func info"]);
}

#[test]
fn nobody_calls_the_exception_callback() {
    let text = "r1 = 0\ncall f\nr0 = 0\nexit\nf:\nr0 = 0\nexit";
    for global in [false, true] {
        let mut case = with_function(text, global, |_, types| vec![types.int]);
        let main = case.functions[0];
        case.types.tag("exception_callback:f", main, -1);
        // The kernel takes only a global one for it in the first place.
        let words = if global {
            "insn 1 cannot call exception cb directly"
        } else {
            ""
        };
        case.refused(Errno::EINVAL, &[words]);
    }
}

#[test]
fn lines_begin_where_functions_do() {
    // Instructions 0 and 1 are one load.
    let text = "r1 = 7 ll\ncall f\nr0 = 0\nexit\nf:\nr0 = 0\nexit";
    let with_lines = |lines: &[u32]| {
        let mut case = with_function(text, false, |_, types| vec![types.int]);
        case.lines = lines.to_vec();
        case
    };
    with_lines(&[0, 2, 5]).accepted(&[]);
    let refused = |lines: &[u32], words: &str| with_lines(lines).refused(Errno::EINVAL, &[words]);
    refused(
        &[0, 2],
        "missing bpf_line_info for 1 funcs starting from func#1",
    );
    refused(&[0, 2, 6], "missing bpf_line_info for func#1");
    refused(&[2, 5], "missing bpf_line_info for func#0");
    refused(
        &[0, 2, 2, 5],
        "Invalid line_info[2].insn_off:2 (prev_offset:2 prog->len:7)",
    );
    refused(
        &[0, 5, 7],
        "Invalid line_info[2].insn_off:7 (prev_offset:5 prog->len:7)",
    );
    refused(&[0, 1, 5], "Invalid insn code at line_info[1].insn_off");
}

#[test]
fn tail_calls_leave_functions_that_return_numbers() {
    let tail = "r2 = map[1]\nr3 = 0\ncall 12\nr0 = 0\nexit";
    let program = |ret: fn(&Types) -> u32| {
        let mut case = Case::new(&format!("call f\nr0 = 0\nexit\nf:\n{tail}"));
        let types = types(&mut case);
        let main = case.types.func("main", true, types.int, &[]);
        let ret = ret(&types);
        let function = case.types.func("f", false, ret, &[]);
        case.functions = vec![main, function];
        case.maps.push(MapSpec {
            map_type: BPF_MAP_TYPE_PROG_ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            ..MapSpec::default()
        });
        case
    };
    program(|types| types.int).accepted(&[]);
    let words = "tail_call is only allowed in functions that return 'int'.";
    program(|types| types.pair).refused(Errno::EINVAL, &[words]);
    program(|_| 0).refused(Errno::EINVAL, &[words]);
    let mut untyped = program(|types| types.int);
    untyped.functions.clear();
    untyped.refused(
        Errno::EINVAL,
        &["tail_call is not allowed in subprogs without BTF"],
    );
}
