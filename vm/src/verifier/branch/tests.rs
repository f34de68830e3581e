//! Decisions and refinements against concrete comparisons.

use uapi::insn::*;

use super::super::alu::tests::Stream;
use super::*;

const OPS: [u8; 11] = [
    BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE,
    BPF_JSET,
];

fn concrete(op: u8, a: u64, b: u64, is32: bool) -> bool {
    let (a, b, sa, sb) = if is32 {
        let (a, b) = (a as u32, b as u32);
        (a.into(), b.into(), i64::from(a as i32), i64::from(b as i32))
    } else {
        (a, b, a as i64, b as i64)
    };
    match op {
        BPF_JEQ => a == b,
        BPF_JNE => a != b,
        BPF_JGT => a > b,
        BPF_JGE => a >= b,
        BPF_JLT => a < b,
        BPF_JLE => a <= b,
        BPF_JSGT => sa > sb,
        BPF_JSGE => sa >= sb,
        BPF_JSLT => sa < sb,
        BPF_JSLE => sa <= sb,
        _ => a & b != 0,
    }
}

#[test]
fn decisions_and_refinements_hold_for_every_member() {
    let mut stream = Stream(0x0dd0_5678_9abc_def1);
    for round in 0..300_000 {
        let op = OPS[round % OPS.len()];
        let is32 = stream.next() & 1 == 0;
        let (a, members_a) = stream.set();
        let (b, members_b) = stream.set();
        let decided = decide(op, &a, &b, is32);
        for &x in &members_a {
            for &y in &members_b {
                let holds = concrete(op, x, y, is32);
                assert!(
                    decided.is_none_or(|d| d == holds),
                    "{op:#x} {is32} {a:?} {b:?} {x:#x} {y:#x}"
                );
                let (ra, rb) = refine(op, &a, &b, is32, holds).expect("it does happen");
                assert!(ra.contains(x), "{op:#x} {is32} {holds} {a:?} {b:?} {x:#x}");
                assert!(rb.contains(y), "{op:#x} {is32} {holds} {a:?} {b:?} {y:#x}");
            }
        }
    }
}

#[test]
fn a_bound_check_leaves_exactly_the_interval() {
    let below = refine(BPF_JLT, &Scalar::UNKNOWN, &Scalar::known(16), false, true);
    let (inside, _) = below.expect("some are");
    assert_eq!((inside.umin, inside.umax, inside.smax), (0, 15, 15));
    assert_eq!(inside.bits, super::super::tnum::Tnum { value: 0, mask: 15 });
    let above = refine(BPF_JSGT, &inside, &Scalar::known(7), false, true);
    let (outside, _) = above.expect("some are");
    assert_eq!((outside.umin, outside.umax), (8, 15));
}
