//! Records and sampled maps as a package wants them shown, in the layout of
//! eunomia-bpf's loader.

use std::io::{self, BufWriter, Stdout, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use loader::show::{Element, Elements, Stacks, Symbols, Table, hex, record_type};
use loader::{Buffers, Error, Loaded, Record};
use object::btf::Btf;
use package::{Meta, Package};
use serde_json::json;

use super::super::here::Asked;
use super::super::output::{self, Occasion, Output, unwritable};
use super::plan::{Look, Plan, values};
use crate::problem::Problem;

/// Maps are not looked at more often than that.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// Most pages of a perf buffer.
const MAX_PAGES: u64 = 1 << 14;

/// All buffers of a package, as large as it wants them.
pub fn buffers(meta: &Meta, loaded: &Loaded) -> Result<Buffers, Error> {
    let pages = meta.perf_buffer_pages.clamp(1, MAX_PAGES);
    loaded.buffers_of(pages.next_power_of_two() as usize)
}

/// Shows what a package's programs report.
pub struct Shown {
    json: bool,
    /// The object's types.
    btf: Option<Rc<Btf>>,
    sources: Vec<Source>,
    samples: Vec<Sampled>,
    /// Whether each map says by itself what is shown of it.
    several: bool,
    headers: Vec<String>,
    symbols: Symbols,
    out: BufWriter<Stdout>,
}

/// A buffer.
struct Source {
    map: String,
    look: Look,
}

/// A map that is looked at again and again.
struct Sampled {
    map: String,
    elements: Elements,
    clear: bool,
    interval: Duration,
    due: Instant,
    /// What was shown last.
    shown: Vec<Element>,
}

impl Shown {
    pub fn new(
        asked: &Asked<'_>,
        package: &Package,
        loaded: &Loaded,
        btf: Option<Btf>,
    ) -> Result<Shown, Problem> {
        let btf = btf.map(Rc::new);
        let plan = Plan::new(asked, package, btf.clone())?;
        let mut shown = Shown {
            json: asked.args.json,
            btf,
            sources: Vec::new(),
            samples: Vec::new(),
            several: package.meta.enable_multiple_export_types,
            headers: Vec::new(),
            symbols: Symbols::default(),
            out: BufWriter::new(io::stdout()),
        };
        for map in loaded.reporting() {
            let look = plan.look(&map)?;
            shown.sources.push(Source { map, look });
        }
        for map in &package.meta.bpf_skel.maps {
            if let Some(sample) = &map.sample
                && !plan.is_left_out(map)
            {
                let elements = plan.elements(loaded, map, sample)?;
                let interval = Duration::from_millis(sample.interval).max(SHORTEST_INTERVAL);
                shown.samples.push(Sampled {
                    map: map.name.clone(),
                    elements,
                    clear: sample.clear_map,
                    interval: asked.args.interval.unwrap_or(interval),
                    due: Instant::now(),
                    shown: Vec::new(),
                });
            }
        }
        Ok(shown)
    }

    fn print_header(&mut self, header: String) -> io::Result<()> {
        if self.json || self.headers.contains(&header) {
            return Ok(());
        }
        writeln!(self.out, "{header}")?;
        self.headers.push(header);
        Ok(())
    }

    fn bytes(&mut self, source: usize, bytes: &[u8]) -> io::Result<()> {
        let look = &mut self.sources[source].look;
        if let Look::Records(btf, tables) = look
            && !tables.iter().any(|(_, size)| fits(*size, bytes))
            && let Some(ty) = record_type(btf, bytes.len(), None)
        {
            tables.push((Table::new(btf, ty), Some(bytes.len())));
        }
        let line = match &*look {
            Look::Not => return Ok(()),
            Look::Bytes => return self.hex(bytes),
            Look::Records(btf, tables) => {
                let found = tables.iter().find(|(_, size)| fits(*size, bytes));
                let Some((table, _)) = found.or(tables.first()) else {
                    return self.hex(bytes);
                };
                let header = table.header().to_owned();
                let line = match self.json {
                    true => json!(table.columns().json(values(btf), bytes)).to_string(),
                    false => table.line(values(btf), &output::now(), bytes),
                };
                self.print_header(header)?;
                line
            }
            Look::Stacks(btf, columns, members, named) => {
                let record = columns.json(values(btf), bytes);
                let symbols = named.then_some(&mut self.symbols);
                match Stacks::of(&record, members) {
                    Ok(None) => return Ok(()),
                    Ok(Some(stacks)) if self.json => stacks.json(symbols).to_string(),
                    Ok(Some(stacks)) => stacks.draw(symbols),
                    // Checked before programs were attached.
                    Err(reason) => reason,
                }
            }
        };
        writeln!(self.out, "{line}")
    }

    fn hex(&mut self, bytes: &[u8]) -> io::Result<()> {
        let hex = hex(bytes, usize::MAX);
        match self.json {
            true => writeln!(self.out, "{}", json!({ "bytes": hex })),
            false => writeln!(self.out, "{hex}"),
        }
    }

    fn sample(&mut self, index: usize, loaded: &Loaded, occasion: Occasion) -> Result<(), Problem> {
        let (Some(btf), Some(sampled)) = (&self.btf, self.samples.get_mut(index)) else {
            return Ok(());
        };
        let Some(map) = loaded.map(&sampled.map) else {
            return Ok(());
        };
        let elements = sampled.elements.take(&map, values(btf), sampled.clear);
        if occasion == Occasion::End && (elements.is_empty() || elements == sampled.shown) {
            return Ok(());
        }
        let written = match self.json {
            true => elements
                .iter()
                .try_for_each(|element| writeln!(self.out, "{}", element.json())),
            false => {
                let text = sampled
                    .elements
                    .draw(&elements, &output::now())
                    .map_err(|what| {
                        let advice = "correct the sample annotation of the map";
                        Problem::new(&sampled.map, what, advice)
                    })?;
                write!(self.out, "{text}")
            }
        };
        sampled.shown = elements;
        written.map_err(|error| unwritable(&error))
    }
}

impl Output for Shown {
    fn begin(&mut self) -> Result<(), Problem> {
        // Where maps are sampled, the types may be theirs; then a buffer's names
        // of columns come with its first record.
        let sources = match self.several || self.samples.is_empty() {
            true => &self.sources[..],
            false => &[],
        };
        let headers = sources.iter().filter_map(|source| match &source.look {
            Look::Records(_, tables) => tables.first().map(|table| table.0.header().to_owned()),
            _ => None,
        });
        let samples = self.samples.iter();
        let samples = samples.filter_map(|sampled| sampled.elements.header());
        let headers: Vec<String> = headers.chain(samples).collect();
        for header in headers {
            self.print_header(header)
                .map_err(|error| unwritable(&error))?;
        }
        let now = Instant::now();
        for sampled in &mut self.samples {
            sampled.due = now + sampled.interval;
        }
        self.flush()?;
        output::attached();
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), Problem> {
        match record {
            Record::Lost { source, count } => {
                output::lost(&mut self.out, self.json, &self.sources[source].map, count)
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
        self.samples.iter().map(|sampled| sampled.due).min()
    }

    fn maps(&mut self, loaded: &Loaded, occasion: Occasion) -> Result<(), Problem> {
        let now = Instant::now();
        for index in 0..self.samples.len() {
            if occasion == Occasion::End || self.samples[index].due <= now {
                self.sample(index, loaded, occasion)?;
                let interval = self.samples[index].interval;
                self.samples[index].due = now + interval;
            }
        }
        self.flush()
    }
}

/// Whether a structure of that size may be what was reported: a perf buffer puts
/// up to seven bytes behind a record.
fn fits(size: Option<usize>, bytes: &[u8]) -> bool {
    size.is_none_or(|size| size <= bytes.len() && bytes.len() < size + 8)
}
