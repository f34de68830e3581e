//! A program with the maps it names, as one text file: what the oracle feeds
//! to the kernel and to us.

use std::path::Path;

use uapi::Insn;
use vm::ProgramSpec;
use vm::helper::{Proto, kernel, kfunc};
use vm::verifier::{Env, MapInfo};

/// A program and its maps; a map's id is what the instructions carry.
#[derive(Clone, Debug)]
pub struct Pack {
    pub spec: ProgramSpec,
    pub maps: Vec<MapInfo>,
    /// Errno that the kernel gave when the pack was captured; 0: accepted.
    pub captured: i32,
}

impl Env for Pack {
    fn map(&self, id: u32) -> Option<MapInfo> {
        self.maps.iter().find(|m| m.id == id).cloned()
    }

    fn helper(&self, id: u32) -> Option<&Proto> {
        kernel::find(id, self.spec.prog_type).map(|row| &row.proto)
    }
}

impl Pack {
    /// Reads the lines `prog NAME type T attach A flags F gpl G ret E`,
    /// `map ID TYPE KEY VALUE ENTRIES FLAGS HEX`, `kfunc INSTRUCTION NAME`, and
    /// one hex word per instruction.
    pub fn read(path: &Path) -> Option<Pack> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut pack = Pack {
            spec: ProgramSpec {
                name: path.file_stem()?.to_str()?.to_owned(),
                ..ProgramSpec::default()
            },
            maps: Vec::new(),
            captured: 0,
        };
        let mut kfuncs: Vec<(usize, String)> = Vec::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next()? {
                "prog" => {
                    let n: Vec<u32> = words
                        .skip(1)
                        .skip(1)
                        .step_by(2)
                        .flat_map(str::parse)
                        .collect();
                    let [prog_type, attach, flags, gpl, captured] = n[..] else {
                        return None;
                    };
                    pack.spec.prog_type = prog_type;
                    pack.spec.expected_attach_type = attach;
                    pack.spec.prog_flags = flags;
                    pack.spec.gpl = gpl == 1;
                    pack.captured = captured as i32;
                }
                "map" => {
                    let mut next = || words.next().and_then(|w| w.parse().ok());
                    let (id, map_type, key_size, value_size, max_entries, map_flags) =
                        (next()?, next()?, next()?, next()?, next()?, next()?);
                    let bytes = words.next().and_then(hex).filter(|b| !b.is_empty());
                    pack.maps.push(MapInfo {
                        id,
                        map_type,
                        key_size,
                        value_size,
                        max_entries,
                        map_flags,
                        rodata: bytes,
                        ..MapInfo::default()
                    });
                }
                "kfunc" => {
                    let at: usize = words.next()?.parse().ok()?;
                    kfuncs.push((at, words.next()?.to_owned()));
                }
                word if word.len() == 16 => pack
                    .spec
                    .insns
                    .push(Insn::from_bytes(hex(word)?.try_into().ok()?)),
                // Other tools' lines: BTF and the like.
                _ => {}
            }
        }
        for (at, name) in kfuncs {
            let number = kfunc::by_name(&name).map_or(kfunc::UNKNOWN, |row| row.number);
            pack.spec.insns.get_mut(at)?.imm = number as i32;
        }
        Some(pack)
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len() / 2)
        .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok())
        .collect()
}
