//! Assembler and disassembler.

use bpftime_vm::asm::{AsmError, assemble};
use bpftime_vm::disasm::disassemble;
use bpftime_vm::op::Op;
use proptest::prelude::*;
use uapi::Insn;

/// Every line is in the disassembler's spelling, so must come back as it is.
#[test]
fn every_form_comes_back_as_it_was() {
    let text = "\
r0 = 1
r3 += -5
w3 += 5
r1 s/= r2
w1 s%= 7
r1 s>>= 3
w1 <<= w2
r4 = -r4
w4 = -w4
r1 = (s8)r2
w1 = (s16)w2
r1 = (s32)r2
r5 = be16 r5
r5 = le32 r5
r5 = bswap64 r5
r0 = *(u32 *)(r1 + 4)
r0 = *(s8 *)(r10 - 1)
*(u64 *)(r10 - 8) = r1
*(u16 *)(r1 + 0) = -3
lock *(u64 *)(r10 - 8) += r1
lock *(u32 *)(r1 + 0) ^= w2
r1 = atomic64_fetch_or((u64 *)(r2 + 8), r1)
w1 = atomic32_xchg((u32 *)(r2 + 8), w1)
r0 = atomic64_cmpxchg((u64 *)(r2 + 0), r0, r3)
w0 = atomic32_cmpxchg((u32 *)(r2 + 0), w0, w3)
r1 = load_acquire((u64 *)(r2 + 0))
w1 = load_acquire((u8 *)(r2 + 0))
store_release((u32 *)(r2 + 0), w1)
r1 = 0x123456789 ll
r1 = map[3]
r1 = map_value[3] + 8
r1 = func[+2]
goto -3
gotol +70000
if r1 s> 3 goto +2
if w1 & w2 goto -1
call 5
call pc+3
call kfunc[7]
may_goto +2
.insn 0x00000000000000ff
exit
";
    let insns = assemble(text).expect("every form is known");
    assert_eq!(disassemble(&insns), text);
}

#[test]
fn labels_are_relative_targets() {
    let labelled = assemble(
        "
        start: r1 = func[callback]   ; two slots
        if r1 == 0 goto end          # forward
        call callback                // and a call
        goto start
        end: exit
        callback:
            r0 = 0
            exit
        ",
    );
    let relative =
        assemble("r1 = func[+5]\nif r1 == 0 goto +2\ncall pc+2\ngoto -5\nexit\nr0 = 0\nexit");
    assert_eq!(labelled, relative);
}

#[test]
fn errors_name_the_line() {
    let check = |text: &str, line: usize, reason: &str| {
        let expected = AsmError {
            line,
            reason: reason.to_owned(),
        };
        assert_eq!(assemble(text), Err(expected), "{text}");
    };
    check("r0 = 0\nr11 = 0", 2, "unknown word r11");
    check("goto nowhere", 1, "no label nowhere");
    check("a:\na:\nexit", 2, "label a stands twice");
    check("r0 = 0x80000000", 1, "2147483648 does not fit an immediate");
    check("r0 = w1", 1, "both operands have one width");
    check("r0 = *(u64 *)(r1 + 32768)", 1, "offset 32768 does not fit");
    check(
        "exit exit",
        1,
        "unexpected Word(\"exit\") after the instruction",
    );
}

fn any_slots() -> impl Strategy<Value = Vec<Insn>> {
    // Opcodes that exist are a minority: favour fields that they allow.
    let insn = (
        any::<u8>(),
        0..=11u8,
        prop_oneof![3 => Just(0u8), 2 => 0..=11u8],
        prop_oneof![3 => Just(0i16), 1 => any::<i16>(), 1 => Just(1), 1 => Just(8)],
        prop_oneof![3 => Just(0i32), 1 => any::<i32>(), 2 => 0..0x120i32],
    )
        .prop_map(|(code, dst, src, off, imm)| Insn::new(code, dst, src, off, imm));
    proptest::collection::vec(insn, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Text loses nothing, whatever the slots hold.
    #[test]
    fn disassembly_assembles_to_the_same_slots(insns in any_slots()) {
        let text = disassemble(&insns);
        prop_assert_eq!(assemble(&text), Ok(insns), "{}", text);
    }

    /// Decoding loses nothing that it accepts.
    #[test]
    fn decoded_instructions_encode_to_the_same_slots(insns in any_slots()) {
        for pair in insns.windows(2) {
            if let Ok(op) = Op::decode(pair[0], Some(pair[1])) {
                let (first, second) = op.encode();
                prop_assert_eq!(first, pair[0]);
                prop_assert!(second.is_none_or(|s| s == pair[1]));
            }
        }
    }
}
