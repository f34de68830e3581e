//! Dialects of packages: JSON and YAML, with the object inside or beside, of
//! today's tools and of those before.

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::meta::Meta;
use crate::{Package, archive, encoded};

/// Names that one of which is at the beginning of a line of every YAML package.
const YAML_KEYS: [&str; 3] = ["bpf_object:", "bpf_skel:", "meta:"];

/// What some editors put before text.
const BOM: &[u8] = "\u{feff}".as_bytes();

pub(crate) fn parse(bytes: &[u8]) -> Result<Package, Error> {
    let plain;
    let bytes = match archive::is_gzip(bytes) {
        true => {
            plain = archive::gunzip(bytes)?;
            &plain
        }
        false => bytes,
    };
    match archive::is_tar(bytes) {
        true => archive::untar(bytes),
        false => text(bytes),
    }
}

/// A package that is no archive.
pub(crate) fn text(bytes: &[u8]) -> Result<Package, Error> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Error::Format(format!("it is not text ({error})")))?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(Error::Format("it is empty".to_owned()));
    }
    let value = match is_yaml(text) {
        true => serde_yaml_ng::from_str(text)
            .map_err(|error| Error::Format(format!("it is not YAML ({error})")))?,
        false => serde_json::from_str(text)
            .map_err(|error| Error::Format(format!("it is not JSON ({error})")))?,
    };
    match value {
        Value::Object(object) => package(object),
        _ => Err(Error::Meaning("it is no object of JSON".to_owned())),
    }
}

/// Whether bytes begin as text of a package does.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii_start();
    bytes.starts_with(b"{") || std::str::from_utf8(bytes).is_ok_and(is_yaml)
}

fn is_yaml(text: &str) -> bool {
    let is_key = |line: &str| YAML_KEYS.iter().any(|key| line.starts_with(key));
    !text.starts_with('{') && text.lines().any(is_key)
}

fn package(mut object: Map<String, Value>) -> Result<Package, Error> {
    if object.contains_key("bpf_skel") {
        return Ok(Package {
            object: None,
            meta: meta(Value::Object(object))?,
            kernels: Vec::new(),
        });
    }
    if object.contains_key("data") && object.contains_key("data_sz") {
        object = oldest(object);
    }
    let Some(Value::String(text)) = object.get("bpf_object") else {
        let what = match object.contains_key("bpf_object") {
            true => "its bpf_object is no text",
            false => "it has no bpf_object",
        };
        return Err(Error::Meaning(what.to_owned()));
    };
    let size =
        match object.get("bpf_object_size") {
            None | Some(Value::Null) => None,
            Some(size) => Some(size.as_u64().ok_or_else(|| {
                Error::Meaning(format!("its bpf_object_size is no size but {size}"))
            })?),
        };
    let bytes = encoded::object(text, size)?;
    let mut said = meta(object.get("meta").cloned().unwrap_or(Value::Null))?;
    // Hosts of the older Wasm interface put them beside.
    if let Some(Value::Object(values)) = object.remove("runtime_args") {
        said.runtime_args.extend(values);
    }
    Ok(Package {
        object: Some(bytes),
        meta: said,
        kernels: Vec::new(),
    })
}

fn meta(mut value: Value) -> Result<Meta, Error> {
    let Some(object) = value.as_object_mut() else {
        return Err(Error::Meaning("it has no meta".to_owned()));
    };
    if !object.get("bpf_skel").is_some_and(Value::is_object) {
        return Err(Error::Meaning("its meta has no bpf_skel".to_owned()));
    }
    older_types(object);
    // What is null is not said.
    object.retain(|_, value| !value.is_null());
    serde_json::from_value(value).map_err(|error| Error::Meaning(error.to_string()))
}

/// The form of types that has structures and their BTF.
fn older_types(meta: &mut Map<String, Value>) {
    let Some(Value::Object(types)) = meta.get_mut("export_types") else {
        return;
    };
    let structures = types.remove("structs").unwrap_or_else(|| json!([]));
    if let Some(btf) = types.remove("export_btf") {
        meta.insert("export_btf".to_owned(), btf);
    }
    meta.insert("export_types".to_owned(), structures);
}

/// The form of the first tools, in which nothing has a name of its own.
fn oldest(object: Map<String, Value>) -> Map<String, Value> {
    let get = |key: &str| object.get(key).cloned().unwrap_or(Value::Null);
    let mut maps = get("maps");
    for map in maps.as_array_mut().into_iter().flatten() {
        if let Some(name) = map.get("name").cloned() {
            map["ident"] = name;
        }
    }
    let converted = json!({
        "bpf_object": get("data"),
        "bpf_object_size": get("data_sz"),
        "meta": {"bpf_skel": {
            "obj_name": get("name").as_str().unwrap_or(""),
            "doc": {"version": get("version"), "brief": get("description")},
            "maps": maps,
            "progs": get("progs"),
        }},
    });
    match converted {
        Value::Object(converted) => converted,
        _ => Map::new(),
    }
}

pub(crate) fn to_json(package: &Package) -> Result<String, Error> {
    let Some(object) = &package.object else {
        return Err(Error::Meaning("it has no object".to_owned()));
    };
    let value = json!({
        "bpf_object": encoded::text(object),
        "bpf_object_size": object.len(),
        "meta": package.meta,
    });
    Ok(value.to_string())
}
