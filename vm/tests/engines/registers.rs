//! Which registers a program changes that calls nothing: trampolines save no
//! others ([`CompiledProgram::calls`]).

use bpftime_vm::jit::CompiledProgram;

use crate::arch::{Registers, call_loaded, has_full_vectors};
use crate::common::{Names, assemble, leave};
use crate::conformance::{FILES, cases};

/// DF, and what is always set.
const FLAGS: [u64; 2] = [0x202, 0x602];
/// The flags that arithmetic changes.
const STATUS: u64 = 0x8d5;

#[test]
fn a_program_that_calls_nothing_changes_few() {
    assert!(has_full_vectors(), "no processor of the last ten years");
    let (mut alone, mut calling) = (0, 0);
    for case in FILES.iter().flat_map(|(_, file)| cases(file)) {
        if !case.is_run() {
            continue;
        }
        let program = assemble(&case.text);
        let compiled = CompiledProgram::compile(&program, &Names).expect("compiles");
        if compiled.calls() {
            calling += 1;
            continue;
        }
        alone += 1;
        for flags in FLAGS {
            let before = Registers {
                preserved: [11, 12, 13, 14, 15, 16],
                flags,
                vectors: std::array::from_fn(|i| [!(i as u64); 4]),
                ..Registers::default()
            };
            let mut after = before;
            let start = |ctx| {
                // SAFETY: as in `run_both`; there is no run to look at.
                unsafe { call_loaded(compiled.entry(), ctx, std::ptr::null_mut(), &raw mut after) }
            };
            let left = leave(case.memory(), start);
            assert_eq!(left.r0, case.result(), "{}", case.text);
            after.flags = after.flags & !STATUS | before.flags & STATUS;
            assert_eq!(after, before, "{}", case.text);
        }
    }
    assert!(
        alone > 200 && calling > 5,
        "{alone} alone, {calling} calling"
    );
}
