//! The shape of a helper: one row from which verifier and engines read. The
//! types of a row's Rust signature are its prototype. It knows no helper.

use vm::helper::{Arg, Proto, Ret};
use vm::link::{CallbackFn, HelperFn};

use crate::maps::Map;
use crate::run::RunState;

/// A helper: what the verifier checks and what an engine calls.
#[derive(Debug)]
pub struct Helper {
    /// The prototype.
    pub proto: Proto,
    /// The function.
    pub call: HelperFn,
}

/// A register that carries an argument of this type.
pub(super) trait Argument {
    /// What the verifier demands of it.
    const ARG: Arg;

    /// The argument.
    ///
    /// # Safety
    /// The verifier has accepted the register for [`Argument::ARG`].
    unsafe fn from_register(register: u64) -> Self;
}

/// A result type.
pub(super) trait Returned {
    /// What the verifier makes of r0.
    const RET: Ret;

    /// r0.
    fn into_register(self) -> u64;
}

/// A name without the mark of a raw identifier.
pub(super) const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $arg:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name(pub $inner);

        impl Argument for $name {
            const ARG: Arg = $arg;

            #[inline(always)]
            unsafe fn from_register(register: u64) -> $name {
                $name(register as $inner)
            }
        }
    )*};
}

words! {
    /// Any value.
    Any(u64) = Arg::Anything;
    /// `key_size` readable bytes.
    Key(*const u8) = Arg::MapKey;
    /// `value_size` readable bytes.
    Value(*const u8) = Arg::MapValue;
    /// `value_size` bytes to be written.
    ValueRoom(*mut u8) = Arg::UninitMapValue;
    /// Readable bytes; a [`Len`] or [`LenOrZero`] follows.
    Bytes(*const u8) = Arg::Mem;
    /// Bytes to be written; a [`Len`] or [`LenOrZero`] follows.
    Room(*mut u8) = Arg::UninitMem;
    /// A length above 0.
    Len(usize) = Arg::Size;
    /// A length.
    LenOrZero(usize) = Arg::SizeOrZero;
    /// A ring buffer record that the call takes over.
    Record(*mut u8) = Arg::RingbufRecord;
    /// A constant size.
    AllocLen(u64) = Arg::ConstAllocSize;
    /// An initialised dynptr.
    SomeDynPtr(*mut u8) = Arg::DynPtr;
    /// Stack that becomes a dynptr of a map value.
    MadeDynPtr(*mut u8) = Arg::UninitDynPtr;
    /// Stack that becomes a dynptr of a ring buffer record.
    MadeRingbufDynPtr(*mut u8) = Arg::UninitRingbufDynPtr;
    /// A dynptr of a record that the call takes over.
    ReleasedDynPtr(*mut u8) = Arg::ReleasedRingbufDynPtr;
    /// A function of the program, or one that stands in for it.
    Callback(u64) = Arg::Func;
    /// What a callback gets: an address on the program's stack, or NULL.
    CallbackCtx(u64) = Arg::StackOrNull;
    /// A task, or NULL.
    TaskOrNull(u64) = Arg::BtfIdOrNull("task_struct");
    /// `value_size` readable bytes, or NULL.
    GivenOrNull(*const u8) = Arg::MapValueOrNull;
    /// The lock of a map value.
    Lock(*mut u8) = Arg::SpinLock;
    /// A zero-terminated string in read-only map memory.
    Text(*const u8) = Arg::ConstStr;
}

/// The program's ctx; what helpers need of it the run carries.
#[derive(Clone, Copy)]
pub(super) struct Ctx;

impl Argument for Ctx {
    const ARG: Arg = Arg::Ctx;

    #[inline(always)]
    unsafe fn from_register(_register: u64) -> Ctx {
        Ctx
    }
}

impl Callback {
    /// Calls the function: whether it wants to go on.
    ///
    /// # Safety
    /// The arguments are what the verifier walked the function with, and `run`
    /// is the one that the helper was called with.
    #[inline(always)]
    pub(super) unsafe fn call(self, args: [u64; 4], run: &RunState) -> bool {
        // SAFETY: the verifier accepted the register as a function of the
        // program, and engines put the address of such a function there.
        let function = unsafe { core::mem::transmute::<u64, CallbackFn>(self.0) };
        let run = core::ptr::from_ref(run).cast_mut().cast::<vm::Run>();
        let [r1, r2, r3, r4] = args;
        // SAFETY: the caller's contract.
        unsafe { function(r1, r2, r3, r4, 0, run) == 0 }
    }
}

