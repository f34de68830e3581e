//! Each operator against all pairs of all members, at five bits placed at the
//! bottom and, for what moves through the top, at the top.

use super::Tnum;

const BITS: u32 = 4;

fn all() -> Vec<Tnum> {
    let top = 1u64 << BITS;
    (0..top)
        .flat_map(|mask| (0..top).map(move |value| Tnum { value, mask }))
        .filter(|t| t.value & t.mask == 0)
        .collect()
}

fn members(t: Tnum) -> Vec<u64> {
    (0..1u64 << BITS).filter(|&n| t.contains(n)).collect()
}

fn check(name: &str, op: fn(Tnum, Tnum) -> Tnum, concrete: fn(u64, u64) -> u64) {
    for shift in [0, 28, 60] {
        for a in all() {
            for b in all() {
                let (wide_a, wide_b) = (a.shl(shift), b.shl(shift));
                let result = op(wide_a, wide_b);
                assert_eq!(result.value & result.mask, 0, "{name} {a:?} {b:?}");
                for x in members(a) {
                    for y in members(b) {
                        let n = concrete(x << shift, y << shift);
                        assert!(result.contains(n), "{name} {wide_a:?} {wide_b:?}: {n:#x}");
                    }
                }
            }
        }
    }
}

#[test]
fn operators_contain_every_concrete_result() {
    check("add", Tnum::add, u64::wrapping_add);
    check("sub", Tnum::sub, u64::wrapping_sub);
    check("mul", Tnum::mul, u64::wrapping_mul);
    check("and", Tnum::and, |a, b| a & b);
    check("or", Tnum::or, |a, b| a | b);
    check("xor", Tnum::xor, |a, b| a ^ b);
}

#[test]
fn shifts_contain_every_concrete_result() {
    for at in [0, 28, 60] {
        for t in all() {
            for by in 0..64 {
                for n in members(t) {
                    let (wide, n) = (t.shl(at), n << at);
                    assert!(wide.shl(by).contains(n << by));
                    assert!(wide.shr(by).contains(n >> by));
                    assert!(wide.sar(by).contains((n as i64 >> by) as u64));
                    if by < 32 {
                        let want = ((n as i32) >> by) as u32 as u64;
                        assert!(wide.sar32(by).contains(want));
                    }
                }
            }
        }
    }
}

#[test]
fn range_and_intersection_are_exact_enough() {
    for lo in 0..64u64 {
        for hi in lo..64 {
            let t = Tnum::range(lo, hi);
            assert!((lo..=hi).all(|n| t.contains(n)), "{lo}..={hi}");
        }
    }
    for a in all() {
        for b in all() {
            let both: Vec<u64> = members(a).into_iter().filter(|&n| b.contains(n)).collect();
            let got = a.intersect(b).map(members).unwrap_or_default();
            assert_eq!(got, both, "{a:?} {b:?}");
            assert_eq!(a.includes(b), members(b).iter().all(|&n| a.contains(n)));
        }
    }
}
