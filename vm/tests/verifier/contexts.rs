//! Every access to the context of every program type, and what a load gives,
//! beside the kernel's verdict.

use uapi::Insn;
use uapi::insn::*;
use uapi::prog::*;
use vm::ProgramSpec;

use super::kernel::Kernel;
use super::oracle::{kernel, number, ours};
use super::pack::Pack;

/// Program type, attach type, and the offsets to try.
type Context = (u32, u32, std::ops::Range<i16>);

const CONTEXTS: [Context; 11] = [
    (BPF_PROG_TYPE_KPROBE, 0, -8..168 + 16),
    // The kernel lets negative offsets through (a signed one is compared with
    // an unsigned limit); we do not.
    (BPF_PROG_TYPE_TRACEPOINT, 0, 0..80),
    (BPF_PROG_TYPE_TRACEPOINT, 0, 8176..8208),
    (BPF_PROG_TYPE_PERF_EVENT, 0, -8..184 + 16),
    (BPF_PROG_TYPE_RAW_TRACEPOINT, 0, -8..96 + 16),
    (BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, 0, -8..96 + 16),
    (BPF_PROG_TYPE_SOCKET_FILTER, 0, -8..192 + 16),
    (BPF_PROG_TYPE_SCHED_CLS, 0, -8..192 + 16),
    (BPF_PROG_TYPE_SCHED_ACT, 0, -8..192 + 16),
    (BPF_PROG_TYPE_XDP, 0, -8..24 + 16),
    (BPF_PROG_TYPE_XDP, BPF_XDP_DEVMAP, -8..24 + 16),
];

const BPF_XDP_DEVMAP: u32 = 33;
const SIZES: [u8; 4] = [BPF_B, BPF_H, BPF_W, BPF_DW];
const RETURN_0: [Insn; 2] = [
    Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0),
    Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
];

/// A program without maps.
pub fn program(prog_type: u32, attach: u32, flags: u32, insns: &[Insn]) -> Pack {
    let spec = ProgramSpec {
        name: "generated".to_owned(),
        prog_type,
        expected_attach_type: attach,
        prog_flags: flags,
        gpl: true,
        insns: insns.to_vec(),
        info: Default::default(),
    };
    Pack {
        spec,
        maps: Vec::new(),
        captured: 0,
    }
}

/// The reason for a refusal, as far as it says what a register holds.
fn reason(log: &str) -> &str {
    let known = [
        "invalid bpf_context access",
        "ctx ptr",
        "variable ctx access",
        "invalid mem access 'scalar'",
        "invalid mem access 'pkt_end'",
        "invalid mem access 'sock_common_or_null'",
        "offset is outside of the packet",
        "misaligned",
        "is not allowed",
        "same insn cannot be used with different pointers",
    ];
    known.into_iter().find(|k| log.contains(k)).unwrap_or("")
}

/// Asks both, and says where they differ.
pub struct Both {
    kernel: Kernel,
    asked: usize,
    differ: Vec<String>,
}

impl Both {
    pub fn new() -> Option<Both> {
        let kernel = kernel()?;
        Kernel::is_catalogued().then_some(Both {
            kernel,
            asked: 0,
            differ: Vec::new(),
        })
    }

    pub fn ask(&mut self, pack: &Pack) {
        self.asked += 1;
        // A log costs more than the rest.
        let (errno, text) = match self.kernel.verdict(pack) {
            0 => (0, String::new()),
            _ => self.kernel.explain(pack),
        };
        let (our_errno, our_text) = ours(pack);
        // Refused, but only after the kernel took a wrong turn.
        let theirs_is_wrong = text.contains("verifier bug") && our_errno != 0;
        if (errno, reason(&text)) != (our_errno, reason(&our_text)) && !theirs_is_wrong {
            self.differ.push(format!(
                "type {} attach {}: {text}\nbut {our_errno}: {our_text}",
                pack.spec.prog_type, pack.spec.expected_attach_type
            ));
        }
    }

