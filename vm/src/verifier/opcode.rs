//! Each instruction by itself: is it one, and are its unused fields 0?
//! It knows no neighbours except the second half of an `ld_imm64`.

use uapi::insn::*;
use uapi::map::*;
use uapi::{Errno, Insn};

use super::{Env, Fail, MapInfo};

/// `off` of a move between address spaces.
const BPF_ADDR_SPACE_CAST: i16 = 1;
/// Registers r0 to r10.
const REGISTERS: u8 = 11;

fn reserved(what: &str) -> Fail {
    Fail::einval(format!("{what} uses reserved fields"))
}

fn unknown(code: u8) -> Fail {
    Fail::einval(format!("unknown opcode {code:02x}"))
}

/// Checks opcode, register numbers and reserved fields.
pub(super) fn check(insn: Insn) -> Result<(), Fail> {
    // r10 as a destination is the walk's to refuse where it is written.
    let is_call = insn.code == BPF_JMP | BPF_CALL;
    if insn.dst() >= REGISTERS || (!is_call && insn.src() >= REGISTERS) {
        let number = insn.dst().max(insn.src());
        return Err(Fail::einval(format!("R{number} is invalid")));
    }
    match insn.class() {
        BPF_ALU | BPF_ALU64 => check_alu(insn),
        BPF_JMP | BPF_JMP32 => check_jump(insn),
        BPF_LD => check_load_immediate(insn),
        _ => check_memory(insn),
    }
}

fn check_alu(insn: Insn) -> Result<(), Fail> {
    let is64 = insn.class() == BPF_ALU64;
    let by_reg = insn.code & BPF_X != 0;
    let (src, off, imm) = (insn.src(), insn.off, insn.imm);
    match insn.code & 0xf0 {
        BPF_END => {
            let wrong_width = !matches!(imm, 16 | 32 | 64);
            if src != 0 || off != 0 || wrong_width || (is64 && by_reg) {
                return Err(reserved("BPF_END"));
            }
        }
        BPF_NEG => {
            if by_reg || src != 0 || off != 0 || imm != 0 {
                return Err(reserved("BPF_NEG"));
            }
        }
        BPF_MOV if by_reg => {
            let extends = if is64 {
                matches!(off, 0 | 8 | 16 | 32)
            } else {
                matches!(off, 0 | 8 | 16)
            };
            if is64 && off == BPF_ADDR_SPACE_CAST {
                let text = "addr_space_cast insn can only be used in a program that has an associated arena";
                return Err(Fail::einval(text).hint("arenas do not exist in user space"));
            }
            if imm != 0 || !extends {
                return Err(reserved("BPF_MOV"));
            }
        }
        BPF_MOV => {
            if src != 0 || off != 0 {
                return Err(reserved("BPF_MOV"));
            }
        }
        op @ (BPF_ADD | BPF_SUB | BPF_MUL | BPF_DIV | BPF_OR | BPF_AND | BPF_LSH | BPF_RSH
        | BPF_MOD | BPF_XOR | BPF_ARSH) => {
            let signed_too = matches!(op, BPF_DIV | BPF_MOD);
            let unused = if by_reg { imm } else { i32::from(src) };
            if unused != 0 || !(off == 0 || (signed_too && off == 1)) {
                return Err(reserved("BPF_ALU"));
            }
        }
        _ => return Err(unknown(insn.code)),
    }
    Ok(())
}

/// Refuses constants that the kernel takes for mistakes.
pub(super) fn check_constant(insn: Insn) -> Result<(), Fail> {
    let width = match insn.class() {
        BPF_ALU => 32,
        BPF_ALU64 => 64,
        _ => return Ok(()),
    };
    match insn.code & !7 {
        code if code & BPF_X != 0 => Ok(()),
        BPF_DIV | BPF_MOD if insn.imm == 0 => Err(Fail::einval("div by zero")),
        BPF_LSH | BPF_RSH | BPF_ARSH if !(0..width).contains(&insn.imm) => {
            Err(Fail::einval(format!("invalid shift {}", insn.imm)))
        }
        _ => Ok(()),
    }
}

fn check_jump(insn: Insn) -> Result<(), Fail> {
    let wide = insn.class() == BPF_JMP;
    let by_reg = insn.code & BPF_X != 0;
    let (dst, src, off, imm) = (insn.dst(), insn.src(), insn.off, insn.imm);
    match insn.code & 0xf0 {
        BPF_JA => {
            let unused = if wide { imm } else { off.into() };
            if by_reg || dst != 0 || src != 0 || unused != 0 {
                return Err(reserved("BPF_JA"));
            }
        }
        BPF_CALL if wide && !by_reg => {
            if dst != 0 || off != 0 || src > BPF_PSEUDO_KFUNC_CALL {
                return Err(reserved("BPF_CALL"));
            }
        }
        BPF_EXIT if wide && !by_reg => {
            if dst != 0 || src != 0 || off != 0 || imm != 0 {
                return Err(reserved("BPF_EXIT"));
            }
        }
        BPF_JEQ | BPF_JGT | BPF_JGE | BPF_JSET | BPF_JNE | BPF_JSGT | BPF_JSGE | BPF_JLT
        | BPF_JLE | BPF_JSLT | BPF_JSLE => {
            let unused = if by_reg { imm } else { i32::from(src) };
            if unused != 0 {
                return Err(reserved("BPF_JMP/JMP32"));
            }
        }
        BPF_JCOND if wide => {
            if by_reg || dst != 0 || src != 0 || imm != 0 {
                return Err(Fail::einval(format!("invalid may_goto imm {imm}")));
            }
        }
        _ => return Err(unknown(insn.code)),
    }
    Ok(())
}

