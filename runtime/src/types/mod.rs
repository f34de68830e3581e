//! What a loader's BTF says, in the verifier's words: functions by their
//! prototypes, source lines, special parts of map values. It knows no object
//! of bpf(2) and keeps nothing.

mod fields;
mod function;
mod lines;
mod records;

use object::btf::Btf;
use uapi::Errno;
use vm::program::ProgramInfo;

pub use fields::map_fields;
pub use records::Records;

/// Why types that came with a program or map cannot be used: what the command
/// returns, and the log's words for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct TypeError {
    /// What the command returns.
    pub errno: Errno,
    /// The reason; may be empty where the kernel gives none.
    pub text: String,
}

impl TypeError {
    fn new(errno: Errno, text: impl Into<String>) -> TypeError {
        TypeError {
            errno,
            text: text.into(),
        }
    }

    fn invalid(text: impl Into<String>) -> TypeError {
        TypeError::new(Errno::EINVAL, text)
    }
}

/// Functions and lines of a program of this type, from the records of
/// `BPF_PROG_LOAD` (kernel: `check_btf_info_early`). Whether they fit the
/// instructions is the verifier's to say.
///
/// # Errors
/// The kernel's: EINVAL for malformed records, E2BIG for fields that are not known.
pub fn program_info(
    btf: &Btf,
    prog_type: u32,
    functions: &Records,
    lines: &Records,
) -> Result<ProgramInfo, TypeError> {
    Ok(ProgramInfo {
        functions: function::functions(btf, prog_type, functions)?,
        lines: lines::lines(btf, lines)?,
        unknown_kfuncs: Vec::new(),
    })
}
