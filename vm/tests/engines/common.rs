//! Programs without a verifier, a linker with a few helpers, and one way to
//! run a program through both engines. It knows no expected values.

use crate::arch::clobber;
use bpftime_vm::interp::Interpreter;
use bpftime_vm::jit::{CompiledProgram, Optimisations};
use bpftime_vm::link::{CallbackFn, HelperFn, LinkError, Linker, Run, TailCallFn};
use bpftime_vm::{Facts, ProgramSpec, VerifiedProgram, asm};
use uapi::Insn;

/// `r1 + 2 r2 + 3 r3 + 4 r4 + 5 r5`.
pub const WEIGH: u32 = 1;
/// The run context as a number.
pub const RUN: u32 = 2;
/// Leaves nonsense in every register that a C function may change;
/// 99 if the stack was aligned.
pub const CLOBBER: u32 = 3;
/// `bpf_loop(nr, callback, callback_ctx)`, as in the kernel.
pub const LOOP: u32 = 181;

/// Map 3 is this register value.
pub const MAP: u64 = 0x1122_3344_5566_7788;
/// The value area of map 4 begins at this address.
pub const VALUES: u64 = 0x0000_7000_0000_1000;

/// A linker that knows what stands above.
pub struct Names;

impl Linker for Names {
    fn map(&self, id: u32) -> Option<u64> {
        (id == 3).then_some(MAP)
    }

    fn map_value(&self, id: u32, offset: u32) -> Option<u64> {
        (id == 4).then_some(VALUES + u64::from(offset))
    }

    fn helper(&self, id: u32) -> Option<HelperFn> {
        match id {
            WEIGH => Some(weigh),
            RUN => Some(run_value),
            CLOBBER => Some(clobber),
            LOOP => Some(bpf_loop),
            _ => None,
        }
    }

    fn kfunc(&self, number: u32) -> Option<HelperFn> {
        (number == WEIGH).then_some(weigh as HelperFn)
    }

    fn tail_call(&self) -> TailCallFn {
        find_target
    }
}

unsafe extern "C" fn weigh(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, _: *mut Run) -> u64 {
    [r1, r2, r3, r4, r5]
        .into_iter()
        .zip(1..)
        .fold(0, |sum, (r, weight): (u64, u64)| {
            sum.wrapping_add(r.wrapping_mul(weight))
        })
}

unsafe extern "C" fn run_value(_: u64, _: u64, _: u64, _: u64, _: u64, run: *mut Run) -> u64 {
    run as u64
}

unsafe extern "C" fn bpf_loop(
    nr: u64,
    callback: u64,
    ctx: u64,
    _: u64,
    _: u64,
    run: *mut Run,
) -> u64 {
    // SAFETY: the program passes the address of a callback in r2.
    let callback = unsafe { std::mem::transmute::<u64, CallbackFn>(callback) };
    for index in 0..nr {
        // SAFETY: the callback takes an index and the caller's ctx.
        if unsafe { callback(index, ctx, 0, 0, 0, run) } != 0 {
            return index + 1;
        }
    }
    nr
}

/// What `run` points to in programs that make tail calls.
pub struct Targets {
    /// By index.
    pub targets: Vec<*const u8>,
    /// Look-ups so far.
    pub lookups: u32,
    /// The map value of the last look-up.
    pub map: u64,
}

unsafe extern "C" fn find_target(map: u64, index: u64, run: *mut Run) -> *const u8 {
    // SAFETY: programs that make tail calls run with a `Targets`.
    let targets = unsafe { &mut *run.cast::<Targets>() };
    targets.lookups += 1;
    targets.map = map;
    let found = usize::try_from(index)
        .ok()
        .and_then(|i| targets.targets.get(i));
    found.copied().unwrap_or(std::ptr::null())
}

/// A program as if verified.
pub fn program(insns: Vec<Insn>, facts: Facts) -> VerifiedProgram {
    let spec = ProgramSpec {
        gpl: true,
        insns,
        ..ProgramSpec::default()
    };
    VerifiedProgram::assume_verified(spec, facts)
}