    /// As [`Both::ask`], for refusals that many words fit.
    pub fn ask_as(&mut self, pack: &Pack, what: &str) {
        self.asked += 1;
        let (errno, our_errno) = (self.kernel.verdict(pack), ours(pack).0);
        if errno != our_errno {
            let text = self.kernel.explain(pack).1;
            let last = |text: &str| {
                let told = |line: &&str| !line.is_empty() && !line.starts_with("processed");
                text.lines().rfind(told).unwrap_or("").to_owned()
            };
            self.differ.push(format!(
                "type {} {what}: {errno} {}, but {our_errno} {}",
                pack.spec.prog_type,
                last(&text),
                last(&ours(pack).1)
            ));
        }
    }

    pub fn finish(self) {
        let examples = self
            .differ
            .iter()
            .take(number("BPFTIME_EXAMPLES", 8) as usize)
            .cloned()
            .collect::<Vec<_>>();
        let count = self.differ.len();
        assert_eq!(
            count,
            0,
            "{count} of {}:\n{}",
            self.asked,
            examples.join("\n\n")
        );
        eprintln!("{} programs", self.asked);
    }
}

/// The loads and stores of one place.
fn accesses(off: i16) -> Vec<Vec<Insn>> {
    let mut all = Vec::new();
    for size in SIZES {
        all.push(vec![Insn::new(BPF_LDX | BPF_MEM | size, 2, 1, off, 0)]);
        if size != BPF_DW {
            all.push(vec![Insn::new(BPF_LDX | BPF_MEMSX | size, 2, 1, off, 0)]);
        }
        all.push(vec![Insn::new(BPF_ST | BPF_MEM | size, 1, 0, off, 7)]);
        all.push(vec![
            Insn::new(BPF_ALU64 | BPF_MOV, 2, 0, 0, 7),
            Insn::new(BPF_STX | BPF_MEM | size, 1, 2, off, 0),
        ]);
        if matches!(size, BPF_W | BPF_DW) {
            all.push(vec![
                Insn::new(BPF_ALU64 | BPF_MOV, 2, 0, 0, 7),
                Insn::new(BPF_STX | BPF_ATOMIC | size, 1, 2, off, 0),
            ]);
        }
    }
    all
}

#[test]
fn every_access_gets_the_kernels_verdict() {
    let Some(mut both) = Both::new() else { return };
    for (prog_type, attach, offsets) in CONTEXTS {
        for off in offsets {
            for mut insns in accesses(off) {
                insns.extend(RETURN_0);
                both.ask(&program(prog_type, attach, 0, &insns));
                if matches!(prog_type, BPF_PROG_TYPE_KPROBE | BPF_PROG_TYPE_XDP) {
                    let strict = BPF_F_STRICT_ALIGNMENT;
                    both.ask(&program(prog_type, attach, strict, &insns));
                }
            }
        }
    }
    both.finish();
}

#[test]
fn every_load_gives_what_the_kernels_gives() {
    let Some(mut both) = Both::new() else { return };
    for (prog_type, attach, offsets) in CONTEXTS {
        for off in offsets {
            for size in SIZES {
                let load = Insn::new(BPF_LDX | BPF_MEM | size, 2, 1, off, 0);
                let through = Insn::new(BPF_LDX | BPF_MEM | BPF_B, 0, 2, 0, 0);
                let add = Insn::new(BPF_ALU64 | BPF_ADD, 2, 0, 0, 1);
                let exit = RETURN_0[1];
                both.ask(&program(prog_type, attach, 0, &[load, through, exit]));
                let mut insns = vec![load, add];
                insns.extend(RETURN_0);
                both.ask(&program(prog_type, attach, 0, &insns));
            }
        }
    }
    both.finish();
}

