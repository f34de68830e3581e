//! Records as lines of a table, in eunomia-bpf's layout: the time, then each
//! member below its name.

use std::fmt::Write;

use object::btf::Btf;
use serde_json::Value;

use super::columns::Columns;
use super::value::Values;

/// Least width of a column.
const MIN_WIDTH: usize = 6;

/// Columns of a table.
pub struct Table {
    header: String,
    columns: Columns,
    /// Where each begins in a line.
    at: Vec<usize>,
}

impl Table {
    /// A table of records of a structure, or of one column for anything else.
    pub fn new(btf: &Btf, ty: u32) -> Table {
        Table::of(Columns::of(btf, ty))
    }

    /// A table of records that consist of these columns.
    pub fn of(columns: Columns) -> Table {
        let mut header = beginning();
        let mut at = Vec::new();
        for name in columns.names() {
            at.push(header.chars().count());
            head(&mut header, name);
        }
        Table {
            header,
            columns,
            at,
        }
    }

    /// The names of the columns.
    pub fn header(&self) -> &str {
        &self.header
    }

    /// What records consist of.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// A record's line; `time` is `HH:MM:SS`.
    pub fn line(&self, values: Values<'_>, time: &str, bytes: &[u8]) -> String {
        let mut line = format!("{time:<8} ");
        let mut length = line.chars().count();
        for ((_, value), at) in self.columns.values(values, bytes).zip(&self.at) {
            let gap = at.saturating_sub(length).max(1);
            line.extend(std::iter::repeat_n(' ', gap));
            let text = plain(&value);
            length += gap + text.chars().count();
            line.push_str(&text);
        }
        line
    }
}

/// The names of columns of elements: those of the key, then those of the value.
pub fn element_header(key: &Columns, value: &Columns) -> String {
    let mut header = beginning();
    for name in key.names().chain(value.names()) {
        head(&mut header, name);
    }
    header
}

fn beginning() -> String {
    format!("{:<8} ", "TIME")
}

fn head(header: &mut String, name: &str) {
    // Writing to a string cannot fail.
    let _ = write!(header, "{:<MIN_WIDTH$} ", name.to_uppercase());
}

/// A value in a line: text without quotes, anything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().map(printable).collect(),
        // Nothing in a number, list or object breaks a line.
        value => value.to_string(),
    }
}

/// What a terminal would obey is not shown to it.
pub(super) fn printable(character: char) -> char {
    match character {
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}
