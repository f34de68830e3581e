//! What linking refuses, tail calls, unreachable code, entries.

use std::os::fd::AsRawFd;
use std::ptr;

use bpftime_vm::link::LinkError;
use bpftime_vm::op::DecodeError;
use bpftime_vm::{Facts, asm};
use uapi::insn::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD};

use crate::common::{Both, LOOP, MAP, Targets, assemble, both, program, run_both};
use crate::kernel;

fn refused(text: &str) -> LinkError {
    match both(&assemble(text)) {
        Err(error) => error,
        Ok(_) => panic!("linked: {text}"),
    }
}

#[test]
fn unknown_names_are_refused() {
    assert_eq!(
        refused("r1 = map[9]\nexit"),
        LinkError::Map { insn: 0, id: 9 }
    );
    let value = LinkError::MapValue {
        insn: 0,
        id: 9,
        offset: 4,
    };
    assert_eq!(refused("r1 = map_value[9] + 4\nexit"), value);
    assert_eq!(
        refused("r0 = 0\ncall 77\nexit"),
        LinkError::Helper { insn: 1, id: 77 }
    );
    let source = DecodeError::Opcode(0xff);
    assert_eq!(
        refused(".insn 0xff\nexit"),
        LinkError::Decode { insn: 0, source }
    );
    let source = DecodeError::FramePointer;
    assert_eq!(
        refused("r10 = 1\nexit"),
        LinkError::Decode { insn: 0, source }
    );
}

#[test]
fn control_stays_in_the_subprogram() {
    assert_eq!(refused("r0 = 0"), LinkError::Target { insn: 0 });
    assert_eq!(refused("goto +1\nexit"), LinkError::Target { insn: 0 });
    assert_eq!(refused("goto -2\nexit"), LinkError::Target { insn: 0 });
    assert_eq!(
        refused("if r1 == 0 goto +1\nr1 = 1 ll\nexit"),
        LinkError::Target { insn: 0 }
    );
    assert_eq!(
        refused("call pc+1\nexit\nr0 = 0\ngoto -3"),
        LinkError::Target { insn: 3 }
    );
    assert_eq!(refused("call pc+9\nexit"), LinkError::Target { insn: 0 });
    assert_eq!(refused(""), LinkError::Target { insn: 0 });
}

#[test]
fn callbacks_make_no_tail_calls() {
    let text = "r1 = func[cb]\nexit\ncb:\ncall deeper\nexit\ndeeper:\ncall 12\nexit";
    assert_eq!(refused(text), LinkError::TailCallInCallback { insn: 3 });
}

#[test]
fn unreachable_slots_may_hold_anything() {
    // The second slot is what libbpf leaves of an unresolved CO-RE access.
    let text = "r0 = 7\ngoto +2\ncall 195896080\n.insn 0xffffffffffffffff\nexit";
    let insns = asm::assemble(text).expect("assembles");
    let facts = Facts {
        unreachable: vec![2, 3],
        ..Facts::default()
    };
    let left = run_both(&program(insns, facts), &[], ptr::null_mut());
    assert_eq!(left.r0, 7);
}

/// Runs `first` in both engines, with itself and `others` as targets 0, 1, ….
fn run_tail(first: &str, others: &[&str]) -> u64 {
    let build = |text: &&str| both(&assemble(text)).unwrap_or_else(|e| panic!("{e}: {text}"));
    let all: Vec<Both> = [first].iter().chain(others).map(build).collect();

    let interpreted = {
        let targets = all.iter().map(|b| b.interpreter.tail_target()).collect();
        let mut run = Targets {
            targets,
            lookups: 0,
            map: 0,
        };
        // SAFETY: the programs touch their stack only; all targets live on.
        let r0 = unsafe {
            all[0]
                .interpreter
                .run(ptr::null_mut(), (&raw mut run).cast())
        };
        (r0, run.lookups, run.map)
    };
    let compiled = {
        let targets = all.iter().map(|b| b.compiled.tail_target()).collect();
        let mut run = Targets {
            targets,
            lookups: 0,
            map: 0,
        };
        // SAFETY: as above.
        let r0 = unsafe { all[0].compiled.run(ptr::null_mut(), (&raw mut run).cast()) };
        (r0, run.lookups, run.map)
    };
    assert_eq!(interpreted, compiled);
    assert_eq!(compiled.2, MAP);
    compiled.0
}

