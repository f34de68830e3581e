//! Pieces of programs of the shapes that the JIT recognises, and of shapes
//! that only look so: numbers put together from bytes, rotations, chains of
//! address arithmetic, division by constants. Knows shapes, runs nothing.

use bpftime_vm::op::{Address, AluOp, Cond, Op, Operand, Reg, Size, Swap, Width};
use proptest::prelude::*;

/// A program's ctx, as `random` lays it out.
const CTX: Reg = match Reg::new(9) {
    Some(reg) => reg,
    None => Reg::R10,
};

/// Numbers to choose by, one after another; zeros when they are used up.
struct Dice(std::vec::IntoIter<u32>);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0.next().unwrap_or(0) % limit
    }

    fn one_in(&mut self, limit: u32) -> bool {
        self.below(limit) == limit - 1
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    fn reg(&mut self) -> Reg {
        Reg::new(self.below(9) as u8).expect("below 11")
    }

    fn width(&mut self) -> Width {
        self.of(&[Width::W32, Width::W64])
    }

    /// Different registers.
    fn regs<const N: usize>(&mut self) -> [Reg; N] {
        let mut all: Vec<u8> = (0..9).collect();
        std::array::from_fn(|_| {
            let at = self.below(all.len() as u32) as usize;
            Reg::new(all.remove(at)).expect("below 11")
        })
    }
}

fn alu(width: Width, op: AluOp, dst: Reg, src: Operand) -> Op {
    Op::Alu {
        width,
        op,
        dst,
        src,
    }
}

fn mov(dst: Reg, src: Reg) -> Op {
    alu(Width::W64, AluOp::Mov, dst, Operand::Reg(src))
}

fn load(size: Size, dst: Reg, base: Reg, off: i16) -> Op {
    let addr = Address { base, off };
    Op::Load {
        size,
        signed: false,
        dst,
        addr,
    }
}

/// Bytes joined to a number, in any order, of either byte order; sometimes
/// with a store in between, a byte that is used again, or a wrong shift.
fn ladder(dice: &mut Dice) -> Vec<Op> {
    let [sum, part, other] = dice.regs();
    let unit = dice.of(&[Size::B, Size::B, Size::B, Size::H, Size::W]);
    let bytes = unit.bits() as i16 / 8;
    let width = dice.width();
    let bits = if width == Width::W64 { 64 } else { 32 };
    let room = bits / unit.bits() as i32;
    let count = 1 + dice.below(room as u32) as i32;
    let (base, start) = match dice.below(3) {
        0 => (Reg::R10, -64 + dice.below(50) as i16),
        1 => (CTX, dice.below(120) as i16),
        _ => (other, dice.below(100) as i16),
    };
    let mut ops = Vec::new();
    if base == other {
        ops.push(mov(other, CTX));
        ops.push(alu(
            Width::W64,
            AluOp::Add,
            other,
            Operand::Imm(dice.below(20) as i32),
        ));
    }
    let big = dice.below(2) == 1;
    let join = dice.of(&[AluOp::Or, AluOp::Or, AluOp::Add, AluOp::Xor]);
    let mut order: Vec<i32> = (0..count).collect();
    if dice.one_in(3) {
        order.rotate_left(dice.below(count as u32) as usize);
    }
    for (done, &at) in order.iter().enumerate() {
        let place = if big { count - 1 - at } else { at };
        let dst = if done == 0 { sum } else { part };
        // The address must stay where memory is.
        let limit = if base == Reg::R10 { -8 } else { 108 };
        let off = (start + bytes * at as i16).min(limit);
        ops.push(load(unit, dst, base, off));
        let mut shift = place * unit.bits() as i32;
        if dice.one_in(16) {
            shift = dice.below(bits as u32) as i32;
        }
        if shift > 0 {
            ops.push(alu(width, AluOp::Lsh, dst, Operand::Imm(shift)));
        }
        if dice.one_in(12) {
            let addr = Address { base, off };
            let src = Operand::Imm(dice.below(1 << 31) as i32);
            ops.push(Op::Store {
                size: unit,
                addr,
                src,
            });
        }
        if done > 0 {
            let (a, b) = if dice.one_in(6) {
                (part, sum)
            } else {
                (sum, part)
            };
            ops.push(alu(width, join, a, Operand::Reg(b)));
            if a == part {
                ops.push(mov(sum, part));
            }
        }
    }
    if dice.below(3) > 0 {
        // So that nobody needs the last part.
        ops.push(alu(Width::W64, AluOp::Mov, part, Operand::Imm(1)));
    }
    if base == other {
        // Addresses differ between engines: none may be left.
        ops.push(alu(Width::W64, AluOp::Mov, other, Operand::Imm(2)));
    }
    if dice.one_in(3) {
        let size = dice.of(&[Size::H, Size::W, Size::DW]);
        let kind = dice.of(&[Swap::Le, Swap::Be, Swap::Always]);
        ops.push(Op::Swap {
            kind,
            size,
            dst: sum,
        });
    }
    ops
}

