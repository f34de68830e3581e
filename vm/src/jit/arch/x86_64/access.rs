//! Loads, stores and atomics.

use dynasmrt::DynasmApi;

use super::buffer::Cc;
use super::frame::{self, R9, R10, R11, RAX};
use super::{Compiler, emit, emit_byte};
use crate::op::{Address, AtomicOp, Operand, Reg, Size};

/// A memory operand in its shortest form.
#[derive(Clone, Copy)]
enum Memory {
    Near(u8, i8),
    Far(u8, i32),
    StackNear(i8),
    StackFar(i32),
}

impl Memory {
    fn new(base: u8, off: i32) -> Memory {
        match i8::try_from(off) {
            Ok(off) => Memory::Near(base, off),
            Err(_) => Memory::Far(base, off),
        }
    }

    fn stack(off: i32) -> Memory {
        match i8::try_from(off) {
            Ok(off) => Memory::StackNear(off),
            Err(_) => Memory::StackFar(off),
        }
    }

    /// The same place when rax was moved to r11.
    fn without_rax(self) -> Memory {
        match self {
            Memory::Near(RAX, off) => Memory::Near(R11, off),
            Memory::Far(RAX, off) => Memory::Far(R11, off),
            other => other,
        }
    }
}

/// Emits an instruction with a memory operand between others, of which an
/// immediate of `$tail` bytes may follow the address.
macro_rules! with_memory {
    ($emit:ident, $self:expr, $memory:expr, $before:tt $size:ident $after:tt) => {
        with_memory!($emit, $self, $memory, $before $size $after, 0)
    };
    (
        $emit:ident, $self:expr, $memory:expr,
        [$($before:tt)*] $size:ident [$($after:tt)*], $tail:expr
    ) => {
        match $memory {
            Memory::Near(base, off) => {
                $emit!($self, $($before)* $size [BYTE Rq(base) + off] $($after)*);
                $self.buffer.shorten_address(base, &off.to_le_bytes(), $tail);
            }
            Memory::Far(base, off) => {
                $emit!($self, $($before)* $size [DWORD Rq(base) + off] $($after)*);
                $self.buffer.shorten_address(base, &off.to_le_bytes(), $tail);
            }
            Memory::StackNear(off) => {
                $emit!($self, $($before)* $size [BYTE rsp + off] $($after)*)
            }
            Memory::StackFar(off) => {
                $emit!($self, $($before)* $size [DWORD rsp + off] $($after)*)
            }
        }
    };
}

