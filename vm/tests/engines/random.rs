//! Random programs give the same in interpreter, JIT, rbpf and the kernel.

use bpftime_vm::Facts;
use bpftime_vm::disasm::disassemble;
use bpftime_vm::op::{Address, AluOp, AtomicOp, Cond, Imm64, Op, Operand, Reg, Size, Swap, Width};
use proptest::prelude::*;
use proptest::sample::select;
use uapi::Insn;

use crate::common::{program, run_one};
use crate::kernel;
use crate::patterns::pattern;

/// Bytes of ctx, which the program ends by copying its registers to.
const CTX: usize = 128;

fn reg() -> impl Strategy<Value = Reg> {
    // r9 holds the ctx throughout.
    (0..=8u8).prop_map(|n| Reg::new(n).expect("below 11"))
}

fn width() -> impl Strategy<Value = Width> {
    select(vec![Width::W32, Width::W64])
}

fn imm() -> impl Strategy<Value = i32> {
    let edges = vec![
        0,
        1,
        -1,
        2,
        7,
        31,
        32,
        63,
        64,
        127,
        128,
        -128,
        -129,
        i32::MAX,
        i32::MIN,
    ];
    prop_oneof![select(edges), any::<i32>(), -100..100i32]
}

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![reg().prop_map(Operand::Reg), imm().prop_map(Operand::Imm)]
}

fn number() -> impl Strategy<Value = u64> {
    let edges = vec![
        0,
        1,
        u64::MAX,
        1 << 63,
        1 << 31,
        1 << 32,
        0xffff_ffff,
        i64::MAX as u64,
    ];
    prop_oneof![select(edges), any::<u64>(), 0..100u64]
}

fn size() -> impl Strategy<Value = Size> {
    select(vec![Size::B, Size::H, Size::W, Size::DW])
}

/// A place in the stack or the ctx, aligned as atomics want it.
fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        (1..=8i16).prop_map(|n| Address {
            base: Reg::R10,
            off: -8 * n
        }),
        (61..=64i16).prop_map(|n| Address {
            base: Reg::R10,
            off: -8 * n
        }),
        (0..16i16).prop_map(|n| Address {
            base: Reg::new(9).expect("below 11"),
            off: 8 * n
        }),
    ]
}

fn alu_op() -> impl Strategy<Value = AluOp> {
    use AluOp::*;
    select(vec![
        Add, Sub, Mul, Div, Sdiv, Or, And, Lsh, Rsh, Arsh, Mod, Smod, Xor, Mov,
    ])
}

fn atomic() -> impl Strategy<Value = Op> {
    use AtomicOp::*;
    let op = select(vec![Add, Or, And, Xor, Xchg, CmpXchg]);
    let size = select(vec![Size::W, Size::DW]);
    (op, any::<bool>(), size, address(), reg()).prop_map(|(op, fetch, size, addr, src)| {
        let fetch = fetch || matches!(op, Xchg | CmpXchg);
        Op::Atomic {
            op,
            fetch,
            size,
            addr,
            src,
        }
    })
}

fn branch(room: usize) -> impl Strategy<Value = Op> {
    use Cond::*;
    let cond = select(vec![Eq, Ne, Gt, Ge, Lt, Le, Set, Sgt, Sge, Slt, Sle]);
    (width(), cond, reg(), operand(), 0..=room as i16).prop_map(|(width, cond, dst, src, rel)| {
        Op::Branch {
            width,
            cond,
            dst,
            src,
            rel,
        }
    })
}

/// One instruction that may jump at most `room` ones ahead.
fn op(room: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (width(), alu_op(), reg(), operand())
            .prop_map(|(width, op, dst, src)| Op::Alu { width, op, dst, src }),
        1 => (width(), reg()).prop_map(|(width, dst)| Op::Neg { width, dst }),
        1 => (reg(), number())
            .prop_map(|(dst, value)| Op::LoadImm { dst, imm: Imm64::Value(value) }),
        1 => (width(), select(vec![Size::B, Size::H]), reg(), reg())
            .prop_map(|(width, from, dst, src)| Op::MovSx { width, from, dst, src }),
        1 => (reg(), reg()).prop_map(|(dst, src)| Op::MovSx {
            width: Width::W64, from: Size::W, dst, src
        }),
        1 => (
            select(vec![Swap::Le, Swap::Be, Swap::Always]),
            select(vec![Size::H, Size::W, Size::DW]),
            reg(),
        )
            .prop_map(|(kind, size, dst)| Op::Swap { kind, size, dst }),
        2 => (size(), any::<bool>(), reg(), address()).prop_map(|(size, signed, dst, addr)| {
            Op::Load { size, signed: signed && size != Size::DW, dst, addr }
        }),
        2 => (size(), address(), operand())
            .prop_map(|(size, addr, src)| Op::Store { size, addr, src }),
        1 => (size(), reg(), address())
            .prop_map(|(size, dst, addr)| Op::LoadAcquire { size, dst, addr }),
        1 => (size(), address(), reg())
            .prop_map(|(size, addr, src)| Op::StoreRelease { size, addr, src }),
        2 => atomic(),
        2 => branch(room),
    ]
}