/// Two shifts of one value that are joined, by counts that mostly fit.
fn rotation(dice: &mut Dice) -> Vec<Op> {
    let [a, b, c] = dice.regs();
    let width = dice.width();
    let bits = if width == Width::W64 { 64 } else { 32 };
    let left = dice.below(bits) as i32;
    let right = if dice.one_in(8) {
        dice.below(bits) as i32
    } else {
        bits as i32 - left
    };
    let (first, second) = dice.of(&[(AluOp::Lsh, AluOp::Rsh), (AluOp::Rsh, AluOp::Lsh)]);
    let count = |op| Operand::Imm(if op == AluOp::Lsh { left } else { right } & (bits as i32 - 1));
    let join = dice.of(&[AluOp::Or, AluOp::Or, AluOp::Add, AluOp::Xor]);
    let copy = alu(dice.width(), AluOp::Mov, b, Operand::Reg(a));
    let mut ops = vec![copy, alu(width, first, b, count(first))];
    let other = if dice.below(2) == 0 {
        a
    } else {
        ops.push(alu(width, AluOp::Mov, c, Operand::Reg(a)));
        c
    };
    if dice.one_in(6) {
        let imm = Operand::Imm(dice.below(9) as i32);
        ops.push(alu(width, AluOp::Add, dice.reg(), imm));
    }
    ops.push(alu(width, second, other, count(second)));
    let (dst, src) = if dice.below(2) == 0 {
        (b, other)
    } else {
        (other, b)
    };
    ops.push(alu(
        dice.of(&[width, Width::W64]),
        join,
        dst,
        Operand::Reg(src),
    ));
    if dice.below(2) == 0 {
        ops.push(alu(Width::W64, AluOp::Mov, src, Operand::Imm(7)));
    }
    ops
}

/// A shift left and back, which extends.
fn extension(dice: &mut Dice) -> Vec<Op> {
    let [a, b] = dice.regs();
    let width = dice.width();
    let most = if width == Width::W64 { 64 } else { 32 };
    let count = dice.of(&[16, 24, 32, 48, 56, dice.0.as_slice().len() as i32]) % most;
    let back = dice.of(&[AluOp::Rsh, AluOp::Arsh]);
    vec![
        mov(a, b),
        alu(width, AluOp::Lsh, a, Operand::Imm(count)),
        alu(width, back, a, Operand::Imm(count)),
    ]
}

/// An address that goes astray, by constants, multiples and registers that
/// change places, and comes back before it is used.
fn chain(dice: &mut Dice) -> Vec<Op> {
    let [address, index, spare] = dice.regs();
    let (base, start) = dice.of(&[(CTX, 0i64), (CTX, 64), (Reg::R10, -64)]);
    let wide = |op, dst, src| alu(Width::W64, op, dst, src);
    let mut ops = vec![mov(address, base)];
    let mut off = 0i64;
    for _ in 0..dice.below(5) {
        let by = dice.of(&[1, -8, 40, 0x7fff_ffff, -0x7fff_ffff, 1 << 30, -(1 << 30)]);
        off += i64::from(by);
        ops.push(wide(AluOp::Add, address, Operand::Imm(by)));
    }
    // At most 7 * 5 bytes, by any way of multiplying.
    let scale = dice.below(3) as i32;
    ops.push(wide(AluOp::And, index, Operand::Imm(7)));
    let multiply = match dice.below(3) {
        0 => wide(AluOp::Mul, index, Operand::Imm(dice.of(&[3, 4, 5]))),
        1 => alu(Width::W32, AluOp::Lsh, index, Operand::Imm(scale)),
        _ => wide(AluOp::Lsh, index, Operand::Imm(scale)),
    };
    ops.push(multiply);
    if dice.below(2) == 0 {
        ops.push(wide(AluOp::Add, address, Operand::Reg(index)));
    } else {
        // The other way around, and back into place.
        ops.push(wide(AluOp::Add, index, Operand::Reg(address)));
        ops.push(mov(spare, index));
        ops.push(mov(index, address));
        ops.push(mov(address, spare));
    }
    let mut back = start - off;
    while back != 0 {
        let step = back.clamp(-0x7fff_ffff, 0x7fff_ffff);
        let (op, by) = if dice.below(2) == 0 {
            (AluOp::Add, step)
        } else {
            (AluOp::Sub, -step)
        };
        ops.push(wide(op, address, Operand::Imm(by as i32)));
        back -= step;
    }
    let size = dice.of(&[Size::B, Size::H, Size::W, Size::DW]);
    let addr = Address {
        base: address,
        off: dice.below(8) as i16,
    };
    if dice.below(3) == 0 {
        let src = Operand::Imm(dice.below(1 << 31) as i32);
        ops.push(Op::Store { size, addr, src });
    } else {
        ops.push(load(size, dice.reg(), address, addr.off));
    }
    for reg in [address, index, spare] {
        ops.push(wide(
            AluOp::Mov,
            reg,
            Operand::Imm(dice.below(3) as i32 - 1),
        ));
    }
    ops
}