#[test]
fn tail_call_replaces_the_program() {
    let first = "r6 = 1\nr2 = map[3]\nr3 = 1\ncall 12\nr0 = 5\nexit";
    assert_eq!(run_tail(first, &["r0 = 42\nexit"]), 42);
    // With everything saved and a helper behind it.
    let first = "*(u64 *)(r10 - 200) = 1\nr6 = 1\nr7 = 1\nr8 = 1\nr9 = 1
        r2 = map[3]\nr3 = 1\ncall 12\ncall 3\nexit";
    let second = "r6 = 1\n*(u64 *)(r10 - 8) = 7\ncall 3\nr0 += r6\nexit";
    assert_eq!(run_tail(first, &[second]), 100);
}

#[test]
fn tail_call_without_target_falls_through() {
    let first = "r6 = 3\nr2 = map[3]\nr3 = 9\ncall 12\nr0 = 5\nr0 += r6\nexit";
    assert_eq!(run_tail(first, &[]), 8);
}

#[test]
fn tail_call_index_is_32_bits() {
    let first = "r2 = map[3]\nr3 = 0x500000001 ll\ncall 12\nr0 = 5\nexit";
    assert_eq!(run_tail(first, &["r0 = 42\nexit"]), 42);
}

#[test]
fn tail_call_from_a_subprogram_returns_to_the_caller() {
    let first = "r6 = r1\ncall sub\nr0 += 1000\nexit
        sub:\n*(u64 *)(r10 - 8) = 1\nr6 = 5\nr2 = map[3]\nr3 = 1\ncall 12\nr0 = 5\nexit";
    assert_eq!(run_tail(first, &["r6 = 7\nr0 = 42\nexit"]), 1042);
}

/// Counts runs, in `cb[0]` of the ctx, of a program that calls itself last.
fn count_kernel_runs(text: &str) -> u32 {
    let array = kernel::program_array(1).expect("a map");
    let mut insns = asm::assemble(text).expect("assembles");
    for insn in &mut insns {
        if insn.code == BPF_LD | BPF_IMM | BPF_DW && insn.src() == BPF_PSEUDO_MAP_FD {
            insn.imm = array.as_raw_fd();
        }
    }
    let program = kernel::load_classifier(&insns).expect("the verifier accepts it");
    kernel::set_slot(&array, 0, &program).expect("a slot");
    counted(&kernel::test_run_classifier(&program).expect("it runs"))
}

/// The same in both engines.
fn count_our_runs(text: &str) -> u32 {
    let both = both(&assemble(text)).expect("links");
    let mut counts = [0; 2];
    for (count, compiled) in counts.iter_mut().zip([false, true]) {
        let target = if compiled {
            both.compiled.tail_target()
        } else {
            both.interpreter.tail_target()
        };
        let mut run = Targets {
            targets: vec![target],
            lookups: 0,
            map: 0,
        };
        let mut buffer = [0u8; kernel::SK_BUFF_BYTES];
        let (ctx, run) = (buffer.as_mut_ptr(), (&raw mut run).cast());
        // SAFETY: the program touches its stack and `cb` only.
        unsafe {
            if compiled {
                both.compiled.run(ctx, run);
            } else {
                both.interpreter.run(ctx, run);
            }
        }
        *count = counted(&buffer);
    }
    assert_eq!(counts[0], counts[1]);
    counts[1]
}

fn counted(buffer: &[u8; kernel::SK_BUFF_BYTES]) -> u32 {
    u32::from_le_bytes(buffer[48..52].try_into().expect("four bytes"))
}

/// Counts in `cb[0]` of `struct __sk_buff`.
const COUNT: &str = "r2 = *(u32 *)(r1 + 48)\nr2 += 1\n*(u32 *)(r1 + 48) = r2\n";

#[test]
fn tail_calls_end_after_33() {
    let text = format!("{COUNT}r2 = map[3]\nr3 = 0\ncall 12\nr0 = 0\nexit");
    assert_eq!(count_our_runs(&text), 34);
    if kernel::available() {
        assert_eq!(count_kernel_runs(&text), 34);
    }
}

#[test]
fn tail_calls_of_all_frames_count_together() {
    // Each run calls itself last from two subprograms: without one count for
    // all frames that would be 2^33 runs. The kernel wants BTF to load this.
    let text = format!(
        "r6 = r1\n{COUNT}call sub\nr1 = r6\ncall sub\nr0 = 0\nexit
        sub:\nr2 = map[3]\nr3 = 0\ncall 12\nr0 = 0\nexit"
    );
    assert_eq!(count_our_runs(&text), 34);
}

