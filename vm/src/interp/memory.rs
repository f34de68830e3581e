//! What loads, stores and atomics mean, and the instructions that neither
//! jump nor call. Believes the verifier about every address.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::{Registers, alu};
use crate::op::{Address, AtomicOp, Op, Reg, Size, Width};

impl Registers {
    /// Executes an instruction that continues with the next one.
    ///
    /// # Safety
    /// The verifier proved that the instruction, with these register values,
    /// touches only memory the run may touch.
    pub(super) unsafe fn execute(&mut self, op: Op) {
        match op {
            Op::Alu {
                width,
                op,
                dst,
                src,
            } => {
                self.set(dst, alu::binary(op, width, self.get(dst), self.second(src)));
            }
            Op::Neg { width, dst } => self.set(dst, alu::negate(width, self.get(dst))),
            Op::MovSx {
                width,
                from,
                dst,
                src,
            } => {
                self.set(dst, alu::extend(width, from, self.get(src)));
            }
            Op::Swap { kind, size, dst } => self.set(dst, alu::swap(kind, size, self.get(dst))),
            Op::Load {
                size,
                signed,
                dst,
                addr,
            } => {
                // SAFETY: the caller's promise.
                let value = unsafe { load(size, self.address(addr)) };
                let value = if signed {
                    alu::extend(Width::W64, size, value)
                } else {
                    value
                };
                self.set(dst, value);
            }
            Op::Store { size, addr, src } => {
                let value = self.second(src);
                // SAFETY: the caller's promise.
                unsafe { store(size, self.address(addr), value) }
            }
            Op::Atomic {
                op,
                fetch,
                size,
                addr,
                src,
            } => {
                // SAFETY: the caller's promise.
                unsafe { self.atomic(op, fetch, size, addr, src) }
            }
            Op::LoadAcquire { size, dst, addr } => {
                let at = self.address(addr);
                // SAFETY: the caller's promise; the verifier wants these aligned.
                let value = unsafe {
                    match size {
                        Size::B => AtomicU8::from_ptr(at).load(Ordering::Acquire).into(),
                        Size::H => AtomicU16::from_ptr(at.cast())
                            .load(Ordering::Acquire)
                            .into(),
                        Size::W => AtomicU32::from_ptr(at.cast())
                            .load(Ordering::Acquire)
                            .into(),
                        Size::DW => AtomicU64::from_ptr(at.cast()).load(Ordering::Acquire),
                    }
                };
                self.set(dst, value);
            }
            Op::StoreRelease { size, addr, src } => {
                let (at, value) = (self.address(addr), self.get(src));
                // SAFETY: as above.
                unsafe {
                    match size {
                        Size::B => AtomicU8::from_ptr(at).store(value as u8, Ordering::Release),
                        Size::H => {
                            AtomicU16::from_ptr(at.cast()).store(value as u16, Ordering::Release);
                        }
                        Size::W => {
                            AtomicU32::from_ptr(at.cast()).store(value as u32, Ordering::Release);
                        }
                        Size::DW => AtomicU64::from_ptr(at.cast()).store(value, Ordering::Release),
                    }
                }
            }
            Op::LoadImm { .. }
            | Op::Jump { .. }
            | Op::Branch { .. }
            | Op::MayGoto { .. }
            | Op::CallHelper { .. }
            | Op::CallKfunc { .. }
            | Op::CallSub { .. }
            | Op::Exit => unreachable!("control flow and names are the frame's"),
        }
    }

    fn address(&self, addr: Address) -> *mut u8 {
        self.get(addr.base).wrapping_add(addr.off as i64 as u64) as *mut u8
    }

    /// # Safety
    /// As [`Registers::execute`].
    unsafe fn atomic(&mut self, op: AtomicOp, fetch: bool, size: Size, addr: Address, src: Reg) {
        let at = self.address(addr);
        let (operand, r0) = (self.get(src), self.get(Reg::R0));
        // SAFETY: the caller's promise; the verifier wants atomics aligned.
        let old = unsafe {
            match size {
                Size::DW => {
                    let word = AtomicU64::from_ptr(at.cast());
                    match op {
                        AtomicOp::Add => word.fetch_add(operand, Ordering::SeqCst),
                        AtomicOp::Or => word.fetch_or(operand, Ordering::SeqCst),
                        AtomicOp::And => word.fetch_and(operand, Ordering::SeqCst),
                        AtomicOp::Xor => word.fetch_xor(operand, Ordering::SeqCst),
                        AtomicOp::Xchg => word.swap(operand, Ordering::SeqCst),
                        AtomicOp::CmpXchg => word
                            .compare_exchange(r0, operand, Ordering::SeqCst, Ordering::SeqCst)
                            .unwrap_or_else(|old| old),
                    }
                }
                _ => {
                    let (operand, r0) = (operand as u32, r0 as u32);
                    let word = AtomicU32::from_ptr(at.cast());
                    u64::from(match op {
                        AtomicOp::Add => word.fetch_add(operand, Ordering::SeqCst),
                        AtomicOp::Or => word.fetch_or(operand, Ordering::SeqCst),
                        AtomicOp::And => word.fetch_and(operand, Ordering::SeqCst),
                        AtomicOp::Xor => word.fetch_xor(operand, Ordering::SeqCst),
                        AtomicOp::Xchg => word.swap(operand, Ordering::SeqCst),
                        AtomicOp::CmpXchg => word
                            .compare_exchange(r0, operand, Ordering::SeqCst, Ordering::SeqCst)
                            .unwrap_or_else(|old| old),
                    })
                }
            }
        };
        if fetch {
            let result = if op == AtomicOp::CmpXchg {
                Reg::R0
            } else {
                src
            };
            self.set(result, old);
        }
    }
}

/// # Safety
/// `size` bytes at `at` are readable.
unsafe fn load(size: Size, at: *const u8) -> u64 {
    // SAFETY: the caller's promise; alignment is not needed.
    unsafe {
        match size {
            Size::B => at.read().into(),
            Size::H => at.cast::<u16>().read_unaligned().into(),
            Size::W => at.cast::<u32>().read_unaligned().into(),
            Size::DW => at.cast::<u64>().read_unaligned(),
        }
    }
}

/// # Safety
/// `size` bytes at `at` are writable.
unsafe fn store(size: Size, at: *mut u8, value: u64) {
    // SAFETY: the caller's promise; alignment is not needed.
    unsafe {
        match size {
            Size::B => at.write(value as u8),
            Size::H => at.cast::<u16>().write_unaligned(value as u16),
            Size::W => at.cast::<u32>().write_unaligned(value as u32),
            Size::DW => at.cast::<u64>().write_unaligned(value),
        }
    }
}
