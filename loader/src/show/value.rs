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

/// The value that `bytes` begin with. Bytes that are missing count as zero.
pub fn json(btf: &Btf, ty: u32, bytes: &[u8]) -> Value {
    value(btf, ty, bytes, 0)
}

fn value(btf: &Btf, ty: u32, bytes: &[u8], depth: u32) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    let (id, shape) = btf.resolved(ty);
    match shape {
        Shape::Int {
            size,
            bits,
            offset,
            encoding,
        } => {
            let bits = if *bits == 0 {
                size * 8
            } else {
                u32::from(*bits)
            };
            integer(bytes, u32::from(*offset), bits, *encoding)
        }
        Shape::Ptr(_) => integer(bytes, 0, 64, 0),
        Shape::Enum { size, values } => enumerator(btf, *size, values, bytes),
        Shape::Float { size: 4 } => float(f64::from(f32::from_bits(number(bytes, 0, 32) as u32))),
        Shape::Float { size: 8 } => float(f64::from_bits(number(bytes, 0, 64) as u64)),
        Shape::Array { element, count, .. } => array(btf, *element, *count, bytes, depth),
        Shape::Struct { members, .. } | Shape::Union { members, .. } => {
            let mut object = fields(btf, members, bytes, depth);
            let kind = match shape {
                Shape::Struct { .. } => "struct",
                _ => "union",
            };
            object.insert("__EUNOMIA_TYPE".into(), kind.into());
            object.insert("__EUNOMIA_TYPE_NAME".into(), btf.name(id).into());
            Value::Object(object)
        }
        _ => Value::Null,
    }
}

fn fields(btf: &Btf, members: &[Member], bytes: &[u8], depth: u32) -> Map<String, Value> {
    let mut object = Map::new();
    for member in members {
        let from = from(bytes, member.bit as usize / 8);
        let name = btf.string(member.name).unwrap_or("");
        let value = match member.bits {
            0 => value(btf, member.ty, from, depth + 1),
            bits => bitfield(btf, member.ty, from, member.bit % 8, u32::from(bits)),
        };
        match value {
            // Members of a structure without a name are the outer one's.
            Value::Object(inner) if name.is_empty() => object.extend(
                inner
                    .into_iter()
                    .filter(|(name, _)| !name.starts_with("__EUNOMIA_TYPE")),
            ),
            value => {
                object.insert(name.to_owned(), value);
            }
        }
    }
    object
}

pub(super) fn bitfield(btf: &Btf, ty: u32, bytes: &[u8], bit: u32, bits: u32) -> Value {
    match btf.resolved(ty) {
        (_, Shape::Int { encoding, .. }) => integer(bytes, bit, bits, *encoding),
        (_, Shape::Enum { values, .. }) => {
            let value = number(bytes, bit, bits);
            named(btf, values, value as u64).unwrap_or_else(|| unknown(value as i128))
        }
        _ => Value::Null,
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

fn enumerator(btf: &Btf, size: u32, values: &[(u32, u64)], bytes: &[u8]) -> Value {
    let bits = size.clamp(1, 8) * 8;
    let value = number(bytes, 0, bits);
    let extended = signed(value, bits);
    let found = named(btf, values, extended as u64).or_else(|| named(btf, values, value as u64));
    found.unwrap_or_else(|| unknown(extended))
}

fn named(btf: &Btf, values: &[(u32, u64)], value: u64) -> Option<Value> {
    let (name, _) = values.iter().find(|(_, listed)| *listed == value)?;
    let name = btf.string(*name).unwrap_or("");
    Some(format!("{name}({})", value.cast_signed()).into())
}

fn unknown(value: i128) -> Value {
    format!("<UNKNOWN_VARIANT>({value})").into()
}

fn array(btf: &Btf, element: u32, count: u32, bytes: &[u8], depth: u32) -> Value {
    let (id, shape) = btf.resolved(element);
    if matches!(shape, Shape::Int { size: 1, .. }) && btf.name(id) == "char" {
        let text = &bytes[..bytes.len().min(count as usize)];
        let end = text.iter().position(|&byte| byte == 0);
        return String::from_utf8_lossy(&text[..end.unwrap_or(text.len())]).into();
    }
    let size = btf.size(element).unwrap_or(0) as usize;
    let elements = (0..(count as usize).min(MAX_ELEMENTS))
        .map(|index| value(btf, element, from(bytes, index * size), depth + 1));
    Value::Array(elements.collect())
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
