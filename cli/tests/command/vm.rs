//! `bpftime vm run` as a test suite calls it: bytecode on standard input,
//! memory as an argument, r0 on standard output or one line on stderr.

use std::fs::File;

use crate::common::{Place, check};

/// Bytecode in hexadecimal.
fn hex(text: &str) -> String {
    let insns = vm::asm::assemble(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let bytes = insns.iter().flat_map(|insn| insn.to_bytes());
    bytes.map(|byte| format!("{byte:02x} ")).collect()
}

#[track_caller]
fn run(program: &str, memory: &[&str], status: i32, stdout: &str, stderr: &str) {
    let place = Place::new();
    let file = place.file("program", program, 0o644);
    for engine in ["jit", "interp"] {
        let args = ["vm", "run"].iter().chain(memory);
        let mut command = place.bpftime(args.chain(&["--engine", engine]));
        command.stdin(File::open(&file).expect("the program"));
        check(&mut command, status, stdout, stderr);
    }
}

#[track_caller]
fn returns(text: &str, memory: &[&str], r0: &str) {
    run(&hex(text), memory, 0, &format!("{r0}\n"), "");
}

/// `happened` is what stands between the name and the advice.
#[track_caller]
fn refuses(text: &str, memory: &[&str], happened: &str) {
    let line = format!("bpftime: program: {happened}: nothing was run\n");
    run(&hex(text), memory, 1, "", &line);
}

#[test]
fn programs_find_memory_and_its_length() {
    returns(
        "r0 = *(u32 *)(r1 + 0)\nexit",
        &["11 22 33 44"],
        "0x44332211",
    );
    returns(
        "r0 = *(u8 *)(r1 + 8)\nexit",
        &["0001020304050607ff"],
        "0xff",
    );
    returns("r0 = r2\nexit", &["00  00  00 "], "0x3");
    returns("r0 = r1\nr0 += r2\nexit", &[], "0x0");
    returns(
        "*(u16 *)(r1 + 1) = 258\nr0 = *(u32 *)(r1 + 0)\nexit",
        &["ffffffff"],
        "0xff0102ff",
    );
    returns("r0 = -1\nexit", &[], "0xffffffffffffffff");
}

#[test]
fn what_rfc_9669_defines_runs() {
    returns("r0 = 7\nr0 /= 0\nexit", &[], "0x0");
    returns("r0 = 7\nr0 s%= 0\nexit", &[], "0x7");
    returns("r0 = 7\nr0 <<= 65\nexit", &[], "0xe");
    returns("r0 = 7\nexit\nr0 = 8\nexit", &[], "0x7");
}

#[test]
fn helpers_are_those_of_the_test_plugin() {
    let gather = "r1 = 1\nr2 = 2\nr3 = 3\nr4 = 4\nr5 = 5\ncall 0\nexit";
    returns(gather, &[], "0x102030405");
    returns("call 1\nr0 = 1\nexit", &["2a"], "0x1");
    returns("r1 = 99\ncall 3\nexit", &[], "0x9");
    returns(
        "r2 = r1\nr2 += 4\ncall 4\nexit",
        &["61620000 61620000"],
        "0x0",
    );
    returns("r1 = -1\ncall 5\nr0 = 2\nexit", &[], "0x2");
    refuses("call 6\nexit", &[], "instruction 0: no helper 6");
}

#[test]
fn accesses_outside_are_refused() {
    let outside = "invalid access to map value, value_size=3 off=0 size=4";
    let hint = "check the index against the size of the object before using it";
    refuses(
        "r0 = *(u32 *)(r1 + 0)\nexit",
        &["112233"],
        &format!("instruction 0: {outside}: {hint}"),
    );
    refuses(
        "r0 = 0\ngoto -2",
        &[],
        "instruction 0: infinite loop detected at insn 0: give the loop a bound",
    );
    refuses(
        "r0 = 0\nif r0 == 0 goto -1\nexit",
        &[],
        "instruction 1: infinite loop detected at insn 1: give the loop a bound",
    );
}

#[test]
fn malformed_programs_are_refused_in_one_line() {
    let advice = "give pairs of hexadecimal digits, eight bytes for each instruction";
    for (text, happened) in [
        ("", "0 bytes are no instructions"),
        ("95 00", "2 bytes are no instructions"),
        ("950", "odd number of hexadecimal digits"),
        ("9x", "'x' is no hexadecimal digit"),
    ] {
        run(
            text,
            &[],
            1,
            "",
            &format!("bpftime: program: {happened}: {advice}\n"),
        );
    }
    let odd = format!("bpftime: memory: odd number of hexadecimal digits: {advice}\n");
    run("9500000000000000", &["1"], 1, "", &odd);
    for (text, happened) in [
        (".insn 0xff", "unknown opcode 0xff"),
        (
            ".insn 0x8d",
            "unknown opcode 0x8d: calls through a register (callx) are not supported",
        ),
        (
            ".insn 0x20",
            "unknown opcode 0x20: legacy packet access (BPF_ABS, BPF_IND) is not supported",
        ),
        (
            ".insn 0x50",
            "unknown opcode 0x50: legacy packet access (BPF_ABS, BPF_IND) is not supported",
        ),
        ("goto +9", "leads to instruction 10, out of the program"),
        ("goto -2", "leads to instruction -1, out of the program"),
        (
            "if r1 == 0 goto +1",
            "leads to instruction 2, out of the program",
        ),
        ("call pc-2", "leads to instruction -1, out of the program"),
        ("r10 = 1", "r10 is read-only"),
    ] {
        refuses(
            &format!("{text}\nexit"),
            &[],
            &format!("instruction 0: {happened}"),
        );
    }
    refuses(
        "r0 = 0",
        &[],
        "instruction 0: last insn is not an exit or jmp",
    );
}
