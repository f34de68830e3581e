//! Writes JSON packages: what an object has, what comments in its source say of
//! it, and the structures that it reports. The names of members are those that
//! eunomia's tools write and read. It knows no compiler and no file.
//!
//! Reading order: this file, `source` (declarations and their comments),
//! `annotations` (what comments say), `ctype` (types in words).

mod annotations;
mod ctype;
mod source;
#[cfg(test)]
mod tests;

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use object::btf::{Btf, Shape};
use serde_json::{Map, Value, json};

use annotations::Kind;

pub use ctype::name as type_name;

/// Variables with that prefix only keep a structure's type in an object.
pub const DUMMY: &str = "__eunomia_dummy_";

/// Sections whose variables readers of packages can set.
const SETTABLE: [&str; 2] = [".rodata", ".bss"];

/// A program of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its function.
    pub name: String,
    /// Its ELF section.
    pub section: String,
}

/// A map of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapOf {
    /// As libbpf calls it.
    pub name: String,
    /// As a skeleton calls it: `rodata` for `tool_bpf.rodata`.
    pub ident: String,
    /// Whether it holds variables that can be mapped.
    pub mapped: bool,
}

/// What a package is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The object's name, a C identifier.
    pub name: &'a str,
    /// Its programs in order.
    pub programs: &'a [Program],
    /// Its maps in order.
    pub maps: &'a [MapOf],
    /// Its types; `None` if it has none.
    pub btf: Option<&'a Btf>,
    /// Its source.
    pub source: &'a str,
    /// Names of structures that it reports.
    pub exported: &'a [String],
    /// The version of who writes.
    pub version: &'a str,
}

/// An annotation that is written all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Its line in the source.
    pub line: u32,
    /// What is odd.
    pub text: String,
}

/// An annotation that says nothing that could be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text}")]
pub struct Malformed {
    /// Its line in the source.
    pub line: u32,
    /// What is wrong.
    pub text: String,
    /// What would be right.
    pub advice: String,
}

/// The member `meta` of a package, and what was odd in the source.
///
/// # Errors
/// An annotation whose value cannot be read.
pub fn meta(parts: &Parts<'_>) -> Result<(Value, Vec<Warning>), Malformed> {
    let declared = source::declarations(parts.source);
    let mut warnings = Vec::new();
    let mut say = |kind: Kind, name: &str, mut own: Map<String, Value>| {
        let is_function = kind == Kind::Program;
        let comment = declared
            .iter()
            .filter(|declared| declared.declares(name, is_function))
            .find(|declared| !declared.comment.is_empty());
        if let Some(declared) = comment {
            let mut said = annotations::read(kind, &declared.comment, &mut warnings)?;
            // What an object is, no comment changes.
            said.append(&mut own);
            own = said;
        }
        Ok(Value::Object(own))
    };

    let mut skeleton = Map::new();
    skeleton.insert("obj_name".to_owned(), parts.name.into());
    if let Value::Object(doc) = say(Kind::Object, "LICENSE", Map::new())?
        && !doc.is_empty()
    {
        skeleton.insert("doc".to_owned(), doc.into());
    }
    let mut sections = Vec::new();
    for (name, variables) in parts.btf.map(settable).unwrap_or_default() {
        if variables.is_empty() {
            continue;
        }
        let say = |(variable, ty)| {
            let own = json!({ "name": variable, "type": ty });
            say(Kind::Variable, variable, members(own))
        };
        let variables = variables.into_iter().map(say);
        let variables = variables.collect::<Result<Vec<_>, _>>()?;
        sections.push(json!({ "name": name, "variables": variables }));
    }
    skeleton.insert("data_sections".to_owned(), sections.into());
    let maps = parts.maps.iter().map(|map| {
        let mut own = members(json!({ "name": map.name, "ident": map.ident }));
        if map.mapped {
            own.insert("mmaped".to_owned(), true.into());
        }
        say(Kind::Map, &map.name, own)
    });
    let maps = maps.collect::<Result<Vec<_>, _>>()?;
    skeleton.insert("maps".to_owned(), maps.into());
    let programs = parts.programs.iter().map(|program| {
        let own = json!({ "name": program.name, "attach": program.section, "link": true });
        say(Kind::Program, &program.name, members(own))
    });
    let programs = programs.collect::<Result<Vec<_>, _>>()?;
    skeleton.insert("progs".to_owned(), programs.into());

    let mut meta = Map::new();
    meta.insert("bpf_skel".to_owned(), skeleton.into());
    meta.insert("eunomia_version".to_owned(), parts.version.into());
    if let Some(btf) = parts.btf.filter(|_| !parts.exported.is_empty()) {
        meta.insert("export_types".to_owned(), exports(btf, parts.exported));
    }
    Ok((meta.into(), warnings))
}

/// A package's text.
pub fn package(object: &[u8], meta: &Value) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(object);
    let compressed = written.and_then(|()| encoder.finish());
    // Writing to memory fails for nothing but want of memory.
    let compressed = compressed.unwrap_or_default();
    let package = json!({
        "bpf_object": STANDARD.encode(compressed),
        "bpf_object_size": object.len(),
        "meta": meta,
    });
    package.to_string()
}

/// Names of the structures that a header defines, the inner ones of others
/// among them, and of those that a source marks by `@export`.
pub fn exported(source: &str, header: Option<&str>) -> Vec<String> {
    let declared = header.map(source::declarations).unwrap_or_default();
    let mut names: Vec<_> = declared.into_iter().flat_map(|d| d.structures).collect();
    let marked = source::declarations(source).into_iter();
    let marked = marked.filter(|d| d.comment.iter().any(annotations::marks_export));
    names.extend(marked.filter_map(|declared| declared.structures.into_iter().next()));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// Sections with their variables and these ones' types.
fn settable(btf: &Btf) -> Vec<(&str, Vec<(&str, String)>)> {
    let mut found = Vec::new();
    for section in SETTABLE {
        let id = btf.find(section, |shape| matches!(shape, Shape::DataSec { .. }));
        let Some(Shape::DataSec { vars, .. }) = id.and_then(|id| btf.get(id)).map(|ty| &ty.shape)
        else {
            continue;
        };
        let variable = |id: u32| match btf.get(id).map(|ty| &ty.shape) {
            // Others are nobody's but their source's or header's.
            Some(Shape::Var {
                ty,
                is_static: false,
            }) => Some((btf.name(id), ctype::plain_name(btf, *ty))),
            _ => None,
        };
        found.push((
            section,
            vars.iter().filter_map(|var| variable(var.ty)).collect(),
        ));
    }
    found
}

/// The structures with these names in the order of their ids: readers take the
/// first one where they show but one.
fn exports(btf: &Btf, names: &[String]) -> Value {
    let mut found = Vec::new();
    for id in 1..=btf.count() {
        let Some(ty @ Shape::Struct { size, .. }) = btf.get(id).map(|ty| &ty.shape) else {
            continue;
        };
        if !names.iter().any(|name| name == btf.name(id)) {
            continue;
        }
        let member = |member: &object::btf::Member| {
            json!({
                "name": btf.string(member.name).unwrap_or(""),
                "type": ctype::name(btf, member.ty),
            })
        };
        let members: Vec<_> = ty.members().iter().map(member).collect();
        found.push(json!({
            "name": btf.name(id), "type_id": id, "size": size, "members": members,
        }));
    }
    found.into()
}