impl Argument for &'static Map {
    const ARG: Arg = Arg::Map;

    #[inline(always)]
    unsafe fn from_register(register: u64) -> &'static Map {
        // SAFETY: the verifier accepted the register as a map, and the linker
        // puts the address of a `Map` that outlives its programs there.
        unsafe { &*(register as *const Map) }
    }
}

impl Returned for i64 {
    const RET: Ret = Ret::Scalar;

    #[inline(always)]
    fn into_register(self) -> u64 {
        self as u64
    }
}

impl Returned for u64 {
    const RET: Ret = Ret::Scalar;

    #[inline(always)]
    fn into_register(self) -> u64 {
        self
    }
}

impl Returned for () {
    const RET: Ret = Ret::Void;

    #[inline(always)]
    fn into_register(self) -> u64 {
        0
    }
}

/// A value of the map argument, or null.
pub(super) struct ValueOrNull(pub *mut u8);

impl Returned for ValueOrNull {
    const RET: Ret = Ret::MapValueOrNull;

    #[inline(always)]
    fn into_register(self) -> u64 {
        self.0 as u64
    }
}

/// A record of the ring buffer argument, or null.
pub(super) struct RecordOrNull(pub *mut u8);

impl Returned for RecordOrNull {
    const RET: Ret = Ret::RingbufRecordOrNull;

    #[inline(always)]
    fn into_register(self) -> u64 {
        self.0 as u64
    }
}

/// A task.
pub(super) struct Task(pub u64);

impl Returned for Task {
    const RET: Ret = Ret::BtfId("task_struct");

    #[inline(always)]
    fn into_register(self) -> u64 {
        self.0
    }
}

/// Memory of the dynptr argument, or null.
pub(super) struct SliceOrNull(pub *mut u8);

impl Returned for SliceOrNull {
    const RET: Ret = Ret::DynPtrMemOrNull;

    #[inline(always)]
    fn into_register(self) -> u64 {
        self.0 as u64
    }
}

/// Defines a helper: its documentation, licence rule, signature, number and
/// body. The row is `name::ROW`.
macro_rules! helper {
    ($(#[doc = $doc:literal])* gpl fn $($rest:tt)*) => {
        helper! { @row true, [$($doc)*] $($rest)* }
    };
    ($(#[doc = $doc:literal])* fn $($rest:tt)*) => {
        helper! { @row false, [$($doc)*] $($rest)* }
    };
    (@row $gpl:literal, [$($doc:literal)*]
     $name:ident($run:ident $(, $arg:ident: $type:ty)*) -> $ret:ty = $id:ident $body:block) => {
        $(#[doc = $doc])*
        pub(super) mod $name {
            #[allow(unused_imports, reason = "a row uses what its signature and body name")]
            use super::*;

            pub(in crate::helpers) static ROW: $crate::helpers::row::Helper =
                $crate::helpers::row::Helper {
                    proto: vm::helper::Proto {
                        id: uapi::helper::$id,
                        name: $crate::helpers::row::plain(stringify!($name)),
                        args: &[$(<$type as $crate::helpers::row::Argument>::ARG),*],
                        ret: <$ret as $crate::helpers::row::Returned>::RET,
                        gpl_only: $gpl,
                    },
                    call,
                };

            unsafe extern "C" fn call(
                r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, run: *mut vm::Run,
            ) -> u64 {
                // SAFETY: engines pass the run they were entered with.
                let $run = unsafe { $crate::run::RunState::of(run) };
                let mut registers = [r1, r2, r3, r4, r5].into_iter();
                $(
                    // SAFETY: the verifier checked the register against the
                    // prototype, which comes from this very type.
                    let $arg = unsafe {
                        <$type as $crate::helpers::row::Argument>::from_register(
                            registers.next().unwrap_or(0),
                        )
                    };
                )*
                let _ = (&mut registers, $run);
                let result: $ret = body($run $(, $arg)*);
                $crate::helpers::row::Returned::into_register(result)
            }

            #[inline(always)]
            fn body($run: &$crate::run::RunState $(, $arg: $type)*) -> $ret {
                let _ = $run;
                $body
            }
        }
    };
}
pub(super) use helper;
