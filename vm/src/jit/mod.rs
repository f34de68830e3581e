//! Compiles a verified program to machine code of this processor. It knows
//! neither what helpers do nor what hooks a program to a function.
//!
//! Code is written to memory that is not yet executable, and is executable
//! only when it is no longer writable. Everything that knows the processor
//! is in a folder of `arch`; a processor without one has [`crate::interp`].

//!
//! Reading order: [`optimisations`], then what is known of a program before
//! it is compiled, `flow`, `bulk` and `bits`, then `arch`.

mod arch;
mod bits;
mod bulk;
mod flow;
mod optimisations;

use std::fmt;

use crate::VerifiedProgram;
use crate::link::{Code, Entry, LinkError, Linker, Run, Step};
use arch::ExecutableMemory;
pub use optimisations::Optimisations;

/// A program as machine code; the code is freed when this is dropped.
pub struct CompiledProgram {
    memory: ExecutableMemory,
    entry: usize,
    tail_target: usize,
    /// The helpers that it calls, if that is all.
    called: Option<Box<[u64]>>,
}

/// What a compiler hands over: code that works anywhere once its calls of
/// helpers are resolved, and its doors.
struct MachineCode {
    bytes: Vec<u8>,
    /// Calls of helpers by their distance.
    calls: Vec<HelperCall>,
    /// Where [`Entry`] begins.
    entry: usize,
    /// Where the code begins that a tail call jumps to.
    tail_target: usize,
}

/// A call whose distance is known when the code has its place.
struct HelperCall {
    /// Position of the displacement in the code.
    at: usize,
    /// The helper.
    address: u64,
}

impl CompiledProgram {
    /// Links and compiles a program.
    ///
    /// # Errors
    /// A name the linker does not know, an instruction this machine does not
    /// know, or no memory.
    pub fn compile(
        program: &VerifiedProgram,
        linker: &dyn Linker,
    ) -> Result<CompiledProgram, LinkError> {
        let features = arch::Features::detect();
        CompiledProgram::compile_for(program, linker, features, &Optimisations::ALL)
    }

    /// As [`CompiledProgram::compile`], with chosen optimisations, so that
    /// each can be tested alone and measured.
    ///
    /// # Errors
    /// As [`CompiledProgram::compile`].
    #[cfg(any(test, feature = "testing"))]
    pub fn compile_with(
        program: &VerifiedProgram,
        linker: &dyn Linker,
        optimisations: &Optimisations,
    ) -> Result<CompiledProgram, LinkError> {
        let features = arch::Features::detect();
        CompiledProgram::compile_for(program, linker, features, optimisations)
    }

    /// As [`CompiledProgram::compile`], for the oldest processor of this
    /// architecture, so that tests cover what newer ones do not need.
    ///
    /// # Errors
    /// As [`CompiledProgram::compile`].
    #[cfg(any(test, feature = "testing"))]
    pub fn compile_for_baseline(
        program: &VerifiedProgram,
        linker: &dyn Linker,
    ) -> Result<CompiledProgram, LinkError> {
        let features = arch::Features::BASELINE;
        CompiledProgram::compile_for(program, linker, features, &Optimisations::ALL)
    }

    fn compile_for(
        program: &VerifiedProgram,
        linker: &dyn Linker,
        features: arch::Features,
        optimisations: &Optimisations,
    ) -> Result<CompiledProgram, LinkError> {
        let code = Code::link(program, linker)?;
        let machine_code = arch::compile(&code, features, optimisations)?;
        let MachineCode {
            entry, tail_target, ..
        } = machine_code;
        let tail_calls = |step: &Step| matches!(step, Step::TailCall(_));
        let says_all = optimisations.near_calls && !code.steps.iter().any(tail_calls);
        let called = machine_code.calls.iter().map(|call| call.address);
        Ok(CompiledProgram {
            called: says_all.then(|| called.collect()),
            memory: ExecutableMemory::new(machine_code)?,
            entry,
            tail_target,
        })
    }

    /// The function to call; valid while this value lives, and then only
    /// under the conditions of [`CompiledProgram::run`].
    pub fn entry(&self) -> Entry {
        let address = &raw const self.memory.bytes()[self.entry];
        // SAFETY: the compiler put a function with this signature there.
        unsafe { std::mem::transmute::<*const u8, Entry>(address) }
    }

    /// What a [`crate::link::TailCallFn`] returns to make another compiled
    /// program continue as this one; valid while this value lives.
    pub fn tail_target(&self) -> *const u8 {
        &raw const self.memory.bytes()[self.tail_target]
    }

    /// Runs the program; returns r0.
    ///
    /// # Safety
    /// `ctx` and `run` are what the program was verified for and its helpers
    /// expect, and every address the linker gave is valid during the run.
    pub unsafe fn run(&self, ctx: *mut u8, run: *mut Run) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { self.entry()(ctx, run) }
    }

    /// Whether the code calls helpers or other programs, which may change what
    /// C functions may change. Code that does not changes general registers
    /// of these only, and status flags: no vector or x87 register, nor DF,
    /// which may be set when it is called; nor wants it the stack aligned.
    pub fn calls(&self) -> bool {
        self.called().is_none_or(|called| !called.is_empty())
    }

    /// The addresses of all helpers that the code calls; `None` where it may
    /// call something else.
    pub fn called(&self) -> Option<&[u64]> {
        self.called.as_deref()
    }

    /// The machine code.
    pub fn code_bytes(&self) -> &[u8] {
        self.memory.bytes()
    }
}

impl fmt::Debug for CompiledProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledProgram")
            .field("address", &self.memory.bytes().as_ptr())
            .field("bytes", &self.memory.bytes().len())
            .finish()
    }
}