fn body() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(12), 1..60)
}

/// A body with pieces of the shapes that the JIT recognises.
fn shaped() -> impl Strategy<Value = Vec<Op>> {
    let piece = prop_oneof![
        3 => pattern(),
        2 => op(3).prop_map(|op| vec![op]),
    ];
    proptest::collection::vec(piece, 1..16).prop_map(over_pieces)
}

/// All pieces in a row; branches alone jump over whole pieces, since only the
/// beginning of a piece leads to an address that may be used.
fn over_pieces(mut pieces: Vec<Vec<Op>>) -> Vec<Op> {
    let lengths: Vec<usize> = pieces.iter().map(Vec::len).collect();
    for (at, piece) in pieces.iter_mut().enumerate() {
        if let [Op::Branch { rel, .. }] = piece.as_mut_slice() {
            let over = lengths[at + 1..].iter().take(*rel as usize);
            *rel = over.sum::<usize>() as i16;
        }
    }
    pieces.concat()
}

fn push(insns: &mut Vec<Insn>, op: Op) {
    let (first, second) = op.encode();
    insns.push(first);
    insns.extend(second);
}

/// A whole program: registers and stack get values, the body runs, and what
/// is in the registers goes to the ctx.
fn whole(seed: &[u64; 9], body: &[Op]) -> Vec<Insn> {
    let mut insns = Vec::new();
    let r = |n| Reg::new(n).expect("below 11");
    let mov = |dst, src| Op::Alu {
        width: Width::W64,
        op: AluOp::Mov,
        dst,
        src,
    };
    push(&mut insns, mov(r(9), Operand::Reg(r(1))));
    for slot in (1..=8).chain(61..=64) {
        let addr = Address {
            base: Reg::R10,
            off: -8 * slot,
        };
        push(
            &mut insns,
            Op::Store {
                size: Size::DW,
                addr,
                src: Operand::Imm(slot.into()),
            },
        );
    }
    for (n, &value) in (0..).zip(seed) {
        push(
            &mut insns,
            Op::LoadImm {
                dst: r(n),
                imm: Imm64::Value(value),
            },
        );
    }
    // Branches count instructions here and slots in the program.
    let starts: Vec<usize> = body
        .iter()
        .scan(0, |at, op| {
            *at += op.slots();
            Some(*at)
        })
        .collect();
    for (index, op) in body.iter().enumerate() {
        let op = match *op {
            Op::Branch {
                width,
                cond,
                dst,
                src,
                rel,
            } => {
                let to = (index + rel as usize).min(body.len() - 1);
                let rel = (starts[to] - starts[index]) as i16;
                Op::Branch {
                    width,
                    cond,
                    dst,
                    src,
                    rel,
                }
            }
            other => other,
        };
        push(&mut insns, op);
    }
    // Stack words into r0 by rotation and addition, registers into the ctx.
    for n in 1..=8u8 {
        let addr = Address {
            base: r(9),
            off: 8 * i16::from(n),
        };
        push(
            &mut insns,
            Op::Store {
                size: Size::DW,
                addr,
                src: Operand::Reg(r(n)),
            },
        );
    }
    for slot in (1..=8).chain(61..=64) {
        let addr = Address {
            base: Reg::R10,
            off: -8 * slot,
        };
        push(
            &mut insns,
            Op::Load {
                size: Size::DW,
                signed: false,
                dst: r(1),
                addr,
            },
        );
        let alu = |op, src| Op::Alu {
            width: Width::W64,
            op,
            dst: r(0),
            src,
        };
        push(&mut insns, alu(AluOp::Mul, Operand::Imm(31)));
        push(&mut insns, alu(AluOp::Add, Operand::Reg(r(1))));
    }
    push(&mut insns, Op::Exit);
    insns
}

