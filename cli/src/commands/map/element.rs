//! `bpftime map lookup`, `update` and `delete`.

use std::path::Path;

use runtime::session::ObjectKind;
use uapi::Errno;

use super::super::chosen::Chosen;
use super::super::json::{Format, Json};
use super::entry::{Entry, hex};
use super::found::Found;
use super::walk::Walk;
use super::words::Element;
use crate::problem::Problem;

/// Print one element of a map
#[derive(clap::Args)]
#[command(after_help = LOOKUP_EXAMPLES)]
pub struct LookupArgs {
    /// The map, then: key DATA
    #[arg(
        value_name = "MAP key DATA",
        required = true,
        allow_negative_numbers = true
    )]
    words: Vec<String>,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    format: Format,
}

const LOOKUP_EXAMPLES: &str = "\
DATA is one number for each byte, as for bpftool, or one number for a key of
up to 8 bytes.

Examples:
  bpftime map lookup counts key 7
  bpftime map lookup id 5 key hex 07 00 00 00";

/// Set one element of a map, as the tool could
#[derive(clap::Args)]
#[command(after_help = UPDATE_EXAMPLES)]
pub struct UpdateArgs {
    /// The map, then: key DATA value DATA [any|exist|noexist]
    #[arg(
        value_name = "MAP key DATA value DATA",
        required = true,
        allow_negative_numbers = true
    )]
    words: Vec<String>,
    #[command(flatten)]
    chosen: Chosen,
}

const UPDATE_EXAMPLES: &str = "\
A map with a value for each CPU gets the same for all.

Examples:
  bpftime map update counts key 7 value 0
  bpftime map update id 5 key 7 0 0 0 value hex ff 00 00 00 00 00 00 00 noexist";

/// Remove one element from a map
#[derive(clap::Args)]
pub struct DeleteArgs {
    /// The map, then: key DATA
    #[arg(
        value_name = "MAP key DATA",
        required = true,
        allow_negative_numbers = true
    )]
    words: Vec<String>,
    #[command(flatten)]
    chosen: Chosen,
}

/// Prints an element.
pub fn lookup(args: &LookupArgs) -> Result<(), Problem> {
    let (map, element) = parse(args.chosen, &args.words)?;
    let key = only_key(&map, element)?;
    let value = Walk::of(&map)?
        .value(&key)
        .map_err(|errno| failed(&map, errno))?
        .ok_or_else(|| no_key(&map, &key))?;
    let entry = Entry {
        map: &map,
        key: &key,
        value: &value,
    };
    let btf = map.btf();
    let mut text = String::new();
    if args.format.is_json() {
        let mut json = args.format.writer();
        entry.json(&mut json, btf.as_ref());
        text = json.finish();
    } else if let Some(btf) = btf {
        let mut json = Json::new(true);
        entry.typed(&mut json, &btf, true);
        text = json.finish();
    } else {
        entry.plain(&mut text);
    }
    super::super::print(&text)
}

/// Sets an element.
pub fn update(args: &UpdateArgs) -> Result<(), Problem> {
    let (map, element) = parse(args.chosen, &args.words)?;
    let key = key_of(&map, element.key)?;
    let value = element
        .value
        .ok_or_else(|| map.problem("no value was given", "add value DATA"))?;
    let opened = map.open()?;
    let copies = opened.syscall_value_size() / value.len().next_multiple_of(8).max(1);
    let value = match map.per_cpu() {
        true => {
            let mut padded = value;
            padded.resize(padded.len().next_multiple_of(8), 0);
            padded.repeat(copies)
        }
        false => value,
    };
    opened
        .update(&key, &value, element.flags.unwrap_or(0))
        .map_err(|errno| failed(&map, errno))
}

/// Removes an element.
pub fn delete(args: &DeleteArgs) -> Result<(), Problem> {
    let (map, element) = parse(args.chosen, &args.words)?;
    let key = only_key(&map, element)?;
    map.open()?.delete(&key).map_err(|errno| match errno {
        Errno::ENOENT => no_key(&map, &key),
        errno => failed(&map, errno),
    })
}

fn parse(chosen: Chosen, words: &[String]) -> Result<(Found, Element), Problem> {
    let mut words = words;
    let map = Found::one(chosen, &mut words)?;
    let element = Element::parse(&map, words)?;
    Ok((map, element))
}

fn only_key(map: &Found, element: Element) -> Result<Vec<u8>, Problem> {
    if element.value.is_some() || element.flags.is_some() {
        return Err(map.problem("only a key can be given here", "leave out value and flags"));
    }
    key_of(map, element.key)
}

fn key_of(map: &Found, key: Option<Vec<u8>>) -> Result<Vec<u8>, Problem> {
    match key {
        Some(key) => Ok(key),
        None if map.spec.key_size == 0 => Ok(Vec::new()),
        None => Err(map.problem("no key was given", "add key DATA")),
    }
}

fn no_key(map: &Found, key: &[u8]) -> Problem {
    map.problem(
        format_args!("has no key {}", hex(key)),
        "bpftime map dump prints those it has",
    )
}

fn failed(map: &Found, errno: Errno) -> Problem {
    let (happened, advice) = match errno {
        Errno::EPERM => ("is frozen", "the tool promised not to change it"),
        Errno::EEXIST => ("has the key already", "leave out noexist"),
        Errno::ENOENT => ("does not have the key", "leave out exist"),
        Errno::E2BIG => (
            "has no room for the key",
            "max_entries in bpftime map list is the most",
        ),
        Errno::ENOTSUPP | Errno::EOPNOTSUPP | Errno::EINVAL => (
            "does not allow this",
            "bpftime map list shows its type; elements of arrays cannot be removed",
        ),
        _ => return map.problem(format_args!("failed ({errno})"), "see bpftime doctor"),
    };
    map.problem(happened, advice)
}

/// Name a map in /sys/fs/bpf: it outlives its tool
#[derive(clap::Args)]
#[command(after_help = PIN_EXAMPLES)]
pub struct PinArgs {
    /// The map, then a path below /sys/fs/bpf
    #[arg(value_name = "MAP PATH", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    chosen: Chosen,
}

const PIN_EXAMPLES: &str = "\
Examples:
  bpftime map pin counts /sys/fs/bpf/counts
  bpftime exec rm /sys/fs/bpf/counts";

/// Pins a map.
pub fn pin(args: &PinArgs) -> Result<(), Problem> {
    let mut words = &args.words[..];
    let found = Found::one(args.chosen, &mut words)?;
    let [path] = words else {
        return Err(found.problem(
            "one path must follow it",
            "bpftime map pin MAP /sys/fs/bpf/NAME",
        ));
    };
    super::super::pin::pin(&found.view, ObjectKind::Map, found.id, Path::new(path))
}
