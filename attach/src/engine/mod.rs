//! Who keeps the hooked sites of this process. It knows no callback's meaning.

use std::ops::Range;

use crate::error::AttachError;
use crate::probe::{Point, Probe, Tactic};

/// One attached probe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HookId(u64);

/// One hooked address, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteInfo {
    /// First instruction of the function.
    pub addr: usize,
    /// How the jump fits.
    pub tactic: Tactic,
    /// Probes that run at entry.
    pub entry_probes: usize,
    /// Probes that run at return.
    pub return_probes: usize,
    /// Hits skipped since the site was made.
    pub missed: u64,
}

/// The hook engine; one per process.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Registers with the kernel (membarrier) and for fork(2).
    pub fn new() -> Result<Engine, AttachError> {
        Ok(Engine {})
    }

    /// Attaches a batch. Probes of one point run in the order they came.
    /// When it returns, every thread runs the probes that were attached.
    pub fn attach(&self, batch: &[(Point, Probe)]) -> Vec<Result<HookId, AttachError>> {
        batch
            .iter()
            .map(|(point, _)| {
                Err(AttachError::Refused {
                    addr: point.addr,
                    reason: crate::Refusal::OutsideText,
                })
            })
            .collect()
    }

    /// Detaches probes; ids that are gone already are skipped. A thread may
    /// still be inside a callback when this returns.
    pub fn detach(&self, _ids: &[HookId]) {}

    /// A module was unmapped: forget its sites, write nothing.
    pub fn forget_range(&self, _range: Range<usize>) {}

    /// All sites that have probes.
    pub fn sites(&self) -> Vec<SiteInfo> {
        Vec::new()
    }

    /// Probes are skipped, and not counted as missed, on the calling thread
    /// from now on: the agent's own.
    pub fn exempt_thread() {}
}
