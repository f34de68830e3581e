//! Loops: which ones end, by which budget, and what proving it costs. The
//! kernel is asked the same.

use uapi::Errno;
use uapi::prog::BPF_PROG_TYPE_KPROBE;
use vm::ProgramSpec;
use vm::asm::assemble;
use vm::verifier::{MapInfo, verify};

use super::kernel::Kernel;
use super::mutate::Stream;
use super::pack::Pack;
use super::{checked, generate};

pub fn pack(text: &str) -> Pack {
    let insns = assemble(text).expect("test program assembles");
    let maps: Vec<MapInfo> = generate::program(&Stream::new(1)).maps;
    let spec = ProgramSpec {
        name: "loop".to_owned(),
        prog_type: BPF_PROG_TYPE_KPROBE,
        expected_attach_type: 0,
        prog_flags: 0,
        gpl: true,
        insns,
        info: vm::program::ProgramInfo::default(),
    };
    Pack {
        spec,
        maps,
        captured: 0,
    }
}

/// Accepted by both, after at most `most` instructions.
fn ends(text: &str, most: u32) {
    let pack = pack(text);
    let verified = verify(pack.spec.clone(), &pack, None).expect(text);
    let processed = verified.facts().insns_processed;
    assert!(processed <= most, "{processed} instructions for {text}");
    for seed in 0..8 {
        assert_eq!(checked::run(&pack, &Stream::new(seed << 20)), Ok(()));
    }
    if let Some(mut kernel) = Kernel::open() {
        let (errno, log) = kernel.explain(&pack);
        assert_eq!(errno, 0, "{text}\n{log}");
    }
}

/// Refused by both, by us with these words.
fn never_ends(text: &str, errno: Errno, words: &str) {
    let pack = pack(text);
    let refusal = verify(pack.spec.clone(), &pack, None).expect_err(text);
    assert_eq!(refusal.errno, errno, "{refusal}\n{text}");
    assert!(refusal.message.contains(words), "{refusal}\n{text}");
    if let Some(mut kernel) = Kernel::open() {
        assert_ne!(kernel.verdict(&pack), 0, "{text}");
    }
}

#[test]
fn a_bounded_loop_costs_its_turns() {
    let text = "
        r0 = 0
    again:
        r0 += 1
        if r0 < 1000 goto again
        r0 = 0
        exit";
    ends(text, 2010);
}

#[test]
fn what_a_loop_computes_does_not_matter_for_what_follows() {
    // The sum differs from path to path, but nothing depends on it.
    let text = "
        r6 = r1
        r7 = 0
        r8 = 0
    again:
        r1 = *(u64 *)(r6 + 8)
        if r1 > 5 goto +1
        r8 += 7
        if r1 s< -5 goto +1
        r8 ^= 3
        r7 += 1
        if r7 < 100 goto again
        r0 = r8
        exit";
    ends(text, 3000);
}

#[test]
fn a_loop_without_progress_is_refused() {
    let text = "
        r0 = *(u64 *)(r1 + 0)
    again:
        r2 = *(u64 *)(r1 + 8)
        if r2 == 7 goto +1
        goto again
        exit";
    never_ends(text, Errno::EINVAL, "infinite loop detected at insn");
}

#[test]
fn an_unbounded_counter_is_too_large() {
    let text = "
        r0 = 0
    again:
        r0 += 1
        if r0 < 1000000 goto again
        exit";
    never_ends(
        text,
        Errno::E2BIG,
        "BPF program is too large. Processed 1000001 insn",
    );
}

#[test]
fn may_goto_ends_a_loop() {
    let text = "
        r0 = 0
    again:
        may_goto done
        r0 += 1
        goto again
    done:
        exit";
    ends(text, 60);
}

#[test]
fn may_goto_may_be_nested() {
    let text = "
        r6 = 0
    outer:
        may_goto done
        r7 = 0
    inner:
        may_goto next
        r7 += 3
        if r7 s> 50 goto next
        goto inner
    next:
        r6 += 1
        if r6 == 30 goto done
        goto outer
    done:
        r0 = 0
        exit";
    ends(text, 6000);
}

#[test]
fn what_a_may_goto_loop_counts_is_not_known() {
    // The index is bounded by nothing but the turns.
    let text = "
        r6 = 0
        r1 = r10
        r1 += -8
    again:
        may_goto done
        r6 += 1
        goto again
    done:
        r1 += r6
        *(u8 *)(r1 + 0) = 0
        r0 = 0
        exit";
    never_ends(text, Errno::EACCES, "");
}

#[test]
fn may_goto_does_not_end_a_loop_around_it() {
    let text = "
        r0 = 0
    again:
        call one
        goto again
    one:
        may_goto +0
        r0 = 0
        exit";
    never_ends(text, Errno::EINVAL, "");
}

/// A loop over an iterator, whose body is `body`; r7 starts as 0 and the
/// element's address is in r0.
fn over_numbers(body: &str) -> String {
    format!(
        "
        r6 = r1
        r7 = 0
        r1 = r10
        r1 += -8
        r2 = 0
        r3 = 100000
        call kfunc[1]
    again:
        r1 = r10
        r1 += -8
        call kfunc[2]
        if r0 == 0 goto done
        {body}
        goto again
    done:
        r1 = r10
        r1 += -8
        call kfunc[3]
        r0 = 0
        exit"
    )
}

#[test]
fn iterators_end_loops() {
    ends(&over_numbers("r7 += 1"), 60);
    // What the body branches on need not be known.
    let branches = "
        r1 = *(u64 *)(r6 + 8)
        if r1 > 5 goto +1
        r7 += 7
        if r1 s< -5 goto +1
        r7 ^= 3";
    ends(&over_numbers(branches), 200);
    // A number that is needed is needed on every turn.
    let index = "
        r7 = *(u32 *)(r0 + 0)
        if r7 > 7 goto again
        r1 = r10
        r1 += -16
        r1 += r7
        *(u8 *)(r1 + 0) = 0";
    ends(&over_numbers(index), 200);
}

#[test]
fn an_iterator_does_not_bound_what_its_loop_counts() {
    let index = "
        r1 = r10
        r1 += -16
        r1 += r7
        *(u8 *)(r1 + 0) = 0
        r7 += 1";
    never_ends(
        &over_numbers(index),
        Errno::EINVAL,
        "expected an initialized iter_num",
    );
}

/// Linux 6.18 accepts this endless loop.
#[test]
fn a_renewed_iterator_ends_nothing() {
    let again = "
        r1 = r10
        r1 += -8
        call kfunc[3]
        r1 = r10
        r1 += -8
        r2 = 0
        r3 = 100000
        call kfunc[1]";
    let pack = pack(&over_numbers(again));
    let refusal = verify(pack.spec.clone(), &pack, None).expect_err("must not end");
    assert_eq!(refusal.errno, Errno::EINVAL, "{refusal}");
    assert!(refusal.message.contains("infinite loop"), "{refusal}");
}

#[test]
fn an_atomic_gives_what_the_stack_held() {
    let text = "
        *(u64 *)(r10 - 8) = 0
        r1 = 1
        r1 = atomic64_fetch_add((u64 *)(r10 - 8), r1)
        if r1 != 0 goto -1
        r0 = 0
        exit";
    ends(text, 10);
    // What it holds then is not known.
    let again = "
        *(u64 *)(r10 - 8) = 0
        r1 = 1
        r1 = atomic64_fetch_add((u64 *)(r10 - 8), r1)
        r1 = *(u64 *)(r10 - 8)
        if r1 != 0 goto -1
        r0 = 0
        exit";
    never_ends(again, Errno::EINVAL, "infinite loop");
}
