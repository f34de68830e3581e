//! How a verified program meets a process: addresses of maps, helpers and
//! tail-call targets, and the run context that every helper receives. It
//! knows no engine; [`LinkError`] is what both can fail with.

mod code;

pub use code::LinkError;
pub(crate) use code::{Code, Step, Subprogram, target};

/// The state of one run, defined by whoever runs programs; opaque here.
/// Every helper gets it as its sixth argument.
#[repr(C)]
#[derive(Debug)]
pub struct Run {
    _opaque: [u8; 0],
}

/// A helper's machine interface: r1…r5 and the run context in the C calling
/// convention; the result goes to r0.
///
/// A helper may clobber every register that convention allows, including
/// vector registers; whoever enters a program from a trampoline saves those.
pub type HelperFn = unsafe extern "C" fn(u64, u64, u64, u64, u64, *mut Run) -> u64;

/// A callback, as a helper receives it in an argument register (`bpf_loop`,
/// `bpf_for_each_map_elem`): up to five arguments and the run context it was
/// itself called with; the callback's r0 comes back. It is of the same shape
/// as a helper, may be called any number of times until the helper returns,
/// and only on the same thread.
pub type CallbackFn = HelperFn;

/// The machine interface of a compiled program: ctx and run context in, r0 out.
pub type Entry = unsafe extern "C" fn(ctx: *mut u8, run: *mut Run) -> u64;

/// Finds the target of `bpf_tail_call`: map (the register value that
/// [`Linker::map`] gave), index, run. Returns what `target` of the engine
/// in use needs ([`crate::jit::CompiledProgram::tail_target`] or
/// [`crate::interp::Interpreter::tail_target`]), or null to fall through.
pub type TailCallFn = unsafe extern "C" fn(map: u64, index: u64, run: *mut Run) -> *const u8;

/// Where an array has its elements, so that an engine can look one up without
/// a call: element `key` is at `base + key * stride`, if `key`, which is of 4
/// bytes, is below `max_entries`. All of it stays as it is while programs run
/// that were linked with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrayLayout {
    /// Address of the first element.
    pub base: u64,
    /// Bytes from one element to the next.
    pub stride: u32,
    /// Number of elements.
    pub max_entries: u32,
    /// Of a per-CPU array: where the arrays of the CPUs are.
    pub cpus: Option<CpuLayout>,
}

/// How per-CPU arrays follow each other: that of a run begins at
/// `base + cpu * stride`, if `cpu` is below `count`; else there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuLayout {
    /// Where the run has the number of its CPU, of 4 bytes: bytes from the
    /// address of [`Run`].
    pub cpu_at: u32,
    /// Number of CPUs.
    pub count: u32,
    /// Bytes from one CPU's array to the next.
    pub stride: u64,
}

/// A helper as it is for one map: in place of the helper an engine may call
/// `call`, with `map` in place of the map's register value.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    /// The function.
    pub call: HelperFn,
    /// Its first argument.
    pub map: u64,
}

/// Resolves names in a program to addresses of this process.
pub trait Linker {
    /// The register value of a map reference.
    fn map(&self, id: u32) -> Option<u64>;
    /// Where the elements of a map are whose look-ups engines may do
    /// themselves; never needed, since the helper does the same.
    fn array(&self, id: u32) -> Option<ArrayLayout> {
        let _ = id;
        None
    }
    /// What does a helper's work for a map, if there is something quicker; never
    /// needed, since the helper does the same.
    fn direct(&self, id: u32, helper: u32) -> Option<Direct> {
        let _ = (id, helper);
        None
    }
    /// The address of `offset` in the value area of an array map (direct value access).
    fn map_value(&self, id: u32, offset: u32) -> Option<u64>;
    /// The function that implements a helper.
    fn helper(&self, id: u32) -> Option<HelperFn>;
    /// The function that implements the kfunc with this number.
    fn kfunc(&self, number: u32) -> Option<HelperFn>;
    /// The function that resolves tail calls.
    fn tail_call(&self) -> TailCallFn;
}
