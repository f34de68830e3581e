//! Types in C for wasm32, where pointers and `long` are shorter than in eBPF:
//! every number is written with its size, and assertions say where each member
//! lies, so that a wrong layout does not compile.

use std::fmt::Write;

use object::btf::{Member, Shape};

use super::types::Types;

/// `BTF_INT_*` encodings (include/uapi/linux/btf.h).
const SIGNED: u8 = 1;
const BOOL: u8 = 4;

/// The definitions of all types.
pub fn definitions(types: &Types<'_>) -> String {
    let mut text = String::new();
    for id in &types.order {
        text.push_str(&definition(types, *id));
        text.push('\n');
    }
    text
}

fn definition(types: &Types<'_>, id: u32) -> String {
    let (_, shape) = types.resolved(id);
    let mut text = String::new();
    let Some(name) = types.name(id) else {
        return format!("{};\n", enumeration(types, shape, ""));
    };
    let tag = if name.typedef { "" } else { &name.text };
    let body = match shape {
        Shape::Enum { .. } => enumeration(types, shape, tag),
        _ => record(types, shape, tag, 0),
    };
    let called = match name.typedef {
        true => {
            let _ = writeln!(text, "typedef {body} {};", name.text);
            name.text.clone()
        }
        false => {
            let _ = writeln!(text, "{body};");
            format!("{} {}", keyword(shape), name.text)
        }
    };
    for other in &name.others {
        let _ = writeln!(text, "typedef {called} {other};");
    }
    text.push_str(&assertions(types, id, &called));
    text
}

/// Says of a type in C what BTF says of it.
pub fn assertions(types: &Types<'_>, id: u32, called: &str) -> String {
    let (_, shape) = types.resolved(id);
    let mut text = String::new();
    let size = types.btf.size(id).unwrap_or(0);
    let _ = writeln!(
        text,
        "_Static_assert(sizeof({called}) == {size}, \"size of {called}\");"
    );
    offsets(types, shape, 0, "", &mut |member, byte| {
        let _ = writeln!(
            text,
            "_Static_assert(offsetof({called}, {member}) == {byte}, \"{member} of {called}\");"
        );
    });
    text
}

/// Tells the first byte of each member that has one, also of those in
/// structures without names.
fn offsets(
    types: &Types<'_>,
    shape: &Shape,
    start: u64,
    path: &str,
    tell: &mut impl FnMut(&str, u64),
) {
    for member in shape.members() {
        let (bit, bits) = types.bits(member);
        let name = types.text(member.name);
        let byte = start + bit / 8;
        let (id, inner) = types.resolved(member.ty);
        let nameless = types.name(id).is_none() && !inner.members().is_empty();
        let here = match (path, name) {
            (path, "") => path.to_owned(),
            ("", name) => name.to_owned(),
            (path, name) => format!("{path}.{name}"),
        };
        if bits == 0 && !name.is_empty() {
            tell(&here, byte);
        }
        if nameless {
            offsets(types, inner, byte, &here, tell);
        }
    }
}

fn keyword(shape: &Shape) -> &'static str {
    match shape {
        Shape::Struct { .. } => "struct",
        Shape::Union { .. } => "union",
        _ => "enum",
    }
}

fn enumeration(types: &Types<'_>, shape: &Shape, tag: &str) -> String {
    let Shape::Enum { size, values } = shape else {
        return String::new();
    };
    let negative = values.iter().any(|(_, value)| value.cast_signed() < 0);
    // Of four bytes is what compilers choose by themselves.
    let base = match (*size, negative) {
        (4, _) => String::new(),
        (size, true) => format!(" : int{}_t", size * 8),
        (size, false) => format!(" : uint{}_t", size * 8),
    };
    let mut text = format!("enum {tag}{base} {{\n").replace("enum  ", "enum ");
    for (name, value) in values {
        let _ = match (negative, value.cast_signed()) {
            (true, i64::MIN) => writeln!(text, "\t{} = INT64_MIN,", types.text(*name)),
            (true, value) => writeln!(text, "\t{} = {value},", types.text(*name)),
            (false, _) => writeln!(text, "\t{} = {value}U,", types.text(*name)),
        };
    }
    text.push('}');
    text
}

