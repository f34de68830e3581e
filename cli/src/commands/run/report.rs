//! Records as they come and maps when they are due, on stdout.

use std::io::{self, BufWriter, Stdout, Write};
use std::time::{Duration, Instant};

use libbpf_rs::{Map, MapCore, MapFlags, MapType};
use loader::show::{self, Histogram, Steps, Table, Values, hex, plain};
use loader::{Loaded, Record};
use object::btf::{Btf, Shape};
use serde_json::{Value, json};

use super::output::{self, Occasion, Output, unwritable};
use super::{Args, settings};
use crate::problem::Problem;

/// Bytes of a record of unknown type in a line.
const HEX_BYTES: usize = 64;

pub struct Report {
    btf: Option<Btf>,
    json: bool,
    type_name: Option<String>,
    /// By source: its map's name and how its records look, once one has come.
    sources: Vec<(String, Option<Look>)>,
    /// The latest names of columns that were printed.
    header: String,
    /// How often maps are printed, and when next.
    interval: Option<Duration>,
    due: Option<Instant>,
    out: BufWriter<Stdout>,
}

/// How a source's records look.
enum Look {
    Table(u32, Table),
    Hex,
}

impl Report {
    pub fn new(args: &Args, loaded: &Loaded, btf: Option<Btf>) -> Report {
        let source = |name| (name, None);
        Report {
            btf,
            json: args.json,
            type_name: args.r#type.clone(),
            sources: loaded.reporting().into_iter().map(source).collect(),
            header: String::new(),
            interval: args.interval,
            due: None,
            out: BufWriter::new(io::stdout()),
        }
    }

    fn bytes(&mut self, source: usize, bytes: &[u8]) -> io::Result<()> {
        let (_, look) = &mut self.sources[source];
        if look.is_none() {
            let name = self.type_name.as_deref();
            let ty = self
                .btf
                .as_ref()
                .and_then(|btf| show::record_type(btf, bytes.len(), name));
            *look = Some(match (ty, &self.btf) {
                (Some(ty), Some(btf)) => Look::Table(ty, Table::new(btf, ty)),
                _ => Look::Hex,
            });
            if let (Some(Look::Table(_, table)), false) = (&look, self.json)
                && self.header != table.header()
            {
                table.header().clone_into(&mut self.header);
                writeln!(self.out, "{}", self.header)?;
            }
        }
        match (&look, &self.btf) {
            (Some(Look::Table(ty, _)), Some(btf)) if self.json => {
                writeln!(self.out, "{}", values(btf).json(*ty, bytes))
            }
            (Some(Look::Table(_, table)), Some(btf)) => {
                writeln!(
                    self.out,
                    "{}",
                    table.line(values(btf), &output::now(), bytes)
                )
            }
            _ if self.json => writeln!(self.out, "{}", json!({ "bytes": hex(bytes, usize::MAX) })),
            _ => writeln!(self.out, "{}", hex(bytes, HEX_BYTES)),
        }
    }

