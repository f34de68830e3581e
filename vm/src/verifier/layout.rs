//! Whether what BTF says of functions and lines fits the instructions
//! (kernel: `check_btf_func`, `check_btf_line`). It knows no types.

use uapi::Insn;

use super::Fail;
use super::cfg::Cfg;
use crate::program::ProgramInfo;

/// Functions are the subprograms; lines ascend and each subprogram begins one.
pub(super) fn check(info: &ProgramInfo, cfg: &Cfg, insns: &[Insn]) -> Result<(), Fail> {
    if !info.functions.is_empty() {
        check_functions(info, cfg)?;
    }
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
    starts
        .next()
        .map_or(Ok(()), |(function, _)| missing(function))
}
