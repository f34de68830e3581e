//! Records as lines of a table, in eunomia-bpf's layout: the time, then each
//! member below its name.

use std::fmt::Write;

use object::btf::{Btf, Member, Shape};
use serde_json::Value;

use super::value::Values;

/// Least width of a column.
const MIN_WIDTH: usize = 6;

/// Columns of a table.
pub struct Table {
    header: String,
    columns: Vec<Column>,
}

struct Column {
    /// Where it begins in a line.
    at: usize,
    member: Member,
}

impl Table {
    /// A table of records of a structure, or of one column for anything else.
    pub fn new(btf: &Btf, ty: u32) -> Table {
        let mut table = Table {
            header: format!("{:<8} ", "TIME"),
            columns: Vec::new(),
        };
        match btf.resolved(ty) {
            (_, Shape::Struct { members, .. } | Shape::Union { members, .. }) => {
                for member in members {
                    table.column(btf.string(member.name).unwrap_or(""), *member);
                }
            }
            _ => {
                let whole = Member {
                    name: 0,
                    ty,
                    bit: 0,
                    bits: 0,
                };
                table.column(btf.name(ty), whole);
            }
        }
        table
    }

    fn column(&mut self, name: &str, member: Member) {
        let at = self.header.chars().count();
        self.columns.push(Column { at, member });
        // Writing to a string cannot fail.
        let _ = write!(self.header, "{:<MIN_WIDTH$} ", name.to_uppercase());
    }

    /// The names of the columns.
    pub fn header(&self) -> &str {
        &self.header
    }

    /// A record's line; `time` is `HH:MM:SS`.
    pub fn line(&self, values: Values<'_>, time: &str, bytes: &[u8]) -> String {
        let mut line = format!("{time:<8} ");
        for column in &self.columns {
            let length = line.chars().count();
            let gap = column.at.saturating_sub(length).max(1);
            line.extend(std::iter::repeat_n(' ', gap));
            match values.member(&column.member, bytes, 0) {
                Value::String(text) => line.extend(text.chars().map(printable)),
                // Nothing in a number, list or object breaks a line.
                value => line.push_str(&value.to_string()),
            }
        }
        line
    }
}

/// What a terminal would obey is not shown to it.
fn printable(character: char) -> char {
    match character {
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}
