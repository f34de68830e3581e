//! Source lines (kernel: `check_btf_line`).

use object::btf::Btf;
use vm::program::LineInfo;

use super::{Records, TypeError};

pub(super) fn lines(btf: &Btf, records: &Records) -> Result<Vec<LineInfo>, TypeError> {
    let records = records.words::<4>("line_info")?;
    let lines = records.into_iter().enumerate();
    let lines = lines.map(|(number, [insn, file, text, place])| {
        let (Some(file), Some(text)) = (btf.string(file), btf.string(text)) else {
            let text = format!("Invalid line_info[{number}].line_off or .file_name_off");
            return Err(TypeError::invalid(text));
        };
        Ok(LineInfo {
            insn,
            file: file.to_owned(),
            line: place >> 10,
            column: place & 0x3ff,
            text: text.to_owned(),
        })
    });
    lines.collect()
}
