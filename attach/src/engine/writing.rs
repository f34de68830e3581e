//! Writes what plans want written before any text changes.

use std::collections::BTreeMap;
use std::ops::Range;

use uapi::Errno;

use crate::arch::plan::Plan;
use crate::arch::sys;
use crate::arena::Arena;
use crate::error::AttachError;
use crate::text::TextWriter;

/// So many plans are written without changing any page's protection.
const FEW_PLANS: usize = 16;

/// As [`write_plans`], for whatever number.
pub(super) fn write_all_plans(
    plans: &[(u64, Plan)],
    arena: Option<&Arena>,
) -> BTreeMap<u64, AttachError> {
    let arena = arena.filter(|_| plans.len() > FEW_PLANS);
    let writes = || plans.iter().flat_map(|(_, plan)| &plan.writes);
    let opened =
        arena.map(|arena| arena.mapped_with(&writes().map(|(at, _)| *at).collect::<Vec<_>>()));
    write_opened(plans, opened.unwrap_or_default())
}

/// Writes trampolines, landings and jumps in padding; gives what failed.
pub(super) fn write_plans(plans: &[(u64, Plan)]) -> BTreeMap<u64, AttachError> {
    write_opened(plans, Vec::new())
}

/// Pages of ours that are `opened` for it take the code faster.
fn write_opened(plans: &[(u64, Plan)], opened: Vec<Range<u64>>) -> BTreeMap<u64, AttachError> {
    let mut failed = BTreeMap::new();
    if plans.is_empty() {
        return failed;
    }
    let writer = TextWriter::open_own(opened.into_iter());
    for (addr, plan) in plans {
        let padding = plan
            .padding
            .iter()
            .map(|change| (change.addr, &change.to[..change.len]));
        let writes = plan
            .writes
            .iter()
            .map(|(at, code)| (*at, &code[..]))
            .chain(padding);
        for (at, code) in writes {
            // SAFETY: fresh arena bytes, or padding that the planner proved
            // dead; nothing jumps there yet.
            if let Err(error) = unsafe { writer.write(at, code) } {
                failed.insert(*addr, denied(error));
                break;
            }
        }
    }
    drop(writer);
    // Cores may have fetched the old bytes ahead; where this does not work,
    // jumps are still seen after what they lead to.
    let _serialised = sys::sync_cores();
    failed
}

pub(super) fn denied(error: Errno) -> AttachError {
    AttachError::System {
        what: "write to the process's text",
        error,
    }
}