/// Where rbpf 0.4 can give a second opinion. It knows no instructions of
/// version 4 and few atomics; against RFC 9669 its `neg` overflows, its 32-bit
/// remainder by zero keeps the upper half, and its branches do not sign-extend.
fn known_to_rbpf(op: &Op) -> bool {
    !matches!(
        op,
        Op::Alu {
            op: AluOp::Sdiv | AluOp::Smod,
            ..
        } | Op::MovSx { .. }
            | Op::Atomic { .. }
            | Op::LoadAcquire { .. }
            | Op::StoreRelease { .. }
            | Op::Load { signed: true, .. }
            | Op::Neg { .. }
            | Op::Branch {
                src: Operand::Imm(i32::MIN..0),
                ..
            }
            | Op::Alu {
                width: Width::W32,
                op: AluOp::Mod,
                ..
            }
            | Op::Swap {
                kind: Swap::Always,
                ..
            }
    )
}

/// The same with operands that the kernel's verifier accepts: no constant
/// division by zero, no constant shift beyond the width, no atomics in ctx.
fn for_kernel(op: Op) -> Op {
    match op {
        Op::Alu {
            width,
            op,
            dst,
            src: Operand::Imm(imm),
        } => {
            let imm = match op {
                AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod if imm == 0 => 3,
                AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => imm & 31,
                _ => imm,
            };
            Op::Alu {
                width,
                op,
                dst,
                src: Operand::Imm(imm),
            }
        }
        Op::Atomic {
            op,
            fetch,
            size,
            addr,
            src,
        } => Op::Atomic {
            op,
            fetch,
            size,
            addr: in_stack(addr),
            src,
        },
        Op::LoadAcquire { size, dst, addr } => Op::LoadAcquire {
            size,
            dst,
            addr: in_stack(addr),
        },
        Op::StoreRelease { size, addr, src } => Op::StoreRelease {
            size,
            addr: in_stack(addr),
            src,
        },
        other => other,
    }
}

fn in_stack(addr: Address) -> Address {
    match addr.base {
        Reg::R10 => addr,
        _ => Address {
            base: Reg::R10,
            off: -8 - addr.off % 64,
        },
    }
}

fn bytes(insns: &[Insn]) -> Vec<u8> {
    insns.iter().flat_map(|insn| insn.to_bytes()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn engines_agree(
        seed in proptest::array::uniform9(number()),
        body in body(),
        choice in any::<usize>(),
    ) {
        let insns = whole(&seed, &body);
        let text = disassemble(&insns);
        let program = program(insns, Facts::default());
        let result = std::panic::catch_unwind(|| {
            run_one(&program, &[0x5a; CTX], std::ptr::null_mut(), choice)
        });
        prop_assert!(result.is_ok(), "{}", text);
    }

    #[test]
    fn engines_agree_on_shapes(
        seed in proptest::array::uniform9(number()),
        body in shaped(),
        choice in any::<usize>(),
    ) {
        let insns = whole(&seed, &body);
        let text = disassemble(&insns);
        let program = program(insns, Facts::default());
        let result = std::panic::catch_unwind(|| {
            run_one(&program, &[0x5a; CTX], std::ptr::null_mut(), choice)
        });
        prop_assert!(result.is_ok(), "{}", text);
    }

    #[test]
    fn rbpf_agrees(
        seed in proptest::array::uniform9(number()),
        body in body(),
        choice in any::<usize>(),
    ) {
        let body: Vec<Op> = body.into_iter().filter(known_to_rbpf).collect();
        prop_assume!(!body.is_empty());
        let insns = whole(&seed, &body);
        let code = bytes(&insns);
        let text = disassemble(&insns);
        let program = program(insns, Facts::default());
        let left = run_one(&program, &[0x5a; CTX], std::ptr::null_mut(), choice);

        let vm = rbpf::EbpfVmRaw::new(Some(&code)).expect("rbpf accepts it");
        let mut memory = [0x5a; CTX];
        let r0 = vm.execute_program(&mut memory).expect("rbpf runs it");
        prop_assert_eq!(left.r0, r0, "{}", text);
        prop_assert_eq!(left.memory, memory.to_vec(), "{}", text);
    }

    #[test]
    fn kernel_agrees(
        seed in proptest::array::uniform9(number()),
        body in body(),
        choice in any::<usize>(),
    ) {
        let body: Vec<Op> = body.into_iter().map(for_kernel).collect();
        let insns = whole(&seed, &body);
        let Some(in_kernel) = kernel::run(&insns, &[0x5a; CTX]) else {
            return Ok(());
        };
        let program = program(insns, Facts::default());
        let left = run_one(&program, &[0x5a; CTX], std::ptr::null_mut(), choice);
        prop_assert_eq!(left, in_kernel, "{}", disassemble(program.insns()));
    }
}
