//! One argument of a helper call against its prototype. It knows no helper
//! by name, and not what a call does beyond its arguments.

use uapi::helper::BPF_FUNC_SPIN_UNLOCK;
use uapi::map::{BPF_F_RDONLY_PROG, BPF_MAP_TYPE_BLOOM_FILTER};

use super::dynptr::DynPtr;
use super::mem::{Access, is_aligned};

use super::state::{DynPtrType, Kind, Reg, Sock};
use super::walk::Walk;
use super::{Fail, compat, ctx};
use crate::helper::Arg;

/// Sizes from this on count as unbounded (kernel: `BPF_MAX_VAR_SIZ`).
const MAX_SIZE: u64 = 1 << 29;

/// What the arguments of one call told.
#[derive(Default)]
pub(super) struct Call {
    /// `BPF_FUNC_*`.
    pub(super) helper: u32,
    pub(super) map: Option<u32>,
    /// Memory whose length is the next argument: register, access, NULL allowed.
    pub(super) memory: Option<(u8, Access, bool)>,
    /// Upper bound of that length.
    pub(super) max_size: Option<u64>,
    /// The key, if it is a number on the stack that is known.
    pub(super) key: Option<Reg>,
    /// Bytes of what comes back.
    pub(super) record_size: Option<u32>,
    pub(super) released: Option<u32>,
    /// The subprogram that the helper calls back.
    pub(super) callback: Option<usize>,
    /// The initialised dynptr among the arguments.
    pub(super) dynptr: Option<DynPtr>,
    /// The reference of a dynptr that the call takes over.
    pub(super) released_dynptr: Option<u32>,
    /// A kfunc's memory whose length is the next argument.
    pub(super) buffer: Option<u8>,
    /// Memory may be in the packet.
    pub(super) packet: bool,
    /// Reference of the socket that was given, or 0.
    pub(super) socket: u32,
}

