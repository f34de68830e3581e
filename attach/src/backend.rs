//! What a hook back end does, and which there are. It knows no way to hook.

use core::fmt;
use std::ops::Range;

use crate::engine::Engine;
use crate::error::AttachError;
use crate::probe::{Point, Probe, Tactic};

/// One attached probe.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HookId(pub(crate) u64);

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

/// Hooks functions of this process. All values of one back end share their
/// sites: a process has one text.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Attaches a batch. Probes of one point run in the order they came, at
    /// entry and at return, unless [`Probe::before_others`]. When it returns, every thread runs the probes that were attached; the
    /// text of the others is unchanged.
    fn attach(&self, batch: &[(Point, Probe)]) -> Vec<Result<HookId, AttachError>>;

    /// Detaches probes; ids that are gone already are skipped. Functions
    /// without a probe have their original bytes again when this returns. A
    /// thread may still be inside a callback.
    fn detach(&self, ids: &[HookId]);

    /// A module was unmapped: forget its sites, write nothing.
    fn forget_range(&self, range: Range<usize>);

    /// Whether no thread can be in a callback of a probe that was detached
    /// before: what such callbacks use may go.
    fn is_settled(&self) -> bool;

    /// All sites that have probes.
    fn sites(&self) -> Vec<SiteInfo>;
}

/// Opens the back end of that name: `native` or nothing, or `frida`.
///
/// # Errors
/// When there is none of that name in this build, or hooks cannot work here.
pub fn open(name: &str) -> Result<Box<dyn Backend>, AttachError> {
    match name {
        "" | "native" => Ok(Box::new(Engine::new()?)),
        #[cfg(feature = "frida")]
        "frida" => Ok(Box::new(crate::frida::Frida::new())),
        other => Err(AttachError::BackEnd {
            name: other.to_owned(),
            reason: if other == "frida" {
                "this build is without it (cargo feature `frida`, see docs/frida.md)"
            } else {
                "there are `native` and `frida`"
            },
        }),
    }
}

/// Stands in for a back end that cannot be had: refuses every probe with the
/// reason, so that whoever asks for one is told.
#[derive(Debug)]
pub struct Refusing(pub AttachError);

impl Backend for Refusing {
    fn attach(&self, batch: &[(Point, Probe)]) -> Vec<Result<HookId, AttachError>> {
        batch.iter().map(|_| Err(self.0.clone())).collect()
    }

    fn detach(&self, _ids: &[HookId]) {}

    fn forget_range(&self, _range: Range<usize>) {}

    fn is_settled(&self) -> bool {
        true
    }

    fn sites(&self) -> Vec<SiteInfo> {
        Vec::new()
    }
}
