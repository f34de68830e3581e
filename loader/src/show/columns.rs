//! What records consist of: the members of a structure, or what the user says.

use object::btf::{Btf, Member, Shape};
use serde_json::{Map, Value};

use super::value::Values;

/// Deepest nesting of structures without names that is followed.
const MAX_DEPTH: u32 = 32;

/// A part of records that has a name.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Where it lies; its own name does not matter.
    member: Member,
}

/// The parts of records, in their order.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    list: Vec<Column>,
}

impl Columns {
    /// The members of a structure, also of those inside that have no name; the
    /// whole for anything else, by the name of its type.
    pub fn of(btf: &Btf, ty: u32) -> Columns {
        let mut columns = Columns::default();
        match btf.resolved(ty) {
            (_, Shape::Struct { members, .. } | Shape::Union { members, .. }) => {
                columns.members(btf, members, 0, 0);
            }
            _ => columns.push(btf.name(ty), whole(ty)),
        }
        columns
    }

    /// Parts of `(name, offset in bytes, type)`, by their offsets.
    ///
    /// # Errors
    /// In one line, for a type that is not there or has no size, and for parts
    /// that lie in each other.
    pub fn custom(btf: &Btf, mut parts: Vec<(String, u64, u32)>) -> Result<Columns, String> {
        parts.sort_by_key(|(_, offset, _)| *offset);
        let mut columns = Columns::default();
        let mut end = 0;
        for (name, offset, ty) in parts {
            let size = btf
                .size(ty)
                .ok_or_else(|| format!("{name} is of type {ty}, which the object does not have"))?;
            if offset < end {
                return Err(format!("{name} lies in what is before it"));
            }
            end = offset + u64::from(size);
            let bit = u32::try_from(offset * 8)
                .map_err(|_| format!("{name} lies beyond what a record can be"))?;
            columns.push(&name, Member { bit, ..whole(ty) });
        }
        Ok(columns)
    }

    fn members(&mut self, btf: &Btf, members: &[Member], bit: u32, depth: u32) {
        for member in members {
            let name = btf.string(member.name).unwrap_or("");
            let at = bit.saturating_add(member.bit);
            match btf.resolved(member.ty) {
                (_, Shape::Struct { members, .. } | Shape::Union { members, .. })
                    if name.is_empty() && depth < MAX_DEPTH =>
                {
                    self.members(btf, members, at, depth + 1);
                }
                _ => self.push(name, Member { bit: at, ..*member }),
            }
        }
    }

    fn push(&mut self, name: &str, member: Member) {
        self.list.push(Column {
            name: name.to_owned(),
            member,
        });
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|column| column.name.as_str())
    }

    /// Each with its value in a record.
    pub fn values<'a>(
        &'a self,
        values: Values<'a>,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = (&'a str, Value)> {
        self.list.iter().map(move |column| {
            let value = values.member(&column.member, bytes, 0);
            (column.name.as_str(), value)
        })
    }

    /// A record as an object of JSON.
    pub fn json(&self, values: Values<'_>, bytes: &[u8]) -> Map<String, Value> {
        self.values(values, bytes)
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

fn whole(ty: u32) -> Member {
    Member {
        name: 0,
        ty,
        bit: 0,
        bits: 0,
    }
}