impl Compiler<'_> {
    fn memory(&mut self, addr: Address) -> Memory {
        match frame::machine(addr.base) {
            Some(base) => Memory::new(base, addr.off.into()),
            None => Memory::stack(self.frame.top + i32::from(addr.off)),
        }
    }

    pub(super) fn load(&mut self, size: Size, signed: bool, dst: Reg, addr: Address) {
        let dst = self.machine(dst);
        let m = self.memory(addr);
        match (size, signed) {
            (Size::B, false) => with_memory!(emit, self, m, [movzx Rd(dst),] BYTE []),
            (Size::H, false) => with_memory!(emit, self, m, [movzx Rd(dst),] WORD []),
            (Size::W, false) => with_memory!(emit, self, m, [mov Rd(dst),] DWORD []),
            (Size::DW, _) => with_memory!(emit, self, m, [mov Rq(dst),] QWORD []),
            (Size::B, true) => with_memory!(emit, self, m, [movsx Rq(dst),] BYTE []),
            (Size::H, true) => with_memory!(emit, self, m, [movsx Rq(dst),] WORD []),
            (Size::W, true) => with_memory!(emit, self, m, [movsxd Rq(dst),] DWORD []),
        }
    }

    pub(super) fn store(&mut self, size: Size, addr: Address, src: Operand) {
        let imm = match src {
            Operand::Reg(src) => return self.store_register(size, addr, src),
            Operand::Imm(imm) => imm,
        };
        let m = self.memory(addr);
        match size {
            Size::B => with_memory!(emit, self, m, [mov] BYTE [, BYTE imm as i8], 1),
            Size::H => with_memory!(emit, self, m, [mov] WORD [, WORD imm as i16], 2),
            Size::W => with_memory!(emit, self, m, [mov] DWORD [, DWORD imm], 4),
            Size::DW => with_memory!(emit, self, m, [mov] QWORD [, DWORD imm], 4),
        }
    }

    pub(super) fn store_register(&mut self, size: Size, addr: Address, src: Reg) {
        let src = self.machine(src);
        let m = self.memory(addr);
        match size {
            Size::B => with_memory!(emit_byte, self, m, [mov] BYTE [, Rb(src)]),
            Size::H => with_memory!(emit, self, m, [mov] WORD [, Rw(src)]),
            Size::W => with_memory!(emit, self, m, [mov] DWORD [, Rd(src)]),
            Size::DW => with_memory!(emit, self, m, [mov] QWORD [, Rq(src)]),
        }
    }

    /// A read-modify-write; the lock prefix orders it fully. 32-bit results
    /// clear the upper half of their register by themselves.
    pub(super) fn atomic(
        &mut self,
        op: AtomicOp,
        fetch: bool,
        size: Size,
        addr: Address,
        src: Reg,
    ) {
        let register = self.machine(src);
        let m = self.memory(addr);
        let wide = size == Size::DW;
        match (op, fetch, wide) {
            (AtomicOp::Add, true, true) => {
                with_memory!(emit, self, m, [lock xadd] QWORD [, Rq(register)]);
            }
            (AtomicOp::Add, true, false) => {
                with_memory!(emit, self, m, [lock xadd] DWORD [, Rd(register)]);
            }
            (AtomicOp::Xchg, _, true) => {
                with_memory!(emit, self, m, [xchg] QWORD [, Rq(register)]);
            }
            (AtomicOp::Xchg, _, false) => {
                with_memory!(emit, self, m, [xchg] DWORD [, Rd(register)]);
            }
            (AtomicOp::CmpXchg, _, true) => {
                with_memory!(emit, self, m, [lock cmpxchg] QWORD [, Rq(register)]);
            }
            (AtomicOp::CmpXchg, _, false) => {
                with_memory!(emit, self, m, [lock cmpxchg] DWORD [, Rd(register)]);
                // Untouched when the comparison holds.
                emit!(self, mov eax, eax);
            }
            (AtomicOp::Add, false, true) => {
                with_memory!(emit, self, m, [lock add] QWORD [, Rq(register)]);
            }
            (AtomicOp::Add, false, false) => {
                with_memory!(emit, self, m, [lock add] DWORD [, Rd(register)]);
            }
            (AtomicOp::Or, false, true) => {
                with_memory!(emit, self, m, [lock or] QWORD [, Rq(register)]);
            }
            (AtomicOp::Or, false, false) => {
                with_memory!(emit, self, m, [lock or] DWORD [, Rd(register)]);
            }
            (AtomicOp::And, false, true) => {
                with_memory!(emit, self, m, [lock and] QWORD [, Rq(register)]);
            }
            (AtomicOp::And, false, false) => {
                with_memory!(emit, self, m, [lock and] DWORD [, Rd(register)]);
            }
            (AtomicOp::Xor, false, true) => {
                with_memory!(emit, self, m, [lock xor] QWORD [, Rq(register)]);
            }
            (AtomicOp::Xor, false, false) => {
                with_memory!(emit, self, m, [lock xor] DWORD [, Rd(register)]);
            }
            (AtomicOp::Or | AtomicOp::And | AtomicOp::Xor, true, _) => {
                self.fetch_by_loop(op, wide, m, register);
            }
        }
    }

    /// The processor has no fetching or, and, xor: compare and exchange until
    /// nobody came between. `cmpxchg` needs rax, which is r0; r10 keeps it,
    /// r11 its value as an address.
    fn fetch_by_loop(&mut self, op: AtomicOp, wide: bool, m: Memory, register: u8) {
        emit!(self, mov Rq(R10), rax);
        emit!(self, mov Rq(R11), rax);
        let m = m.without_rax();
        let operand = if register == RAX { R10 } else { register };
        if wide {
            with_memory!(emit, self, m, [mov rax,] QWORD []);
        } else {
            with_memory!(emit, self, m, [mov eax,] DWORD []);
        }
        let again = self.buffer.offset();
        emit!(self, mov Rq(R9), rax);
        match op {
            AtomicOp::Or => emit!(self, or Rq(R9), Rq(operand)),
            AtomicOp::And => emit!(self, and Rq(R9), Rq(operand)),
            _ => emit!(self, xor Rq(R9), Rq(operand)),
        }
        if wide {
            with_memory!(emit, self, m, [lock cmpxchg] QWORD [, Rq(R9)]);
        } else {
            with_memory!(emit, self, m, [lock cmpxchg] DWORD [, Rd(R9)]);
        }
        self.buffer.hop_back_if(Cc::NE, again);
        if register != RAX {
            emit!(self, mov Rq(register), rax);
            emit!(self, mov rax, Rq(R10));
        }
    }
}
