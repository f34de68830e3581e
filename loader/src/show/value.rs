//! A value as its type says, as JSON. The forms are those of eunomia-bpf's
//! loader, whose users parse them: text up to its end, an enumerator with its
//! number, 128-bit numbers as text, nested structures with their name.

use object::btf::{Btf, Member, Shape};
use serde_json::{Map, Value};

/// `BTF_INT_*` encodings (include/uapi/linux/btf.h).
const SIGNED: u8 = 1;
const BOOL: u8 = 4;

/// Deepest nesting that is followed; types of compilers stay far below.
const MAX_DEPTH: u32 = 32;

/// Most elements of an array that are written.
const MAX_ELEMENTS: usize = 1 << 16;

/// Makes JSON of values of an object's types.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// The types.
    pub btf: &'a Btf,
    /// Whether structures inside say what they are, by `__EUNOMIA_TYPE` and
    /// `__EUNOMIA_TYPE_NAME`.
    pub type_names: bool,
}

impl Values<'_> {
    /// The value that `bytes` begin with. Bytes that are missing count as zero.
    pub fn json(self, ty: u32, bytes: &[u8]) -> Value {
        self.value(ty, bytes, 0)
    }

    /// The value of a member, whose structure begins with `bytes`.
    pub(super) fn member(self, member: &Member, bytes: &[u8], depth: u32) -> Value {
        let bytes = from(bytes, member.bit as usize / 8);
        match member.bits {
            0 => self.value(member.ty, bytes, depth),
            bits => self.bitfield(member.ty, bytes, member.bit % 8, u32::from(bits)),
        }
    }

    fn value(self, ty: u32, bytes: &[u8], depth: u32) -> Value {
        if depth > MAX_DEPTH {
            return Value::Null;
        }
        let (id, shape) = self.btf.resolved(ty);
        match shape {
            Shape::Int {
                size,
                bits,
                offset,
                encoding,
            } => {
                let bits = match bits {
                    0 => size * 8,
                    bits => u32::from(*bits),
                };
                integer(bytes, u32::from(*offset), bits, *encoding)
            }
            Shape::Ptr(_) => integer(bytes, 0, 64, 0),
            Shape::Enum { size, values } => self.enumerator(*size, values, bytes),
            Shape::Float { size: 4 } => {
                float(f64::from(f32::from_bits(number(bytes, 0, 32) as u32)))
            }
            Shape::Float { size: 8 } => float(f64::from_bits(number(bytes, 0, 64) as u64)),
            Shape::Array { element, count, .. } => self.array(*element, *count, bytes, depth),
            Shape::Struct { members, .. } | Shape::Union { members, .. } => {
                let mut object = self.fields(members, bytes, depth);
                if self.type_names {
                    let kind = match shape {
                        Shape::Struct { .. } => "struct",
                        _ => "union",
                    };
                    object.insert("__EUNOMIA_TYPE".into(), kind.into());
                    object.insert("__EUNOMIA_TYPE_NAME".into(), self.btf.name(id).into());
                }
                Value::Object(object)
            }
            _ => Value::Null,
        }
    }

    fn fields(self, members: &[Member], bytes: &[u8], depth: u32) -> Map<String, Value> {
        let mut object = Map::new();
        for member in members {
            let name = self.btf.string(member.name).unwrap_or("");
            match self.member(member, bytes, depth + 1) {
                // Members of a structure without a name are the outer one's.
                Value::Object(inner) if name.is_empty() && !self.type_names => object.extend(inner),
                value => {
                    object.insert(name.to_owned(), value);
                }
            }
        }
        object
    }

    fn bitfield(self, ty: u32, bytes: &[u8], bit: u32, bits: u32) -> Value {
        match self.btf.resolved(ty) {
            (_, Shape::Int { encoding, .. }) => integer(bytes, bit, bits, *encoding),
            (_, Shape::Enum { values, .. }) => {
                let value = number(bytes, bit, bits);
                let found = self.named(values, value as u64);
                found.unwrap_or_else(|| unknown(value as i128))
            }
            _ => Value::Null,
        }
    }

    fn enumerator(self, size: u32, values: &[(u32, u64)], bytes: &[u8]) -> Value {
        let bits = size.clamp(1, 8) * 8;
        let value = number(bytes, 0, bits);
        let extended = signed(value, bits);
        let found = self.named(values, extended as u64);
        found
            .or_else(|| self.named(values, value as u64))
            .unwrap_or_else(|| unknown(extended))
    }

    fn named(self, values: &[(u32, u64)], value: u64) -> Option<Value> {
        let (name, _) = values.iter().find(|(_, listed)| *listed == value)?;
        let name = self.btf.string(*name).unwrap_or("");
        Some(format!("{name}({})", value.cast_signed()).into())
    }

    fn array(self, element: u32, count: u32, bytes: &[u8], depth: u32) -> Value {
        let (id, shape) = self.btf.resolved(element);
        if matches!(shape, Shape::Int { size: 1, .. }) && self.btf.name(id) == "char" {
            let text = &bytes[..bytes.len().min(count as usize)];
            let end = text.iter().position(|&byte| byte == 0);
            return String::from_utf8_lossy(&text[..end.unwrap_or(text.len())]).into();
        }
        let size = self.btf.size(element).unwrap_or(0) as usize;
        let elements = (0..(count as usize).min(MAX_ELEMENTS))
            .map(|index| self.value(element, from(bytes, index * size), depth + 1));
        Value::Array(elements.collect())
    }
}

fn integer(bytes: &[u8], bit: u32, bits: u32, encoding: u8) -> Value {
    let value = number(bytes, bit, bits);
    let signed = signed(value, bits);
    match encoding {
        BOOL => (value != 0).into(),
        SIGNED => match i64::try_from(signed) {
            Ok(value) if bits <= 64 => value.into(),
            _ => signed.to_string().into(),
        },
        _ => match u64::try_from(value) {
            Ok(value) if bits <= 64 => value.into(),
            _ => value.to_string().into(),
        },
    }
}

/// JSON has no word for what is not a number.
fn float(value: f64) -> Value {
    match serde_json::Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None => value.to_string().into(),
    }
}

fn unknown(value: i128) -> Value {
    format!("<UNKNOWN_VARIANT>({value})").into()
}

fn from(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..).unwrap_or_default()
}

fn signed(value: u128, bits: u32) -> i128 {
    let unused = 128 - bits.clamp(1, 128);
    (value << unused).cast_signed() >> unused
}

/// `bits` bits from bit `bit` on, as an unsigned number.
fn number(bytes: &[u8], bit: u32, bits: u32) -> u128 {
    let mut raw = [0; 16];
    for (to, from) in raw.iter_mut().zip(from(bytes, bit as usize / 8)) {
        *to = *from;
    }
    let mask = 1u128.checked_shl(bits).map_or(u128::MAX, |bit| bit - 1);
    (u128::from_le_bytes(raw) >> (bit % 8)) & mask
}
