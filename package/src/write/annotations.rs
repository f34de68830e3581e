//! What comments say of programs, maps and variables: `@key value` at the
//! beginning of a line, to the end of the paragraph. It knows no object.

use serde_json::{Map, Value};

use super::source::Line;
use super::{Malformed, Warning};

/// What is documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A global variable.
    Variable,
    /// A map.
    Map,
    /// A program.
    Program,
    /// The object, by a comment on its licence.
    Object,
}

/// What a key's value must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Number,
    /// A structure with these members at most, and an example.
    Members(&'static [&'static str], &'static str),
    /// Any value of JSON.
    Any,
}

const DESCRIPTION: &str = "description";

/// Keys by what they are on.
const KEYS: [(Kind, &str, Form); 14] = [
    (
        Kind::Variable,
        "cmdarg",
        Form::Members(
            &["default", "short", "long", "help"],
            r#"{"default": 0, "short": "p", "long": "pid"}"#,
        ),
    ),
    (Kind::Variable, DESCRIPTION, Form::Text),
    (
        Kind::Map,
        "sample",
        Form::Members(
            &["interval", "type", "unit", "clear_map"],
            r#"{"interval": 1000, "type": "log2_hist"}"#,
        ),
    ),
    (Kind::Map, "intepreter", Form::Any),
    (Kind::Map, "interpreter", Form::Any),
    (Kind::Map, "export_config", Form::Any),
    (Kind::Map, DESCRIPTION, Form::Text),
    (Kind::Program, "ifindex", Form::Number),
    (Kind::Program, "flags", Form::Number),
    (
        Kind::Program,
        "xdpopts",
        Form::Members(&["old_prog_fd"], r#"{"old_prog_fd": 0}"#),
    ),
    (
        Kind::Program,
        "tchook",
        Form::Members(
            &["ifindex", "attach_point"],
            r#"{"ifindex": 1, "attach_point": "BPF_TC_INGRESS"}"#,
        ),
    ),
    (
        Kind::Program,
        "tcopts",
        Form::Members(&["handle", "priority"], r#"{"handle": 1, "priority": 1}"#),
    ),
    (Kind::Program, DESCRIPTION, Form::Text),
    (Kind::Object, "version", Form::Text),
];

/// On everything; what Doxygen's other commands say is for readers of the source.
const TEXTS: [&str; 3] = ["brief", "details", DESCRIPTION];
const FOR_READERS: [&str; 14] = [
    "short",
    "note",
    "warning",
    "see",
    "sa",
    "param",
    "return",
    "returns",
    "author",
    "date",
    "copyright",
    "since",
    "todo",
    "file",
];

/// What a comment says, as members of what it documents.
pub fn read(
    kind: Kind,
    comment: &[Line],
    warnings: &mut Vec<Warning>,
) -> Result<Map<String, Value>, Malformed> {
    let mut found = Map::new();
    let mut prose = Vec::new();
    for part in parts(comment) {
        match part.key {
            None => prose.push(part.text.replace('\n', " ")),
            Some(key) if FOR_READERS.contains(&key) => {}
            Some(key) => {
                let (key, value) = value(kind, key, part.line, &part.text, warnings)?;
                found.insert(key.to_owned(), value);
            }
        }
    }
    if !prose.is_empty() && !found.contains_key(DESCRIPTION) {
        found.insert(DESCRIPTION.to_owned(), prose.join("\n").into());
    }
    Ok(found)
}

/// Whether a line marks a structure to be exported.
pub fn marks_export(line: &Line) -> bool {
    matches!(line.text.strip_prefix(['@', '\\']), Some("export"))
}

/// A paragraph, or what stands behind a key.
struct Part<'a> {
    key: Option<&'a str>,
    line: u32,
    text: String,
}

fn parts(comment: &[Line]) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut ended = true;
    for line in comment {
        let key = line.text.strip_prefix(['@', '\\']);
        let key = key.filter(|key| key.starts_with(|c: char| c.is_ascii_alphabetic()));
        if let Some(words) = key {
            let end = words.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (key, text) = words.split_at(end.unwrap_or(words.len()));
            parts.push(Part {
                key: Some(key),
                line: line.number,
                text: text.trim().to_owned(),
            });
            ended = false;
        } else if line.text.is_empty() {
            ended = true;
        } else if let Some(part) = parts.last_mut().filter(|_| !ended) {
            part.text += "\n";
            part.text += &line.text;
        } else {
            parts.push(Part {
                key: None,
                line: line.number,
                text: line.text.clone(),
            });
            ended = false;
        }
    }
    parts
}

fn value<'a>(
    kind: Kind,
    key: &'a str,
    line: u32,
    text: &str,
    warnings: &mut Vec<Warning>,
) -> Result<(&'a str, Value), Malformed> {
    let of_kind = KEYS
        .iter()
        .find(|(of, name, _)| *of == kind && *name == key);
    let form = match of_kind {
        Some((_, _, form)) => *form,
        None if TEXTS.contains(&key) => Form::Text,
        None => {
            warnings.push(Warning {
                line,
                text: unknown(kind, key),
            });
            Form::Any
        }
    };
    // Readers of packages know the one spelling only.
    let name = match key {
        "interpreter" => "intepreter",
        key => key,
    };
    let json = || serde_json::from_str::<Value>(text);
    let wrong = |what: String, example: &str| Malformed {
        line,
        text: format!("@{key} {what}"),
        advice: format!("write @{key} {example}"),
    };
    let value = match form {
        // Text has line ends only where the writer put them for a reader.
        Form::Text if key == "details" => text.into(),
        Form::Text => text.replace('\n', " ").into(),
        Form::Any if text.is_empty() => true.into(),
        Form::Any => json().unwrap_or_else(|_| text.replace('\n', " ").into()),
        Form::Number => match json() {
            Ok(Value::Number(number)) => Value::Number(number),
            _ => return Err(wrong("takes a number".to_owned(), "1")),
        },
        Form::Members(members, example) => match json() {
            Ok(Value::Object(object)) => {
                for member in object.keys().filter(|m| !members.contains(&m.as_str())) {
                    let text = format!("@{key} has no {member:?}, only {}", members.join(", "));
                    warnings.push(Warning { line, text });
                }
                Value::Object(object)
            }
            Ok(_) => return Err(wrong("takes a JSON object".to_owned(), example)),
            Err(error) => return Err(wrong(format!("is no JSON ({error})"), example)),
        },
    };
    Ok((name, value))
}

fn unknown(kind: Kind, key: &str) -> String {
    let of_kind = KEYS.iter().filter(|(of, ..)| *of == kind);
    let known: Vec<_> = of_kind.map(|(_, name, _)| format!("@{name}")).collect();
    let what = match kind {
        Kind::Variable => "a variable",
        Kind::Map => "a map",
        Kind::Program => "a program",
        Kind::Object => "the licence",
    };
    format!(
        "@{key} is no annotation of {what}, whose are {}",
        known.join(", ")
    )
}
