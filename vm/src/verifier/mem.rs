//! Loads, stores and atomics through every kind of pointer but the stack's
//! details, which are in `stack`. It knows no calls.

use uapi::Insn;
use uapi::insn::*;
use uapi::map::*;
use uapi::prog::{BPF_F_ANY_ALIGNMENT, BPF_F_STRICT_ALIGNMENT};

use super::alu::{sign_extend, truncate};
use super::lock::check_fields;
use super::range::Scalar;
use super::state::{Kind, Reg};
use super::tnum::Tnum;
use super::walk::Walk;
use super::{Fail, compat, packet};

/// What an access does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Read,
    Write,
}

impl Access {
    pub(super) fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
        }
    }
}

/// Offsets beyond this count as unbounded (kernel: `BPF_MAX_VAR_OFF`).
const MAX_OFFSET: i64 = 1 << 29;

/// Bytes that a load or store moves.
pub(super) fn access_size(insn: Insn) -> u32 {
    match insn.code & BPF_DW {
        BPF_W => 4,
        BPF_H => 2,
        BPF_B => 1,
        _ => 8,
    }
}

impl Walk<'_> {
    pub(super) fn load(&mut self) -> Result<(), Fail> {
        let insn = self.insn();
        let size = access_size(insn);
        let signed = insn.code & 0xe0 == BPF_MEMSX;
        let mut reg = self.load_value(insn.src(), insn.off.into(), size, signed)?;
        if signed {
            reg = if reg.kind == Kind::Scalar {
                Reg::derived(sign_extend(&reg.val, size), reg.from)
            } else {
                Reg::UNKNOWN
            };
        }
        self.write(insn.dst(), reg)
    }

    fn load_value(&mut self, number: u8, off: i64, size: u32, signed: bool) -> Result<Reg, Fail> {
        let reg = self.read(number)?;
        let any = Reg::scalar(Scalar::unknown_bytes(size));
        self.check_alignment(&reg, off, size)?;
        self.note_access(reg.kind)?;
        match reg.kind {
            Kind::Ctx => self.load_ctx(number, &reg, off, size, signed),
            Kind::Stack { frame } => self.read_stack(number, &reg, frame, off, size),
            Kind::Object { .. } => self.load_object(number, &reg, off, size),
            _ => {
                self.check_memory(number, &reg, off, size, Access::Read)?;
                Ok(self.constant(&reg, off, size).unwrap_or(any))
            }
        }
    }

    pub(super) fn store(&mut self) -> Result<(), Fail> {
        let insn = self.insn();
        let value = if insn.class() == BPF_ST {
            Reg::scalar(Scalar::known(i64::from(insn.imm) as u64))
        } else {
            self.read(insn.src())?
        };
        let source = (insn.class() == BPF_STX).then_some(insn.src());
        self.store_value(
            insn.dst(),
            insn.off.into(),
            access_size(insn),
            value,
            source,
        )
    }

    fn store_value(
        &mut self,
        number: u8,
        off: i64,
        size: u32,
        value: Reg,
        source: Option<u8>,
    ) -> Result<(), Fail> {
        let reg = self.read(number)?;
        self.check_alignment(&reg, off, size)?;
        self.note_access(reg.kind)?;
        match reg.kind {
            Kind::Ctx => self.store_ctx(number, &reg, off, size),
            Kind::Stack { frame } => {
                self.write_stack(number, &reg, frame, off, size, value, source)
            }
            _ => self.check_memory(number, &reg, off, size, Access::Write),
        }
    }

    pub(super) fn atomic(&mut self) -> Result<(), Fail> {
        let insn = self.insn();
        let (dst, src, size) = (insn.dst(), insn.src(), access_size(insn));
        let off = i64::from(insn.off);
        let address = if insn.imm == BPF_LOAD_ACQ { src } else { dst };
        let reg = self.read(address)?;
        if matches!(
            reg.kind,
            Kind::Ctx | Kind::Packet { .. } | Kind::Sock { .. }
        ) {
            let (what, name) = (
                if insn.imm == BPF_LOAD_ACQ {
                    "loads from"
                } else {
                    "stores into"
                },
                reg.kind.name(),
            );
            let text = format!("BPF_ATOMIC {what} R{address} {name} is not allowed");
            return Err(Fail::eacces(text));
        }
        if reg.kind != Kind::Scalar && !is_aligned(&reg, off, size) {
            let text = format!("misaligned access off {off} size {size}");
            return Err(Fail::eacces(text).hint("atomics need naturally aligned addresses"));
        }
        match insn.imm {
            BPF_LOAD_ACQ => {
                let value = self.load_value(src, off, size, false)?;
                return self.write(dst, value);
            }
            BPF_STORE_REL => {
                let value = self.read(src)?;
                return self.store_value(dst, off, size, value, Some(src));
            }
            _ => {}
        }
        self.read(src)?;
        if insn.imm == BPF_CMPXCHG {
            self.read(0)?;
        }
        self.note_access(reg.kind)?;
        let old = match reg.kind {
            Kind::Stack { frame } => {
                let old = self.read_stack(dst, &reg, frame, off, size)?;
                self.write_stack(dst, &reg, frame, off, size, Reg::UNKNOWN, None)?;
                old
            }
            _ => {
                self.check_memory(dst, &reg, off, size, Access::Read)?;
                self.check_memory(dst, &reg, off, size, Access::Write)?;
                Reg::scalar(Scalar::unknown_bytes(size))
            }
        };
        if insn.imm == BPF_CMPXCHG {
            self.write(0, old)?;
        } else if insn.imm & BPF_FETCH != 0 {
            self.write(src, old)?;
        }
        Ok(())
    }

    /// What `BPF_F_STRICT_ALIGNMENT` asks; this machine needs no alignment.
    fn check_alignment(&self, reg: &Reg, off: i64, size: u32) -> Result<(), Fail> {
        let flags = self.spec.prog_flags;
        let strict = flags & BPF_F_STRICT_ALIGNMENT != 0 && flags & BPF_F_ANY_ALIGNMENT == 0;
        let in_packet = matches!(reg.kind, Kind::Packet { .. });
        let aligned = match reg.kind {
            _ if !strict || size == 1 => true,
            Kind::Scalar => true,
            Kind::Packet { .. } => packet::is_aligned(reg, off, size),
            _ => is_aligned(reg, off, size),
        };
        if aligned {
            return Ok(());
        }
        let (what, before) = match reg.kind {
            Kind::Packet { .. } => ("packet ", "2+"),
            Kind::Ctx => ("context ", ""),
            Kind::Stack { .. } => ("stack ", ""),
            Kind::MapValue { .. } => ("value ", ""),
            _ => ("", ""),
        };
        let fixed = if in_packet { reg.delta } else { 0 };
        let text = format!(
            "misaligned {what}access off {before}({:#x}; {:#x})+{fixed}+{off} size {size}",
            reg.val.bits.value, reg.val.bits.mask
        );
        Err(Fail::eacces(text))
    }

    /// Memory of map values and ring buffer records.
    pub(super) fn check_memory(
        &self,
        number: u8,
        reg: &Reg,
        off: i64,
        size: u32,
        access: Access,
    ) -> Result<(), Fail> {
        match reg.kind {
            Kind::MapValue {
                map,
                or_null: false,
            } => {
                let info = self.map(map);
                let denied = match access {
                    Access::Write => compat::is_read_only(info),
                    Access::Read => info.map_flags & BPF_F_WRONLY_PROG != 0,
                };
                let limit = info.value_size;
                if denied {
                    let into = if access == Access::Write {
                        "write into"
                    } else {
                        "read from"
                    };
                    return Err(Fail::eacces(format!(
                        "{into} map forbidden, value_size={limit} off={} size={size}",
                        reg.val.smin.saturating_add(off)
                    )));
                }
                in_object(number, reg, off, size, limit, "map value, value_size")?;
                check_fields(info, reg, off, size)
            }
            Kind::Record {
                size: limit,
                or_null: false,
            } => in_object(number, reg, off, size, limit, "memory, mem_size"),
            Kind::Mem {
                size: limit,
                read_only,
                or_null: false,
            } => {
                if read_only && access == Access::Write {
                    let text = format!("R{number} cannot write into {}", reg.kind.name());
                    return Err(Fail::eacces(text));
                }
                in_object(number, reg, off, size, limit, "memory, mem_size")
            }
            Kind::Packet { .. } => {
                if access == Access::Write {
                    self.may_write_packet()?;
                }
                self.check_packet(number, reg, off, size)
            }
            Kind::TpBuffer => in_tp_buffer(number, reg, off, size),
            Kind::Sock { .. } => self.check_socket(number, reg.kind, off, size, access),
            Kind::UntrustedMem if access == Access::Read => Ok(()),
            Kind::UntrustedMem => {
                let text = format!("R{number} cannot write into {}", reg.kind.name());
                Err(Fail::eacces(text))
            }
            Kind::Object { .. } if access == Access::Write => {
                Err(Fail::eacces("only read is supported"))
            }
            Kind::MapKey { .. } if access == Access::Write => {
                let text = format!("write to change key R{number} not allowed");
                Err(Fail::eacces(text).hint("copy the key to the stack"))
            }
            Kind::MapKey { map } => {
                let limit = self.map(map).key_size;
                in_object(number, reg, off, size, limit, "map key, key_size")
            }
            kind => {
                let fail = Fail::eacces(format!("R{number} invalid mem access '{}'", kind.name()));
                Err(if kind.or_null() {
                    fail.hint("compare the pointer with NULL first")
                } else if kind == Kind::Scalar {
                    fail.hint("read other memory with bpf_probe_read_user or bpf_probe_read_kernel")
                } else {
                    fail
                })
            }
        }
    }

    /// The number that frozen read-only data holds there.
    fn constant(&self, reg: &Reg, off: i64, size: u32) -> Option<Reg> {
        let Kind::MapValue { map, .. } = reg.kind else {
            return None;
        };
        let info = self.map(map);
        // Only one entry: a value of another index would hold other bytes.
        let fixed = info.map_flags & BPF_F_RDONLY_PROG != 0 && info.max_entries == 1;
        let bytes = info.rodata.as_ref().filter(|_| fixed)?;
        let start = usize::try_from(reg.val.as_const()? as i64 + off).ok()?;
        let found = bytes.get(start..start + size as usize)?;
        let mut word = [0; 8];
        word[..found.len()].copy_from_slice(found);
        Some(Reg::scalar(Scalar::known(u64::from_le_bytes(word))))
    }
}

