//! What a refused program is told: the kernel's words, at the right
//! instruction, with the kernel's errno; and the facts of an accepted one.

use uapi::prog::*;
use uapi::{Errno, Insn};
use vm::ProgramSpec;
use vm::verifier::{Env, Keep, Log, verify};

/// The maps and helpers of the generated programs, and nothing else.
fn check(insns: &[Insn]) -> (Result<vm::Facts, (usize, Errno, String)>, String) {
    let pack = super::generate::program(&super::mutate::Stream::new(1));
    let spec = ProgramSpec {
        prog_type: BPF_PROG_TYPE_KPROBE,
        gpl: true,
        insns: insns.to_vec(),
        ..ProgramSpec::default()
    };
    let mut log = Log::new(1, Keep::End(1 << 20));
    let env: &dyn Env = &pack;
    let result = verify(spec, env, Some(&mut log))
        .map(|p| p.facts().clone())
        .map_err(|e| (e.insn, e.errno, e.message));
    (result, log.text)
}

fn refused(insns: &[Insn], at: usize, errno: Errno, words: &str) {
    let (result, log) = check(insns);
    let (insn, got, message) = result.expect_err("must be refused");
    assert!(message.contains(words), "{message}");
    assert!(log.contains(words), "{log}");
    assert_eq!((insn, got), (at, errno), "{message}");
}

const EXIT: Insn = Insn::new(0x95, 0, 0, 0, 0);
const ZERO: Insn = Insn::new(0xb7, 0, 0, 0, 0);

#[test]
fn refusals_use_the_kernels_words() {
    let call = |id| Insn::new(0x85, 0, 0, 0, id);
    refused(&[EXIT], 0, Errno::EACCES, "R0 !read_ok");
    refused(&[ZERO], 0, Errno::EINVAL, "last insn is not an exit or jmp");
    refused(
        &[call(9999), EXIT],
        0,
        Errno::EINVAL,
        "invalid func unknown#9999",
    );
    refused(
        &[call(49), EXIT],
        0,
        Errno::EINVAL,
        "program of this type cannot use helper bpf_setsockopt#49",
    );
    refused(
        &[ZERO, EXIT, ZERO, EXIT],
        2,
        Errno::EINVAL,
        "unreachable insn 2",
    );
    let out = Insn::new(0x05, 0, 0, 7, 0);
    refused(
        &[out, EXIT],
        0,
        Errno::EINVAL,
        "jump out of range from insn 0 to 8",
    );
    let deref = Insn::new(0x79, 1, 0, 0, 0);
    refused(
        &[ZERO, deref, EXIT],
        1,
        Errno::EACCES,
        "R0 invalid mem access 'scalar'",
    );
    let deep = Insn::new(0x7a, 10, 0, -520, 0);
    refused(
        &[deep, ZERO, EXIT],
        0,
        Errno::EACCES,
        "invalid write to stack R10 off=-520 size=8",
    );
    let beyond = Insn::new(0x79, 0, 1, 168, 0);
    refused(
        &[beyond, EXIT],
        0,
        Errno::EACCES,
        "invalid bpf_context access off=168 size=8",
    );
    let data = [Insn::new(0x18, 1, 2, 0, 4), Insn::new(0, 0, 0, 0, 0)];
    let past = Insn::new(0x79, 0, 1, 60, 0);
    let words = "invalid access to map value, value_size=64 off=60 size=8";
    refused(&[data[0], data[1], past, EXIT], 2, Errno::EACCES, words);
    let forever = Insn::new(0x05, 0, 0, -2, 0);
    let (result, _) = check(&[ZERO, forever]);
    assert!(matches!(result, Err((_, Errno::EINVAL | Errno::E2BIG, _))));
}

#[test]
fn a_lost_record_is_a_leak() {
    let program = [
        Insn::new(0x18, 1, 1, 0, 3),
        Insn::new(0, 0, 0, 0, 0),
        Insn::new(0xb7, 2, 0, 0, 8),
        Insn::new(0xb7, 3, 0, 0, 0),
        Insn::new(0x85, 0, 0, 0, 131),
        ZERO,
        EXIT,
    ];
    refused(&program, 6, Errno::EINVAL, "would lead to reference leak");
}

#[test]
fn facts_of_an_accepted_program() {
    let program = [
        Insn::new(0x79, 2, 1, 112, 0),
        Insn::new(0x7b, 10, 2, -8, 0),
        Insn::new(0x85, 0, 1, 0, 1),
        EXIT,
        Insn::new(0x7a, 10, 0, -24, 1),
        Insn::new(0x85, 0, 0, 0, 5),
        Insn::new(0xb7, 3, 0, 0, 0),
        Insn::new(0x15, 3, 0, 1, 0),
        ZERO,
        EXIT,
    ];
    let (result, log) = check(&program);
    let facts = result.expect("accepted");
    assert_eq!((facts.ctx_words_read, facts.ctx_bytes), (1 << 14, 120));
    assert_eq!(facts.helpers, [5]);
    assert_eq!(facts.subprograms, [0, 4]);
    assert_eq!(facts.frame_bytes, [16, 32]);
    assert_eq!(facts.stack_bytes, 48);
    assert_eq!(facts.unreachable, [8]);
    let words = "processed 9 insns (limit 1000000) max_states_per_insn 0";
    assert!(log.starts_with(words), "{log}");
}

#[test]
fn a_kernel_function_that_nobody_hosts_is_named() {
    let mut pack = super::generate::program(&super::mutate::Stream::new(1));
    let unknown = vm::helper::kfunc::UNKNOWN as i32;
    pack.spec.insns = vec![ZERO, Insn::new(0x85, 0, 2, 0, unknown), EXIT];
    for (name, hint) in [
        ("bpf_throw", "exceptions do not exist in user space"),
        ("bpf_obj_new_impl", "objects of programs"),
        ("bpf_arena_alloc_pages", "arenas do not exist"),
        ("bpf_res_spin_lock", "resilient spin locks"),
        ("bpf_dynptr_from_skb_meta", "no such packet"),
        ("bpf_iter_task_new", "only number and bits iterators"),
        ("bpf_get_fsverity_digest", "does not exist in user space"),
    ] {
        pack.spec.info.unknown_kfuncs = vec![(1, name.to_owned())];
        let error = verify(pack.spec.clone(), &pack, None).expect_err("refused");
        assert_eq!((error.insn, error.errno), (1, Errno::EACCES));
        let words = format!("calling kernel function {name} is not allowed: ");
        let rest = error.message.strip_prefix(&words).expect(&error.message);
        assert!(rest.contains(hint), "{rest}");
    }
}
