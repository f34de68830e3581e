//! bpf(2), written once, on a [`Session`]: whoever plays the kernel for a tool
//! (the preloaded server today) decodes attributes, pointers and fds, and
//! calls what is here with plain values and objects. It knows no fd, no user
//! pointer and no hook.
//!
//! An object is an `Arc`: it lives while a caller's fd, a link, a program or a
//! map's slot refers to it, and leaves the session when the last one lets go.
//!
//! Reading order: [`object`], then one file per command family: [`map`],
//! [`elem`], `inner`, [`moved`], [`batch`], [`prog`], `kfunc`, `here`, [`test_run`], [`btf`], [`perf`], [`sampling`], [`timer`],
//! [`tracepoint`],
//! [`places`], [`link`], [`info`], [`ids`], [`pin`], `foreign`.

pub mod batch;
pub mod btf;
pub mod elem;
mod foreign;
mod here;
pub mod ids;
pub mod info;
mod inner;
mod kfunc;
pub mod kprobe;
pub mod link;
pub mod map;
pub mod moved;
pub mod object;
pub mod perf;
pub mod pin;
pub mod places;
pub mod prog;
pub mod sampling;
pub mod taskpoint;
pub mod test_run;
pub mod timer;
pub mod trace;
pub mod tracepoint;

use std::any::Any;
use std::sync::{Arc, OnceLock};

use uapi::Errno;

use crate::session::Session;
use kfunc::KernelFunctions;

use crate::kernel_types::KernelStructures;
use object::Home;

pub use btf::BtfObject;
pub use foreign::Seen;
pub use link::LinkObject;
pub use map::MapObject;
pub use perf::PerfEvent;
pub use prog::ProgObject;

/// What whoever plays the kernel keeps with an object, as long as that lives.
pub type Extra = OnceLock<Box<dyn Any + Send + Sync>>;

/// What an fd of bpf(2) or perf_event_open(2) stands for.
#[derive(Clone)]
pub enum Object {
    /// A map.
    Map(Arc<MapObject>),
    /// A program.
    Prog(Arc<ProgObject>),
    /// A type description.
    Btf(Arc<BtfObject>),
    /// A link.
    Link(Arc<LinkObject>),
    /// A perf event.
    Event(Arc<PerfEvent>),
}

/// The commands of bpf(2) on one session; commands are methods, in the file of
/// their family.
pub struct Bpf {
    home: Arc<Home>,
    /// Read when the first program calls one.
    kernel_functions: OnceLock<KernelFunctions>,
    kernel_structures: KernelStructures,
    /// What sessions note of its tasks.
    tasks: OnceLock<Option<Vec<u8>>>,
    kernel_btf: OnceLock<Option<Arc<BtfObject>>>,
    seen: Seen,
    /// What programs print.
    trace: OnceLock<Arc<MapObject>>,
}

impl Bpf {
    /// The commands on `session`, whose objects belong to this process.
    pub fn new(session: Session) -> Bpf {
        Bpf::seeing(session, Seen::All)
    }

    /// The same, where ids lead to these other sessions.
    pub fn seeing(session: Session, seen: Seen) -> Bpf {
        Bpf {
            home: Arc::new(Home::new(Some(session))),
            seen,
            kernel_functions: OnceLock::new(),
            kernel_structures: KernelStructures::default(),
            tasks: OnceLock::new(),
            kernel_btf: OnceLock::new(),
            trace: OnceLock::new(),
        }
    }

    /// The commands without a session: maps have no storage, programs are
    /// verified with all helpers that kernels have, and nothing can be run or
    /// attached.
    pub fn verify_only() -> Bpf {
        Bpf {
            home: Arc::new(Home::new(None)),
            seen: Seen::All,
            kernel_functions: OnceLock::new(),
            kernel_structures: KernelStructures::default(),
            tasks: OnceLock::new(),
            kernel_btf: OnceLock::new(),
            trace: OnceLock::new(),
        }
    }

    /// The session that holds the objects.
    ///
    /// # Errors
    /// EPERM where programs are only verified.
    pub fn session(&self) -> Result<&Session, Errno> {
        self.home.session()
    }
}
