//! `bpftime map dump`.

use std::fmt::Write;

use super::super::chosen::Chosen;
use super::super::json::{Format, Json};
use super::entry::Entry;
use super::found::Found;
use super::histogram;
use super::walk::Walk;
use crate::problem::Problem;

/// Print all elements of a map
///
/// By the types of key and value when the tool described them (BTF), else as
/// bytes. Programs go on meanwhile: every key that is there throughout is
/// printed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An id, a name, id ID or name NAME
    #[arg(value_name = "MAP", required = true)]
    map: Vec<String>,
    /// Draw values as histograms of powers of two
    #[arg(long, conflicts_with_all = ["json", "pretty"])]
    hist: bool,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  bpftime map dump counts
  bpftime map dump -j id 5 | jq '.[].formatted'
  bpftime map dump --hist hists";

/// Prints every element.
pub fn run(args: &Args) -> Result<(), Problem> {
    let mut words = &args.map[..];
    let map = Found::one(args.chosen, &mut words)?;
    if let [extra, ..] = words {
        return Err(map.problem(
            format_args!("nothing can follow it, got: {extra}"),
            "name one map",
        ));
    }
    let walk = Walk::of(&map)?;
    let btf = map.btf();
    if args.hist {
        return super::super::print(&histogram::render(&map, btf.as_ref(), walk)?);
    }
    let mut count = 0u64;
    let mut text = String::new();
    let mut json = match args.format.is_json() {
        true => args.format.writer(),
        false => Json::new(true),
    };
    json.array(|json| {
        for (key, value) in walk {
            let entry = Entry {
                map: &map,
                key: &key,
                value: &value,
            };
            match &btf {
                btf if args.format.is_json() => entry.json(json, btf.as_ref()),
                Some(btf) => entry.typed(json, btf, true),
                None => entry.plain(&mut text),
            }
            count += 1;
        }
    });
    if args.format.is_json() || btf.is_some() {
        return super::super::print(&json.finish());
    }
    let s = if count == 1 { "" } else { "s" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "Found {count} element{s}");
    super::super::print(&text)
}
