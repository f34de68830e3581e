//! Perf events as far as BPF tools use them: probes in user space, rings that
//! receive `bpf_perf_event_output`, and clocks. It knows no fd and no user
//! pointer.

use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use uapi::Errno;
use uapi::prog::{BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_PERF_EVENT, BPF_PROG_TYPE_TRACEPOINT};

use super::kprobe::Kprobe;
use super::object::{Home, locked};
use super::places::Held;
use super::sampling::{Sampling, Ticking};
use super::tracepoint::Tracepoint;
use super::{Bpf, MapObject, ProgObject};
use crate::maps::PerfRing;
use crate::session::{LinkKind, LinkSpec, Place};

/// Where an uprobe or uretprobe is, as `perf_event_open` asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Entry or return.
    pub kind: LinkKind,
    /// Device of the file's inode (`st_dev`).
    pub dev: u64,
    /// The file's inode (`st_ino`).
    pub ino: u64,
    /// The file's path, for people.
    pub path: String,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Process (tgid), or -1 for all.
    pub pid: i32,
    /// Offset of a 16-bit count of attached probes in the file, or 0.
    pub ref_ctr_offset: u64,
    /// Other places in the file, of a trace event that has several: offset,
    /// and offset of the count.
    pub others: Vec<(u64, u64)>,
}

impl Probe {
    /// All its places.
    fn places(&self) -> impl Iterator<Item = (u64, u64)> {
        std::iter::once((self.offset, self.ref_ctr_offset)).chain(self.others.iter().copied())
    }

    /// The session's link for a program there.
    pub fn link(&self, prog: u32, cookie: u64) -> LinkSpec {
        LinkSpec {
            kind: self.kind,
            prog,
            dev: self.dev,
            ino: self.ino,
            path: self.path.clone(),
            pid: self.pid,
            enabled: true,
            places: self
                .places()
                .map(|(offset, ref_ctr_offset)| Place {
                    offset,
                    cookie,
                    ref_ctr_offset,
                })
                .collect(),
        }
    }
}

/// What a perf event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A program runs when a process gets to a place.
    Probe(Probe),
    /// Receives records of `bpf_perf_event_output`; wakes its reader after so
    /// many records.
    Output {
        /// Records per wake-up; 0 means no wake-ups.
        wakeup_events: u32,
    },
    /// A program runs at system calls.
    Tracepoint(Tracepoint),
    /// A program runs where the kernel's function for a system call would.
    Kprobe(Kprobe),
    /// A program runs at each so-many-th event, in this process or for who is
    /// sampled.
    Samples(Sampling),
    /// Does nothing.
    Dummy,
}

/// A perf event that an fd, a link or a map refers to.
pub struct PerfEvent {
    kind: EventKind,
    home: Arc<Home>,
    ring: OnceLock<Ring>,
    state: Mutex<State>,
    /// A probe's place, as long as the event is.
    _place: Option<Held>,
    /// What else must not go before the event does.
    _used: Option<Used>,
}

/// Something of who opened an event.
pub type Used = Box<dyn Any + Send + Sync>;

struct Ring {
    id: u32,
    ring: Arc<PerfRing>,
    data_pages: u32,
}

#[derive(Default)]
struct State {
    enabled: bool,
    /// Another period than it was made with.
    period: Option<u64>,
    attached: Option<Attached>,
    /// Slots that were filled with this event before it had a ring.
    waiting: Vec<(Weak<crate::maps::Map>, u32)>,
}

/// A program on an event, and what makes it run.
struct Attached {
    prog: Arc<ProgObject>,
    cookie: u64,
    running: Running,
}

enum Running {
    /// Id of the session's link.
    Link(u32),
    /// None while the event is disabled.
    Ticking(Option<Ticking>),
}

impl Bpf {
    /// `perf_event_open`, after decoding. A clock starts when it is enabled;
    /// a probe is attached as soon as it has a program, enabled or not, as in
    /// the kernel.
    ///
    /// # Errors
    /// EINVAL for a probe at a place that has another reference counter.
    pub fn perf_event(&self, kind: EventKind, enabled: bool) -> Result<Arc<PerfEvent>, Errno> {
        self.perf_event_using(kind, enabled, None)
    }

    /// The same, of an event that keeps something as long as it is.
    ///
    /// # Errors
    /// As [`Bpf::perf_event`].
    pub fn perf_event_using(
        &self,
        kind: EventKind,
        enabled: bool,
        used: Option<Used>,
    ) -> Result<Arc<PerfEvent>, Errno> {
        let place = match &kind {
            EventKind::Probe(probe) => {
                let file = (probe.dev, probe.ino);
                Some(Held::new(&self.home, file, probe.places())?)
            }
            _ => None,
        };
        let samples = matches!(kind, EventKind::Samples(_));
        let event = Arc::new(PerfEvent {
            kind,
            _used: used,
            _place: place,
            home: Arc::clone(&self.home),
            ring: OnceLock::new(),
            state: Mutex::new(State {
                enabled,
                ..State::default()
            }),
        });
        if samples {
            self.home.note_sampling(&event);
        }
        Ok(event)
    }

