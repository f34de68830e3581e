//! Every operation against concrete numbers: sets made from small and from
//! extreme members, results computed by the machine.

use uapi::insn::*;

use super::super::range::Scalar;
use super::super::tnum::Tnum;
use super::*;

/// A deterministic stream of numbers (xorshift64*).
pub(in super::super) struct Stream(pub(in super::super) u64);

impl Stream {
    pub(in super::super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Numbers near the places where views differ.
    pub(in super::super) fn number(&mut self) -> u64 {
        let anchors = [
            0,
            1,
            u64::MAX,
            1 << 31,
            1 << 32,
            1 << 63,
            0x7fff_ffff,
            0xffff_ffff,
            i64::MAX as u64,
            0xffff_ffff_8000_0000,
        ];
        match self.next() % 4 {
            0 => self.next(),
            1 => self.next() % 64,
            2 => u64::from(self.next() as u32),
            _ => {
                let anchor = anchors[(self.next() % anchors.len() as u64) as usize];
                anchor.wrapping_add(self.next() % 9).wrapping_sub(4)
            }
        }
    }

    /// A set and some of its members, by narrowing one or more views at random.
    pub(in super::super) fn set(&mut self) -> (Scalar, Vec<u64>) {
        let count = 1 + self.next() % 4;
        let members: Vec<u64> = (0..count).map(|_| self.number()).collect();
        let mut s = Scalar::UNKNOWN;
        let which = self.next();
        let fold = |f: &dyn Fn(u64) -> i128| {
            let it = members.iter().map(|&n| f(n));
            (it.clone().min().unwrap_or(0), it.max().unwrap_or(0))
        };
        if which & 1 != 0 {
            let (a, b) = fold(&|n| n.into());
            (s.umin, s.umax) = (a as u64, b as u64);
        }
        if which & 2 != 0 {
            let (a, b) = fold(&|n| (n as i64).into());
            (s.smin, s.smax) = (a as i64, b as i64);
        }
        if which & 4 != 0 {
            let (a, b) = fold(&|n| (n as u32).into());
            (s.umin32, s.umax32) = (a as u32, b as u32);
        }
        if which & 8 != 0 {
            let (a, b) = fold(&|n| (n as i32).into());
            (s.smin32, s.smax32) = (a as i32, b as i32);
        }
        if which & 16 != 0 {
            let mask = members.iter().fold(0, |m, n| m | (n ^ members[0]));
            s.bits = Tnum {
                value: members[0] & !mask,
                mask,
            };
        }
        let synced = s.sync().expect("a set with members is not empty");
        (synced, members)
    }
}

fn concrete64(op: u8, a: u64, b: u64) -> u64 {
    match op {
        BPF_ADD => a.wrapping_add(b),
        BPF_SUB => a.wrapping_sub(b),
        BPF_MUL => a.wrapping_mul(b),
        BPF_AND => a & b,
        BPF_OR => a | b,
        BPF_XOR => a ^ b,
        BPF_LSH => a << (b & 63),
        BPF_RSH => a >> (b & 63),
        BPF_ARSH => ((a as i64) >> (b & 63)) as u64,
        BPF_NEG => (a as i64).wrapping_neg() as u64,
        BPF_DIV => a.checked_div(b).unwrap_or(0),
        _ => a.checked_rem(b).unwrap_or(a),
    }
}

fn concrete32(op: u8, a: u64, b: u64) -> u64 {
    let (a, b) = (a as u32, b as u32);
    u64::from(match op {
        BPF_LSH => a << (b & 31),
        BPF_RSH => a >> (b & 31),
        BPF_ARSH => ((a as i32) >> (b & 31)) as u32,
        BPF_NEG => (a as i32).wrapping_neg() as u32,
        BPF_DIV => a.checked_div(b).unwrap_or(0),
        BPF_MOD => a.checked_rem(b).unwrap_or(a),
        _ => concrete64(op, a.into(), b.into()) as u32,
    })
}

const OPS: [u8; 12] = [
    BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_NEG, BPF_MOD,
    BPF_XOR, BPF_ARSH,
];

#[test]
fn random_sets_contain_every_concrete_result() {
    let mut stream = Stream(0x1234_5678_9abc_def1);
    for round in 0..300_000 {
        let op = OPS[round % OPS.len()];
        let (a, members_a) = stream.set();
        let (b, members_b) = if matches!(op, BPF_LSH | BPF_RSH | BPF_ARSH) && round % 8 != 0 {
            let by = stream.next() % 64;
            (Scalar::known(by), vec![by])
        } else {
            stream.set()
        };
        let (wide, narrow) = (alu64(op, &a, &b), alu32(op, &a, &b));
        for &x in &members_a {
            assert!(a.contains(x), "{a:?} lost {x:#x}");
            for &y in &members_b {
                let n = concrete64(op, x, y);
                assert!(
                    wide.contains(n),
                    "{op:#x} {a:?} {b:?} {x:#x} {y:#x}: {wide:?}"
                );
                let n = concrete32(op, x, y);
                assert!(
                    narrow.contains(n),
                    "32 {op:#x} {a:?} {b:?} {x:#x} {y:#x}: {narrow:?}"
                );
            }
        }
    }
}

#[test]
fn extensions_contain_every_concrete_result() {
    let mut stream = Stream(0xfeed_5678_9abc_def1);
    for _ in 0..100_000 {
        let (a, members) = stream.set();
        for &n in &members {
            for bytes in [1, 2, 4, 8] {
                let spare = 64 - 8 * bytes;
                let cut = (n << spare) >> spare;
                let signed = (((n << spare) as i64) >> spare) as u64;
                assert!(truncate(&a, bytes).contains(cut));
                assert!(sign_extend(&a, bytes).contains(signed), "{a:?} {n:#x}");
                assert!(Scalar::unknown_bytes(bytes).contains(cut));
                if bytes < 4 {
                    let low = u64::from(signed as u32);
                    assert!(sign_extend32(&a, bytes).contains(low));
                }
                if bytes > 1 {
                    let swapped = cut.swap_bytes() >> spare;
                    assert!(byte_order(&a, 8 * bytes, true).contains(swapped));
                    assert!(byte_order(&a, 8 * bytes, false).contains(cut));
                }
            }
        }
    }
}

/// All intervals of 4-bit numbers at the bottom and around both sign bits.
#[test]
fn small_intervals_are_exhaustively_contained() {
    for base in [
        0u64,
        (1 << 31) - 8,
        (1 << 32) - 8,
        (1 << 63) - 8,
        u64::MAX - 7,
    ] {
        let interval = |lo: u64, hi: u64| {
            let (lo, hi) = (base.wrapping_add(lo), base.wrapping_add(hi));
            let mut s = Scalar::UNKNOWN;
            if lo <= hi {
                (s.umin, s.umax) = (lo, hi);
            } else {
                (s.smin, s.smax) = (lo as i64, hi as i64);
            }
            s.sync().expect("not empty")
        };
        for (alo, ahi) in (0..16).flat_map(|a| (a..16).map(move |b| (a, b))) {
            for (blo, bhi) in [(0, 0), (1, 1), (0, 3), (2, 9), (7, 8), (0, 15)] {
                let (a, b) = (interval(alo, ahi), interval(blo, bhi));
                for op in OPS {
                    let (wide, narrow) = (alu64(op, &a, &b), alu32(op, &a, &b));
                    for x in (alo..=ahi).map(|n| base.wrapping_add(n)) {
                        for y in (blo..=bhi).map(|n| base.wrapping_add(n)) {
                            assert!(wide.contains(concrete64(op, x, y)));
                            assert!(narrow.contains(concrete32(op, x, y)));
                        }
                    }
                }
            }
        }
    }
}
