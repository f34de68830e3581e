//! What the verifier must know of a helper: its prototype. The rows
//! themselves are `runtime`'s; one row serves verifier, interpreter and JIT.

/// What a helper expects in one argument register (kernel: `enum bpf_arg_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Any initialised scalar (kernel: `ARG_ANYTHING`, pointers allowed too).
    Anything,
    /// A scalar.
    Scalar,
    /// A map, by `ld_imm64` or an inner-map lookup.
    Map,
    /// `key_size` readable bytes of the map in the `Map` argument.
    MapKey,
    /// `value_size` readable bytes of that map.
    MapValue,
    /// `value_size` bytes of that map that the helper writes.
    UninitMapValue,
    /// Readable bytes whose length is the next argument.
    Mem,
    /// As `Mem`, or NULL with length 0.
    MemOrNull,
    /// Bytes that the helper writes; their length is the next argument.
    UninitMem,
    /// Length of the memory before it; must be above 0.
    Size,
    /// Length of the memory before it; may be 0.
    SizeOrZero,
    /// The program's ctx.
    Ctx,
    /// A record of a ring buffer that this call takes over (submit, discard).
    RingbufRecord,
    /// A constant number of bytes to allocate (ring buffer reserve).
    ConstAllocSize,
    /// A constant zero-terminated string in read-only map memory.
    ConstStr,
    /// A static subprogram to call back.
    Func,
    /// A stack pointer handed to a callback, or NULL.
    StackOrNull,
}

/// What a helper returns in `r0` (kernel: `enum bpf_return_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// A scalar.
    Scalar,
    /// Nothing; `r0` is unreadable.
    Void,
    /// A value of the map in the `Map` argument (or an inner map), or NULL.
    MapValueOrNull,
    /// A ring buffer record of `ConstAllocSize` bytes that must be
    /// submitted or discarded, or NULL.
    RingbufRecordOrNull,
    /// A kernel object that only `bpf_probe_read_kernel` may look into;
    /// a scalar to the verifier, kept apart for its log.
    Opaque,
}

/// A helper as the verifier sees it.
#[derive(Clone, Copy, Debug)]
pub struct Proto {
    /// `BPF_FUNC_*`.
    pub id: u32,
    /// Name without `bpf_`, as verifier logs print it.
    pub name: &'static str,
    /// Arguments r1…; at most five.
    pub args: &'static [Arg],
    /// Return value.
    pub ret: Ret,
    /// Only programs under a GPL-compatible licence may call it.
    pub gpl_only: bool,
}
