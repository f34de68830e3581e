//! Records and elements of maps for people and for programs: by what the
//! object's types say, as a line of a table, JSON, or bytes.
//!
//! Reading order: `value` (bytes to JSON), `columns` (what records consist of),
//! `table` (lines), `histogram`, `elements` (maps that are sampled), `symbols`
//! and `stacks`.

mod columns;
mod elements;
mod histogram;
mod stacks;
mod symbols;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use columns::{Column, Columns};
pub use elements::{Element, Elements, Form, parts};
pub use histogram::{Histogram, Steps};
pub use stacks::{Members, Stacks};
pub use symbols::{Symbol, Symbols};
pub use table::{Table, plain};
pub use value::Values;

use object::btf::{Btf, Shape};

/// The structure that records of `size` bytes are of: the one of that name, if
/// the user names one; else one named `event`, or whose name ends so; else the
/// only one that a variable or a pointer to it makes known and that fits.
/// `None` if nothing says so.
pub fn record_type(btf: &Btf, size: usize, name: Option<&str>) -> Option<u32> {
    let is_structure =
        |id: &u32| matches!(btf.get(*id).map(|ty| &ty.shape), Some(Shape::Struct { .. }));
    // A perf buffer puts up to seven bytes behind a record.
    let fits = |id: &u32| {
        btf.size(*id)
            .is_some_and(|bytes| bytes as usize <= size && size < bytes as usize + 8)
    };
    let structures = || (1..=btf.count()).filter(is_structure);
    if let Some(name) = name {
        return structures().find(|&id| btf.name(id) == name);
    }
    let named = |end: &str| {
        structures()
            .filter(fits)
            .find(|&id| btf.name(id).ends_with(end))
    };
    if let Some(id) = named("event").or_else(|| named("event_t")) {
        return Some(id);
    }
    let mut pointed = (1..=btf.count()).filter_map(|id| match btf.get(id).map(|ty| &ty.shape) {
        Some(Shape::Var { ty, .. }) => match btf.resolved(*ty) {
            (_, Shape::Ptr(to)) => Some(btf.resolve(*to)),
            _ => None,
        },
        _ => None,
    });
    if let Some(id) = pointed.find(|id| is_structure(id) && fits(id)) {
        return Some(id);
    }
    let mut fitting = structures()
        .filter(fits)
        .filter(|&id| !btf.name(id).is_empty());
    let only = fitting.next()?;
    fitting.next().is_none().then_some(only)
}

/// Bytes of unknown type, at most so many of them.
pub fn hex(bytes: &[u8], most: usize) -> String {
    let shown = &bytes[..bytes.len().min(most)];
    let mut text: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    if shown.len() < bytes.len() {
        text.push_str(&format!("… ({} bytes)", bytes.len()));
    }
    text
}
