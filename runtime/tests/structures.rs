//! Reads of the kernel's structures get the kernel's verdict: every offset and
//! size of some, one program each.

#![expect(
    clippy::print_stderr,
    reason = "skips are said to whoever runs the tests"
)]

use std::sync::Arc;

use bpftime_runtime::kernel_types::KernelStructures;
use bpftime_runtime::maps::Map;
use bpftime_runtime::program::{Objects, verify_only};
use uapi::Insn;
use uapi::prog::BPF_PROG_TYPE_KPROBE;
use vm::ProgramSpec;

struct Nothing;

impl Objects for Nothing {
    fn map(&self, _: u32) -> Option<Arc<Map>> {
        None
    }

    fn program(&self, _: u32) -> Option<ProgramSpec> {
        None
    }
}

const BPF_PROG_LOAD: i64 = 5;
const GET_CURRENT_TASK_BTF: i32 = 158;
const TASK_PT_REGS: i32 = 175;

/// Errno of `BPF_PROG_LOAD` in the kernel, 0 when it accepts.
fn kernel(insns: &[Insn]) -> i32 {
    let licence = c"GPL";
    let mut attr = [0u64; 16];
    attr[0] = u64::from(BPF_PROG_TYPE_KPROBE) | (insns.len() as u64) << 32;
    attr[1] = insns.as_ptr() as u64;
    attr[2] = licence.as_ptr() as u64;
    // SAFETY: bpf(2) reads the attribute, the instructions and the licence, all alive.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, attr.as_ptr(), 128) };
    if fd < 0 {
        return std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    }
    // SAFETY: the descriptor is ours alone.
    unsafe { libc::close(fd as i32) };
    0
}

fn ours(types: &KernelStructures, insns: &[Insn]) -> (i32, String) {
    let spec = ProgramSpec {
        prog_type: BPF_PROG_TYPE_KPROBE,
        gpl: true,
        insns: insns.to_vec(),
        ..ProgramSpec::default()
    };
    match verify_only(&Nothing, types, spec, None) {
        Ok(_) => (0, String::new()),
        Err(error) => (error.errno.0, error.message),
    }
}

const EXIT: [Insn; 2] = [Insn::new(0xb7, 0, 0, 0, 0), Insn::new(0x95, 0, 0, 0, 0)];

fn call(helper: i32) -> Insn {
    Insn::new(0x85, 0, 0, 0, helper)
}

fn load(code: u8, off: i16) -> Insn {
    Insn::new(code, 1, 0, off, 0)
}

#[test]
fn every_field_of_the_task() {
    if kernel(&EXIT) != 0 {
        assert!(
            std::env::var_os("CI").is_none(),
            "in CI nothing is left out"
        );
        eprintln!("skipped: loading programs into the kernel needs root or CAP_BPF");
        return;
    }
    let types = KernelStructures::default();
    let (mut accepted, mut refused) = (0, 0);
    let mut compare = |insns: &[Insn], what: &str| {
        let (errno, message) = ours(&types, insns);
        assert_eq!(errno, kernel(insns), "{what}: {message}");
        if errno == 0 {
            accepted += 1
        } else {
            refused += 1
        }
    };
    for code in [0x71, 0x69, 0x61, 0x79] {
        for off in -8..12_000 {
            // Bytes between eights are tried where fields are small.
            if off % 4 != 0 && off > 2000 {
                continue;
            }
            let insns = [&[call(GET_CURRENT_TASK_BTF), load(code, off)], &EXIT[..]].concat();
            compare(&insns, &format!("task {code:#x} {off}"));
        }
        for off in -8..256 {
            let start = [call(GET_CURRENT_TASK_BTF), Insn::new(0xbf, 1, 0, 0, 0)];
            let insns = [&start[..], &[call(TASK_PT_REGS), load(code, off)], &EXIT].concat();
            compare(&insns, &format!("pt_regs {code:#x} {off}"));
        }
    }
    // One more step: whatever the field is, a number or a pointer.
    for off in (0..12_000).step_by(8) {
        let step = Insn::new(0x79, 0, 0, off, 0);
        for code in [0x71, 0x79] {
            let insns = [
                &[call(GET_CURRENT_TASK_BTF), step, load(code, 16)],
                &EXIT[..],
            ]
            .concat();
            compare(&insns, &format!("task {off} {code:#x} 16"));
        }
    }
    let write = Insn::new(0x7b, 0, 0, 0, 0);
    compare(
        &[&[call(GET_CURRENT_TASK_BTF), write], &EXIT[..]].concat(),
        "a write",
    );
    let to_null = Insn::new(0x15, 0, 0, 1, 0);
    compare(
        &[
            &[call(GET_CURRENT_TASK_BTF), to_null, load(0x79, 0)],
            &EXIT[..],
        ]
        .concat(),
        "a comparison",
    );
    assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
}
