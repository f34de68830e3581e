//! The context that r1 points to at the start: which of its bytes a program
//! may read and write, and what a read gives. One file per shape of context;
//! they are the kernel's `is_valid_access` functions (Linux 6.18), as tables
//! where there are fields. They know no registers.

mod perf_event;
mod pt_regs;
mod raw_tracepoint;
mod skb;
mod tracepoint;
mod xdp;

use uapi::prog::*;

use super::Fail;
use super::mem::Access;
use super::range::Scalar;
use super::state::{Kind, Reg, Sock};
use super::walk::Walk;

/// One load or store of ctx bytes.
#[derive(Clone, Copy, Debug)]
struct At {
    off: i64,
    size: u32,
    access: Access,
    /// A load that extends the sign.
    signed: bool,
}

impl At {
    fn end(self) -> i64 {
        self.off + i64::from(self.size)
    }

    fn is_aligned(self) -> bool {
        self.off % i64::from(self.size) == 0
    }

    fn is_read(self) -> bool {
        self.access == Access::Read
    }

    /// Whether it starts in these bytes.
    fn starts_in(self, from: i64, to: i64) -> bool {
        (from..to).contains(&self.off)
    }
}

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    Number,
    Packet,
    PacketMeta,
    PacketEnd,
    /// What a writable raw tracepoint hands over.
    TpBuffer,
    /// A socket, or NULL.
    Socket,
}

impl Walk<'_> {
    /// What a load from the ctx gives.
    pub(super) fn load_ctx(
        &mut self,
        number: u8,
        reg: &Reg,
        off: i64,
        size: u32,
        signed: bool,
    ) -> Result<Reg, Fail> {
        let at = At {
            off,
            size,
            access: Access::Read,
            signed,
        };
        let pointer = |kind| Ok(Reg::pointer(kind, 0, 0));
        match self.access_ctx(number, reg, at)? {
            Field::Number => Ok(Reg::scalar(Scalar::unknown_bytes(size))),
            Field::Packet => pointer(Kind::Packet {
                meta: false,
                range: 0,
            }),
            Field::PacketMeta => pointer(Kind::Packet {
                meta: true,
                range: 0,
            }),
            Field::PacketEnd => pointer(Kind::PacketEnd),
            Field::TpBuffer => pointer(Kind::TpBuffer),
            Field::Socket => Ok(self.socket_result(0, Sock::Common, 0)),
        }
    }

    /// A store into the ctx.
    pub(super) fn store_ctx(
        &mut self,
        number: u8,
        reg: &Reg,
        off: i64,
        size: u32,
    ) -> Result<(), Fail> {
        let at = At {
            off,
            size,
            access: Access::Write,
            signed: false,
        };
        self.access_ctx(number, reg, at).map(|_| ())
    }

    fn access_ctx(&mut self, number: u8, reg: &Reg, at: At) -> Result<Field, Fail> {
        unmodified(number, reg)?;
        let spec = self.spec;
        let field = match spec.prog_type {
            BPF_PROG_TYPE_KPROBE => pt_regs::field(at),
            BPF_PROG_TYPE_TRACEPOINT => tracepoint::field(at),
            BPF_PROG_TYPE_RAW_TRACEPOINT => raw_tracepoint::field(at),
            BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE => raw_tracepoint::writable_field(at),
            BPF_PROG_TYPE_PERF_EVENT => perf_event::field(at),
            BPF_PROG_TYPE_SOCKET_FILTER => skb::socket_filter_field(at),
            BPF_PROG_TYPE_SCHED_CLS | BPF_PROG_TYPE_SCHED_ACT => skb::traffic_control_field(at),
            BPF_PROG_TYPE_XDP => xdp::field(at, spec.expected_attach_type),
            _ => None,
        };
        let Some(field) = field else {
            let text = format!("invalid bpf_context access off={} size={}", at.off, at.size);
            return Err(Fail::eacces(text).hint(if at.is_read() {
                "read whole, aligned fields of this program type's context"
            } else {
                "few fields of a context may be written, and those of tracing programs not at all"
            }));
        };
        // Words from 63 on share the last bit.
        self.ctx_words |= 1 << (at.off / 8).min(63);
        self.ctx_bytes = self.ctx_bytes.max(at.end() as u32);
        Ok(field)
    }
}

/// The pointer must be as it came (kernel: `__check_ptr_off_reg`).
pub(super) fn unmodified(number: u8, reg: &Reg) -> Result<(), Fail> {
    let name = reg.kind.name();
    let hint = match reg.kind {
        Kind::Ctx => "keep the ctx pointer as it came in r1 and use the instruction's offset",
        _ => "keep the pointer as it came",
    };
    let text = match reg.val.as_const().map(|n| n as i64) {
        Some(0) => return Ok(()),
        Some(off) if off < 0 => {
            format!("negative offset {name} ptr R{number} off={off} disallowed")
        }
        Some(off) => {
            format!("dereference of modified {name} ptr R{number} off={off} disallowed")
        }
        None => format!(
            "variable {name} access var_off=({:#x}; {:#x}) disallowed",
            reg.val.bits.value, reg.val.bits.mask
        ),
    };
    Err(Fail::eacces(text).hint(hint))
}
