//! Bytes to shapes, and what each record must be by itself (`btf_check_all_metas`).

use uapi::Errno;
use uapi::btf::*;

use super::BtfError;
use super::types::*;

/// Highest type id and string offset that a record may carry.
const MAX_TYPE: u32 = 0xf_ffff;
/// `BTF_VAR_STATIC` (include/uapi/linux/btf.h).
const BTF_VAR_STATIC: u32 = 0;
const MAX_NAME: u32 = 0xff_ffff;
/// Longest identifier (`KSYM_NAME_LEN`).
const MAX_IDENTIFIER: usize = 512;
/// Bits of `info` that mean something.
const INFO_MASK: u32 = 0x9f00_ffff;

/// The fixed part of a record.
struct Head {
    id: usize,
    name: u32,
    kind: u8,
    vlen: usize,
    kflag: bool,
    /// Size or type.
    word: u32,
}

struct Reader<'a> {
    records: &'a [u8],
    strings: &'a [u8],
}

/// All types in the order of their ids; the first is void.
pub(super) fn types(records: &[u8], strings: &[u8]) -> Result<Vec<Type>, BtfError> {
    let mut types = vec![Type {
        name: 0,
        shape: Shape::Void,
    }];
    let mut reader = Reader { records, strings };
    while !reader.records.is_empty() {
        let head = reader.head(types.len())?;
        let shape = reader.shape(&head)?;
        types.push(Type {
            name: head.name,
            shape,
        });
    }
    Ok(types)
}

impl<'a> Reader<'a> {
    fn head(&mut self, id: usize) -> Result<Head, BtfError> {
        let Some((head, rest)) = self.records.split_first_chunk::<12>() else {
            let left = self.records.len();
            return Err(BtfError::invalid(format!(
                "[{id}] meta_left:{left} meta_needed:12"
            )));
        };
        self.records = rest;
        let (name, info) = (word(head, 0), word(head, 4));
        if info & !INFO_MASK != 0 {
            return Err(BtfError::invalid(format!(
                "[{id}] Invalid btf_info:{info:x}"
            )));
        }
        let kind = (info >> 24 & 0x1f) as u8;
        if kind == 0 || kind > BTF_KIND_ENUM64 {
            return Err(BtfError::invalid(format!("[{id}] Invalid kind:{kind}")));
        }
        if !self.has_name(name) {
            return Err(BtfError::invalid(format!(
                "[{id}] Invalid name_offset:{name}"
            )));
        }
        Ok(Head {
            id,
            name,
            kind,
            vlen: (info & 0xffff) as usize,
            kflag: info >> 31 != 0,
            word: word(head, 8),
        })
    }

    fn has_name(&self, offset: u32) -> bool {
        offset <= MAX_NAME && (offset as usize) < self.strings.len()
    }

    /// The string at an offset that [`Reader::has_name`].
    fn bytes(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or_default();
        tail.split(|&b| b == 0).next().unwrap_or_default()
    }

    fn is_identifier(&self, offset: u32) -> bool {
        let name = self.bytes(offset);
        let ok = |b: &u8| is_letter(*b) || b.is_ascii_digit() || *b == b'_' || *b == b'.';
        name.first().is_some_and(|b| !b.is_ascii_digit())
            && name.len() < MAX_IDENTIFIER
            && name.iter().all(ok)
    }

    fn is_section(&self, offset: u32) -> bool {
        let name = self.bytes(offset);
        let ok = |b: &u8| matches!(b, b' '..=b'~' | 0xa0..);
        !name.is_empty() && name.len() < MAX_IDENTIFIER && name.iter().all(ok)
    }

