//! The kfuncs that can be verified, and their prototypes. It knows no function:
//! `runtime` has one for each row but those on packets, a test sees to that.
//!
//! A kernel names a kfunc by its id in the BTF of that very kernel. Here a
//! call carries the row's number, which stays the same for ever: sessions
//! outlive kernels.

use uapi::prog::*;

/// Stands for a kernel function that has no number: calls of it are refused
/// where a path reaches them.
pub const UNKNOWN: u32 = u32::MAX >> 1;

/// What a kfunc expects in one argument register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KfuncArg {
    /// A number.
    Scalar,
    /// Anything initialised: the kfunc does not trust it (kernel: `__ign`).
    Untrusted,
    /// A dynptr.
    DynPtr,
    /// Stack that becomes a dynptr like the one before it.
    UninitDynPtr,
    /// The program's ctx.
    Ctx,
    /// Stack that becomes a dynptr of the packet.
    UninitPacketDynPtr,
    /// An iterator of this type.
    Iter(IterType, IterStep),
    /// Memory that is read and written, or NULL; its constant length is the
    /// next argument (kernel: `__opt`, `__szk`).
    BufferOrNull,
    /// The length of the buffer before it.
    BufferSize,
}

/// Types of open-coded iterators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IterType {
    /// `struct bpf_iter_num`.
    Num,
    /// `struct bpf_iter_bits`.
    Bits,
}

impl IterType {
    /// As messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            IterType::Num => "num",
            IterType::Bits => "bits",
        }
    }

    /// Stack slots of 8 bytes that it takes.
    pub const fn slots(self) -> usize {
        match self {
            IterType::Num => 1,
            IterType::Bits => 2,
        }
    }
}

/// What happens to an iterator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IterStep {
    /// It begins.
    New,
    /// It gives its next element, or NULL at its end and from then on.
    Next,
    /// It ends.
    Destroy,
}

/// What a kfunc returns in `r0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KfuncRet {
    /// Nothing.
    Void,
    /// A number.
    Scalar,
    /// An `int` of the iterator, for reading, or NULL.
    IntOrNull,
    /// As many bytes of the dynptr as `BufferSize` says, or NULL.
    SliceOrNull {
        /// They may not be written.
        read_only: bool,
    },
    /// Eight bytes for reading and writing.
    Word,
}

/// A kfunc as the verifier sees it.
#[derive(Clone, Copy, Debug)]
pub struct Kfunc {
    /// What a call carries in `imm`.
    pub number: u32,
    /// Its name in the kernel.
    pub name: &'static str,
    /// Arguments r1…; at most five.
    pub args: &'static [KfuncArg],
    /// Return value.
    pub ret: KfuncRet,
    /// The `BPF_PROG_TYPE_*` that may call it; `None` for all.
    pub types: Option<&'static [u32]>,
    /// Only programs loaded for sessions may call it.
    pub for_sessions: bool,
}

macro_rules! rows {
    ($($number:literal $name:ident($($arg:expr),*) -> $ret:expr $(, $key:ident: $value:expr)*;)*) => {
        &[$(Kfunc {
            $($key: $value,)*
            ..Kfunc::plain($number, stringify!($name), &[$($arg),*], $ret)
        }),*]
    };
}

impl Kfunc {
    const fn plain(
        number: u32,
        name: &'static str,
        args: &'static [KfuncArg],
        ret: KfuncRet,
    ) -> Kfunc {
        Kfunc {
            number,
            name,
            args,
            ret,
            types: None,
            for_sessions: false,
        }
    }
}

use IterStep::{Destroy, New, Next};
use IterType::{Bits, Num};
use KfuncArg::{
    BufferOrNull, BufferSize, Ctx, DynPtr, Iter, Scalar, UninitDynPtr, UninitPacketDynPtr,
    Untrusted,
};
use KfuncRet::{IntOrNull, SliceOrNull, Void, Word};

/// Types whose ctx is a `struct __sk_buff`.
const SKB: &[u32] = &[
    BPF_PROG_TYPE_SOCKET_FILTER,
    BPF_PROG_TYPE_SCHED_CLS,
    BPF_PROG_TYPE_SCHED_ACT,
];

/// A number in r0.
const NUMBER: KfuncRet = KfuncRet::Scalar;

/// All rows. Never renumber one; add at the end.
static ROWS: &[Kfunc] = rows! {
    1 bpf_iter_num_new(Iter(Num, New), Scalar, Scalar) -> NUMBER;
    2 bpf_iter_num_next(Iter(Num, Next)) -> IntOrNull;
    3 bpf_iter_num_destroy(Iter(Num, Destroy)) -> Void;
    4 bpf_iter_bits_new(Iter(Bits, New), Untrusted, Scalar) -> NUMBER;
    5 bpf_iter_bits_next(Iter(Bits, Next)) -> IntOrNull;
    6 bpf_iter_bits_destroy(Iter(Bits, Destroy)) -> Void;
    7 bpf_dynptr_adjust(DynPtr, Scalar, Scalar) -> NUMBER;
    8 bpf_dynptr_is_null(DynPtr) -> NUMBER;
    9 bpf_dynptr_is_rdonly(DynPtr) -> NUMBER;
    10 bpf_dynptr_size(DynPtr) -> NUMBER;
    11 bpf_dynptr_clone(DynPtr, UninitDynPtr) -> NUMBER;
    12 bpf_dynptr_slice(DynPtr, Scalar, BufferOrNull, BufferSize) -> SliceOrNull { read_only: true };
    13 bpf_dynptr_slice_rdwr(DynPtr, Scalar, BufferOrNull, BufferSize) -> SliceOrNull { read_only: false };
    14 bpf_dynptr_from_skb(Ctx, Scalar, UninitPacketDynPtr) -> NUMBER, types: Some(SKB);
    15 bpf_dynptr_from_xdp(Ctx, Scalar, UninitPacketDynPtr) -> NUMBER, types: Some(&[BPF_PROG_TYPE_XDP]);
    16 bpf_session_is_return() -> NUMBER, types: Some(&[BPF_PROG_TYPE_KPROBE]), for_sessions: true;
    17 bpf_session_cookie() -> Word, types: Some(&[BPF_PROG_TYPE_KPROBE]), for_sessions: true;
};

/// The kfunc with this number.
pub fn lookup(number: u32) -> Option<&'static Kfunc> {
    ROWS.iter().find(|row| row.number == number)
}

/// The kfunc that the kernel calls `name`.
pub fn by_name(name: &str) -> Option<&'static Kfunc> {
    ROWS.iter().find(|row| row.name == name)
}

/// All kfuncs.
pub fn all() -> impl Iterator<Item = &'static Kfunc> {
    ROWS.iter()
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_and_names_are_taken_once() {
        for (at, row) in super::all().enumerate() {
            let number = super::lookup(row.number).map(|found| found.name);
            let name = super::by_name(row.name).map(|found| found.number);
            assert_eq!((number, name), (Some(row.name), Some(row.number)));
            assert_eq!(row.number as usize, at + 1);
        }
    }
}
