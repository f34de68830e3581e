//! Native function pointers for subprograms that helpers call back. An
//! interpreted callback has no machine code of its own, so a fixed set of
//! functions stands in: the nth runs the nth callback of the program whose
//! helper call is innermost on this thread. Knows no instruction.

use std::cell::Cell;
use std::ptr;

use super::Machine;
use crate::link::{CallbackFn, Code, Run};

/// The most callbacks one program can have.
pub(super) const MAX: usize = 8;

/// Which program called a helper, and how deep it stood.
#[derive(Clone, Copy)]
struct Caller {
    code: *const Code,
    depth: u32,
}

thread_local! {
    static CALLER: Cell<Caller> = const { Cell::new(Caller { code: ptr::null(), depth: 0 }) };
}

/// Puts the previous caller back when the helper returned.
pub(super) struct Entered(Option<Caller>);

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(caller) = self.0 {
            CALLER.set(caller);
        }
    }
}

/// Declares that `code`, at `depth` frames, calls a helper.
pub(super) fn enter(code: &Code, depth: u32) -> Entered {
    if code.callbacks.is_empty() {
        return Entered(None);
    }
    Entered(Some(CALLER.replace(Caller { code, depth })))
}

/// The register value for the callback that starts at `slot`.
pub(super) fn address(code: &Code, slot: usize) -> u64 {
    let index = code.callbacks.partition_point(|&start| start < slot);
    ENTRIES[index] as *const () as u64
}

const ENTRIES: [CallbackFn; MAX] = [
    entry::<0>, entry::<1>, entry::<2>, entry::<3>, entry::<4>, entry::<5>, entry::<6>, entry::<7>,
];

unsafe extern "C" fn entry<const N: usize>(
    r1: u64,
    r2: u64,
    r3: u64,
    r4: u64,
    r5: u64,
    run: *mut Run,
) -> u64 {
    let caller = CALLER.get();
    // SAFETY: a helper runs this only before it returns to `caller.code`,
    // which lives for the length of its own run.
    let Some(code) = (unsafe { caller.code.as_ref() }) else {
        return 0;
    };
    let Some(&start) = code.callbacks.get(N) else {
        return 0;
    };
    let mut machine = Machine { run, tail_calls: 0 };
    // SAFETY: the verifier checked the callback for the arguments its helper
    // passes; callbacks make no tail calls (`Code::link`).
    unsafe { machine.subprogram(code, start, [r1, r2, r3, r4, r5], caller.depth + 1) }
}
