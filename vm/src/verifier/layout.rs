//! Whether what BTF says of functions and lines fits the instructions
//! (kernel: `check_btf_func`, `check_btf_line`). It knows no types.

use uapi::Insn;
use uapi::helper::BPF_FUNC_TAIL_CALL;
use uapi::insn::{BPF_ABS, BPF_CALL, BPF_IND, BPF_JMP, BPF_LD};

use super::Fail;
use super::cfg::Cfg;
use crate::program::{FuncRet, ProgramInfo};

/// Functions are the subprograms; lines ascend and each subprogram begins one.
pub(super) fn check(info: &ProgramInfo, cfg: &Cfg, insns: &[Insn]) -> Result<(), Fail> {
    if !info.functions.is_empty() {
        check_functions(info, cfg)?;
    }
    check_abrupt_ends(info, cfg, insns)?;
    if !info.lines.is_empty() {
        check_lines(info, cfg, insns)?;
    }
    Ok(())
}

fn check_functions(info: &ProgramInfo, cfg: &Cfg) -> Result<(), Fail> {
    if info.functions.len() != cfg.subprograms.len() {
        let text = "number of funcs in func_info doesn't match number of subprogs";
        return Err(Fail::einval(text));
    }
    let starts = info.functions.iter().map(|function| function.insn);
    if !starts.eq(cfg.subprograms.iter().copied()) {
        let text = "func_info BTF section doesn't match subprog layout in BPF program";
        return Err(Fail::einval(text));
    }
    Ok(())
}

/// A subprogram that may end without returning to its caller leaves the
/// caller's r0 to chance unless it returns a number (kernel:
/// `check_abnormal_return`).
fn check_abrupt_ends(info: &ProgramInfo, cfg: &Cfg, insns: &[Insn]) -> Result<(), Fail> {
    let ends = cfg.subprograms.iter().skip(2).map(|&end| end as usize);
    let ends = ends.chain([insns.len()]);
    for (number, (&start, end)) in (1..).zip(cfg.subprograms.iter().skip(1).zip(ends)) {
        let function = info.functions.get(number);
        if function.is_some_and(|function| function.ret == FuncRet::Scalar) {
            continue;
        }
        let what = insns[start as usize..end]
            .iter()
            .find_map(|insn| match insn.code {
                code if code == BPF_JMP | BPF_CALL => {
                    let tail = insn.src() == 0 && insn.imm as u32 == BPF_FUNC_TAIL_CALL;
                    tail.then_some("tail_call")
                }
                _ => is_packet_load(*insn).then_some("LD_ABS"),
            });
        let Some(what) = what else { continue };
        return Err(Fail::einval(match function {
            Some(_) => format!("{what} is only allowed in functions that return 'int'."),
            None => format!("{what} is not allowed in subprogs without BTF"),
        }));
    }
    Ok(())
}

/// `BPF_LD` of `BPF_ABS` or `BPF_IND`: ends the program behind the packet.
fn is_packet_load(insn: Insn) -> bool {
    insn.class() == BPF_LD && matches!(insn.code & 0xe0, BPF_ABS | BPF_IND)
}

fn check_lines(info: &ProgramInfo, cfg: &Cfg, insns: &[Insn]) -> Result<(), Fail> {
    let missing = |number: usize| {
        let text = format!("missing bpf_line_info for func#{number}");
        Err(Fail::einval(text))
    };
    let mut starts = cfg.subprograms.iter().enumerate().peekable();
    let mut before = 0;
    for (number, line) in info.lines.iter().enumerate() {
        if number != 0 && line.insn <= before || line.insn as usize >= insns.len() {
            return Err(Fail::einval(format!(
                "Invalid line_info[{number}].insn_off:{} (prev_offset:{before} prog->len:{})",
                line.insn,
                insns.len()
            )));
        }
        if insns[line.insn as usize].code == 0 {
            let text = format!("Invalid insn code at line_info[{number}].insn_off");
            return Err(Fail::einval(text));
        }
        match starts.peek() {
            Some(&(_, &start)) if start == line.insn => {
                starts.next();
            }
            Some(&(function, &start)) if start < line.insn => return missing(function),
            _ => {}
        }
        before = line.insn;
    }
    let left = starts.len();
    match starts.next() {
        None => Ok(()),
        Some((first, _)) => Err(Fail::einval(format!(
            "missing bpf_line_info for {left} funcs starting from func#{first}"
        ))),
    }
}