#[test]
fn callbacks_survive_another_program_inside_the_helper() {
    let text = format!(
        "r1 = 2\nr2 = func[cb]\nr3 = 0\nr4 = 0\ncall {LOOP}\nr6 = r0\nr1 = 3\nr2 = func[cb]
        r3 = 0\nr4 = 0\ncall {LOOP}\nr0 += r6\nexit\ncb:\nr0 = 0\nexit"
    );
    assert_eq!(run_both(&assemble(&text), &[], ptr::null_mut()).r0, 5);
}

#[test]
fn an_empty_program_is_three_bytes() {
    let both = both(&assemble("r0 = 0\nexit")).expect("links");
    assert_eq!(both.compiled.code_bytes(), [0x33, 0xc0, 0xc3]);
    // SAFETY: the program touches nothing.
    let r0 = unsafe { both.compiled.entry()(ptr::null_mut(), ptr::null_mut()) };
    assert_eq!(r0, 0);
}

#[test]
fn frames_follow_the_stack_bound() {
    // r10 escapes, so only the verifier's bound says how deep the stack is:
    // within the red zone, around a call, and beyond the red zone.
    let leaf = "r2 = r10\nr2 += -16\n*(u64 *)(r2 + 0) = 5\nr0 = *(u64 *)(r10 - 16)\nexit";
    let caller = "r6 = r10\nr6 += -16\n*(u64 *)(r6 + 0) = 5\ncall 3
        r0 = *(u64 *)(r10 - 16)\nexit";
    for stack_bytes in [16, 20, 24, 128, 136, 512] {
        for text in [leaf, caller] {
            let insns = asm::assemble(text).expect("assembles");
            let facts = Facts {
                subprograms: vec![0],
                frame_bytes: vec![stack_bytes],
                ..Facts::default()
            };
            assert_eq!(run_both(&program(insns, facts), &[], ptr::null_mut()).r0, 5);
        }
    }
}

/// Permissions of the mapping that holds an address, from /proc/self/maps.
fn permissions(address: usize) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        (start..end)
            .contains(&address)
            .then(|| rest[..4].to_owned())
    })
}

#[test]
fn code_is_executable_and_not_writable() {
    let both = both(&assemble("r0 = 0\nexit")).expect("links");
    let address = both.compiled.code_bytes().as_ptr() as usize;
    assert_eq!(permissions(address).as_deref(), Some("r-xp"));
}

#[test]
fn instructions_take_their_shortest_form() {
    let text = "r2 = *(u64 *)(r1 + 0)\nr2 += 1\n*(u64 *)(r1 + 0) = r2\nr3 = *(u32 *)(r10 - 4)
        *(u32 *)(r1 + 0) = r3\nr0 = 0\nexit";
    let code = both(&assemble(text)).expect("links");
    let expected = [
        &[0x48, 0x83, 0x07, 0x01][..], // add qword [rdi], 1
        &[0x8b, 0x54, 0x24, 0xfc],     // mov edx, [rsp - 4], in the red zone
        &[0x89, 0x17],                 // mov [rdi], edx
        &[0x33, 0xc0],                 // xor eax, eax
        &[0xc3],                       // ret
    ]
    .concat();
    assert_eq!(code.compiled.code_bytes(), expected);
}

#[test]
fn a_frame_goes_on_as_often_as_the_kernel_lets_it() {
    // Twice in one loop: the budget is the frame's, not the instruction's.
    let text = "r0 = 0\nagain:\nmay_goto out\nr0 += 1\nmay_goto out\ngoto again\nout:\nexit";
    let left = run_both(&assemble(text), &[], ptr::null_mut());
    assert_eq!(left.r0, u64::from(uapi::insn::BPF_MAX_LOOPS) / 2);
    // A spent budget stays spent, and the next frame has its own.
    let text = "
        call pc+4
        r6 = r0
        call pc+2
        r0 += r6
        exit
        r0 = 0
        again:
        may_goto out
        r0 += 1
        goto again
        out:
        may_goto end
        r0 = 0
        end:
        exit";
    let left = run_both(&assemble(text), &[], ptr::null_mut());
    assert_eq!(left.r0, 2 * u64::from(uapi::insn::BPF_MAX_LOOPS));
}

#[test]
fn kfuncs_are_called_as_helpers_are() {
    let text = "r1 = 1\nr2 = 1\nr3 = 1\nr4 = 1\nr5 = 1\ncall kfunc[1]\nexit";
    assert_eq!(run_both(&assemble(text), &[], ptr::null_mut()).r0, 15);
    let error = LinkError::Kfunc { insn: 0, number: 9 };
    assert_eq!(refused("call kfunc[9]\nexit"), error);
}
