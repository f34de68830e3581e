//! What programs with BTF may do, beside the running kernel: the same text,
//! types and maps go to both, and both say the same.

mod callbacks;
mod functions;
mod kernel;
mod locks;
mod nested_maps;
mod random;
mod runs;
mod types;
mod values;

use bpftime_runtime::helpers;
use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::types::{Records, map_fields, program_info};
use object::btf::Btf;
use object::btf::build::Builder;
use uapi::insn::{BPF_PSEUDO_CALL, BPF_PSEUDO_FUNC};
use uapi::prog::BPF_PROG_TYPE_RAW_TRACEPOINT;
use uapi::{Errno, Insn};
use vm::ProgramSpec;
use vm::asm::assemble;
use vm::helper::Proto;
use vm::helper::kernel::find as kernel_helper;
use vm::verifier::{Env, Keep, Log, MapInfo, verify};

/// A program with its types and maps; map n of `maps` is `map[n]` in the text,
/// from 1.
pub struct Case {
    /// The types of functions and map values.
    pub types: Builder,
    /// `BTF_KIND_FUNC` ids in the order of the subprograms; none for a program
    /// without `func_info`.
    pub functions: Vec<u32>,
    /// Instructions that begin a source line.
    pub lines: Vec<u32>,
    /// The maps that the text names.
    pub maps: Vec<MapSpec>,
    /// Per map: which one is the template of the maps in it, from 1; or 0.
    pub inner: Vec<usize>,
    /// `BPF_PROG_TYPE_*`.
    pub prog_type: u32,
    /// `BPF_F_*` of `BPF_PROG_LOAD`.
    pub prog_flags: u32,
    /// The program for [`assemble`].
    pub text: String,
}

impl Case {
    /// A raw tracepoint program without types and maps.
    pub fn new(text: &str) -> Case {
        // The kernel takes no description without types.
        let mut types = Builder::default();
        types.int("int", 4);
        Case {
            types,
            functions: Vec::new(),
            lines: Vec::new(),
            maps: Vec::new(),
            inner: Vec::new(),
            prog_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
            prog_flags: 0,
            text: text.to_owned(),
        }
    }

    fn insns(&self) -> Vec<Insn> {
        assemble(&self.text).unwrap_or_else(|error| panic!("{error}\n{}", self.text))
    }

    /// `func_info`: the functions at the starts of the subprograms.
    fn func_info(&self) -> Records {
        let insns = self.insns();
        let mut starts = vec![0];
        for (at, insn) in insns.iter().enumerate() {
            let calls = insn.code == 0x85 && insn.src() == BPF_PSEUDO_CALL;
            if calls || insn.code == 0x18 && insn.src() == BPF_PSEUDO_FUNC {
                starts.push((at as i32 + 1 + insn.imm) as u32);
            }
        }
        starts.sort_unstable();
        starts.dedup();
        let records = starts.iter().zip(&self.functions);
        let words = records.flat_map(|(&start, &id)| [start, id]);
        Records {
            bytes: words.flat_map(u32::to_le_bytes).collect(),
            size: 8,
        }
    }

    /// `line_info`: line n for the nth; file and text are the first string.
    fn line_info(&self) -> Records {
        let lines = self.lines.iter().zip(1u32..);
        let words = lines.flat_map(|(&insn, line)| [insn, 1, 1, line << 10]);
        Records {
            bytes: words.flat_map(u32::to_le_bytes).collect(),
            size: 16,
        }
    }

    /// Errno and log of our verifier; 0 where it accepts.
    fn ours(&self) -> (i32, String) {
        let btf = Btf::parse(&self.types.finish()).expect("BTF");
        let info = program_info(&btf, self.prog_type, &self.func_info(), &self.line_info());
        let mut log = Log::new(2, Keep::End(1 << 20));
        let info = match info {
            Ok(info) => info,
            Err(error) => return (error.errno.0, error.text),
        };
        let spec = ProgramSpec {
            prog_type: self.prog_type,
            prog_flags: self.prog_flags,
            gpl: true,
            insns: self.insns(),
            info,
            ..ProgramSpec::default()
        };
        let env = Maps {
            case: self,
            btf: &btf,
        };
        let result = verify(spec, &env, Some(&mut log));
        let errno = result.map_or_else(|error| error.errno, |_| Errno(0));
        (errno.0, log.text)
    }

    /// Both verifiers take the program, and say `words`.
    #[track_caller]
    pub fn accepted(&self, words: &[&str]) {
        self.agree(0, words);
    }

    /// Both verifiers refuse with this errno and say `words`.
    #[track_caller]
    pub fn refused(&self, errno: Errno, words: &[&str]) {
        self.agree(errno.0, words);
    }

    #[track_caller]
    fn agree(&self, errno: i32, words: &[&str]) {
        let ours = self.ours();
        assert_eq!(ours.0, errno, "ours:\n{}", ours.1);
        for word in words {
            assert!(ours.1.contains(word), "ours lacks {word:?}:\n{}", ours.1);
        }
        let Some(theirs) = kernel::load(self) else {
            return;
        };
        assert_eq!(theirs.0, errno, "the kernel:\n{}", theirs.1);
        for word in words {
            assert!(
                theirs.1.contains(word),
                "the kernel lacks {word:?}:\n{}",
                theirs.1
            );
        }
    }
}

struct Maps<'a> {
    case: &'a Case,
    btf: &'a Btf,
}

impl Maps<'_> {
    fn info(&self, number: usize) -> Option<MapInfo> {
        let spec = self.case.maps.get(number.checked_sub(1)?)?;
        let fields = match spec.btf_value_type_id {
            0 => Ok(Default::default()),
            _ => map_fields(self.btf, spec),
        };
        let inner = self.case.inner.get(number - 1).copied().unwrap_or(0);
        Some(MapInfo {
            id: number as u32,
            map_type: spec.map_type,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            map_flags: spec.map_flags,
            rodata: None,
            inner: self.info(inner).map(Box::new),
            fields: fields.expect("special parts of a value"),
        })
    }
}

impl Env for Maps<'_> {
    fn map(&self, id: u32) -> Option<MapInfo> {
        self.info(id as usize)
    }

    fn helper(&self, id: u32) -> Option<&Proto> {
        let hosted = helpers::lookup(id).map(|helper| &helper.proto);
        // What nobody hosts is verified all the same.
        hosted.or_else(|| kernel_helper(id, self.case.prog_type).map(|row| &row.proto))
    }
}
