//! What the verifier must know of a helper: its prototype. The rows
//! themselves are `runtime`'s; one row serves verifier, interpreter and JIT.
//! [`kernel`] has what Linux declares, hosted here or not.

pub mod kernel;

pub mod kfunc;

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
    /// As `MapValue`, or NULL.
    MapValueOrNull,
    /// `value_size` bytes of that map that the helper writes.
    UninitMapValue,
    /// Readable bytes whose length is the next argument.
    Mem,
    /// As `Mem`, or NULL with length 0.
    MemOrNull,
    /// Bytes that the helper writes; their length is the next argument.
    UninitMem,
    /// As `UninitMem`, or NULL with length 0.
    UninitMemOrNull,
    /// So many readable bytes.
    FixedMem(u32),
    /// So many bytes, naturally aligned, that the helper writes.
    WrittenMem(u32),
    /// Length of the memory before it; must be above 0.
    Size,
    /// Length of the memory before it; may be 0.
    SizeOrZero,
    /// The program's ctx.
    Ctx,
    /// The program's ctx, or NULL.
    CtxOrNull,
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
    /// The `bpf_spin_lock` of a map value.
    SpinLock,
    /// The `bpf_timer` of a map value.
    Timer,
    /// A kptr field of a map value.
    KptrDest,
    /// A kernel object for such a field, handed over, or NULL.
    ReleasedKptrOrNull,
    /// A dynptr.
    DynPtr,
    /// Stack that becomes a dynptr of local memory.
    UninitDynPtr,
    /// Stack that becomes a dynptr of a ring buffer record.
    UninitRingbufDynPtr,
    /// A dynptr of a ring buffer record that this call takes over.
    ReleasedRingbufDynPtr,
    /// A socket of any kind as the kernel's programs see it (`struct bpf_sock`).
    SockCommon,
    /// As `SockCommon`, or the kernel's own `struct sock_common`.
    BtfSockCommon,
    /// A referenced socket that this call gives back.
    ReleasedSock,
    /// A kernel object of the named type.
    BtfId(&'static str),
    /// A kernel object of the named type, or NULL.
    BtfIdOrNull(&'static str),
    /// A per-CPU variable of the kernel.
    PercpuBtfId,
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
    /// A value of the map in the `Map` argument.
    MapValue,
    /// So many bytes of a dynptr as the `ConstAllocSize` argument says, or NULL.
    DynPtrMemOrNull,
    /// A full socket, or NULL.
    SocketOrNull,
    /// A socket of any kind, or NULL.
    SockCommonOrNull,
    /// A TCP socket, or NULL.
    TcpSockOrNull,
    /// A kernel object of the named type.
    BtfId(&'static str),
    /// A kernel object of the named type, or NULL.
    BtfIdOrNull(&'static str),
    /// The kernel object that was in a map's field, or NULL.
    KptrOrNull,
    /// This CPU's instance of a variable.
    PercpuObject,
    /// A CPU's instance of a variable, or NULL.
    PercpuObjectOrNull,
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
