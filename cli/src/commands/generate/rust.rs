//! Types in Rust for guests: `repr(C)`, with every gap a member, so that all
//! bytes are numbers; bitfields are methods, and sections of variables
//! structures. Assertions say where members lie,
//! so that a wrong layout does not compile.

use std::fmt::Write;

use object::btf::{Member, Shape};

use super::layout::{Place, Plan};
use super::types::{Name, Types};

/// `BTF_INT_*` encodings (include/uapi/linux/btf.h).
const SIGNED: u8 = 1;
const BOOL: u8 = 4;

const ALLOW: &str = "#[allow(non_camel_case_types, non_snake_case, dead_code)]\n";

/// Words that cannot be names as they are.
const KEYWORDS: &str = " abstract as async await become box break const continue crate do dyn else \
    enum extern false final fn for gen if impl in let loop macro match mod move mut override priv \
    pub ref return self Self static struct super trait true try type typeof unsafe unsized use \
    virtual where while yield ";

/// A source file with all types.
pub fn module(types: &Types<'_>) -> String {
    let mut text =
        "// Made by bpftime gen types --rust: make it again instead of changing it.\n".to_owned();
    for id in &types.order {
        let (_, shape) = types.resolved(*id);
        let name = types.name(*id);
        let called = name.map_or(String::new(), |name| word(&name.text));
        match shape {
            Shape::Enum { .. } => enumeration(types, shape, name, &mut text),
            _ => {
                let size = types.btf.size(*id).unwrap_or(0);
                record(types, shape, size, &called, &mut text);
            }
        }
        for other in name.map_or(&[][..], |name| &name.others) {
            let _ = writeln!(text, "{ALLOW}pub type {} = {called};", word(other));
        }
    }
    for (name, size, members) in types.sections() {
        let shape = Shape::Struct { size, members };
        record(types, &shape, size, &name, &mut text);
    }
    text
}

fn enumeration(types: &Types<'_>, shape: &Shape, name: Option<&Name>, text: &mut String) {
    let Shape::Enum { size, values } = shape else {
        return;
    };
    let negative = values.iter().any(|(_, value)| value.cast_signed() < 0);
    let number = number(*size, negative);
    let ty = match name {
        Some(name) => {
            let name = word(&name.text);
            let _ = writeln!(text, "\n{ALLOW}pub type {name} = {number};");
            name
        }
        None => number,
    };
    for (name, value) in values {
        let value = match negative {
            true => value.cast_signed().to_string(),
            false => value.to_string(),
        };
        let name = types.text(*name);
        let _ = writeln!(
            text,
            "#[allow(dead_code, non_upper_case_globals)]\npub const {name}: {ty} = {value};"
        );
    }
}