#[test]
fn a_moved_context_is_refused_as_the_kernel_does() {
    let Some(mut both) = Both::new() else { return };
    for (prog_type, attach, offsets) in CONTEXTS {
        let off = offsets.start.max(0) + 8;
        let load = Insn::new(BPF_LDX | BPF_MEM | BPF_W, 2, 1, off, 0);
        for n in [-8, 1, 4, 8, 1 << 29, -(1 << 29)] {
            let add = Insn::new(BPF_ALU64 | BPF_ADD, 1, 0, 0, n);
            let insns = [&[add, load], &RETURN_0[..]].concat();
            both.ask(&program(prog_type, attach, 0, &insns));
        }
        let number = Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 7);
        let keep = Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0);
        let mask = Insn::new(BPF_ALU64 | BPF_AND, 0, 0, 0, 8);
        let add = Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, 6, 0, 0, 0);
        let load = Insn::new(BPF_LDX | BPF_MEM | BPF_W, 2, 6, off, 0);
        let insns = [&[keep, number, mask, add, load], &RETURN_0[..]].concat();
        both.ask(&program(prog_type, attach, 0, &insns));
    }
    both.finish();
}

/// Loads a socket, or NULL, into r6 and leaves if it is NULL: the packet's
/// own, as it is or as more than that.
fn socket(cast: Option<i32>) -> Vec<Insn> {
    let mut insns = vec![
        Insn::new(BPF_LDX | BPF_MEM | BPF_DW, 1, 1, 168, 0),
        Insn::new(BPF_JMP | BPF_JNE, 1, 0, 2, 0),
    ];
    insns.extend(RETURN_0);
    if let Some(helper) = cast {
        insns.push(Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, helper));
        insns.push(Insn::new(BPF_JMP | BPF_JNE, 0, 0, 2, 0));
        insns.extend(RETURN_0);
        insns.push(Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 1, 0, 0, 0));
    }
    insns
}

#[test]
fn every_access_to_a_socket_gets_the_kernels_verdict() {
    let Some(mut both) = Both::new() else { return };
    for cast in [None, Some(95), Some(96), Some(98)] {
        for off in -8..128 {
            for access in accesses(off) {
                let insns = [socket(cast), access, RETURN_0.to_vec()].concat();
                both.ask(&program(BPF_PROG_TYPE_SCHED_CLS, 0, 0, &insns));
            }
        }
        for n in [0, 4, -4] {
            let add = Insn::new(BPF_ALU64 | BPF_ADD, 1, 0, 0, n);
            let insns = [socket(cast), vec![add], RETURN_0.to_vec()].concat();
            both.ask(&program(BPF_PROG_TYPE_SCHED_CLS, 0, 0, &insns));
        }
    }
    both.finish();
}

#[test]
fn equal_pointers_tell_of_null_what_the_kernels_do() {
    let Some(mut both) = Both::new() else { return };
    let load = |dst| Insn::new(BPF_LDX | BPF_MEM | BPF_DW, dst, 6, 168, 0);
    for op in [BPF_JEQ, BPF_JNE, BPF_JGT] {
        for (left, right) in [(7, 8), (8, 7), (7, 7), (7, 6), (7, 10)] {
            for (taken, through) in [(false, 7), (true, 7), (false, 8), (true, 8)] {
                let access = Insn::new(BPF_LDX | BPF_MEM | BPF_W, 0, through, 4, 0);
                let jump = Insn::new(BPF_JMP | op | BPF_X, left, right, 1 + i16::from(taken), 0);
                let first = [
                    Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0),
                    load(7),
                    load(8),
                    Insn::new(BPF_JMP | BPF_JNE, 8, 0, 2, 0),
                ];
                let path = if taken {
                    [&RETURN_0[..], &[access]].concat()
                } else {
                    vec![access]
                };
                let insns = [&first[..], &RETURN_0, &[jump], &path, &RETURN_0].concat();
                both.ask(&program(BPF_PROG_TYPE_SCHED_CLS, 0, 0, &insns));
            }
        }
    }
    both.finish();
}
