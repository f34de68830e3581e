//! Programs whose second path is unsafe although it looks like the first:
//! what must be compared where they meet. Each is refused by the kernel.

use uapi::prog::BPF_F_TEST_STATE_FREQ;
use vm::verifier::verify;

use super::kernel::Kernel;
use super::loops::pack;

/// Refused with `words`, wherever checkpoints lie. `second` goes where the
/// second path is; without it the program is accepted.
fn second_path_is_walked(text: &str, second: &str, words: &str) {
    for flags in [0, BPF_F_TEST_STATE_FREQ] {
        let mut safe = pack(&text.replace("SECOND", ""));
        safe.spec.prog_flags = flags;
        let verdict = verify(safe.spec.clone(), &safe, None);
        assert!(verdict.is_ok(), "{flags}: {verdict:?}\n{text}");
        let mut pack = pack(&text.replace("SECOND", second));
        pack.spec.prog_flags = flags;
        let refusal = verify(pack.spec.clone(), &pack, None).expect_err(text);
        assert!(
            refusal.message.contains(words),
            "{flags}: {refusal}\n{text}"
        );
        if let Some(mut kernel) = Kernel::open() {
            assert_ne!(kernel.verdict(&pack), 0, "{flags}: {text}");
        }
    }
}

/// Writes one byte at fp-16 + `index`, which has 16 bytes to go.
const WRITE: &str = "
    r2 = r10
    r2 += -16
    r2 += r7
    *(u8 *)(r2 + 0) = 0
    r0 = 0
    exit";

const OUTSIDE: &str = "invalid write to stack";

#[test]
fn a_constant_that_becomes_an_offset() {
    let text = format!(
        "
        r6 = *(u64 *)(r1 + 0)
        r7 = 3
        if r6 s> 5 goto other
        goto meet
    other:
        r7 = 4
        SECOND
    meet:
        r8 = 1
        {WRITE}"
    );
    second_path_is_walked(&text, "r7 = 100", OUTSIDE);
}

#[test]
fn a_constant_that_decides_a_branch() {
    let text = format!(
        "
        r6 = *(u64 *)(r1 + 0)
        r7 = 3
        r8 = 0
        if r6 s> 5 goto other
        goto meet
    other:
        SECOND
    meet:
        if r8 == 0 goto done
        r7 = 100
    done:
        {WRITE}"
    );
    second_path_is_walked(&text, "r8 = 1", OUTSIDE);
}

#[test]
fn a_spilled_number() {
    for (store, load) in [
        ("*(u64 *)(r10 - 24) = r7", "r7 = *(u64 *)(r10 - 24)"),
        ("*(u32 *)(r10 - 24) = r7", "r7 = *(u32 *)(r10 - 24)"),
        ("*(u64 *)(r10 - 24) = r7", "r7 = *(u8 *)(r10 - 24)"),
        ("*(u8 *)(r10 - 20) = r7", "r7 = *(u8 *)(r10 - 20)"),
    ] {
        let text = format!(
            "
            r6 = *(u64 *)(r1 + 0)
            r7 = 0
            {store}
            if r6 s> 5 goto other
            goto meet
        other:
            SECOND
        meet:
            r7 = 0
            {load}
            {WRITE}"
        );
        let second = format!("r7 = 100\n{store}");
        second_path_is_walked(&text, &second, "write to stack");
    }
}

#[test]
fn a_number_in_the_callers_stack() {
    let text = format!(
        "
        r6 = *(u64 *)(r1 + 0)
        *(u64 *)(r10 - 24) = 3
        if r6 s> 5 goto other
        goto meet
    other:
        SECOND
    meet:
        r1 = r10
        r1 += -24
        call load
        r7 = r0
        {WRITE}
    load:
        r2 = 1
        if r1 == 0 goto +0
        r0 = *(u64 *)(r1 + 0)
        exit"
    );
    second_path_is_walked(&text, "*(u64 *)(r10 - 24) = 100", OUTSIDE);
}

