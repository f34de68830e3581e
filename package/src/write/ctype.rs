//! Types as C writes them, from BTF. It knows no name that they are given.

use object::btf::{Btf, Modifier, Shape};

/// Nothing nests deeper than that.
const DEEPEST: u32 = 32;

/// A type without a name of what has it: `char[16]`, `struct event *`.
pub fn name(btf: &Btf, id: u32) -> String {
    let (base, behind) = split(btf, id, String::new(), DEEPEST);
    match behind.starts_with('[') || behind.is_empty() {
        true => base + &behind,
        false => format!("{base} {behind}"),
    }
}

/// As [`name`], with integers behind typedefs in C's own words: what readers of
/// packages know, who do not know `u32`.
pub fn plain_name(btf: &Btf, id: u32) -> String {
    let unqualified = unqualified(btf, id);
    let (resolved, shape) = btf.resolved(id);
    match (shape, btf.name(unqualified)) {
        (Shape::Int { .. }, "bool" | "_Bool") => "bool".to_owned(),
        (Shape::Int { .. }, "pid_t") => "pid_t".to_owned(),
        (Shape::Int { .. }, _) => btf.name(resolved).to_owned(),
        _ => name(btf, unqualified),
    }
}

fn unqualified(btf: &Btf, mut id: u32) -> u32 {
    while let Some(Shape::Modifier { kind, to }) = btf.get(id).map(|ty| &ty.shape) {
        if *kind == Modifier::Typedef {
            break;
        }
        id = *to;
    }
    id
}

/// What stands before the name and what stands at and behind its place, where
/// `inner` is.
fn split(btf: &Btf, id: u32, inner: String, left: u32) -> (String, String) {
    let named = |word: &str| {
        (
            format!("{word} {}", btf.name(id)).trim().to_owned(),
            inner.clone(),
        )
    };
    let Some(ty) = btf.get(id) else {
        return ("void".to_owned(), inner);
    };
    if left == 0 {
        return ("void".to_owned(), inner);
    }
    match &ty.shape {
        Shape::Void => ("void".to_owned(), inner),
        Shape::Int { .. } | Shape::Float { .. } if btf.name(id) == "_Bool" => {
            ("bool".to_owned(), inner)
        }
        Shape::Struct { .. } => named("struct"),
        Shape::Union { .. } => named("union"),
        Shape::Enum { .. } => named("enum"),
        Shape::Fwd { union } => named(if *union { "union" } else { "struct" }),
        Shape::Modifier { kind, to } => match kind {
            Modifier::Typedef => named(""),
            // What may be written, says nothing about a value.
            _ => split(btf, *to, inner, left - 1),
        },
        Shape::Array { element, count, .. } => {
            let inner = match inner.starts_with('*') {
                true => format!("({inner})[{count}]"),
                false => format!("{inner}[{count}]"),
            };
            split(btf, *element, inner, left - 1)
        }
        Shape::Ptr(to) => split(btf, *to, format!("*{inner}"), left - 1),
        Shape::FuncProto { ret, params } => {
            let of = |ty: u32| match ty {
                0 => "...".to_owned(),
                ty => name_to(btf, ty, left - 1),
            };
            let params: Vec<_> = params.iter().map(|param| of(param.ty)).collect();
            let inner = format!("({inner})({})", params.join(", "));
            split(btf, *ret, inner, left - 1)
        }
        _ => named(""),
    }
}

fn name_to(btf: &Btf, id: u32, left: u32) -> String {
    let (base, behind) = split(btf, id, String::new(), left);
    format!("{base} {behind}").trim_end().to_owned()
}