    /// Global variables that are not zero.
    fn variables(&mut self, map: &Map<'_>) -> io::Result<()> {
        let bytes = match map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) => {
                let name = map.name().to_string_lossy();
                let _ = writeln!(io::stderr(), "bpftime: {name}: cannot be read ({error})");
                return Ok(());
            }
        };
        let name = map.name().to_string_lossy();
        let Some(btf) = &self.btf else {
            // A section's, without the object's name.
            let name = name.split_once('.').map_or(&*name, |(_, section)| section);
            let bytes = hex(&bytes, usize::MAX);
            return match self.json {
                true => writeln!(self.out, "{}", json!({ "variable": name, "bytes": bytes })),
                false => writeln!(self.out, "{name}: {bytes}"),
            };
        };
        for variable in settings::options(btf) {
            let place = variable.offset..variable.offset + variable.size;
            let held = bytes
                .get(place)
                .filter(|held| held.iter().any(|byte| *byte != 0));
            let (Some(held), true) = (held, name.ends_with(&variable.section)) else {
                continue;
            };
            let (name, value) = (variable.name, values(btf).json(variable.ty, held));
            match self.json {
                true => writeln!(self.out, "{}", json!({ "variable": name, "value": value }))?,
                false => writeln!(self.out, "{name}: {}", plain(&value))?,
            }
        }
        Ok(())
    }

    fn map(&mut self, map: &Map<'_>) -> io::Result<()> {
        let name = map.name().to_string_lossy().into_owned();
        // Without types elements are numbers or bytes.
        let ids = map
            .info()
            .ok()
            .map(|info| (info.info.btf_key_type_id, info.info.btf_value_type_id));
        let (key_type, value_type) = ids.unwrap_or((0, 0));
        let array = matches!(map.map_type(), MapType::Array | MapType::PercpuArray);
        for key in map.keys() {
            let Some(value) = show::parts(map, &key) else {
                continue;
            };
            // Arrays have all their elements from the beginning.
            if array && value.iter().flatten().all(|byte| *byte == 0) {
                continue;
            }
            let key = self.value(key_type, &key);
            let shown = value
                .iter()
                .map(|bytes| self.value(value_type, bytes))
                .collect();
            let shown = merged(shown);
            if self.json {
                writeln!(
                    self.out,
                    "{}",
                    json!({ "map": name, "key": key, "value": shown })
                )?;
                continue;
            }
            writeln!(self.out, "{name}[{}]: {}", plain(&key), plain(&shown))?;
            if let Some(counts) = slots(&shown) {
                let histogram = Histogram {
                    counts: &counts,
                    steps: Steps::Log2,
                    unit: "value",
                };
                write!(self.out, "{}", histogram.draw())?;
            }
        }
        Ok(())
    }

    fn value(&self, ty: u32, bytes: &[u8]) -> Value {
        let known = self
            .btf
            .as_ref()
            .filter(|btf| ty != 0 && !matches!(btf.resolved(ty), (_, Shape::Void)));
        match (known, bytes) {
            (Some(btf), bytes) => values(btf).json(ty, bytes),
            (None, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]).into(),
            (None, bytes) => match bytes.try_into() {
                Ok(word) => u64::from_le_bytes(word).into(),
                Err(_) => hex(bytes, usize::MAX).into(),
            },
        }
    }
}

impl Output for Report {
    fn begin(&mut self) -> Result<(), Problem> {
        self.due = self.interval.map(|interval| Instant::now() + interval);
        output::attached();
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), Problem> {
        match record {
            Record::Lost { source, count } => {
                output::lost(&mut self.out, self.json, &self.sources[source].0, count)
            }
            Record::Bytes { source, bytes } => self.bytes(source, bytes),
        }
        .map_err(|error| unwritable(&error))
    }

    fn flush(&mut self) -> Result<(), Problem> {
        self.out.flush().map_err(|error| unwritable(&error))
    }

    fn lists(&mut self, loaded: &Loaded) -> Result<(), Problem> {
        output::lists(&mut self.out, loaded, self.json)
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The elements of every map that is the program's own.
    fn maps(&mut self, loaded: &Loaded, _: Occasion) -> Result<(), Problem> {
        if let (Some(due), Some(interval)) = (&mut self.due, self.interval) {
            *due += interval;
        }
        for map in loaded.maps() {
            let written = match shown(&map) {
                Shown::Elements => self.map(&map),
                Shown::Variables => self.variables(&map),
                Shown::Not => Ok(()),
            };
            written.map_err(|error| unwritable(&error))?;
        }
        self.flush()
    }
}

/// What is shown of a map.
enum Shown {
    Elements,
    Variables,
    Not,
}

fn shown(map: &Map<'_>) -> Shown {
    let name = map.name().to_string_lossy();
    match map.map_type() {
        // How arguments of static probes are found.
        _ if name.starts_with("__bpf_usdt") => Shown::Not,
        // libbpf's names of sections have a point.
        MapType::Array if name.contains(".rodata") || name.contains(".kconfig") => Shown::Not,
        MapType::Array if name.contains('.') => Shown::Variables,
        MapType::Hash
        | MapType::Array
        | MapType::PercpuHash
        | MapType::PercpuArray
        | MapType::LruHash
        | MapType::LruPercpuHash
        | MapType::LpmTrie => Shown::Elements,
        _ => Shown::Not,
    }
}

/// Numbers of processors are added up; other values stand side by side.
fn merged(mut values: Vec<Value>) -> Value {
    if values.len() == 1 {
        return values.remove(0);
    }
    let numbers: Option<Vec<u64>> = values.iter().map(Value::as_u64).collect();
    match numbers {
        Some(numbers) => numbers
            .iter()
            .fold(0, |sum: u64, number| sum.wrapping_add(*number))
            .into(),
        None => Value::Array(values),
    }
}

fn slots(value: &Value) -> Option<Vec<u64>> {
    let slots = value.get("slots")?.as_array()?;
    slots.iter().map(Value::as_u64).collect()
}

fn values(btf: &Btf) -> Values<'_> {
    Values {
        btf,
        type_names: false,
    }
}
