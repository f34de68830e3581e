//! tracefs as tools see it that may not read the kernel's: a tree of our own on
//! disk ([`tree`]) with what programs in user space can be put at, in which
//! users make trace events of their own ([`probes`], by lines of text:
//! [`command`], [`fetch`]), that are written to files ([`writing`]). It knows no
//! program.

mod command;
mod fetch;
mod probe;
mod probes;
pub mod tree;
pub mod writing;

use std::collections::HashMap;
use std::ffi::c_long;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use runtime::command::kprobe::Kprobe;
use runtime::command::tracepoint::Tracepoint;
use uapi::Errno;

use crate::fds::PrivateFd;
use probe::Place;
use probes::Probes;

/// Where tracefs is mounted; tools look at either.
pub const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// What perf_event_open(2) names by the id of a trace event.
pub enum Event {
    /// A tracepoint.
    Tracepoint(Tracepoint),
    /// Probes of the user's, in files, all at entries or all at returns.
    Uprobe {
        /// Path, device, inode, offset, offset of a counter.
        places: Vec<(String, u64, u64, u64, u64)>,
        /// At returns.
        at_return: bool,
        /// Keeps the event from being removed.
        used: PrivateFd,
    },
    /// A probe at a kernel function that user space can host.
    Kprobe {
        /// Where it is.
        kprobe: Kprobe,
        /// Keeps the event from being removed.
        used: PrivateFd,
    },
}

impl Event {
    /// Whether an id is the kernel's for a tracepoint in a task's life.
    pub fn is_kernels_task(&self, id: u64) -> bool {
        matches!(self, Event::Tracepoint(Tracepoint::Task(_))) && id <= LAST_KERNEL_ID
    }
}

/// Ids of the kernel's have 16 bits.
const LAST_KERNEL_ID: u64 = 0xffff;

/// The trace event with an id: one of ours, or of the kernel's where its files
/// can be read.
pub fn by_id(id: u64) -> Option<Event> {
    if let Some(tracepoint) = Tracepoint::by_id(id) {
        return Some(Event::Tracepoint(tracepoint));
    }
    if let Some(own) = own_event(u32::try_from(id).ok()?) {
        return Some(own);
    }
    static KERNELS: OnceLock<HashMap<u64, Tracepoint>> = OnceLock::new();
    let kernels = KERNELS.get_or_init(kernels_ids);
    kernels.get(&id).copied().map(Event::Tracepoint)
}

fn own_event(id: u32) -> Option<Event> {
    writing::settle();
    let root = tree::root()?.join(tree::TRACING);
    let probes = Probes::read(&root);
    let all = probes.of_id(id);
    let first = *all.first()?;
    let used = PrivateFd::duplicate(probes.used(first).ok()?.as_raw_fd()).ok()?;
    let at_return = first.at_return;
    if let Place::Function { symbol, .. } = &first.place {
        let kprobe = Kprobe::find(symbol, at_return)?;
        return Some(Event::Kprobe { kprobe, used });
    }
    let place = |probe: &&probe::Probe| match &probe.place {
        Place::File {
            path,
            dev,
            ino,
            offset,
            counter,
        } => Some((path.clone(), *dev, *ino, *offset, *counter)),
        Place::Function { .. } => None,
    };
    Some(Event::Uprobe {
        places: all.iter().filter_map(place).collect(),
        at_return,
        used,
    })
}

fn kernels_ids() -> HashMap<u64, Tracepoint> {
    let id = |root: &str, tracepoint: Tracepoint| -> Option<u64> {
        let (category, name) = (tracepoint.category(), tracepoint.name());
        let text = std::fs::read_to_string(format!("{root}/events/{category}/{name}/id")).ok()?;
        text.trim().parse().ok()
    };
    // Before it is mounted, and for an ordinary user, there is nothing to see.
    let is_readable =
        |root: &&&str| id(root, Tracepoint::RawEnter).is_some_and(|id| id <= LAST_KERNEL_ID);
    let Some(root) = ROOTS.iter().find(is_readable) else {
        return HashMap::new();
    };
    Tracepoint::all()
        .filter_map(|tracepoint| Some((id(root, tracepoint)?, tracepoint)))
        .collect()
}

/// `TRACEFS_MAGIC`.
pub const MAGIC: c_long = 0x7472_6163;

/// The errors of looking for a tree that could not be made.
pub const NO_TREE: Errno = Errno::ENOENT;
