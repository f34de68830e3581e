//! `bpftime map list`.

use std::fmt::Write;

use runtime::maps::Map;

use super::super::chosen::Chosen;
use super::super::json::{Format, Json};
use super::found::{Found, all};
use crate::problem::Problem;

/// List the maps of running tools
#[derive(clap::Args)]
pub struct Args {
    /// Only this map
    #[arg(value_name = "MAP")]
    map: Vec<String>,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    format: Format,
}

/// Prints one map, or all.
pub fn run(args: &Args) -> Result<(), Problem> {
    let one = !args.map.is_empty();
    let maps = if one {
        let mut words = &args.map[..];
        let found = Found::one(args.chosen, &mut words)?;
        if let [extra, ..] = words {
            return Err(found.problem(
                format_args!("nothing can follow it, got: {extra}"),
                "name one map",
            ));
        }
        vec![found]
    } else {
        all(args.chosen)
    };
    if !args.format.is_json() {
        return super::super::print(&maps.iter().map(plain).collect::<String>());
    }
    let mut writer = args.format.writer();
    match &maps[..] {
        [map] if one => json(&mut writer, map),
        maps => writer.array(|writer| maps.iter().for_each(|map| json(writer, map))),
    }
    super::super::print(&writer.finish())
}

/// Bytes of storage, used or not.
fn memory(map: &Found) -> u64 {
    Map::storage_size(&map.spec, map.view.nr_cpus()).unwrap_or(0)
}

fn plain(map: &Found) -> String {
    let spec = &map.spec;
    let name = match map.name() {
        name if name.is_empty() => name,
        name => format!("name {name}  "),
    };
    let mut text = format!(
        "{}: {}  {name}flags {:#x}\n\tkey {}B  value {}B  max_entries {}  memlock {}B\n",
        map.id,
        map.type_name(),
        spec.map_flags,
        spec.key_size,
        spec.value_size,
        spec.max_entries,
        memory(map),
    );
    let frozen = map.view.is_frozen(map.id);
    let btf = (spec.btf != 0).then(|| format!("btf_id {}", spec.btf));
    let more: Vec<String> = btf
        .into_iter()
        .chain(frozen.then(|| "frozen".to_owned()))
        .collect();
    if !more.is_empty() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\t{}", more.join("  "));
    }
    text.push_str(&super::super::chosen::pids(&map.view));
    text
}

fn json(json: &mut Json, map: &Found) {
    let spec = &map.spec;
    json.object(|json| {
        json.bare_member("id", map.id);
        json.string_member("type", &map.type_name());
        if !map.name().is_empty() {
            json.string_member("name", &map.name());
        }
        json.bare_member("flags", spec.map_flags);
        json.bare_member("bytes_key", spec.key_size);
        json.bare_member("bytes_value", spec.value_size);
        json.bare_member("max_entries", spec.max_entries);
        json.bare_member("bytes_memlock", memory(map));
        json.bare_member("frozen", u8::from(map.view.is_frozen(map.id)));
        if spec.btf != 0 {
            json.bare_member("btf_id", spec.btf);
        }
        json.tool(&map.view);
    });
}
