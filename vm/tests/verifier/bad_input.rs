//! Programs that no compiler writes: the same errno as the kernel's, a line
//! that says why, and neither a panic nor time or memory without bound.

use std::fmt::Write;

use uapi::insn::*;
use uapi::prog::*;
use uapi::{Errno, Insn};
use vm::ProgramSpec;
use vm::asm::assemble;
use vm::verifier::{Keep, Log, verify};

use super::pack::Pack;

fn pack(insns: Vec<Insn>) -> Pack {
    Pack {
        spec: ProgramSpec {
            prog_type: BPF_PROG_TYPE_KPROBE,
            gpl: true,
            insns,
            ..ProgramSpec::default()
        },
        maps: Vec::new(),
        captured: 0,
    }
}

/// Our errno (0: accepted) and the kernel's words for it.
fn verdict(pack: &Pack) -> (i32, String) {
    let mut log = Log::new(1, Keep::End(1 << 16));
    let result = verify(pack.spec.clone(), pack, Some(&mut log));
    let words = result.as_ref().err().map(|e| e.message.clone());
    if let Some(words) = &words {
        let kernels = words.split(": ").next().unwrap_or_default();
        assert!(log.text.contains(kernels), "{words} is not in {}", log.text);
    }
    let errno = result.err().map_or(0, |e| e.errno.0);
    (errno, words.unwrap_or_default())
}

const MOV: Insn = Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0);
const EXIT: Insn = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

/// Programs as text or raw slots, and words that our refusal has in it.
fn cases() -> Vec<(&'static str, Vec<Insn>, &'static str)> {
    let text = |text: &str| assemble(text).expect("the program assembles");
    let call = |distance| Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, distance);
    let wide = |src| Insn::new(BPF_LD | BPF_IMM | BPF_DW, 1, src, 0, 7);
    let half = Insn::new(0, 0, 0, 0, 0);
    let jump = |off| Insn::new(BPF_JMP | BPF_JA, 0, 0, off, 0);
    vec![
        ("no exit", vec![MOV], "last insn is not an exit or jmp"),
        (
            "half a wide instruction",
            vec![wide(0)],
            "invalid bpf_ld_imm64 insn",
        ),
        (
            "jump into a wide instruction",
            vec![jump(1), wide(0), half, MOV, EXIT],
            "jump into the middle of ldimm64 insn",
        ),
        (
            "jump to itself",
            vec![jump(-1), MOV, EXIT],
            "unreachable insn",
        ),
        ("jump out", vec![jump(100), MOV, EXIT], "jump out of range"),
        (
            "jump before the start",
            vec![MOV, jump(-3), EXIT],
            "jump out of range",
        ),
        ("a call of itself", vec![call(-1), EXIT], "too deep"),
        (
            "a call into the middle",
            vec![call(1), wide(0), half, MOV, EXIT],
            "last insn is not an exit or jmp",
        ),
        (
            "a call out of the program",
            vec![call(77), EXIT],
            "invalid destination",
        ),
        (
            "a map that does not exist",
            vec![wide(1), half, MOV, EXIT],
            "map",
        ),
        (
            "an unknown kind of wide load",
            vec![wide(9), half, MOV, EXIT],
            "ld_imm64",
        ),
        (
            "an unknown opcode",
            vec![Insn::new(0xff, 0, 0, 0, 0), EXIT],
            "opcode",
        ),
        (
            "a register that does not exist",
            vec![Insn::new(0xbf, 12, 1, 0, 0), EXIT],
            "R12 is invalid",
        ),
        (
            "reserved bits",
            vec![Insn::new(0xb7, 0, 3, 0, 0), EXIT],
            "reserved",
        ),
        (
            "an unknown helper",
            text("call 100000\nexit"),
            "invalid func unknown#100000",
        ),
        (
            "a helper without number",
            text("call 0\nexit"),
            "bpf_unspec#0",
        ),
        (
            "a negative helper",
            vec![Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, -1), EXIT],
            "invalid func unknown#-1",
        ),
        (
            "a poisoned field",
            text("call 195896080\nexit"),
            "unknown#195896080",
        ),
        (
            "a frame too large",
            text("*(u64 *)(r10 - 520) = 0\nr0 = 0\nexit"),
            "invalid write to stack",
        ),
        (
            "a write to r10",
            text("r10 = 0\nr0 = 0\nexit"),
            "frame pointer is read only",
        ),
        (
            "an endless loop",
            text("r0 = 0\nr0 += 0\ngoto -2\nexit"),
            "unreachable",
        ),
        (
            "an endless loop with a way out",
            text("r0 = *(u64 *)(r1 + 0)\nif r0 == 0 goto +1\ngoto -2\nexit"),
            "infinite loop detected",
        ),
        (
            "a shift too far",
            text("r0 = 1\nr0 <<= 64\nexit"),
            "invalid shift 64",
        ),
        (
            "a division by the constant 0",
            text("r0 = 1\nr0 /= 0\nexit"),
            "div by zero",
        ),
    ]
}

