//! A value as its type says, in the words and layout of bpftool.

use object::btf::{Btf, Member, Shape};

use super::super::json::Json;

/// `BTF_INT_*` encodings (include/uapi/linux/btf.h).
const SIGNED: u8 = 1;
const CHAR: u8 = 2;
const BOOL: u8 = 4;

/// Deepest nesting that is followed; BTF of compilers stays far below.
const MAX_DEPTH: u32 = 64;

/// Writes values of types. `plain` is the form for people, in which numbers
/// that JSON does not know stand bare.
#[derive(Clone, Copy)]
pub struct Typed<'a> {
    pub btf: &'a Btf,
    pub plain: bool,
}

impl Typed<'_> {
    /// Writes the value that `bytes` begin with. Bytes that are missing count
    /// as zero: a description may say more than a map has.
    pub fn write(self, json: &mut Json, ty: u32, bytes: &[u8]) {
        self.value(json, ty, 0, bytes, 0);
    }

    fn value(self, json: &mut Json, ty: u32, bit: u32, bytes: &[u8], depth: u32) {
        if depth > MAX_DEPTH {
            return json.bare("\"...\"");
        }
        let (id, shape) = self.btf.resolved(ty);
        match shape {
            Shape::Int {
                bits,
                offset,
                encoding,
                ..
            } => {
                let bit = bit + u32::from(*offset);
                self.int(json, u32::from(*bits), bit, *encoding, bytes);
            }
            Shape::Struct { members, .. } | Shape::Union { members, .. } => {
                json.object(|json| {
                    for member in members {
                        self.member(json, member, bytes, depth);
                    }
                });
            }
            Shape::Array { element, count, .. } => {
                if let Some(text) = self.text(*element, *count, bytes) {
                    return json.string(text);
                }
                let size = self.btf.size(*element).unwrap_or(0) as usize;
                json.array(|json| {
                    for index in 0..*count as usize {
                        self.value(json, *element, 0, from(bytes, index * size), depth + 1);
                    }
                });
            }
            Shape::Enum { size, values } => self.enumerator(json, *size, values, bytes),
            Shape::Ptr(_) => match number(bytes, 0, 64) {
                // As printf(3) writes a null pointer.
                0 if self.plain => json.bare("(nil)"),
                address if self.plain => self.hex(json, address),
                address => json.bare(address),
            },
            Shape::Float { size: 4 } => json.bare(f32::from_bits(number(bytes, 0, 32) as u32)),
            Shape::Float { size: 8 } => json.bare(f64::from_bits(number(bytes, 0, 64) as u64)),
            Shape::Var { ty, .. } => json.object(|json| {
                json.name(self.btf.name(id));
                self.value(json, *ty, 0, bytes, depth + 1);
            }),
            Shape::DataSec { vars, .. } => json.object(|json| {
                json.name(self.btf.name(id));
                json.array(|json| {
                    for var in vars {
                        self.value(json, var.ty, 0, from(bytes, var.offset as usize), depth + 1);
                    }
                });
            }),
            _ => json.bare("\"(unsupported-kind\""),
        }
    }

    fn member(self, json: &mut Json, member: &Member, bytes: &[u8], depth: u32) {
        json.name(self.btf.string(member.name).unwrap_or(""));
        let bytes = from(bytes, member.bit as usize / 8);
        let bit = member.bit % 8;
        match member.bits {
            0 => self.value(json, member.ty, bit, bytes, depth + 1),
            bits => self.hex(json, number(bytes, bit, u32::from(bits))),
        }
    }

    fn int(self, json: &mut Json, bits: u32, bit: u32, encoding: u8, bytes: &[u8]) {
        let value = number(bytes, bit, bits);
        if bit != 0 || !matches!(bits, 8 | 16 | 32 | 64) {
            return self.hex(json, value);
        }
        match encoding {
            SIGNED => {
                let unused = 128 - bits;
                json.bare((value << unused).cast_signed() >> unused);
            }
            CHAR => self.character(json, value as u8),
            BOOL => json.bare(value as u8 != 0),
            _ => json.bare(value),
        }
    }

    fn character(self, json: &mut Json, byte: u8) {
        match byte {
            b' '..=b'~' => json.string(char::from(byte).encode_utf8(&mut [0; 4])),
            _ if self.plain => json.bare(format_args!("{byte:#x}")),
            _ => json.bare(format_args!("\"\\u00{byte:02x}\"")),
        }
    }

    fn enumerator(self, json: &mut Json, size: u32, values: &[(u32, u64)], bytes: &[u8]) {
        let bits = size.min(8) * 8;
        let value = number(bytes, 0, bits);
        let same = |listed: u64| u128::from(listed) & mask(bits) == value;
        match values.iter().find(|(_, listed)| same(*listed)) {
            Some((name, _)) => json.string(self.btf.string(*name).unwrap_or("")),
            None => {
                let unused = 128 - bits.max(1);
                json.bare((value << unused).cast_signed() >> unused);
            }
        }
    }

    fn hex(self, json: &mut Json, value: u128) {
        if self.plain {
            json.bare(format_args!("{value:#x}"));
        } else {
            json.bare(format_args!("\"{value:#x}\""));
        }
    }

    /// An array of characters that holds printable text and its end.
    fn text<'b>(&self, element: u32, count: u32, bytes: &'b [u8]) -> Option<&'b str> {
        let (id, shape) = self.btf.resolved(element);
        let Shape::Int {
            size: 1, encoding, ..
        } = shape
        else {
            return None;
        };
        if *encoding != CHAR && self.btf.name(id) != "char" {
            return None;
        }
        let bytes = &bytes[..bytes.len().min(count as usize)];
        let end = bytes.iter().position(|&byte| byte == 0)?;
        let text = &bytes[..end];
        let printable = text.iter().all(|byte| (b' '..=b'~').contains(byte));
        printable.then(|| std::str::from_utf8(text).ok()).flatten()
    }
}

fn from(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..).unwrap_or_default()
}

fn mask(bits: u32) -> u128 {
    1u128.checked_shl(bits).map_or(u128::MAX, |bit| bit - 1)
}

/// `bits` bits from bit `bit` on, as an unsigned number.
pub fn number(bytes: &[u8], bit: u32, bits: u32) -> u128 {
    let mut raw = [0; 16];
    for (to, from) in raw.iter_mut().zip(from(bytes, bit as usize / 8)) {
        *to = *from;
    }
    u128::from_le_bytes(raw) >> (bit % 8) & mask(bits)
}
