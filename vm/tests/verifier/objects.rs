//! Iterators, dynptrs and `may_goto`: our verdict beside the kernel's, in the
//! same words, on programs of which each does one thing right or wrong.

use uapi::prog::*;
use vm::ProgramSpec;
use vm::asm::assemble;
use vm::program::{FuncArg, FunctionInfo, Linkage, ProgramInfo};
use vm::verifier::{Keep, Log, verify};

use super::kernel::Kernel;
use super::pack::Pack;

/// One program: its name, the words of its refusal (none: accepted), its text.
struct Case {
    name: String,
    words: Option<String>,
    prog_type: u32,
    /// Whether the kernel accepts it all the same.
    ours_only: bool,
    text: String,
}

/// Cases stand as `## name`, `: type` where it is not a raw tracepoint's, `! words` where it is refused (`!! words`: by us
/// only), then the text.
fn cases(file: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in file.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("## ") {
            cases.push(Case {
                name: name.to_owned(),
                words: None,
                prog_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
                ours_only: false,
                text: String::new(),
            });
        } else if let Some(case) = cases.last_mut() {
            case.prog_type = match line {
                ": xdp" => BPF_PROG_TYPE_XDP,
                ": sched_cls" => BPF_PROG_TYPE_SCHED_CLS,
                ": socket_filter" => BPF_PROG_TYPE_SOCKET_FILTER,
                _ => case.prog_type,
            };
            if line.starts_with(": ") {
                continue;
            }
            let (ours_only, refusal) = match line.strip_prefix("!! ") {
                Some(words) => (true, Some(words)),
                None => (false, line.strip_prefix("! ")),
            };
            case.ours_only |= ours_only;
            match refusal {
                Some(words) => case.words = Some(words.to_owned()),
                None => {
                    // Names in place of numbers.
                    let mut line = line.to_owned();
                    for row in vm::helper::kfunc::all() {
                        let call = format!("call {}", row.name);
                        if line == call {
                            line = format!("call kfunc[{}]", row.number);
                        }
                    }
                    case.text.push_str(&line);
                    case.text.push('\n');
                }
            }
        }
    }
    cases
}