    /// Makes the ring of an output event, as mmap(2) of its fd does.
    ///
    /// # Errors
    /// EINVAL when the event receives no records, the size is not a power of
    /// two or differs from that of the ring it has; ENOMEM without room.
    pub fn perf_ring(
        &self,
        event: &PerfEvent,
        data_pages: u32,
    ) -> Result<(u32, Arc<PerfRing>), Errno> {
        let EventKind::Output { wakeup_events } = event.kind else {
            return Err(Errno::EINVAL);
        };
        let mut state = locked(&event.state);
        if let Some(made) = event.ring.get() {
            return if made.data_pages == data_pages {
                Ok((made.id, Arc::clone(&made.ring)))
            } else {
                Err(Errno::EINVAL)
            };
        }
        let session = self.session()?;
        let (id, ring) = session.create_perf_ring(data_pages, wakeup_events)?;
        if let (Ok(here), Some(view)) = (self.home.here(), session.open_perf_ring(id)) {
            here.add_perf_ring(id, view);
        }
        let made = event.ring.get_or_init(|| Ring {
            id,
            ring,
            data_pages,
        });
        let waited = !state.waiting.is_empty();
        for (map, index) in state.waiting.drain(..) {
            if let Some(map) = map.upgrade() {
                map.set_slot(index, id)?;
            }
        }
        drop(state);
        if waited {
            self.home.publish();
        }
        Ok((id, Arc::clone(&made.ring)))
    }
}

impl Bpf {
    /// A record for the reader of a perf event array, from this process: under
    /// whichever CPU nobody else writes.
    ///
    /// # Errors
    /// As `bpf_perf_event_output`; EBUSY when all vCPUs stay taken.
    pub fn perf_output(&self, map: &MapObject, bytes: &[u8]) -> Result<(), Errno> {
        self.home.here()?.perf_output(map.map(), bytes)
    }
}