/// Division by every kind of constant, also as one that is in a register.
fn division(dice: &mut Dice) -> Vec<Op> {
    let [dst, src] = dice.regs();
    let op = dice.of(&[AluOp::Div, AluOp::Mod, AluOp::Sdiv, AluOp::Smod]);
    let edges = [
        0,
        1,
        -1,
        2,
        -2,
        3,
        5,
        7,
        10,
        -10,
        641,
        i32::MIN,
        i32::MAX,
        i32::MIN + 1,
    ];
    let imm = match dice.below(3) {
        0 => dice.of(&edges),
        1 => ((1u32 << dice.below(32)).wrapping_add(dice.below(3)) as i32).wrapping_sub(1),
        _ => dice.below(u32::MAX) as i32,
    };
    let mut ops = Vec::new();
    if dice.below(2) == 0 {
        // A dividend of fewer bits.
        let shift = Operand::Imm(dice.below(64) as i32);
        ops.push(alu(Width::W64, AluOp::Rsh, dst, shift));
    }
    let width = dice.width();
    if dice.below(4) == 0 {
        ops.push(alu(Width::W64, AluOp::Mov, src, Operand::Imm(imm)));
        ops.push(alu(width, op, dst, Operand::Reg(src)));
    } else {
        ops.push(alu(width, op, dst, Operand::Imm(imm)));
    }
    ops
}

/// A load that only a comparison or one operation needs.
fn operand(dice: &mut Dice) -> Vec<Op> {
    let [part, other] = dice.regs();
    let size = dice.of(&[Size::B, Size::H, Size::W, Size::DW]);
    let (base, off) = match dice.below(2) {
        0 => (Reg::R10, -8 * (1 + dice.below(8) as i16)),
        _ => (CTX, 8 * dice.below(15) as i16),
    };
    let mut ops = vec![load(size, part, base, off)];
    let width = dice.width();
    if dice.below(2) == 0 {
        use Cond::*;
        let cond = dice.of(&[Eq, Ne, Gt, Ge, Lt, Le, Set, Sgt, Sge, Slt, Sle]);
        let edges = [
            0,
            1,
            0x5a,
            127,
            128,
            255,
            256,
            -1,
            0x5a5a_5a5a,
            i32::MIN,
            i32::MAX,
        ];
        let src = if dice.below(3) == 0 {
            Operand::Reg(other)
        } else {
            Operand::Imm(dice.of(&edges))
        };
        ops.push(Op::Branch {
            width,
            cond,
            dst: part,
            src,
            rel: 1,
        });
        ops.push(alu(width, AluOp::Add, other, Operand::Imm(1)));
    } else {
        use AluOp::*;
        let op = dice.of(&[Add, Sub, Mul, Or, And, Xor, Lsh, Rsh, Arsh, Mov, Div, Mod]);
        ops.push(alu(width, op, other, Operand::Reg(part)));
    }
    ops.push(alu(Width::W64, AluOp::Mov, part, Operand::Imm(3)));
    ops
}

/// A load, an operation and a store, mostly of the same place and size.
fn modification(dice: &mut Dice) -> Vec<Op> {
    let [value, other, address] = dice.regs();
    let size = dice.of(&[Size::W, Size::DW, Size::W, Size::DW, Size::B, Size::H]);
    let (base, off) = match dice.below(3) {
        0 => (Reg::R10, -8 * (1 + dice.below(8) as i16)),
        1 => (CTX, 8 * dice.below(14) as i16),
        _ => (address, 8 * dice.below(10) as i16),
    };
    let mut ops = Vec::new();
    if base == address {
        ops.push(mov(address, CTX));
        ops.push(alu(Width::W64, AluOp::Add, address, Operand::Imm(24)));
    }
    ops.push(load(size, value, base, off));
    if dice.one_in(4) {
        ops.push(load(Size::B, other, base, off));
    }
    use AluOp::*;
    let src = match dice.below(4) {
        0 => Operand::Imm(dice.below(300) as i32 - 150),
        1 => Operand::Imm(dice.below(u32::MAX) as i32),
        _ => Operand::Reg(other),
    };
    let op = dice.of(&[Add, Add, Sub, Or, And, Xor, Mul, Lsh]);
    ops.push(alu(dice.width(), op, value, src));
    let addr = Address {
        base,
        off: if dice.one_in(8) { off + 4 } else { off },
    };
    let size = if dice.one_in(8) { Size::W } else { size };
    let src = Operand::Reg(value);
    ops.push(Op::Store { size, addr, src });
    if base == address {
        ops.push(alu(Width::W64, Mov, address, Operand::Imm(2)));
    }
    if dice.below(4) > 0 {
        ops.push(alu(Width::W64, Mov, value, Operand::Imm(4)));
    }
    ops
}

/// Any of them.
pub fn pattern() -> impl Strategy<Value = Vec<Op>> {
    let shapes = [
        ladder,
        ladder,
        rotation,
        extension,
        chain,
        division,
        operand,
        modification,
    ];
    (
        0..shapes.len(),
        proptest::collection::vec(any::<u32>(), 0..64),
    )
        .prop_map(move |(shape, numbers)| shapes[shape](&mut Dice(numbers.into_iter())))
}