impl Walk<'_> {
    pub(super) fn check_argument(
        &mut self,
        arg: Arg,
        number: u8,
        call: &mut Call,
    ) -> Result<(), Fail> {
        let reg = self.read(number)?;
        let wrong = |expected: &str| {
            let text = format!("R{number} type={} expected={expected}", reg.kind.name());
            Err(Fail::eacces(text))
        };
        let in_packet = matches!(reg.kind, Kind::Packet { .. });
        if in_packet && arg != Arg::Anything && !call.packet {
            return Err(Fail::eacces("helper access to the packet is not allowed"));
        }
        match arg {
            Arg::Anything => Ok(()),
            Arg::Scalar if reg.kind == Kind::Scalar => Ok(()),
            Arg::Scalar => wrong("scalar"),
            Arg::Ctx => match reg.kind {
                Kind::Ctx => ctx::unmodified(number, &reg),
                _ => wrong("ctx"),
            },
            Arg::Map => match reg.kind {
                Kind::Map { map } => {
                    call.map = Some(map);
                    Ok(())
                }
                _ => wrong("map_ptr"),
            },
            Arg::CtxOrNull | Arg::MapValueOrNull if reg.is_null() => {
                self.need_precise(reg.from);
                Ok(())
            }
            Arg::CtxOrNull => self.check_argument(Arg::Ctx, number, call),
            Arg::MapKey | Arg::MapValue | Arg::MapValueOrNull | Arg::UninitMapValue => {
                let Some(map) = call.map else {
                    return Err(Fail::eacces("invalid map_ptr to access map->key"));
                };
                let info = self.map(map);
                if arg == Arg::MapValue && compat::socket_in(info.map_type) == Some(Sock::Full) {
                    call.socket = self.socket_argument(number, &reg, true)?;
                    return Ok(());
                }
                let (size, access) = match arg {
                    // Asks whether the value is there.
                    Arg::UninitMapValue if info.map_type == BPF_MAP_TYPE_BLOOM_FILTER => {
                        (info.value_size, Access::Read)
                    }
                    Arg::MapKey => (info.key_size, Access::Read),
                    Arg::MapValue | Arg::MapValueOrNull => (info.value_size, Access::Read),
                    _ => (info.value_size, Access::Write),
                };
                if size == 0 {
                    return Err(Fail::eacces("invalid zero-sized read"));
                }
                self.helper_memory(number, &reg, size, access)?;
                if arg == Arg::MapKey {
                    call.key = self.constant_key(&reg, size);
                }
                Ok(())
            }
            Arg::FixedMem(size) => self.helper_memory(number, &reg, size, Access::Read),
            Arg::WrittenMem(size) => {
                self.helper_memory(number, &reg, size, Access::Write)?;
                if is_aligned(&reg, 0, size) {
                    return Ok(());
                }
                let text = format!("misaligned access off 0 size {size}");
                Err(Fail::eacces(text))
            }
            Arg::Mem | Arg::MemOrNull | Arg::UninitMem | Arg::UninitMemOrNull => {
                let or_null = matches!(arg, Arg::MemOrNull | Arg::UninitMemOrNull);
                let access = if matches!(arg, Arg::UninitMem | Arg::UninitMemOrNull) {
                    Access::Write
                } else {
                    Access::Read
                };
                if or_null && reg.is_null() {
                    self.need_precise(reg.from);
                } else {
                    expect_memory(number, &reg)?;
                }
                call.memory = Some((number, access, or_null));
                Ok(())
            }
            Arg::Size | Arg::SizeOrZero => self.check_size(arg, number, &reg, call),
            Arg::RingbufRecord => match reg.kind {
                Kind::Record { or_null: false, .. } if reg.val.as_const() == Some(0) => {
                    call.released = Some(reg.id);
                    Ok(())
                }
                Kind::Record { or_null: false, .. } => Err(Fail::einval(format!(
                    "R{number} must have zero offset when passed to release func"
                ))),
                _ => wrong("ringbuf_mem"),
            },
            Arg::ConstAllocSize => {
                let size = (reg.kind == Kind::Scalar).then(|| reg.val.as_const());
                let size = size.flatten().and_then(|n| u32::try_from(n).ok());
                call.record_size = size;
                self.need_precise(reg.from);
                let unknown = || Fail::eacces(format!("R{number} is not a known constant'"));
                size.map(|_| ())
                    .ok_or_else(|| unknown().hint("use a constant below 4 GiB"))
            }
            Arg::ConstStr => self.check_string(number, &reg),
            Arg::Func => match reg.kind {
                Kind::Func { subprogram } if reg.val.as_const() == Some(0) => {
                    compat::check_callback(call.map.map(|map| self.map(map)))?;
                    call.callback = Some(subprogram as usize);
                    Ok(())
                }
                Kind::Func { .. } => Err(Fail::eacces(format!(
                    "dereference of modified func ptr R{number} disallowed"
                ))),
                _ => wrong("func"),
            },
            Arg::StackOrNull if reg.is_null() => {
                self.need_precise(reg.from);
                Ok(())
            }
            Arg::StackOrNull => match reg.kind {
                Kind::Stack { .. } => Ok(()),
                _ => wrong("fp"),
            },
            Arg::DynPtr
            | Arg::UninitDynPtr
            | Arg::UninitRingbufDynPtr
            | Arg::ReleasedRingbufDynPtr
                if !matches!(reg.kind, Kind::Stack { .. } | Kind::ConstDynPtr) =>
            {
                wrong("fp, dynptr_ptr")
            }
            Arg::DynPtr => {
                call.dynptr = Some(self.dynptr_argument(number, None)?);
                Ok(())
            }
            Arg::UninitDynPtr => self.make_dynptr(number, DynPtrType::Local, None),
            Arg::UninitRingbufDynPtr => self.make_dynptr(number, DynPtrType::Ringbuf, None),
            Arg::ReleasedRingbufDynPtr => {
                call.released_dynptr = Some(self.released_dynptr(number)?);
                Ok(())
            }
            Arg::SockCommon | Arg::BtfSockCommon => {
                call.socket = self.socket_argument(number, &reg, arg == Arg::BtfSockCommon)?;
                Ok(())
            }
            Arg::ReleasedSock => match self.socket_argument(number, &reg, true)? {
                0 => Err(Fail::einval(format!(
                    "R{number} must be referenced when passed to release function"
                ))),
                reference => {
                    call.released = Some(reference);
                    Ok(())
                }
            },
            Arg::BtfIdOrNull(_) if reg.is_null() => {
                self.need_precise(reg.from);
                Ok(())
            }
            Arg::BtfId(of) | Arg::BtfIdOrNull(of) => self.object_argument(number, &reg, of),
            Arg::SpinLock => self.spin_lock(number, call.helper == BPF_FUNC_SPIN_UNLOCK),
            Arg::Timer | Arg::KptrDest | Arg::ReleasedKptrOrNull | Arg::PercpuBtfId => {
                let text = format!("R{number} must be a {arg:?}, which cannot be verified here");
                Err(Fail::einval(text))
            }
        }
    }

    fn check_size(&mut self, arg: Arg, number: u8, reg: &Reg, call: &mut Call) -> Result<(), Fail> {
        let Some((memory, access, _)) = call.memory.take() else {
            return Err(Fail::einval("helper prototype has a size without memory"));
        };
        if reg.kind != Kind::Scalar {
            let text = format!("R{number} type={} expected=scalar", reg.kind.name());
            return Err(Fail::eacces(text));
        }
        self.need_precise(reg.from);
        if reg.val.umin == 0 && arg == Arg::Size {
            let text = format!(
                "R{number} invalid zero-sized read: u64=[{},{}]",
                reg.val.umin, reg.val.umax
            );
            return Err(Fail::eacces(text));
        }
        call.max_size = Some(reg.val.umax);
        self.sized_memory(memory, number, reg, access)
    }

    /// Memory in register `memory` that is as long as `reg` in `number` says.
    pub(super) fn sized_memory(
        &mut self,
        memory: u8,
        number: u8,
        reg: &Reg,
        access: Access,
    ) -> Result<(), Fail> {
        self.need_precise(reg.from);
        if reg.val.smin < 0 {
            let text =
                format!("R{number} min value is negative, either use unsigned or 'var &= const'");
            return Err(Fail::eacces(text));
        }
        if reg.val.umax >= MAX_SIZE {
            let text = format!(
                "R{number} unbounded memory access, use 'var &= const' or 'if (var < const)'"
            );
            return Err(Fail::eacces(text));
        }
        let address = self.read(memory)?;
        if address.is_null() {
            self.need_precise(address.from);
            if reg.val.umax == 0 {
                return Ok(());
            }
            return Err(not_memory(memory, address.kind));
        }
        self.helper_memory(memory, &address, reg.val.umax as u32, access)
    }

    /// Memory of at most `size` bytes that a helper reads or writes.
    pub(super) fn helper_memory(
        &mut self,
        number: u8,
        reg: &Reg,
        size: u32,
        access: Access,
    ) -> Result<(), Fail> {
        expect_memory(number, reg)?;
        match reg.kind {
            Kind::Stack { frame } => self.helper_stack(number, reg, frame, size, access),
            _ => self.check_memory(number, reg, 0, size, access),
        }
    }

    /// A string whose bytes cannot change and whose end is known.
    fn check_string(&self, number: u8, reg: &Reg) -> Result<(), Fail> {
        let Kind::MapValue {
            map,
            or_null: false,
        } = reg.kind
        else {
            let text = format!("R{number} type={} expected=map_value", reg.kind.name());
            return Err(Fail::eacces(text));
        };
        let info = self.map(map);
        let fixed = info.map_flags & BPF_F_RDONLY_PROG != 0 && info.max_entries == 1;
        let Some(bytes) = info.rodata.as_ref().filter(|_| fixed) else {
            let text = format!("R{number} does not point to a readonly map'");
            return Err(Fail::eacces(text));
        };
        let Some(start) = reg.val.as_const() else {
            let text = format!("R{number} is not a constant address'");
            return Err(Fail::eacces(text));
        };
        let tail = usize::try_from(start).ok().and_then(|s| bytes.get(s..));
        match tail {
            Some(tail) if tail.contains(&0) => Ok(()),
            _ => Err(Fail::einval("string is not zero-terminated")),
        }
    }
}

fn expect_memory(number: u8, reg: &Reg) -> Result<(), Fail> {
    match reg.kind {
        Kind::Stack { .. }
        | Kind::Packet { .. }
        | Kind::MapValue { or_null: false, .. }
        | Kind::MapKey { .. }
        | Kind::Record { or_null: false, .. }
        | Kind::Mem { or_null: false, .. } => Ok(()),
        kind => Err(not_memory(number, kind)),
    }
}

/// The refusal of a pointer or number where a helper takes memory.
pub(super) fn not_memory(number: u8, kind: Kind) -> Fail {
    let text = format!(
        "R{number} type={} expected=fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_",
        kind.name()
    );
    let fail = Fail::eacces(text);
    if kind.or_null() {
        fail.hint("compare the pointer with NULL first")
    } else {
        fail
    }
}