fn check(file: &str) {
    let mut kernel = Kernel::open();
    assert!(
        kernel.is_some() || std::env::var_os("CI").is_none(),
        "in CI nothing is left out"
    );
    let mut wrong = Vec::new();
    for case in cases(file) {
        let Case {
            name, words, text, ..
        } = &case;
        let insns = assemble(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let pack = Pack {
            spec: ProgramSpec {
                prog_type: case.prog_type,
                // States are compared wherever they can be.
                prog_flags: BPF_F_TEST_STATE_FREQ,
                gpl: true,
                insns,
                ..ProgramSpec::default()
            },
            ..super::generate::program(&super::mutate::Stream::new(1))
        };
        let mut log = Log::new(1, Keep::End(1 << 20));
        let ours = match verify(pack.spec.clone(), &pack, Some(&mut log)) {
            Ok(_) => (0, log.text),
            Err(e) => (e.errno.0, format!("{}\n{e}", log.text)),
        };
        let theirs = kernel.as_mut().map(|kernel| kernel.explain(&pack));
        let expected = |(errno, text): &(i32, String)| match words {
            Some(words) => *errno != 0 && text.contains(words.as_str()),
            None => *errno == 0,
        };
        let alike = |theirs: &(i32, String)| match case.ours_only {
            true => theirs.0 == 0,
            false => expected(theirs) && theirs.0 == ours.0,
        };
        if !expected(&ours) || !theirs.iter().all(alike) {
            wrong.push(format!("## {name}\nours {ours:?}\nkernel {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn iterators() {
    check(include_str!("../data/objects/iterators.bpf"));
}

#[test]
fn dynptrs() {
    check(include_str!("../data/objects/dynptrs.bpf"));
}

#[test]
fn lookups() {
    check(include_str!("../data/objects/lookups.bpf"));
}

#[test]
fn dynptrs_of_packets() {
    check(include_str!("../data/objects/packets.bpf"));
}

/// A global function does not know whose dynptr it was given: a write through
/// it ends pointers into the packet. Linux 6.18 lets them live.
#[test]
fn a_write_through_a_given_dynptr_may_move_the_packet() {
    let text = |between: &str| {
        format!(
            "
            r6 = r1
            r2 = 0
            r3 = r10
            r3 += -16
            call kfunc[14]
            r1 = r6
            r2 = r10
            r2 += -16
            call writes
            r0 = 0
            exit
            writes:
            *(u64 *)(r10 - 8) = 0
            r7 = *(u32 *)(r1 + 76)
            r8 = *(u32 *)(r1 + 80)
            r6 = r7
            r6 += 8
            r1 = r2
            {between}
            r0 = 0
            if r6 > r8 goto out
            r0 = *(u8 *)(r7 + 0)
            out:
            r0 = 0
            exit"
        )
    };
    let write = "r2 = 0\nr3 = r10\nr3 += -8\nr4 = 8\nr5 = 0\ncall 202";
    let function = |insn, linkage, args| FunctionInfo {
        insn,
        name: format!("f{insn}"),
        linkage,
        args,
        ret: vm::program::FuncRet::Scalar,
        exception_cb: false,
    };
    let ours = |between: &str| {
        let args = vec![FuncArg::Ctx, FuncArg::DynPtr];
        let functions = vec![
            function(0, Linkage::Global, vec![FuncArg::Ctx]),
            function(11, Linkage::Global, args),
        ];
        let spec = ProgramSpec {
            prog_type: BPF_PROG_TYPE_SCHED_CLS,
            gpl: true,
            insns: assemble(&text(between)).expect("assembles"),
            info: ProgramInfo {
                functions,
                ..ProgramInfo::default()
            },
            ..ProgramSpec::default()
        };
        let pack = Pack {
            spec: spec.clone(),
            ..super::generate::program(&super::mutate::Stream::new(1))
        };
        verify(spec, &pack, None).map(|_| ()).map_err(|e| e.message)
    };
    assert_eq!(ours(""), Ok(()));
    let refusal = ours(write).expect_err("the packet may have moved");
    assert!(
        refusal.starts_with("R7 invalid mem access 'scalar'"),
        "{refusal}"
    );
}

/// A callback that is handed a dynptr may neither move the pointer to it nor
/// keep it for later (Linux 6.18: `check_func_arg_reg_off`,
/// `is_spillable_regtype`). The kernel is not asked: callbacks need BTF there.
#[test]
fn a_dynptr_that_a_callback_is_given_is_used_at_once() {
    const USER_RING: u32 = 9;
    let function = |insn, linkage| FunctionInfo {
        insn,
        name: format!("f{insn}"),
        linkage,
        args: Vec::new(),
        ret: vm::program::FuncRet::Scalar,
        exception_cb: false,
    };
    let ours = |after: &str, inside: &str| {
        let text = format!(
            "
            *(u64 *)(r10 - 8) = 0
            *(u64 *)(r10 - 16) = 0
            r1 = map[9]
            r2 = func[taken]
            r3 = r10
            r3 += -8
            r4 = 0
            call 209
            {after}
            out:
            r0 = 0
            exit
            taken:
            {inside}
            r0 = 0
            exit"
        );
        let insns = assemble(&text).expect("assembles");
        let start = insns
            .iter()
            .position(|insn| insn.code == 0x95)
            .expect("exits") as u32
            + 1;
        let functions = vec![
            function(0, Linkage::Global),
            function(start, Linkage::Static),
        ];
        let spec = ProgramSpec {
            prog_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
            gpl: true,
            insns,
            info: ProgramInfo {
                functions,
                ..ProgramInfo::default()
            },
            ..ProgramSpec::default()
        };
        let mut pack = Pack {
            spec: spec.clone(),
            ..super::generate::program(&super::mutate::Stream::new(1))
        };
        pack.maps.push(vm::verifier::MapInfo {
            id: USER_RING,
            map_type: uapi::map::BPF_MAP_TYPE_USER_RINGBUF,
            max_entries: 4096,
            ..Default::default()
        });
        verify(spec, &pack, None).map(|_| ()).map_err(|e| e.message)
    };
    let data = "r2 = 0\nr3 = 8\ncall 203";
    assert_eq!(ours("", data), Ok(()));
    let refusal = ours("", &format!("r1 += 16\n{data}")).expect_err("moved");
    let words = "dereference of modified dynptr_ptr ptr R1 off=16 disallowed";
    assert!(refusal.starts_with(words), "{refusal}");
    let again =
        format!("r1 = *(u64 *)(r10 - 16)\nif r1 == 0 goto out\nr1 = *(u64 *)(r10 - 8)\n{data}");
    let keep = "*(u64 *)(r2 + 0) = r1\n*(u64 *)(r2 - 8) = 1";
    let refusal = ours(&again, keep).expect_err("kept");
    assert!(refusal.contains("expected=fp, dynptr_ptr"), "{refusal}");
}