fn check_load_immediate(insn: Insn) -> Result<(), Fail> {
    match insn.code & 0xe0 {
        BPF_IMM if insn.code == BPF_LD | BPF_IMM | BPF_DW => {
            if insn.off != 0 {
                return Err(reserved("BPF_LD_IMM64"));
            }
            Ok(())
        }
        mode @ (BPF_ABS | BPF_IND) => {
            let unused = insn.dst() != 0 || insn.off != 0;
            let wide = insn.code & BPF_DW == BPF_DW;
            if unused || wide || (mode == BPF_ABS && insn.src() != 0) {
                return Err(reserved("BPF_LD_[ABS|IND]"));
            }
            Ok(())
        }
        _ => Err(unknown(insn.code)),
    }
}

fn check_memory(insn: Insn) -> Result<(), Fail> {
    let mode = insn.code & 0xe0;
    let size = insn.code & BPF_DW;
    match (insn.class(), mode) {
        (BPF_LDX, BPF_MEM) => (insn.imm == 0).then_some(()).ok_or(reserved("BPF_LDX")),
        (BPF_LDX, BPF_MEMSX) if size != BPF_DW => {
            (insn.imm == 0).then_some(()).ok_or(reserved("BPF_LDX"))
        }
        (BPF_STX, BPF_MEM) => (insn.imm == 0).then_some(()).ok_or(reserved("BPF_STX")),
        (BPF_ST, BPF_MEM) => (insn.src() == 0).then_some(()).ok_or(reserved("BPF_ST")),
        (BPF_STX, BPF_ATOMIC) => {
            let ordered = matches!(insn.imm, BPF_LOAD_ACQ | BPF_STORE_REL);
            if !ordered && !matches!(size, BPF_W | BPF_DW) {
                return Err(Fail::einval("invalid atomic operand size"));
            }
            const ADD: i32 = BPF_ADD as i32;
            const AND: i32 = BPF_AND as i32;
            const OR: i32 = BPF_OR as i32;
            const XOR: i32 = BPF_XOR as i32;
            let known = ordered
                || matches!(insn.imm, BPF_XCHG | BPF_CMPXCHG)
                || matches!(insn.imm & !BPF_FETCH, ADD | AND | OR | XOR);
            if !known {
                let text = format!("BPF_ATOMIC uses invalid atomic opcode {:02x}", insn.imm);
                return Err(Fail::einval(text));
            }
            Ok(())
        }
        _ => Err(unknown(insn.code)),
    }
}

/// Checks an `ld_imm64` with its second half, and notes the map it names.
pub(super) fn check_wide(
    first: Insn,
    second: Insn,
    env: &dyn Env,
    maps: &mut Vec<MapInfo>,
) -> Result<(), Fail> {
    if second.regs != 0 || second.off != 0 {
        return Err(Fail::einval("invalid bpf_ld_imm64 insn"));
    }
    let refuse = |what: &str| Err(Fail::einval(format!("ld_imm64 of {what} is not supported")));
    match first.src() {
        0 => return Ok(()),
        BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE => {}
        BPF_PSEUDO_BTF_ID => return refuse("a kernel variable or a module's function"),
        BPF_PSEUDO_FUNC => return Ok(()),
        BPF_PSEUDO_MAP_IDX | BPF_PSEUDO_MAP_IDX_VALUE => {
            return refuse("a map by index (replace fd_array indices by object ids)");
        }
        _ => return Err(Fail::einval("unrecognized bpf_ld_imm64 insn")),
    }
    if first.src() == BPF_PSEUDO_MAP_FD && second.imm != 0 {
        return Err(Fail::einval("unrecognized bpf_ld_imm64 insn"));
    }
    let id = first.imm as u32;
    let info = match maps.iter().find(|m| m.id == id) {
        Some(known) => known.clone(),
        None => {
            let found = env.map(id).ok_or_else(|| {
                Fail::new(
                    Errno::EBADF,
                    format!("fd {id} is not pointing to valid bpf_map"),
                )
            })?;
            maps.push(found.clone());
            found
        }
    };
    if first.src() == BPF_PSEUDO_MAP_VALUE {
        if info.map_type != BPF_MAP_TYPE_ARRAY || info.max_entries != 1 {
            return Err(Fail::einval(
                "direct value access on this map type is not supported: it needs an array with one entry",
            ));
        }
        let offset = second.imm as u32;
        if offset >= info.value_size {
            return Err(Fail::einval(format!(
                "invalid access to map value pointer, value_size={} off={offset}",
                info.value_size
            )));
        }
    }
    Ok(())
}