/// Whether `reg + off` is a multiple of `size` for certain.
pub(super) fn is_aligned(reg: &Reg, off: i64, size: u32) -> bool {
    let address = reg.val.bits.add(Tnum::known(off as u64));
    address.is_aligned(size.into())
}

/// A tracepoint's buffer; its size is checked when the program is attached.
fn in_tp_buffer(number: u8, reg: &Reg, off: i64, size: u32) -> Result<(), Fail> {
    let Some(distance) = reg.val.as_const() else {
        return Err(Fail::eacces(format!(
            "R{number} invalid variable buffer offset: off={off}, var_off=({:#x}; {:#x})",
            reg.val.bits.value, reg.val.bits.mask
        )));
    };
    let off = (distance as i64).saturating_add(off);
    if off < 0 {
        return Err(Fail::eacces(format!(
            "R{number} invalid tracepoint buffer access: off={off}, size={size}"
        )));
    }
    Ok(())
}

/// Whether `size` bytes at `reg + off` lie in an object of `limit` bytes.
pub(super) fn in_object(
    number: u8,
    reg: &Reg,
    off: i64,
    size: u32,
    limit: u32,
    what: &str,
) -> Result<(), Fail> {
    let (min, max) = (i128::from(reg.val.smin), i128::from(reg.val.smax));
    let off = i128::from(off);
    let fixed = reg.val.as_const().is_some();
    let outside = |at: i128, which: &str| {
        let mut text = format!("invalid access to {what}={limit} off={at} size={size}");
        if !fixed {
            text.push_str(&format!(
                "\nR{number} {which} value is outside of the allowed memory range"
            ));
        }
        let hint = "check the index against the size of the object before using it";
        Err(Fail::eacces(text).hint(hint))
    };
    if min + off < 0 {
        if !fixed {
            let text = format!(
                "R{number} min value is negative, either use unsigned index or do a if (index >=0) check."
            );
            return Err(Fail::eacces(text));
        }
        return outside(min + off, "min");
    }
    if max >= i128::from(MAX_OFFSET) {
        let text =
            format!("R{number} unbounded memory access, make sure to bounds check any such access");
        return Err(Fail::eacces(text));
    }
    if max + off + i128::from(size) > i128::from(limit) {
        return outside(max + off, "max");
    }
    Ok(())
}

/// What a narrower load sees of a spilled number.
pub(super) fn narrow(val: &Scalar, size: u32) -> Scalar {
    truncate(val, size)
}
