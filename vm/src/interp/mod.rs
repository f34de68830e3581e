//! Runs a program one instruction at a time: the reference that the JIT is
//! tested against, and the engine where there is no JIT. It knows no machine
//! code and trusts what the verifier proved.
//!
//! Reading order: `alu` says what arithmetic means, `memory` what
//! accesses mean, `callback` how helpers call back.

mod alu;
mod callback;
mod memory;

use uapi::insn::{BPF_MAX_LOOPS, MAX_BPF_STACK, MAX_CALL_FRAMES, MAX_TAIL_CALL_CNT};

use crate::VerifiedProgram;
use crate::link::{Code, LinkError, Linker, Run, Step, target};
use crate::op::{Op, Reg};

/// A program ready to be interpreted.
#[derive(Debug)]
pub struct Interpreter {
    code: Box<Code>,
}

/// One call frame's stack, aligned as the kernel's.
#[repr(C, align(16))]
struct Stack([u8; MAX_BPF_STACK as usize]);

/// Registers of a frame.
struct Registers([u64; 11]);

impl Registers {
    fn get(&self, reg: Reg) -> u64 {
        self.0[usize::from(reg.number())]
    }

    fn set(&mut self, reg: Reg, value: u64) {
        self.0[usize::from(reg.number())] = value;
    }
}

/// How a subprogram ended.
enum End {
    /// With `exit`; r0.
    Exit(u64),
    /// With a tail call to this program, with this ctx.
    TailCall(*const Code, u64),
}

/// What all frames of a run share.
struct Machine {
    run: *mut Run,
    /// Tail calls made so far.
    tail_calls: u32,
}

impl Interpreter {
    /// Links the program.
    ///
    /// # Errors
    /// A name the linker does not know, an instruction this machine does not
    /// know, or too many callbacks.
    pub fn new(program: &VerifiedProgram, linker: &dyn Linker) -> Result<Interpreter, LinkError> {
        let code = Box::new(Code::link(program, linker)?);
        if code.callbacks.len() > callback::MAX {
            return Err(LinkError::Callbacks { max: callback::MAX });
        }
        Ok(Interpreter { code })
    }

    /// What a [`crate::link::TailCallFn`] returns to make another interpreted
    /// program continue as this one; valid while this value lives.
    pub fn tail_target(&self) -> *const u8 {
        (&raw const *self.code).cast()
    }

    /// Runs the program.
    ///
    /// # Safety
    /// `ctx` and `run` are what the program was verified for and its helpers
    /// expect, and every address the linker gave is valid during the run.
    pub unsafe fn run(&self, ctx: *mut u8, run: *mut Run) -> u64 {
        let mut machine = Machine { run, tail_calls: 0 };
        // SAFETY: slot 0 starts the main subprogram; the rest is the caller's promise.
        unsafe { machine.program(&self.code, ctx as u64) }
    }
}

impl Machine {
    /// Runs a program, and those it tail-calls, to their exit.
    ///
    /// # Safety
    /// As [`Interpreter::run`].
    unsafe fn program(&mut self, code: &Code, ctx: u64) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { self.subprogram(code, 0, [ctx, 0, 0, 0, 0], 1) }
    }

    /// Calls a subprogram and follows its tail calls: the program called last
    /// takes the place of the subprogram, and returns to its caller.
    ///
    /// # Safety
    /// As [`Interpreter::run`]; `start` is the first slot of a subprogram
    /// that the verifier allowed to be called with these arguments.
    unsafe fn subprogram(
        &mut self,
        mut code: &Code,
        mut start: usize,
        mut args: [u64; 5],
        depth: u32,
    ) -> u64 {
        loop {
            // SAFETY: the caller's promise, and for a program called last the
            // linker's: it returns live tail targets of this engine only.
            match unsafe { self.frame(code, start, args, depth) } {
                End::Exit(r0) => return r0,
                End::TailCall(next, ctx) => {
                    // SAFETY: see above.
                    code = unsafe { &*next };
                    start = 0;
                    args = [ctx, 0, 0, 0, 0];
                }
            }
        }
    }

    /// Runs one frame from its first instruction to its end.
    ///
    /// # Safety
    /// As [`Machine::subprogram`].
    unsafe fn frame(&mut self, code: &Code, start: usize, args: [u64; 5], depth: u32) -> End {
        let mut stack = Stack([0; MAX_BPF_STACK as usize]);
        let mut registers = Registers([0; 11]);
        registers.0[1..=5].copy_from_slice(&args);
        let top = (&raw mut stack.0)
            .cast::<u8>()
            .wrapping_add(MAX_BPF_STACK as usize);
        registers.set(Reg::R10, top as u64);

        let mut loops = BPF_MAX_LOOPS;
        let mut at = start;
        loop {
            let step = code.steps[at];
            at += 1;
            match step {
                Step::Op(Op::Exit) => return End::Exit(registers.0[0]),
                Step::Op(Op::Jump { rel, .. }) => at = landed(at, rel),
                Step::Op(Op::Branch {
                    width,
                    cond,
                    dst,
                    src,
                    rel,
                }) => {
                    if alu::holds(cond, width, registers.get(dst), registers.second(src)) {
                        at = landed(at, rel.into());
                    }
                }
                // Leads to the same place either way, so takes nothing.
                Step::Op(Op::MayGoto { rel: 0 }) => {}
                Step::Op(Op::MayGoto { rel }) => match loops {
                    0 => at = landed(at, rel.into()),
                    _ => loops -= 1,
                },
                Step::Op(Op::CallSub { rel }) => {
                    // The verifier bounds the depth; this keeps a mistake in
                    // it from running through the host's stack.
                    if depth >= MAX_CALL_FRAMES {
                        return End::Exit(0);
                    }
                    // SAFETY: the verifier allowed this call, and a linked
                    // call leads to the start of a subprogram.
                    registers.0[0] = unsafe {
                        self.subprogram(code, landed(at, rel), registers.args(), depth + 1)
                    };
                }
                Step::Helper { call: helper, .. } => {
                    let [r1, r2, r3, r4, r5] = registers.args();
                    let _entered = callback::enter(code, depth);
                    // SAFETY: the verifier checked the arguments against the
                    // helper's prototype; `run` is the caller's promise.
                    registers.0[0] = unsafe { helper(r1, r2, r3, r4, r5, self.run) };
                }
                Step::TailCall(find) => {
                    let [ctx, map, index, ..] = registers.args();
                    if self.tail_calls < MAX_TAIL_CALL_CNT {
                        // SAFETY: the verifier checked that r2 is a program
                        // array; the index is any 32-bit number.
                        let next = unsafe { find(map, u64::from(index as u32), self.run) };
                        if !next.is_null() {
                            self.tail_calls += 1;
                            return End::TailCall(next.cast(), ctx);
                        }
                    }
                }
                Step::Const { dst, value } => {
                    registers.set(dst, value);
                    at += 1;
                }
                Step::Func { dst, slot } => {
                    registers.set(dst, callback::address(code, slot));
                    at += 1;
                }
                Step::Unreachable | Step::Skip => return End::Exit(0),
                // SAFETY: the verifier proved each access to lie in memory
                // that this run may touch.
                Step::Op(op) => unsafe { registers.execute(op) },
            }
        }
    }
}

/// Where a jump before slot `next` leads; linking proved that it is a slot.
fn landed(next: usize, rel: i32) -> usize {
    target(next - 1, rel).unwrap_or(usize::MAX)
}
