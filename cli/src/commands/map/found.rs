//! The map that a user means, and what is known of it.

use std::sync::Arc;

use object::btf::Btf;
use runtime::maps::{Map, MapSpec};
use runtime::session::SessionView;
use uapi::map::{
    BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH,
};

use super::super::chosen::Chosen;
use super::super::status::names;
use crate::problem::Problem;

/// A map of a running tool.
pub struct Found {
    pub view: Arc<SessionView>,
    pub id: u32,
    pub spec: MapSpec,
}

/// What names a map: its id, or its name.
enum Wanted<'a> {
    Id(u32),
    Name(&'a str),
}

impl Found {
    /// Takes `MAP` from the front of `words`: `id 5`, `name counts`, `5` or
    /// `counts`.
    pub fn one(chosen: Chosen, words: &mut &[String]) -> Result<Found, Problem> {
        let (wanted, word) = wanted(words)?;
        let mut found = all(chosen);
        if found.is_empty() {
            return Err(Problem::new(
                format_args!("map {word}"),
                "no tool runs that has maps",
                "start one with bpftime load",
            ));
        }
        found.retain(|map| match wanted {
            Wanted::Id(id) => map.id == id,
            Wanted::Name(name) => map.name() == name,
        });
        let problem = |happened: &str, advice: String| {
            Err(Problem::new(format_args!("map {word}"), happened, advice))
        };
        match found.len() {
            0 => problem("no such map", "bpftime map list lists them".to_owned()),
            1 => Ok(found.remove(0)),
            _ => {
                let which: Vec<String> = found
                    .iter()
                    .map(|map| format!("id {} --session {}", map.id, map.view.owner().pid))
                    .collect();
                let advice = format!("choose one by {}", which.join(" or "));
                problem("there are several", advice)
            }
        }
    }

    /// The map's name; empty when it has none.
    pub fn name(&self) -> String {
        name_of(&self.spec)
    }

    /// Its type in bpftool's words.
    pub fn type_name(&self) -> String {
        names::map_type(self.spec.map_type)
    }

    /// A problem with this map.
    pub fn problem(&self, happened: impl std::fmt::Display, advice: &str) -> Problem {
        let name = match self.name() {
            name if name.is_empty() => format!("map {}", self.id),
            name => format!("map {} ({name})", self.id),
        };
        Problem::new(name, happened, advice)
    }

    /// The map itself.
    pub fn open(&self) -> Result<Arc<Map>, Problem> {
        self.view
            .map(self.id)
            .ok_or_else(|| self.problem("it is gone", "bpftime map list lists those there are"))
    }

    /// The description of key and value, if the tool gave one.
    pub fn btf(&self) -> Option<Btf> {
        if self.spec.btf_value_type_id == 0 {
            return None;
        }
        Btf::parse(&self.view.btf(&self.spec)?).ok()
    }

    /// Has the map a value for each CPU?
    pub fn per_cpu(&self) -> bool {
        matches!(
            self.spec.map_type,
            BPF_MAP_TYPE_PERCPU_ARRAY | BPF_MAP_TYPE_PERCPU_HASH | BPF_MAP_TYPE_LRU_PERCPU_HASH
        )
    }

    /// The values of each CPU in what a lookup gave; the value, where there is
    /// only one.
    pub fn values<'a>(&self, value: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let size = self.spec.value_size as usize;
        let stride = match self.per_cpu() {
            true => size.next_multiple_of(8),
            false => size,
        };
        value
            .chunks(stride.max(1))
            .map(move |copy| &copy[..size.min(copy.len())])
    }
}

/// All maps of the chosen sessions.
pub fn all(chosen: Chosen) -> Vec<Found> {
    let maps_of = |view: SessionView| {
        let view = Arc::new(view);
        let maps = view.maps().into_iter();
        maps.map(move |(id, spec)| Found {
            view: Arc::clone(&view),
            id,
            spec,
        })
    };
    chosen.views().into_iter().flat_map(maps_of).collect()
}

fn wanted<'a>(words: &mut &'a [String]) -> Result<(Wanted<'a>, &'a str), Problem> {
    let missing = || Problem::new("map", "none was named", "give an id or a name");
    let (first, mut rest) = words.split_first().ok_or_else(missing)?;
    let mut word = first.as_str();
    let explicit = matches!(word, "id" | "name") && !rest.is_empty();
    if explicit {
        (word, rest) = rest.split_first().map_or((word, rest), |(w, r)| (w, r));
    }
    let number = word.parse::<u32>();
    let wanted = match (first.as_str(), number) {
        ("name", _) if explicit => Wanted::Name(word),
        ("id", Err(_)) if explicit => {
            return Err(Problem::new(
                format_args!("id {word}"),
                "is not a number",
                "bpftime map list shows ids",
            ));
        }
        (_, Ok(id)) => Wanted::Id(id),
        (_, Err(_)) => Wanted::Name(word),
    };
    *words = rest;
    Ok((wanted, word))
}

pub fn name_of(spec: &MapSpec) -> String {
    let end = spec.name.iter().position(|&b| b == 0);
    String::from_utf8_lossy(&spec.name[..end.unwrap_or(spec.name.len())]).into_owned()
}