/// A structure or union from its keyword to its closing brace and attributes.
fn record(types: &Types<'_>, shape: &Shape, tag: &str, depth: usize) -> String {
    let plan = types.plan(shape);
    let tabs = "\t".repeat(depth + 1);
    let space = if tag.is_empty() { "" } else { " " };
    let mut text = format!("{}{space}{tag} {{\n", keyword(shape));
    let mut gaps = plan.gaps.iter();
    let union = matches!(shape, Shape::Union { .. });
    for member in shape.members() {
        if !union {
            text.push_str(&fill(types, *gaps.next().unwrap_or(&0), &tabs));
        }
        let bits = types.bits(member).1;
        let declared = declaration(types, member, depth + 1);
        let _ = match bits {
            0 => writeln!(text, "{tabs}{declared};"),
            bits => writeln!(text, "{tabs}{declared} : {bits};"),
        };
    }
    text.push_str(&fill(types, *gaps.next().unwrap_or(&0), &tabs));
    let _ = write!(text, "{}}}", "\t".repeat(depth));
    let _ = match (plan.packed, plan.align) {
        (true, 1) => write!(text, " __attribute__((packed))"),
        (true, align) => write!(text, " __attribute__((packed, aligned({align})))"),
        _ => Ok(()),
    };
    text
}

/// Unused bits.
fn fill(types: &Types<'_>, gap: u64, tabs: &str) -> String {
    let mut text = String::new();
    let mut bits = gap % 8;
    // What ends within a byte is filled by bits alone: bytes would begin at the
    // next one.
    let bytes = match bits {
        0 => gap / 8,
        _ => {
            bits = gap;
            0
        }
    };
    while bits > 0 {
        let some = bits.min(64);
        let _ = writeln!(text, "{tabs}uint64_t : {some};");
        bits -= some;
    }
    if bytes > 0 {
        let _ = writeln!(text, "{tabs}uint8_t __pad{}[{bytes}];", types.pad());
    }
    text
}

fn declaration(types: &Types<'_>, member: &Member, depth: usize) -> String {
    let name = types.text(member.name);
    let (ty, behind) = spelled(types, member.ty, depth);
    let comment = match types.resolved(member.ty).1 {
        Shape::Ptr(to) => match types.btf.name(types.btf.resolve(*to)) {
            "" => String::new(),
            target => format!(" /* to {target} */"),
        },
        _ => String::new(),
    };
    match name {
        "" => format!("{ty}{behind}"),
        name => format!("{ty} {name}{behind}{comment}"),
    }
}

/// A type in front of a name and behind it. Structures without names are
/// written out.
pub fn spelled(types: &Types<'_>, id: u32, depth: usize) -> (String, String) {
    let (id, shape) = types.resolved(id);
    let text = match shape {
        Shape::Array { element, count, .. } => {
            let (text, behind) = spelled(types, *element, depth);
            return (text, format!("[{count}]{behind}"));
        }
        Shape::Struct { .. } | Shape::Union { .. } | Shape::Enum { .. } => match types.name(id) {
            Some(name) if name.typedef => name.text.clone(),
            Some(name) => format!("{} {}", keyword(shape), name.text),
            None => match shape {
                Shape::Enum { size, values } => {
                    let negative = values.iter().any(|(_, value)| value.cast_signed() < 0);
                    number(*size, negative)
                }
                _ => record(types, shape, "", depth),
            },
        },
        shape => scalar(types, id, shape),
    };
    (text, String::new())
}

fn scalar(types: &Types<'_>, id: u32, shape: &Shape) -> String {
    match shape {
        Shape::Int { encoding: BOOL, .. } => "bool".to_owned(),
        Shape::Int { size: 1, .. } if types.btf.name(id) == "char" => "char".to_owned(),
        Shape::Int { size, encoding, .. } => number(*size, encoding & SIGNED != 0),
        Shape::Float { size: 4 } => "float".to_owned(),
        Shape::Float { size: 8 } => "double".to_owned(),
        Shape::Ptr(_) => "uint64_t".to_owned(),
        // A number that wasm32 does not have, or nothing that has a size.
        _ => format!(
            "struct {{ uint8_t bytes[{}]; }}",
            types.btf.size(id).unwrap_or(0)
        ),
    }
}

fn number(size: u32, signed: bool) -> String {
    match (size, signed) {
        (16, true) => "__int128".to_owned(),
        (16, false) => "unsigned __int128".to_owned(),
        (size, true) => format!("int{}_t", size * 8),
        (size, false) => format!("uint{}_t", size * 8),
    }
}
