//! The log line for line beside the kernel's, and what it adds of its own.

use uapi::prog::*;
use vm::ProgramSpec;
use vm::asm::assemble;
use vm::program::{FuncRet, FunctionInfo, LineInfo, Linkage};
use vm::verifier::{Keep, Log, verify};

use super::pack::Pack;

/// Straight code, scalars of all kinds, spills, branches, a subprogram.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "numbers and spills",
        "r0 = 0
        *(u64 *)(r10 - 8) = r0
        r1 = *(u64 *)(r10 - 8)
        r6 = r10
        call 7
        r0 &= 255
        r7 = r6
        r7 = -3
        r2 = 0x700000005 ll
        r0 = 0
        exit",
    ),
    (
        "a subprogram",
        "r6 = 1
        r1 = 7
        call pc+2
        r0 += 1
        exit
        r0 = r1
        *(u64 *)(r10 - 8) = r0
        exit",
    ),
    (
        "branches",
        "r6 = *(u64 *)(r1 + 0)
        r7 = *(u32 *)(r1 + 8)
        r0 = 0
        if r6 s> -5 goto +1
        r0 = 1
        w7 >>= 4
        if w7 == 3 goto +1
        r0 = 2
        r7 = be16 r7
        r0 ^= r7
        exit",
    ),
    (
        "a read of nothing",
        "r0 = r3
        exit",
    ),
    (
        "memory that is no pointer",
        "call 14
        r1 = *(u8 *)(r0 + 4)
        exit",
    ),
    (
        "an unknown helper",
        "r1 = 0
        call 4000
        exit",
    ),
];

fn pack(text: &str) -> Pack {
    Pack {
        spec: ProgramSpec {
            prog_type: BPF_PROG_TYPE_KPROBE,
            gpl: true,
            insns: assemble(text).expect("the program assembles"),
            ..ProgramSpec::default()
        },
        maps: Vec::new(),
        captured: 0,
    }
}

fn ours(pack: &Pack, level: u32, keep: Keep) -> (Log, Option<i32>) {
    let mut log = Log::new(level, keep);
    let result = verify(pack.spec.clone(), pack, Some(&mut log));
    (log, result.err().map(|e| e.errno.0))
}

/// How the path goes on behind the call in "a subprogram".
const RETURN: &str = "from 7 to 3";

/// Lines without those that tell how the verifier works inside: precision,
/// liveness, our explanations, and the counts of states.
fn outside(log: &str) -> Vec<String> {
    let inside = [
        "mark_precise",
        "Live regs",
        "      ",
        "(",
        "processed",
        "  ",
    ];
    let mut lines: Vec<String> = log
        .lines()
        // Which of the later paths are cut off is each verifier's own affair.
        .take_while(|line| !line.starts_with("from ") || line.starts_with(RETURN))
        .filter(|line| !line.is_empty() && !inside.iter().any(|start| line.starts_with(start)))
        .map(str::to_owned)
        .collect();
    for line in &mut lines {
        // Ids are numbered as they come up, and we need more or fewer.
        while let Some(start) = line.find("id=") {
            let rest = &line[start + 3..];
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let comma = usize::from(rest[digits..].starts_with(','));
            line.replace_range(start..start + 3 + digits + comma, "");
        }
    }
    lines
}

#[test]
fn lines_are_the_kernels() {
    let Some(mut kernel) = super::oracle::kernel() else {
        return;
    };
    for (name, text) in PROGRAMS {
        let pack = pack(text);
        for level in [1, 2] {
            let theirs = kernel.log(&pack, level);
            let (log, _) = ours(&pack, level, Keep::End(1 << 20));
            assert_eq!(
                outside(&log.text),
                outside(&theirs),
                "{name} at level {level}"
            );
        }
    }
}

#[test]
fn a_short_buffer_keeps_the_end_and_counts_all() {
    let pack = pack(PROGRAMS[0].1);
    let (whole, _) = ours(&pack, 2, Keep::End(1 << 20));
    let (end, _) = ours(&pack, 2, Keep::End(100));
    let (start, _) = ours(&pack, 2, Keep::Start(100));
    assert_eq!(end.true_len(), whole.true_len());
    assert_eq!(start.true_len(), whole.true_len());
    assert!(whole.text.ends_with(&end.text) && end.text.len() >= 100);
    assert_eq!(start.text, whole.text[..100]);
}

#[test]
fn statistics_alone() {
    let (log, _) = ours(&pack(PROGRAMS[1].1), 4, Keep::End(1 << 20));
    let lines: Vec<&str> = log.text.lines().collect();
    assert!(lines[0].starts_with("verification time ") && lines[0].ends_with(" usec"));
    assert_eq!(lines[1], "stack depth 0+8");
    assert!(lines[2].starts_with("processed 8 insns (limit 1000000) "));
    assert_eq!(lines.len(), 3);
}

#[test]
fn a_refusal_is_explained() {
    let mut pack = pack("r6 = *(u64 *)(r1 + 0)\nr0 = *(u8 *)(r6 + 4)\nexit");
    pack.spec.info.functions.push(FunctionInfo {
        insn: 0,
        name: "on_hit".to_owned(),
        linkage: Linkage::Global,
        args: Vec::new(),
        ret: FuncRet::Scalar,
        exception_cb: false,
    });
    for (insn, line, text) in [(0, 7, "  char *p = ctx->r15;"), (1, 8, "  return p[4];")] {
        pack.spec.info.lines.push(LineInfo {
            insn,
            file: "/src/hit.bpf.c".to_owned(),
            line,
            column: 3,
            text: text.to_owned(),
        });
    }
    let (log, errno) = ours(&pack, 1, Keep::End(1 << 20));
    assert_eq!(errno, Some(libc::EACCES));
    let expected = "\
0: R1=ctx() R10=fp0
; char *p = ctx->r15; @ hit.bpf.c:7
0: (79) r6 = *(u64 *)(r1 +0)          ; R1=ctx() R6=scalar()
; return p[4]; @ hit.bpf.c:8
1: (71) r0 = *(u8 *)(r6 +4)
R6 invalid mem access 'scalar'
  source:   /src/hit.bpf.c:8:3: return p[4];
  code:     (71) r0 = *(u8 *)(r6 +4) in on_hit(), instruction 1
  expected: a pointer that the verifier knows
  found:    R6=scalar()
  help:     read other memory with bpf_probe_read_user or bpf_probe_read_kernel
";
    let end = log.text.find("processed").unwrap_or(0);
    assert_eq!(&log.text[..end], expected);
}
