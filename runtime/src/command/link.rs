//! `BPF_LINK_CREATE`, `_UPDATE` and `_DETACH`. It knows no hook: a link is a
//! wish that agents read in the session.

use std::sync::Arc;

use uapi::Errno;
use uapi::cmd::{
    BPF_LINK_TYPE_PERF_EVENT, BPF_LINK_TYPE_RAW_TRACEPOINT, BPF_LINK_TYPE_UPROBE_MULTI,
};
use uapi::prog::{
    BPF_PERF_EVENT, BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_PERF_EVENT, BPF_PROG_TYPE_TRACEPOINT,
    BPF_TRACE_KPROBE_MULTI, BPF_TRACE_KPROBE_SESSION, BPF_TRACE_UPROBE_MULTI,
    BPF_TRACE_UPROBE_SESSION,
};

use super::foreign::Foreign;
use super::object::Home;
use super::places::Held;
use super::{Bpf, PerfEvent, ProgObject};
use crate::session::LinkSpec;
use crate::session::link::MAX_PLACES;

/// Most places of one multi link.
pub const MAX_UPROBE_MULTI_CNT: u32 = MAX_PLACES as u32;

/// A link that an fd refers to.
pub struct LinkObject {
    id: u32,
    prog: Arc<ProgObject>,
    target: Target,
    home: Arc<Home>,
    /// The places of a multi link, as long as it is.
    _places: Option<Held>,
    foreign: Option<Foreign>,
}

/// What a link binds its program to.
pub enum Target {
    /// A perf event.
    Event {
        /// The event.
        event: Arc<PerfEvent>,
        /// For `bpf_get_attach_cookie`.
        cookie: u64,
    },
    /// A raw tracepoint.
    RawTracepoint {
        /// The session's link.
        spec: LinkSpec,
        /// Its id in the session.
        id: u32,
    },
    /// Places of one file.
    Places {
        /// The session's link.
        spec: LinkSpec,
        /// Its id in the session.
        id: u32,
    },
}

impl LinkObject {
    /// A link of another session, to be looked at.
    pub(super) fn of_other(
        home: &Arc<Home>,
        id: u32,
        link_type: u32,
        spec: LinkSpec,
        prog: Arc<ProgObject>,
        foreign: Foreign,
    ) -> Result<LinkObject, Errno> {
        let target = match link_type {
            BPF_LINK_TYPE_UPROBE_MULTI => Target::Places { spec, id },
            BPF_LINK_TYPE_RAW_TRACEPOINT => Target::RawTracepoint { spec, id },
            BPF_LINK_TYPE_PERF_EVENT => {
                let cookie = spec.places.first().map_or(0, |place| place.cookie);
                let event = Arc::new(PerfEvent::of_link(home, &spec).ok_or(Errno::ENOENT)?);
                Target::Event { event, cookie }
            }
            _ => return Err(Errno::ENOENT),
        };
        Ok(LinkObject {
            id,
            prog,
            target,
            home: Arc::clone(home),
            _places: None,
            foreign: Some(foreign),
        })
    }

    /// The session's link, and the session if it is another; `None` for what
    /// runs in this process only.
    pub(super) fn in_session(&self) -> Option<u32> {
        match &self.target {
            Target::Event { event, .. } if self.foreign.is_none() => event.session_link(),
            _ => Some(self.id),
        }
    }

    pub(super) fn foreign(&self) -> Option<&Foreign> {
        self.foreign.as_ref()
    }

    /// The object id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The program.
    pub fn prog(&self) -> &Arc<ProgObject> {
        &self.prog
    }

    /// What the program is bound to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// `BPF_LINK_TYPE_*`.
    pub fn link_type(&self) -> u32 {
        match self.target {
            Target::Event { .. } => BPF_LINK_TYPE_PERF_EVENT,
            Target::RawTracepoint { .. } => BPF_LINK_TYPE_RAW_TRACEPOINT,
            Target::Places { .. } => BPF_LINK_TYPE_UPROBE_MULTI,
        }
    }
}

impl Drop for LinkObject {
    fn drop(&mut self) {
        if self.foreign.is_some() {
            return;
        }
        match &self.target {
            Target::Event { event, .. } => event.detach(),
            Target::Places { id, .. } | Target::RawTracepoint { id, .. } => {
                if self.home.is_owner() {
                    self.home.remove(*id);
                    self.home.publish();
                }
            }
        }
    }
}