/// A program from text.
pub fn assemble(text: &str) -> VerifiedProgram {
    let insns = asm::assemble(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    program(insns, Facts::default())
}

/// Both engines for one program.
pub struct Both {
    pub interpreter: Interpreter,
    pub compiled: CompiledProgram,
}

/// Builds both engines; they fail alike or not at all.
pub fn both(program: &VerifiedProgram) -> Result<Both, LinkError> {
    match (
        Interpreter::new(program, &Names),
        CompiledProgram::compile(program, &Names),
    ) {
        (Ok(interpreter), Ok(compiled)) => Ok(Both {
            interpreter,
            compiled,
        }),
        (Err(a), Err(b)) if a == b => Err(a),
        (a, b) => panic!("engines disagree: {a:?}, {b:?}"),
    }
}

/// What a run leaves: r0 and the ctx bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    pub r0: u64,
    pub memory: Vec<u8>,
}

/// Memory aligned to 16 bytes.
#[repr(align(16))]
struct Aligned([u8; 4096]);

/// Runs `start` with `memory` as ctx.
pub fn leave(memory: &[u8], start: impl FnOnce(*mut u8) -> u64) -> Left {
    let mut ctx = Aligned([0; 4096]);
    ctx.0[..memory.len()].copy_from_slice(memory);
    let r0 = start(ctx.0.as_mut_ptr());
    Left {
        r0,
        memory: ctx.0[..memory.len()].to_vec(),
    }
}

/// No optimisation, each alone, and each left out.
pub fn variants() -> impl Iterator<Item = (Optimisations, String)> {
    let change = |from: Optimisations, name: &str, on: bool| {
        let mut changed = from;
        *changed.switch(name).expect("a name of the list") = on;
        changed
    };
    let each = Optimisations::NAMES.iter().flat_map(move |name| {
        [
            (
                change(Optimisations::NONE, name, true),
                format!("{name} alone"),
            ),
            (
                change(Optimisations::ALL, name, false),
                format!("all but {name}"),
            ),
        ]
    });
    std::iter::once((Optimisations::NONE, "no optimisation".to_owned())).chain(each)
}

/// Runs a program through both engines, the JIT with all choices of
/// optimisations; panics if they disagree.
pub fn run_both(program: &VerifiedProgram, memory: &[u8], run: *mut Run) -> Left {
    run_with(program, memory, run, variants())
}

/// The same with one choice of optimisations, for tests of many programs.
pub fn run_one(program: &VerifiedProgram, memory: &[u8], run: *mut Run, choice: usize) -> Left {
    let choice = choice % variants().count();
    run_with(program, memory, run, variants().skip(choice).take(1))
}

fn run_with(
    program: &VerifiedProgram,
    memory: &[u8],
    run: *mut Run,
    variants: impl Iterator<Item = (Optimisations, String)>,
) -> Left {
    let both = both(program).unwrap_or_else(|e| panic!("{e}"));
    // SAFETY: test programs touch their stack and the ctx bytes only.
    let interpreted = leave(memory, |ctx| unsafe { both.interpreter.run(ctx, run) });
    // SAFETY: as above.
    let compiled = leave(memory, |ctx| unsafe { both.compiled.run(ctx, run) });
    assert_eq!(interpreted, compiled, "interpreter and JIT disagree");
    let check = |compiled: Result<CompiledProgram, LinkError>, what: &str| {
        let compiled = compiled.expect("what compiled compiles again");
        // SAFETY: as above.
        let left = leave(memory, |ctx| unsafe { compiled.run(ctx, run) });
        assert_eq!(interpreted, left, "the JIT disagrees with {what}");
    };
    let baseline = CompiledProgram::compile_for_baseline(program, &Names);
    check(baseline, "an old processor");
    for (optimisations, what) in variants {
        let compiled = CompiledProgram::compile_with(program, &Names, &optimisations);
        check(compiled, &what);
    }
    compiled
}
