//! What a program's BTF says of its functions, as bytes in the `objects`
//! file: what an agent needs to verify the program as its tool did. Source
//! lines stay with the tool.

use uapi::Errno;
use vm::program::{FuncArg, FuncRet, FunctionInfo, Linkage, ProgramInfo};

/// Most functions of a program (kernel: `BPF_MAX_SUBPROGS`).
const MAX_FUNCTIONS: u32 = 256;
/// Most parameters that are kept: more are refused by the verifier.
const MAX_ARGS: usize = 255;
/// Longest text that is kept.
const MAX_TEXT: usize = 255;

/// Most bytes of an encoded description.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// The functions as bytes.
pub(super) fn encode(info: &ProgramInfo) -> Vec<u8> {
    let mut bytes = Vec::new();
    for function in &info.functions {
        bytes.extend(function.insn.to_le_bytes());
        let ret = match function.ret {
            FuncRet::Scalar => 0,
            FuncRet::Void => 1,
            FuncRet::Other => 2,
        };
        let global = function.linkage == Linkage::Global;
        let args = &function.args[..function.args.len().min(MAX_ARGS)];
        bytes.extend([
            global.into(),
            ret,
            function.exception_cb.into(),
            args.len() as u8,
        ]);
        put_text(&mut bytes, &function.name);
        args.iter().for_each(|arg| put_arg(&mut bytes, arg));
    }
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    bytes.push(end as u8);
    bytes.extend(&text.as_bytes()[..end]);
}

fn put_arg(bytes: &mut Vec<u8>, arg: &FuncArg) {
    let (kind, number) = match arg {
        FuncArg::Scalar => (0, 0),
        FuncArg::Ctx => (1, 0),
        FuncArg::Mem { size, or_null } => (2 + u8::from(*or_null), *size),
        FuncArg::DynPtr => (4, 0),
        FuncArg::Unsupported { errno, .. } => (5, errno.0 as u32),
    };
    bytes.push(kind);
    bytes.extend(number.to_le_bytes());
    if let FuncArg::Unsupported { text, .. } = arg {
        put_text(bytes, text);
    }
}

/// The functions that [`encode`] wrote; `None` for other bytes.
pub(super) fn decode(bytes: &[u8]) -> Option<ProgramInfo> {
    let mut reader = Reader(bytes);
    let mut functions = Vec::new();
    while !reader.0.is_empty() {
        if functions.len() >= MAX_FUNCTIONS as usize {
            return None;
        }
        let insn = reader.word()?;
        let [global, ret, exception_cb, args] = reader.take::<4>()?;
        let name = reader.text()?;
        functions.push(FunctionInfo {
            insn,
            name,
            linkage: if global != 0 {
                Linkage::Global
            } else {
                Linkage::Static
            },
            args: (0..args).map(|_| reader.arg()).collect::<Option<_>>()?,
            ret: match ret {
                0 => FuncRet::Scalar,
                1 => FuncRet::Void,
                _ => FuncRet::Other,
            },
            exception_cb: exception_cb != 0,
        });
    }
    Some(ProgramInfo {
        functions,
        ..ProgramInfo::default()
    })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let [len] = self.take()?;
        let (text, rest) = self.0.split_at_checked(len.into())?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    fn arg(&mut self) -> Option<FuncArg> {
        let [kind] = self.take()?;
        let number = self.word()?;
        Some(match kind {
            0 => FuncArg::Scalar,
            1 => FuncArg::Ctx,
            2 | 3 => FuncArg::Mem {
                size: number,
                or_null: kind == 3,
            },
            4 => FuncArg::DynPtr,
            5 => FuncArg::Unsupported {
                errno: Errno(number as i32),
                text: self.text()?,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_come_back_as_they_went() {
        let args = vec![
            FuncArg::Scalar,
            FuncArg::Ctx,
            FuncArg::Mem {
                size: 24,
                or_null: true,
            },
            FuncArg::Mem {
                size: 8,
                or_null: false,
            },
            FuncArg::DynPtr,
            FuncArg::Unsupported {
                errno: Errno::ENOENT,
                text: "arg#5 no".to_owned(),
            },
        ];
        let function = |insn, args| FunctionInfo {
            insn,
            name: "f".to_owned(),
            linkage: Linkage::Global,
            args,
            ret: FuncRet::Other,
            exception_cb: true,
        };
        let info = ProgramInfo {
            functions: vec![function(0, Vec::new()), function(7, args)],
            ..ProgramInfo::default()
        };
        let bytes = encode(&info);
        assert_eq!(decode(&bytes), Some(info));
        assert_eq!(decode(&[]), Some(ProgramInfo::default()));
        // A part of it is a whole number of functions or nothing.
        let whole = (0..bytes.len()).filter(|&n| decode(&bytes[..n]).is_some());
        assert_eq!(whole.count(), 2);
        assert_eq!(decode(&[0xff; 64]), None);
    }
}