impl PerfEvent {
    /// What a link of another session is on; nothing runs for it here.
    pub(super) fn of_link(home: &Arc<Home>, link: &LinkSpec) -> Option<PerfEvent> {
        let place = link.places.first()?;
        let kind = match link.kind.is_of_syscalls() {
            true => {
                let (category, name) = link.path.split_once(':')?;
                EventKind::Tracepoint(Tracepoint::find(category, name)?)
            }
            false => EventKind::Probe(Probe {
                kind: link.kind,
                dev: link.dev,
                ino: link.ino,
                path: link.path.clone(),
                offset: place.offset,
                pid: link.pid,
                ref_ctr_offset: place.ref_ctr_offset,
                others: Vec::new(),
            }),
        };
        Some(PerfEvent {
            kind,
            _used: None,
            _place: None,
            home: Arc::clone(home),
            ring: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    /// The session's link that makes its program run; a clock has none.
    pub(super) fn session_link(&self) -> Option<u32> {
        match locked(&self.state).attached.as_ref()?.running {
            Running::Link(id) => Some(id),
            Running::Ticking(_) => None,
        }
    }

    /// What it is.
    pub fn kind(&self) -> &EventKind {
        &self.kind
    }

    /// Its ring and the ring's id, once it was mmapped.
    pub fn ring(&self) -> Option<(u32, &Arc<PerfRing>)> {
        self.ring.get().map(|made| (made.id, &made.ring))
    }

    /// The program on it, and the cookie.
    pub fn attached(&self) -> Option<(Arc<ProgObject>, u64)> {
        let state = locked(&self.state);
        let attached = state.attached.as_ref()?;
        Some((Arc::clone(&attached.prog), attached.cookie))
    }

    /// Notes that a slot of a map holds this event; the id to put there, 0
    /// while there is no ring.
    pub(super) fn enter_slot(&self, map: &MapObject, index: u32) -> Result<u32, Errno> {
        if !matches!(self.kind, EventKind::Output { .. }) {
            return Err(Errno::EINVAL);
        }
        let mut state = locked(&self.state);
        if let Some(made) = self.ring.get() {
            return Ok(made.id);
        }
        state.waiting.push((Arc::downgrade(map.map()), index));
        Ok(0)
    }

    /// Puts a program on the event: `PERF_EVENT_IOC_SET_BPF`, or a link.
    /// A probe is in place in every process when this returns.
    ///
    /// # Errors
    /// EEXIST when it has one; EINVAL for a program of another type; EACCES for
    /// one that reads beyond a tracepoint's record.
    pub fn attach(&self, prog: &Arc<ProgObject>, cookie: u64) -> Result<(), Errno> {
        self.attach_as(0, prog, cookie)
    }

    /// The same, by a link of this type.
    pub(super) fn attach_as(
        &self,
        link_type: u32,
        prog: &Arc<ProgObject>,
        cookie: u64,
    ) -> Result<(), Errno> {
        let mut state = locked(&self.state);
        if state.attached.is_some() {
            return Err(Errno::EEXIST);
        }
        let running = match &self.kind {
            EventKind::Probe(probe) => {
                if prog.spec().prog_type != BPF_PROG_TYPE_KPROBE {
                    return Err(Errno::EINVAL);
                }
                let id = self
                    .home
                    .session()?
                    .create_link_of(link_type, &probe.link(prog.id(), cookie))?;
                self.home.publish();
                Running::Link(id)
            }
            EventKind::Tracepoint(tracepoint) => {
                if prog.spec().prog_type != BPF_PROG_TYPE_TRACEPOINT {
                    return Err(Errno::EINVAL);
                }
                if prog.ctx_bytes() > tracepoint.record_bytes() {
                    return Err(Errno::EACCES);
                }
                let link = tracepoint.link(prog.id(), cookie);
                let id = self.home.session()?.create_link_of(link_type, &link)?;
                self.home.publish();
                Running::Link(id)
            }
            EventKind::Kprobe(kprobe) => {
                if prog.spec().prog_type != BPF_PROG_TYPE_KPROBE {
                    return Err(Errno::EINVAL);
                }
                let link = kprobe.link(prog.id(), cookie);
                let id = self.home.session()?.create_link(&link)?;
                self.home.publish();
                Running::Link(id)
            }
            EventKind::Samples(what) => {
                if prog.spec().prog_type != BPF_PROG_TYPE_PERF_EVENT {
                    return Err(Errno::EINVAL);
                }
                if what.cpu != 0 {
                    prog.note_sampling();
                }
                let what = what.with_period(state.period);
                Running::Ticking(match state.enabled {
                    true => Some(Ticking::start(&self.home, &what, prog, cookie)?),
                    false => None,
                })
            }
            EventKind::Output { .. } | EventKind::Dummy => return Err(Errno::EINVAL),
        };
        state.attached = Some(Attached {
            prog: Arc::clone(prog),
            cookie,
            running,
        });
        drop(state);
        self.home.follow_sampling(prog)
    }

    /// Samples from now on if a timer runs this program, which is known to sample.
    ///
    /// # Errors
    /// As [`PerfEvent::enable`].
    pub(super) fn follow_sampling(&self, prog: &Arc<ProgObject>) -> Result<(), Errno> {
        let mut state = locked(&self.state);
        let is_timer = |attached: &Attached| {
            let ticking = match &attached.running {
                Running::Ticking(ticking) => ticking.as_ref(),
                Running::Link(_) => None,
            };
            Arc::ptr_eq(&attached.prog, prog) && ticking.is_some_and(Ticking::is_timer)
        };
        match state.attached.as_ref().is_some_and(is_timer) {
            true => self.restart(&mut state, true),
            false => Ok(()),
        }
    }

    /// `PERF_EVENT_IOC_PERIOD`: another period, or frequency.
    ///
    /// # Errors
    /// EINVAL for what does not sample, and for 0.
    pub fn set_period(&self, period: u64) -> Result<(), Errno> {
        if !matches!(self.kind, EventKind::Samples(_)) || period == 0 {
            return Err(Errno::EINVAL);
        }
        let mut state = locked(&self.state);
        state.period = Some(period);
        let enabled = state.enabled;
        self.restart(&mut state, enabled)
    }

    /// Stops what runs the program, and starts it as things are now if `run`.
    fn restart(&self, state: &mut State, run: bool) -> Result<(), Errno> {
        let (EventKind::Samples(what), Some(attached)) = (&self.kind, &mut state.attached) else {
            return Ok(());
        };
        if let Running::Ticking(ticking) = &mut attached.running {
            *ticking = None;
            if run {
                let what = what.with_period(state.period);
                let (prog, cookie) = (&attached.prog, attached.cookie);
                *ticking = Some(Ticking::start(&self.home, &what, prog, cookie)?);
            }
        }
        Ok(())
    }

    /// Takes the program off, if there is one. A probe is gone from every
    /// process when this returns.
    pub fn detach(&self) {
        let attached = locked(&self.state).attached.take();
        let Some(attached) = attached else { return };
        if let Running::Link(id) = attached.running
            && self.home.is_owner()
        {
            self.home.remove(id);
            self.home.publish();
        }
    }

    /// `PERF_EVENT_IOC_ENABLE` and `_DISABLE`: starts and stops a clock. A
    /// probe runs its program either way, as in the kernel, where the program
    /// array of an uprobe does not look at the event's state.
    ///
    /// # Errors
    /// EAGAIN when no thread could be made for a clock; those of the kernel's
    /// event for what is sampled.
    pub fn enable(&self, enabled: bool) -> Result<(), Errno> {
        let mut state = locked(&self.state);
        let changes = state.enabled != enabled;
        state.enabled = enabled;
        match changes {
            true => self.restart(&mut state, enabled),
            false => Ok(()),
        }
    }
}

impl Drop for PerfEvent {
    fn drop(&mut self) {
        self.detach();
        if let Some(made) = self.ring.get() {
            if let Ok(here) = self.home.here() {
                here.remove_perf_ring(made.id);
            }
            self.home.remove(made.id);
        }
    }
}