    /// The next `count` records of `N` bytes.
    fn take<const N: usize>(
        &mut self,
        head: &Head,
        count: usize,
    ) -> Result<&'a [[u8; N]], BtfError> {
        let needed = N * count;
        let Some((taken, rest)) = self.records.split_at_checked(needed) else {
            let left = self.records.len();
            return Err(self.fail(head, &format!("meta_left:{left} meta_needed:{needed}")));
        };
        self.records = rest;
        Ok(taken.as_chunks().0)
    }

    fn fail(&self, head: &Head, reason: &str) -> BtfError {
        let name = self.bytes(head.name);
        let name = match std::str::from_utf8(name) {
            Ok("") | Err(_) => "(anon)",
            Ok(name) => name,
        };
        let kind = kind_name(head.kind);
        BtfError::invalid(format!("[{}] {kind} {name} {reason}", head.id))
    }

    fn demand(&self, head: &Head, holds: bool, reason: &str) -> Result<(), BtfError> {
        if holds {
            Ok(())
        } else {
            Err(self.fail(head, reason))
        }
    }

    fn shape(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let counted = matches!(
            head.kind,
            BTF_KIND_STRUCT
                | BTF_KIND_UNION
                | BTF_KIND_ENUM
                | BTF_KIND_ENUM64
                | BTF_KIND_FUNC
                | BTF_KIND_FUNC_PROTO
                | BTF_KIND_DATASEC
        );
        self.demand(head, counted || head.vlen == 0, "vlen != 0")?;
        let flagged = matches!(
            head.kind,
            BTF_KIND_STRUCT
                | BTF_KIND_UNION
                | BTF_KIND_ENUM
                | BTF_KIND_ENUM64
                | BTF_KIND_FWD
                | BTF_KIND_DECL_TAG
                | BTF_KIND_TYPE_TAG
        );
        self.demand(head, flagged || !head.kflag, "Invalid btf_info kind_flag")?;
        let modifier = |kind| Shape::Modifier {
            kind,
            to: head.word,
        };
        match head.kind {
            BTF_KIND_INT => self.int(head),
            BTF_KIND_PTR => self.plain(head, Shape::Ptr(head.word)),
            BTF_KIND_VOLATILE => self.plain(head, modifier(Modifier::Volatile)),
            BTF_KIND_CONST => self.plain(head, modifier(Modifier::Const)),
            BTF_KIND_RESTRICT => self.plain(head, modifier(Modifier::Restrict)),
            BTF_KIND_TYPEDEF => {
                self.demand(head, self.is_identifier(head.name), "Invalid name")?;
                self.target(head)?;
                Ok(modifier(Modifier::Typedef))
            }
            BTF_KIND_TYPE_TAG => {
                self.demand(head, !self.bytes(head.name).is_empty(), "Invalid name")?;
                self.target(head)?;
                Ok(modifier(Modifier::TypeTag))
            }
            BTF_KIND_ARRAY => self.array(head),
            BTF_KIND_STRUCT | BTF_KIND_UNION => self.structure(head),
            BTF_KIND_ENUM | BTF_KIND_ENUM64 => self.enumeration(head),
            BTF_KIND_FWD => {
                self.demand(head, head.word == 0, "type != 0")?;
                self.demand(head, self.is_identifier(head.name), "Invalid name")?;
                Ok(Shape::Fwd { union: head.kflag })
            }
            BTF_KIND_FUNC => {
                self.demand(head, self.is_identifier(head.name), "Invalid name")?;
                self.demand(head, head.vlen <= 1, "Invalid func linkage")?;
                Ok(Shape::Func {
                    proto: head.word,
                    global: head.vlen == 1,
                })
            }
            BTF_KIND_FUNC_PROTO => self.prototype(head),
            BTF_KIND_VAR => self.variable(head),
            BTF_KIND_DATASEC => self.section(head),
            BTF_KIND_FLOAT => {
                let known = matches!(head.word, 2 | 4 | 8 | 12 | 16);
                self.demand(head, known, "Invalid type_size")?;
                Ok(Shape::Float { size: head.word })
            }
            _ => self.tag(head),
        }
    }

    fn target(&self, head: &Head) -> Result<(), BtfError> {
        self.demand(head, head.word <= MAX_TYPE, "Invalid type_id")
    }

    fn plain(&self, head: &Head, shape: Shape) -> Result<Shape, BtfError> {
        self.demand(head, head.name == 0, "Invalid name")?;
        self.target(head)?;
        Ok(shape)
    }

    fn int(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let data = word(&self.take::<4>(head, 1)?[0], 0);
        self.demand(
            head,
            data & !0x0fff_ffff == 0,
            &format!("Invalid int_data:{data:x}"),
        )?;
        let (bits, offset, encoding) = (data as u8, (data >> 16) as u8, (data >> 24) as u8);
        let end = u32::from(bits) + (data >> 16 & 0xff);
        self.demand(head, end <= 128, "nr_bits exceeds 128")?;
        self.demand(
            head,
            end.div_ceil(8) <= head.word,
            "nr_bits exceeds type_size",
        )?;
        if !matches!(encoding, 0 | 1 | 2 | 4) {
            let error = self.fail(head, "Unsupported encoding");
            return Err(BtfError::new(Errno::ENOTSUPP, error.text));
        }
        Ok(Shape::Int {
            size: head.word,
            bits,
            offset,
            encoding,
        })
    }

    fn array(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let words = &self.take::<12>(head, 1)?[0];
        let (element, index, count) = (word(words, 0), word(words, 4), word(words, 8));
        let valid = |id: u32| id != 0 && id <= MAX_TYPE;
        self.demand(head, head.name == 0, "Invalid name")?;
        self.demand(head, head.word == 0, "size != 0")?;
        self.demand(head, valid(element), "Invalid elem")?;
        self.demand(head, valid(index), "Invalid index")?;
        Ok(Shape::Array {
            element,
            index,
            count,
        })
    }

    fn structure(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let named = head.name == 0 || self.is_identifier(head.name);
        let records = self.take::<12>(head, head.vlen)?;
        self.demand(head, named, "Invalid name")?;
        let union = head.kind == BTF_KIND_UNION;
        let mut members = Vec::with_capacity(head.vlen);
        let mut last = 0;
        for record in records {
            let (name, ty, place) = (word(record, 0), word(record, 4), word(record, 8));
            let known = self.has_name(name);
            self.demand(head, known, &format!("Invalid member name_offset:{name}"))?;
            self.demand(head, name == 0 || self.is_identifier(name), "Invalid name")?;
            self.demand(head, ty != 0 && ty <= MAX_TYPE, "Invalid type_id")?;
            let (bit, bits) = if head.kflag {
                (place & 0xff_ffff, (place >> 24) as u8)
            } else {
                (place, 0)
            };
            let placed = if union { bit == 0 } else { bit >= last };
            self.demand(head, placed, "Invalid member bits_offset")?;
            let fits = bit.div_ceil(8) <= head.word;
            self.demand(head, fits, "Member bits_offset exceeds its struct size")?;
            last = bit;
            members.push(Member {
                name,
                ty,
                bit,
                bits,
            });
        }
        let (size, members) = (head.word, members.into());
        Ok(if union {
            Shape::Union { size, members }
        } else {
            Shape::Struct { size, members }
        })
    }

    fn enumeration(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let sized = head.word <= 8 && head.word.is_power_of_two();
        let named = head.name == 0 || self.is_identifier(head.name);
        let mut values: Vec<(u32, u64)> = Vec::with_capacity(head.vlen);
        if head.kind == BTF_KIND_ENUM {
            for record in self.take::<8>(head, head.vlen)? {
                let low = word(record, 4);
                let value = if head.kflag {
                    i64::from(low as i32) as u64
                } else {
                    low.into()
                };
                values.push((word(record, 0), value));
            }
        } else {
            for record in self.take::<12>(head, head.vlen)? {
                let value = u64::from(word(record, 4)) | u64::from(word(record, 8)) << 32;
                values.push((word(record, 0), value));
            }
        }
        self.demand(head, sized, "Unexpected size")?;
        self.demand(head, named, "Invalid name")?;
        for &(name, _) in &values {
            let known = self.has_name(name);
            self.demand(head, known, &format!("Invalid name_offset:{name}"))?;
            self.demand(head, self.is_identifier(name), "Invalid name")?;
        }
        Ok(Shape::Enum {
            size: head.word,
            values: values.into(),
        })
    }

    fn prototype(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let records = self.take::<8>(head, head.vlen)?;
        self.demand(head, head.name == 0, "Invalid name")?;
        let params = records.iter().map(|record| Param {
            name: word(record, 0),
            ty: word(record, 4),
        });
        let params: Box<[Param]> = params.collect();
        for (number, param) in params.iter().enumerate() {
            let variadic = param.ty == 0 && number + 1 == params.len();
            let named = if variadic {
                param.name == 0
            } else {
                let name = param.name;
                param.ty != 0 && (name == 0 || self.has_name(name) && self.is_identifier(name))
            };
            self.demand(head, named, &format!("Invalid arg#{}", number + 1))?;
        }
        Ok(Shape::FuncProto {
            ret: head.word,
            params,
        })
    }

    fn variable(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let linkage = word(&self.take::<4>(head, 1)?[0], 0);
        self.demand(head, self.is_identifier(head.name), "Invalid name")?;
        let typed = head.word != 0 && head.word <= MAX_TYPE;
        self.demand(head, typed, "Invalid type_id")?;
        self.demand(head, linkage <= 1, "Linkage not supported")?;
        Ok(Shape::Var {
            ty: head.word,
            is_static: linkage == BTF_VAR_STATIC,
        })
    }

    fn section(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let records = self.take::<12>(head, head.vlen)?;
        self.demand(head, head.word != 0, "size == 0")?;
        self.demand(head, self.is_section(head.name), "Invalid name")?;
        let (mut end, size) = (0u64, u64::from(head.word));
        let mut vars = Vec::with_capacity(records.len());
        for record in records {
            let var = SectionVar {
                ty: word(record, 0),
                offset: word(record, 4),
                size: word(record, 8),
            };
            self.demand(head, var.ty != 0 && var.ty <= MAX_TYPE, "Invalid type_id")?;
            let offset = u64::from(var.offset);
            self.demand(head, offset >= end && offset < size, "Invalid offset")?;
            let sized = var.size != 0 && u64::from(var.size) <= size;
            self.demand(head, sized, "Invalid size")?;
            end = offset + u64::from(var.size);
            self.demand(head, end <= size, "Invalid offset+size")?;
            vars.push(var);
        }
        Ok(Shape::DataSec {
            size: head.word,
            vars: vars.into(),
        })
    }

    fn tag(&mut self, head: &Head) -> Result<Shape, BtfError> {
        let component = word(&self.take::<4>(head, 1)?[0], 0) as i32;
        self.demand(head, !self.bytes(head.name).is_empty(), "Invalid value")?;
        self.demand(head, component >= -1, "Invalid component_idx")?;
        Ok(Shape::DeclTag {
            to: head.word,
            component,
        })
    }
}

/// Letters as the kernel knows them: of Latin-1.
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte >= 0xc0 && byte != 0xd7 && byte != 0xf7
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u32::from_le_bytes(*word))
}

fn kind_name(kind: u8) -> &'static str {
    const NAMES: [&str; 20] = [
        "UNKNOWN",
        "INT",
        "PTR",
        "ARRAY",
        "STRUCT",
        "UNION",
        "ENUM",
        "FWD",
        "TYPEDEF",
        "VOLATILE",
        "CONST",
        "RESTRICT",
        "FUNC",
        "FUNC_PROTO",
        "VAR",
        "DATASEC",
        "FLOAT",
        "DECL_TAG",
        "TYPE_TAG",
        "ENUM64",
    ];
    NAMES.get(usize::from(kind)).unwrap_or(&NAMES[0])
}