#[test]
fn a_number_kept_over_a_call() {
    let text = format!(
        "
        r6 = *(u64 *)(r1 + 0)
        r7 = 3
        if r6 s> 5 goto other
        goto meet
    other:
        SECOND
    meet:
        r1 = r6
        call nothing
        {WRITE}
    nothing:
        r0 = 0
        if r1 s> 7 goto +1
        r0 = 1
        exit"
    );
    second_path_is_walked(&text, "r7 = 100", OUTSIDE);
}

#[test]
fn numbers_that_are_equal() {
    for (link, teach) in [
        ("r7 = r8", "if r8 > 7 goto out"),
        ("w7 = w8", "if w8 > 7 goto out"),
        ("r7 = r8\n r7 += 1", "if r8 > 7 goto out"),
    ] {
        let text = format!(
            "
            r6 = *(u64 *)(r1 + 0)
            r7 = *(u64 *)(r1 + 8)
            r8 = *(u64 *)(r1 + 16)
            r7 &= 255
            r8 &= 255
            r9 = r7
            {link}
            if r6 s> 5 goto other
            goto meet
        other:
            SECOND
        meet:
            r1 = 0
            {teach}
            {WRITE}
        out:
            r0 = 0
            exit"
        );
        second_path_is_walked(&text, "r7 = r9", "invalid variable-offset write to stack");
    }
}

#[test]
fn a_number_learnt_from_another_register() {
    let text = format!(
        "
        r6 = *(u64 *)(r1 + 0)
        r7 = *(u64 *)(r1 + 8)
        r8 = 8
        if r6 s> 5 goto other
        goto meet
    other:
        SECOND
    meet:
        r1 = 0
        if r7 > r8 goto out
        {WRITE}
    out:
        r0 = 0
        exit"
    );
    let words = "invalid variable-offset write to stack";
    second_path_is_walked(&text, "r8 = 100", words);
}

#[test]
fn the_size_of_memory() {
    let text = "
        r6 = *(u64 *)(r1 + 0)
        r7 = 8
        if r6 s> 5 goto other
        goto meet
    other:
        SECOND
    meet:
        r1 = r10
        r1 += -16
        r2 = r7
        r3 = 0
        call 4
        r0 = 0
        exit";
    let words = "invalid write to stack R1";
    second_path_is_walked(text, "r7 = 32", words);
}

#[test]
fn an_instance_of_a_pointer_that_may_be_null() {
    let text = "
        r6 = *(u64 *)(r1 + 0)
        *(u64 *)(r10 - 8) = r6
        r2 = r10
        r2 += -8
        r1 = map[1]
        call 1
        r7 = r0
        r2 = r10
        r2 += -8
        r1 = map[1]
        call 1
        r8 = r7
        if r6 s> 5 goto other
        goto meet
    other:
        SECOND
    meet:
        r1 = 0
        if r7 == 0 goto out
        r1 = *(u64 *)(r8 + 0)
    out:
        r0 = 0
        exit";
    let words = "invalid mem access 'map_value_or_null'";
    second_path_is_walked(text, "r8 = r0", words);
}

/// The second path ends where the first was proven; the third comes to a
/// checkpoint of the second.
#[test]
fn what_a_path_needed_that_ended_early() {
    for (first, load, second) in [
        ("r7 = 3", "", "r7 = 100"),
        (
            "*(u64 *)(r10 - 24) = 3",
            "r7 = *(u64 *)(r10 - 24)",
            "*(u64 *)(r10 - 24) = 100",
        ),
    ] {
        let text = format!(
            "
            r6 = *(u64 *)(r1 + 0)
            r9 = *(u64 *)(r1 + 8)
            r7 = 0
            {first}
            if r6 s> 5 goto two
            goto meet
        two:
            if r9 s> 5 goto three
            goto before
        three:
            SECOND
        before:
            r1 = 0
            goto meet
        meet:
            r1 = 1
            {load}
            {WRITE}"
        );
        second_path_is_walked(&text, second, "write to stack");
    }
}
