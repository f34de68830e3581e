//! What a caller asks for: a callback at a point. It knows nothing of how the
//! point is hooked.

use core::fmt;
use core::sync::atomic::AtomicU64;
use std::sync::Arc;

use uapi::PtRegs;

use crate::arch::inline::Inline;
use crate::counter::Hits;
use crate::module::Module;

/// What a hook calls, on the thread that hit the point.
///
/// `regs` are the target's registers at the point. They are to be read only:
/// the target goes on with what is in them. At a return, `ax` is the return
/// value, `ip` the address returned to and `sp` the stack pointer after the
/// return. `data` is [`Probe::data`], `hit` is valid during the call. What the
/// callback gives means something for [`Kind::Session`] only.
///
/// Every general register, flag, xmm register and the red zone of the target
/// is saved around the call; ymm/zmm upper halves, x87 and mxcsr are not, so
/// a callback uses no VEX or x87 instruction and no libc function. It does not
/// unwind, block or allocate.
pub type Callback = unsafe extern "C" fn(regs: *mut PtRegs, data: *const (), hit: *mut Hit) -> u64;

/// What a callback is told of one hit beyond the registers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    /// Entry address of the probed function, or the probed instruction.
    pub func_ip: u64,
    /// Eight bytes that the entry and the return of one call share; null
    /// unless the probe is a [`Kind::Session`].
    pub session_cookie: *mut u64,
    /// 1 at a return, else 0.
    pub at_return: u32,
    /// Set to 1 by the callback of a [`Kind::Override`]: the function shall
    /// not run, `value` is what it returns.
    pub overrides: u32,
    /// See `overrides`.
    pub value: u64,
}

impl Hit {
    /// A hit of a point, before its callback.
    pub const fn new(func_ip: u64, session_cookie: *mut u64, at_return: u32) -> Hit {
        Hit {
            func_ip,
            session_cookie,
            at_return,
            overrides: 0,
            value: 0,
        }
    }
}

/// Where in a function's life a probe runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// uprobe: before the first instruction.
    Entry,
    /// uretprobe: after the function returned to its caller.
    Return,
    /// uprobe session: before the first instruction and, if the callback gave
    /// 0 there, again after the function returned to its caller.
    Session,
    /// As `Entry`, and its callback may have the function not run at all. The
    /// caller gets the value in `ax` and, as bits, in `xmm0`; of several such
    /// probes the one that runs last decides. Return probes see the value.
    Override,
}

/// What a callback needs beyond what is cheap: the argument words of `regs`
/// (`di si dx cx ax` and `r8` to `r11`), and the general registers that C
/// functions may change. The less it needs, the less a hit costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs(pub(crate) u8);

impl Needs {
    /// It reads no other word of `regs`, changes no vector register, takes DF
    /// as it finds it, does without an aligned stack and looks at no `hit`.
    pub const LITTLE: Needs = Needs(0);
    /// It is compiled code, which may change vector registers, and expects
    /// an aligned stack and DF clear.
    pub const VECTORS: Needs = Needs(1);
    /// It may read any word of `regs`.
    pub const ALL_REGISTERS: Needs = Needs(2);
    /// It reads `hit`.
    pub const HIT: Needs = Needs(4);
    /// Whatever a callback may need.
    pub const EVERYTHING: Needs = Needs(7);
    /// There is more than one callback.
    pub(crate) const SEVERAL: Needs = Needs(0x40);
    /// There is no callback.
    pub(crate) const NOTHING_TO_RUN: Needs = Needs(0x80);

    /// What is needed by either.
    #[must_use]
    pub const fn and(self, other: Needs) -> Needs {
        Needs(self.0 | other.0)
    }

    pub(crate) const fn any_of(self, other: Needs) -> bool {
        self.0 & other.0 != 0
    }
}

/// A callback with what it is given. All that it points to stays valid until
/// it is detached and [`crate::Backend::is_settled`]: a thread may still be
/// in it.
#[derive(Clone, Copy)]
pub struct Probe {
    /// Called at each hit.
    pub callback: Callback,
    /// Passed to `callback` as it is.
    pub data: *const (),
    /// Counts the hits that were skipped: inside another probe of the same
    /// thread, or beyond the depth of return probes. May be null.
    pub missed: *const AtomicU64,
    /// Counts the calls of `callback`.
    pub hits: Hits,
    /// What `callback` needs.
    pub needs: Needs,
    /// Runs before the probes that the point has already; else after them.
    pub is_first: bool,
    /// What `callback` does, as code that may run in its place; may be null.
    pub inline: *const Inline,
}

impl Probe {
    /// A probe that needs everything and counts nothing.
    pub const fn new(callback: Callback, data: *const ()) -> Probe {
        Probe {
            callback,
            data,
            missed: core::ptr::null(),
            hits: Hits::UNCOUNTED,
            needs: Needs::EVERYTHING,
            is_first: false,
            inline: core::ptr::null(),
        }
    }

    /// The same probe, to run before those that the point has already.
    pub const fn before_others(self) -> Probe {
        Probe {
            is_first: true,
            ..self
        }
    }

    /// The same probe, counting its calls.
    pub const fn counting_hits(self, hits: Hits) -> Probe {
        Probe { hits, ..self }
    }

    /// The same probe, of which is known what its callback needs.
    pub const fn needing(self, needs: Needs) -> Probe {
        Probe { needs, ..self }
    }

    /// The same probe, of which `inline` is the callback's work.
    pub const fn inlined(self, inline: *const Inline) -> Probe {
        Probe { inline, ..self }
    }

    /// The same probe, counting its misses in `missed`.
    pub const fn counting_misses(self, missed: *const AtomicU64) -> Probe {
        Probe { missed, ..self }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("callback", &(self.callback as *const ()))
            .field("data", &self.data)
            .finish()
    }
}

/// Where a probe goes.
#[derive(Clone, Debug)]
pub struct Point {
    /// Address of the function's first instruction in this process.
    pub addr: usize,
    /// At its entry or at its return.
    pub kind: Kind,
    /// The module whose text holds `addr`.
    pub module: Arc<Module>,
}

/// How the jump to the trampoline fits into the text. Instructions that only
/// lower the stack pointer may come before the one that becomes a jump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tactic {
    /// The instruction has five bytes or more: `jmp rel32` over it.
    Jump,
    /// The function is shorter than five bytes, its own padding makes room.
    Short,
    /// `jmp rel8` to a `jmp rel32` in dead padding nearby.
    Padding,
    /// A direct call that calls the trampoline instead.
    Call,
    /// `jmp rel32` whose last bytes are the bytes that follow.
    Pun,
    /// From the trampoline of the instruction before, which alone leads here.
    Chain,
    /// A breakpoint, whose handler leads to the trampoline.
    Breakpoint,
    /// frida-gum's own.
    Frida,
}
