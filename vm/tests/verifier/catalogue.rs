//! The catalogue of the kernel's helpers beside the kernel of this machine:
//! who may call what, and under which licence.

use uapi::Insn;
use uapi::helper::{__BPF_FUNC_MAX_ID, BPF_FUNC_OVERRIDE_RETURN, BPF_FUNC_PROBE_WRITE_USER};
use uapi::prog::*;
use vm::ProgramSpec;
use vm::helper::kernel::find;

use super::kernel::Kernel;
use super::pack::Pack;

const TYPES: [u32; 9] = [
    BPF_PROG_TYPE_SOCKET_FILTER,
    BPF_PROG_TYPE_KPROBE,
    BPF_PROG_TYPE_SCHED_CLS,
    BPF_PROG_TYPE_SCHED_ACT,
    BPF_PROG_TYPE_TRACEPOINT,
    BPF_PROG_TYPE_XDP,
    BPF_PROG_TYPE_PERF_EVENT,
    BPF_PROG_TYPE_RAW_TRACEPOINT,
    BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
];

/// A call of one helper with whatever registers hold at the start.
fn call(prog_type: u32, id: u32, gpl: bool) -> Pack {
    let insns = vec![
        Insn::new(0x85, 0, 0, 0, id as i32),
        Insn::new(0x95, 0, 0, 0, 0),
    ];
    Pack {
        spec: ProgramSpec {
            name: "call".to_owned(),
            prog_type,
            expected_attach_type: 0,
            prog_flags: 0,
            gpl,
            insns,
            info: Default::default(),
        },
        maps: Vec::new(),
        captured: 0,
    }
}

/// What the kernel, or we, say of such a program first.
fn reason(log: &str) -> &str {
    let known = [
        "cannot use helper",
        "invalid func",
        "GPL-restricted",
        "might sleep",
    ];
    known.into_iter().find(|k| log.contains(k)).unwrap_or("")
}

#[test]
fn the_kernel_lets_the_same_programs_call_the_same_helpers() {
    let Some(mut kernel) = super::oracle::kernel() else {
        return;
    };
    if !Kernel::is_catalogued() {
        return;
    }
    let mut differ = Vec::new();
    for prog_type in TYPES {
        for id in 0..=__BPF_FUNC_MAX_ID {
            for gpl in [true, false] {
                let pack = call(prog_type, id, gpl);
                let (errno, theirs) = kernel.explain(&pack);
                let (our_errno, ours) = super::oracle::ours(&pack);
                // The kernel's to give or to withhold: where it is locked down,
                // and where it is built without error injection.
                let locked = [BPF_FUNC_PROBE_WRITE_USER, BPF_FUNC_OVERRIDE_RETURN].contains(&id);
                let same = reason(&theirs) == reason(&ours)
                    // Where the reason is an argument, only one of the two may
                    // know how to check it.
                    && (reason(&theirs).is_empty() || errno == our_errno);
                if !same && !locked {
                    let name = find(id, prog_type).map_or("?", |row| row.proto.name);
                    differ.push(format!(
                        "{name}#{id} type {prog_type} gpl {gpl}: {theirs:?} but {ours:?}"
                    ));
                }
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