#[test]
fn refusals_have_the_kernels_errno() {
    let mut kernel = super::oracle::kernel();
    let mut differ = String::new();
    for (name, insns, words) in cases() {
        let pack = pack(insns);
        let (errno, message) = verdict(&pack);
        if errno == 0 || !message.contains(words) {
            let _ = writeln!(differ, "{name}: {errno} {message}");
        }
        let Some(kernel) = &mut kernel else { continue };
        let (theirs, log) = kernel.explain(&pack);
        if theirs != errno {
            let _ = writeln!(differ, "{name}: {errno} {message}; kernel {theirs} {log}");
        }
    }
    assert_eq!(differ, "");
}

/// Calls nest too deep, frames add up to too much. The kernel gives programs of
/// this type a stack of their own and lets each frame have 512 bytes; here all
/// of a chain is on the target's stack and shares them.
#[test]
fn chains_of_calls() {
    let mut kernel = super::oracle::kernel();
    let cases = [
        (8, 64, 0, 0),
        (8, 65, Errno::EACCES.0, 0),
        (9, 8, Errno::E2BIG.0, Errno::E2BIG.0),
        (2, 256, 0, 0),
        (2, 257, Errno::EACCES.0, 0),
        (1, 512, 0, 0),
        (1, 513, Errno::EACCES.0, Errno::EACCES.0),
    ];
    for (frames, bytes, expected, kernels) in cases {
        let mut text = String::new();
        for frame in 1..=frames {
            let at = u32::next_multiple_of(bytes, 8);
            let _ = writeln!(text, "*(u64 *)(r10 - {at}) = 0");
            if frame < frames {
                text.push_str("call pc+1\nexit\n");
            }
        }
        text.push_str("r0 = 0\nexit\n");
        let pack = pack(assemble(&text).expect("the chain assembles"));
        let (errno, message) = verdict(&pack);
        assert_eq!(errno, expected, "{frames} of {bytes}: {message}");
        if let Some(kernel) = &mut kernel {
            let (errno, log) = kernel.explain(&pack);
            assert_eq!(errno, kernels, "{frames} of {bytes}: {log}");
        }
    }
}

#[test]
fn a_million_instructions() {
    let mut kernel = super::oracle::kernel();
    for count in [999_999, 1_000_000] {
        let mut insns = vec![MOV; count];
        insns.push(EXIT);
        let pack = pack(insns);
        let (errno, message) = verdict(&pack);
        if let Some(kernel) = &mut kernel {
            assert_eq!(errno, kernel.verdict(&pack), "{count}: {message}");
        }
        // The exit is one more.
        let expected = if count < 1_000_000 { 0 } else { Errno::E2BIG.0 };
        assert_eq!(errno, expected, "{count}: {message}");
    }
}

/// Each branch doubles the paths, and nothing makes them meet.
#[test]
fn paths_without_end_are_given_up() {
    let mut kernel = super::oracle::kernel();
    let mut text = String::from("r6 = r1\nr7 = 0\n");
    for bit in 0..40 {
        let _ = writeln!(
            text,
            "r1 = *(u64 *)(r6 + {})\nif r1 == {bit} goto +1\nr7 += {}",
            bit % 20 * 8,
            1u64 << (bit % 30)
        );
    }
    // The number matters: it becomes an address.
    text.push_str("r7 &= 7\nr1 = r10\nr1 += -8\nr1 += r7\n*(u8 *)(r1 + 0) = 1\nr0 = 0\nexit");
    let pack = pack(assemble(&text).expect("the program assembles"));
    let (errno, message) = verdict(&pack);
    if let Some(kernel) = &mut kernel {
        assert_eq!(errno, kernel.verdict(&pack), "{message}");
    }
}