/// Whether a program may be attached by a link of this type
/// (`bpf_prog_attach_check_attach_type`), checked before the target is.
///
/// # Errors
/// EINVAL when the kernel would refuse the pair.
pub fn check_attach_type(prog: &ProgObject, attach_type: u32) -> Result<(), Errno> {
    let spec = prog.spec();
    let multi = [
        BPF_TRACE_KPROBE_MULTI,
        BPF_TRACE_KPROBE_SESSION,
        BPF_TRACE_UPROBE_MULTI,
        BPF_TRACE_UPROBE_SESSION,
    ];
    let allowed = match spec.prog_type {
        BPF_PROG_TYPE_KPROBE => {
            let expected = spec.expected_attach_type;
            if multi.contains(&expected) {
                attach_type == expected
            } else {
                attach_type == BPF_PERF_EVENT || multi.contains(&attach_type)
            }
        }
        BPF_PROG_TYPE_PERF_EVENT | BPF_PROG_TYPE_TRACEPOINT => attach_type == BPF_PERF_EVENT,
        _ => false,
    };
    allowed.then_some(()).ok_or(Errno::EINVAL)
}

/// Whether a program was loaded for multi links (`is_uprobe_multi`).
pub fn is_uprobe_multi(prog: &ProgObject) -> bool {
    let spec = prog.spec();
    let multi = [BPF_TRACE_UPROBE_MULTI, BPF_TRACE_UPROBE_SESSION];
    spec.prog_type == BPF_PROG_TYPE_KPROBE && multi.contains(&spec.expected_attach_type)
}

impl Bpf {
    /// `BPF_LINK_CREATE` on a perf event. The probe is in place in every
    /// process when this returns.
    ///
    /// # Errors
    /// As [`PerfEvent::attach`]; EINVAL as [`check_attach_type`].
    pub fn link_perf_event(
        &self,
        prog: &Arc<ProgObject>,
        event: &Arc<PerfEvent>,
        cookie: u64,
    ) -> Result<Arc<LinkObject>, Errno> {
        check_attach_type(prog, BPF_PERF_EVENT)?;
        event.attach_as(BPF_LINK_TYPE_PERF_EVENT, prog, cookie)?;
        let mut tables = self.home.tables();
        let id = match event.session_link() {
            Some(id) => id,
            None => tables.links.next_free_id(),
        };
        let link = Arc::new(LinkObject {
            id,
            prog: Arc::clone(prog),
            target: Target::Event {
                event: Arc::clone(event),
                cookie,
            },
            home: Arc::clone(&self.home),
            _places: None,
            foreign: None,
        });
        tables.links.insert(id, &link);
        Ok(link)
    }

    /// `BPF_LINK_CREATE` with `BPF_TRACE_UPROBE_MULTI` or `_SESSION`: one
    /// program at many places of a file. All are in place in every process when this returns.
    ///
    /// # Errors
    /// EINVAL without places, for a program that was not loaded for it or for
    /// a place that has another reference counter,
    /// E2BIG above [`MAX_UPROBE_MULTI_CNT`], ENOMEM without room.
    pub fn link_uprobe_multi(
        &self,
        prog: &Arc<ProgObject>,
        spec: LinkSpec,
    ) -> Result<Arc<LinkObject>, Errno> {
        if !is_uprobe_multi(prog) || spec.places.is_empty() {
            return Err(Errno::EINVAL);
        }
        self.link_in_session(prog, spec, |spec, id| Target::Places { spec, id })
    }

    /// A link that is nothing but the session's.
    pub(super) fn link_in_session(
        &self,
        prog: &Arc<ProgObject>,
        spec: LinkSpec,
        target: impl FnOnce(LinkSpec, u32) -> Target,
    ) -> Result<Arc<LinkObject>, Errno> {
        let places = if spec.kind.is_of_syscalls() {
            None
        } else {
            let places = spec.places.iter();
            let places = places.map(|place| (place.offset, place.ref_ctr_offset));
            Some(Held::new(&self.home, (spec.dev, spec.ino), places)?)
        };
        let link_type = match spec.kind.is_of_syscalls() {
            true => BPF_LINK_TYPE_RAW_TRACEPOINT,
            false => BPF_LINK_TYPE_UPROBE_MULTI,
        };
        let id = self.session()?.create_link_of(link_type, &spec)?;
        self.home.publish();
        let link = Arc::new(LinkObject {
            id,
            prog: Arc::clone(prog),
            target: target(spec, id),
            home: Arc::clone(&self.home),
            _places: places,
            foreign: None,
        });
        self.home.tables().links.insert(id, &link);
        Ok(link)
    }

    /// `BPF_LINK_UPDATE`: no link of ours can change its program, as in the
    /// kernel (neither kind has `update_prog`).
    ///
    /// # Errors
    /// Always EINVAL.
    pub fn link_update(&self, _link: &LinkObject) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    /// `BPF_LINK_DETACH`: no link of ours can be detached before its fd is
    /// closed, as in the kernel (neither kind has `detach`).
    ///
    /// # Errors
    /// Always EOPNOTSUPP.
    pub fn link_detach(&self, _link: &LinkObject) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
}