/// A member of the Rust structure.
enum Item<'a> {
    Whole(&'a Member),
    /// Bitfields one behind the other, in bytes that nothing else shares.
    Bits(Vec<&'a Member>),
}

fn items<'a>(types: &Types<'_>, shape: &'a Shape) -> Vec<(Place, Item<'a>)> {
    let union = matches!(shape, Shape::Union { .. });
    let mut items: Vec<(Place, Item<'a>)> = Vec::new();
    for member in shape.members() {
        let (bit, bits) = types.bits(member);
        if bits == 0 {
            let place = types.place(member, align(types, member.ty));
            items.push((place, Item::Whole(member)));
            continue;
        }
        let end = (bit + bits).div_ceil(8);
        if let (false, Some((place, Item::Bits(run)))) = (union, items.last_mut()) {
            place.size = end - place.bit / 8;
            run.push(member);
            continue;
        }
        let place = Place {
            bit: bit / 8 * 8,
            bits: 0,
            size: end - bit / 8,
            align: 1,
        };
        items.push((place, Item::Bits(vec![member])));
    }
    items
}

/// Alignment of a type as it is written here.
fn align(types: &Types<'_>, id: u32) -> u64 {
    let (_, shape) = types.resolved(id);
    match shape {
        // Two words.
        Shape::Int { size: 16, .. } => 8,
        Shape::Array { element, .. } => align(types, *element),
        Shape::Struct { .. } | Shape::Union { .. } => plan(types, shape).align,
        _ => types.align(id),
    }
}

fn plan(types: &Types<'_>, shape: &Shape) -> Plan {
    let items = items(types, shape);
    let places: Vec<Place> = items.iter().map(|(place, _)| *place).collect();
    let mut plan = match shape {
        Shape::Union { size, .. } => Plan::union(u64::from(*size), &places),
        Shape::Struct { size, .. } => Plan::structure(u64::from(*size), &places, true),
        _ => Plan::structure(0, &[], true),
    };
    if plan.packed {
        plan.align = 1;
    }
    plan
}

fn record(types: &Types<'_>, shape: &Shape, size: u32, name: &str, text: &mut String) {
    let union = matches!(shape, Shape::Union { .. });
    let plan = plan(types, shape);
    let mut gaps = plan.gaps.iter();
    let (mut members, mut methods, mut checks) = (String::new(), String::new(), String::new());
    let mut pads = 0;
    for (index, (place, item)) in items(types, shape).iter().enumerate() {
        if !union {
            members.push_str(&fill(*gaps.next().unwrap_or(&0), &mut pads));
        }
        let field = match item {
            Item::Whole(member) => {
                let own = types.text(member.name);
                let field = match own {
                    "" => format!("anon{index}"),
                    own => word(own),
                };
                let inner = format!("{name}_{}", field.trim_start_matches("r#"));
                let ty = spelled(types, member.ty, &inner, text);
                let _ = writeln!(members, "    pub {field}: {ty},");
                field
            }
            Item::Bits(run) => {
                let field = format!("_bits{index}");
                let _ = writeln!(members, "    pub {field}: [u8; {}],", place.size);
                for member in run {
                    methods.push_str(&accessors(types, member, &field, place.bit, union));
                }
                field
            }
        };
        let byte = place.bit / 8;
        let _ = writeln!(
            checks,
            "    assert!(core::mem::offset_of!({name}, {field}) == {byte});"
        );
    }
    members.push_str(&fill(*gaps.next().unwrap_or(&0), &mut pads));
    let keyword = if union { "union" } else { "struct" };
    let packed = if plan.packed { ", packed" } else { "" };
    let _ = write!(
        text,
        "\n{ALLOW}#[repr(C{packed})]\n#[derive(Clone, Copy)]\npub {keyword} {name} {{\n{members}}}\n\
         const _: () = {{\n    assert!(core::mem::size_of::<{name}>() == {size});\n{checks}}};\n\
         // SAFETY: numbers and arrays of them, without gaps between.\n\
         unsafe impl bpftime_guest::Plain for {name} {{}}\n\
         impl Default for {name} {{\n    fn default() -> {name} {{\n        \
         bpftime_guest::zeroed()\n    }}\n}}\n"
    );
    if !methods.is_empty() {
        let _ = write!(
            text,
            "#[allow(non_snake_case, dead_code)]\nimpl {name} {{\n{methods}}}\n"
        );
    }
}

fn fill(gap: u64, pads: &mut u32) -> String {
    match gap / 8 {
        0 => String::new(),
        bytes => {
            *pads += 1;
            format!("    pub _pad{}: [u8; {bytes}],\n", *pads - 1)
        }
    }
}

/// A type; structures without names get `inner`, and are written to `text`.
fn spelled(types: &Types<'_>, id: u32, inner: &str, text: &mut String) -> String {
    let (id, shape) = types.resolved(id);
    match shape {
        Shape::Array { element, count, .. } => {
            format!("[{}; {count}]", spelled(types, *element, inner, text))
        }
        Shape::Struct { .. } | Shape::Union { .. } => match types.name(id) {
            Some(name) => word(&name.text),
            None => {
                record(types, shape, types.btf.size(id).unwrap_or(0), inner, text);
                inner.to_owned()
            }
        },
        shape => scalar(types, id, shape),
    }
}

fn scalar(types: &Types<'_>, id: u32, shape: &Shape) -> String {
    match shape {
        Shape::Enum { size, values } => match types.name(id) {
            Some(name) => word(&name.text),
            None => number(*size, values.iter().any(|(_, v)| v.cast_signed() < 0)),
        },
        // A byte that a program wrote need not be true or false.
        Shape::Int { size: 1, .. } if types.btf.name(id) == "char" => "u8".to_owned(),
        Shape::Int { size: 16, .. } => "[u64; 2]".to_owned(),
        Shape::Int { size, encoding, .. } => number(*size, encoding & SIGNED != 0),
        Shape::Float { size: 4 } => "f32".to_owned(),
        Shape::Float { size: 8 } => "f64".to_owned(),
        Shape::Ptr(_) => "u64".to_owned(),
        _ => format!("[u8; {}]", types.btf.size(id).unwrap_or(0)),
    }
}

fn number(size: u32, signed: bool) -> String {
    format!("{}{}", if signed { 'i' } else { 'u' }, size * 8)
}

/// Methods that read and write a bitfield, which lies in `field`, whose first
/// bit is `start`.
fn accessors(types: &Types<'_>, member: &Member, field: &str, start: u64, union: bool) -> String {
    let (bit, bits) = types.bits(member);
    let own = types.text(member.name);
    if own.is_empty() {
        return String::new();
    }
    let (id, shape) = types.resolved(member.ty);
    let signed = match shape {
        Shape::Int { encoding, .. } => encoding & SIGNED != 0,
        Shape::Enum { values, .. } => values.iter().any(|(_, value)| value.cast_signed() < 0),
        _ => false,
    };
    let get = if signed { "get_signed" } else { "get" };
    let at = format!("{}, {bits}", bit - start);
    let name = word(own);
    let bare = name.trim_start_matches("r#");
    let (field, mutable) = match union {
        true => (
            format!("unsafe {{ &self.{field} }}"),
            format!("unsafe {{ &mut self.{field} }}"),
        ),
        false => (format!("&self.{field}"), format!("&mut self.{field}")),
    };
    let safety = match union {
        true => "        // SAFETY: every member is bytes, whatever was written last.\n",
        false => "",
    };
    let (ty, value, given) = match shape {
        Shape::Int { encoding: BOOL, .. } => {
            ("bool".to_owned(), " != 0".to_owned(), "u64::from(value)")
        }
        shape => {
            let ty = scalar(types, id, shape);
            (ty.clone(), format!(" as {ty}"), "value as u64")
        }
    };
    format!(
        "    pub fn {name}(&self) -> {ty} {{\n{safety}        \
         bpftime_guest::bits::{get}({field}, {at}){value}\n    }}\n    \
         pub fn set_{bare}(&mut self, value: {ty}) {{\n{safety}        \
         bpftime_guest::bits::set({mutable}, {at}, {given})\n    }}\n"
    )
}

/// A name of C as one of Rust.
fn word(name: &str) -> String {
    match name {
        "self" | "Self" | "super" | "crate" => format!("{name}_"),
        name if KEYWORDS.contains(&format!(" {name} ")) => format!("r#{name}"),
        name => name.to_owned(),
    }
}
