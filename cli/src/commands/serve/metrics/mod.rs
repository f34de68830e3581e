//! Metrics from what programs print as JSON: events as they happen, elements
//! of maps and global variables as they are sampled. It knows no programs.
//!
//! Reading order: `spec` (what is asked for), `value`, this file (what is
//! held of one program), `text` (Prometheus' format).

pub mod spec;
pub mod text;
pub mod value;

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;
use spec::{Kind, PROGRAM, Spec};
use text::{Family, Point};
use value::{Number, Value};

/// Bytes of a label's value.
const LABEL_BYTES: usize = 256;
/// Slots of a histogram in a map.
const SLOTS: usize = spec::LAST_SLOT as usize;

/// All metrics of a program.
pub struct Metrics {
    metrics: Vec<Metric>,
    /// Lines that were no sample of a map or variable.
    pub events: u64,
}

/// One metric.
struct Metric {
    spec: Spec,
    bounds: Vec<f64>,
    /// By labels, or by a map's key, as text.
    series: HashMap<String, Series>,
    /// How often the map has been sampled.
    round: u64,
    /// Values left out, for there are too many series.
    refused: u64,
}

struct Series {
    labels: Vec<String>,
    round: u64,
    value: Value,
}

/// What a line says.
enum Said<'a> {
    Event,
    Map(Option<&'a str>),
    Variable(&'a str),
    /// So many records were lost.
    Lost(u64),
}

impl Metrics {
    /// Of these metrics; else what is wrong with which.
    pub fn new(specs: Vec<Spec>) -> Result<Metrics, (String, String)> {
        let mut metrics = Metrics {
            metrics: Vec::new(),
            events: 0,
        };
        for spec in specs {
            spec.check().map_err(|what| (spec.name.clone(), what))?;
            if metrics
                .metrics
                .iter()
                .any(|metric| overlap(&metric.spec, &spec))
            {
                return Err((spec.name, "there is another of that name".into()));
            }
            metrics.metrics.push(Metric {
                bounds: spec.bounds(),
                spec,
                series: HashMap::new(),
                round: 0,
                refused: 0,
            });
        }
        Ok(metrics)
    }

    /// A metric's name that another program uses for something else.
    pub fn conflict(&self, other: &Metrics) -> Option<&str> {
        let ours = self.metrics.iter().map(|metric| &metric.spec);
        let conflicts = |spec: &&Spec| {
            other
                .metrics
                .iter()
                .map(|metric| &metric.spec)
                .any(|theirs| {
                    let same = theirs.name == spec.name && theirs.r#type == spec.r#type;
                    !same && overlap(theirs, spec)
                })
        };
        ours.into_iter()
            .find(conflicts)
            .map(|spec| spec.name.as_str())
    }

    /// The program starts again, with maps and variables that are new.
    pub fn begin_again(&mut self) {
        let sampled = self.metrics.iter_mut();
        for metric in sampled.filter(|metric| metric.spec.is_sampled()) {
            metric.series.clear();
        }
    }

    /// Whether maps or variables are to be printed now and then.
    pub fn are_sampled(&self) -> bool {
        self.metrics.iter().any(|metric| metric.spec.is_sampled())
    }

    /// Takes a line of the program's; returns how many records it says were lost.
    pub fn line(&mut self, line: &str) -> u64 {
        if !line.starts_with('{') {
            return 0;
        }
        // An application prints to the same stream, and what it likes.
        let Ok(json) = serde_json::from_str::<Json>(line) else {
            return 0;
        };
        let said = said(&json);
        if let Said::Lost(count) = said {
            return count;
        }
        if matches!(said, Said::Event) {
            self.events += 1;
        }
        for metric in &mut self.metrics {
            metric.take(&said, &json);
        }
        0
    }

    /// Values left out by metric, for there were too many series.
    pub fn refused(&self) -> impl Iterator<Item = (&str, u64)> {
        self.metrics
            .iter()
            .map(|metric| (metric.spec.name.as_str(), metric.refused))
    }

    /// How many series each metric has, before those with the same labels are added up.
    pub fn series(&self) -> impl Iterator<Item = (String, usize)> {
        self.metrics
            .iter()
            .map(|metric| (metric.spec.name.clone(), metric.series.len()))
    }

    /// Adds what there is to families of their names. Events are counted since the
    /// program was started; its maps are as old as its last start.
    pub fn collect(&self, program: &str, started: u64, begun: u64, families: &mut Vec<Family>) {
        for metric in &self.metrics {
            let spec = &metric.spec;
            let since = match spec.is_sampled() {
                true => begun,
                false => started,
            };
            let at = families.iter().position(|family| family.name == spec.name);
            let at = at.unwrap_or_else(|| {
                families.push(Family {
                    name: spec.name.clone(),
                    help: spec.help.clone(),
                    kind: spec.r#type,
                    points: Vec::new(),
                });
                families.len() - 1
            });
            families[at].points.extend(metric.points(program, since));
        }
    }
}

fn overlap(a: &Spec, b: &Spec) -> bool {
    let theirs = b.samples();
    a.samples().iter().any(|name| theirs.contains(name))
}

fn said(json: &Json) -> Said<'_> {
    let fields = json.as_object().map_or(0, |object| object.len());
    let map = json.get("map").and_then(Json::as_str);
    let variable = json.get("variable").and_then(Json::as_str);
    let (key, value) = (json.get("key").is_some(), json.get("value").is_some());
    if let (Some(_), Some(count), 2) = (map, json.get("lost").and_then(Json::as_u64), fields) {
        return Said::Lost(count);
    }
    match (map, variable) {
        (Some(_), _) if key && value && fields == 3 => Said::Map(map),
        // Packages say not of which map.
        (None, None) if key && value && fields == 2 => Said::Map(None),
        (None, Some(name)) if value && fields == 2 => Said::Variable(name),
        _ => Said::Event,
    }
}

/// The field at a path like `key.parts.0`.
fn field<'a>(json: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.').try_fold(json, |json, name| match json {
        Json::Array(all) => all.get(name.parse::<usize>().ok()?),
        json => json.get(name),
    })
}

fn label(json: Option<&Json>) -> String {
    let mut text = match json {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.truncate(text.floor_char_boundary(LABEL_BYTES));
    text
}

impl Metric {
    fn take(&mut self, said: &Said<'_>, json: &Json) {
        let wanted = match (said, &self.spec.map, &self.spec.variable) {
            (Said::Event, None, None) => true,
            (Said::Map(name), Some(map), _) => name.is_none_or(|name| name == map),
            (Said::Variable(name), _, Some(variable)) => name == variable,
            _ => false,
        };
        let holds = |(path, value): (&String, &Json)| field(json, path) == Some(value);
        if !wanted || !self.spec.r#where.iter().all(holds) {
            return;
        }
        let labels: Vec<String> = self
            .spec
            .labels
            .values()
            .map(|path| label(field(json, path)))
            .collect();
        match self.spec.is_sampled() {
            true => self.sample(labels, json),
            false => self.event(labels, json),
        }
    }

    fn event(&mut self, labels: Vec<String>, json: &Json) {
        let number = match &self.spec.value {
            Some(path) => self.number(json, path),
            None => Some(Number::Whole(1)),
        };
        let kind = self.spec.r#type;
        // A counter never falls, and what is no number is in no bucket.
        let fits = |number: &Number| match kind {
            Kind::Counter => number.real() >= 0.0,
            Kind::Histogram => !number.real().is_nan(),
            Kind::Gauge => true,
        };
        let Some(number) = number.filter(fits) else {
            return;
        };
        let value = match kind {
            Kind::Histogram => Value::observed(&self.bounds, number),
            _ => Value::Number(number),
        };
        let key = labels.join("\0");
        match self.series.get_mut(&key) {
            Some(series) if kind == Kind::Gauge => series.value = value,
            Some(series) => series.value.add(&value),
            None => self.insert(key, labels, value),
        }
    }

    fn number(&self, json: &Json, path: &str) -> Option<Number> {
        Number::from(field(json, path)?, self.spec.scale)
    }

    fn insert(&mut self, key: String, labels: Vec<String>, value: Value) {
        if self.series.len() >= self.spec.limit {
            self.refused += 1;
            return;
        }
        let round = self.round;
        self.series.insert(
            key,
            Series {
                labels,
                round,
                value,
            },
        );
    }

    /// An element of a map, or a variable, as it is now.
    fn sample(&mut self, labels: Vec<String>, json: &Json) {
        let Some(value) = self.sampled(json) else {
            return;
        };
        // A variable has no key.
        let key = json.get("key").map(Json::to_string).unwrap_or_default();
        match self.series.get_mut(&key) {
            Some(series) => {
                // Keys come again with each round; what did not come in the last one is gone.
                let again = series.round == self.round;
                let round = self.round + u64::from(again);
                *series = Series {
                    labels,
                    round,
                    value,
                };
                if again {
                    self.series.retain(|_, series| series.round >= self.round);
                    self.round = round;
                }
            }
            None => self.insert(key, labels, value),
        }
    }

    fn sampled(&self, json: &Json) -> Option<Value> {
        let path = self.spec.value.as_deref();
        if self.spec.r#type != Kind::Histogram {
            return self
                .number(json, path.unwrap_or("value"))
                .map(Value::Number);
        }
        let counts = match &self.spec.slot {
            Some(slot) => {
                let slot = field(json, slot)?.as_u64().map(|slot| slot as usize)?;
                let count = field(json, path.unwrap_or("value"))?.as_u64()?;
                // How many there are is not known, so none is without an upper bound.
                let mut counts = vec![0; (slot < SLOTS).then_some(slot + 2)?];
                counts[slot] = count;
                counts
            }
            None => {
                let slots = field(json, path.unwrap_or("value.slots"))?.as_array()?;
                let slots = slots.iter().take(SLOTS).map(Json::as_u64);
                slots.collect::<Option<Vec<u64>>>()?
            }
        };
        Some(Value::Histogram { counts, sum: None })
    }

    fn points(&self, program: &str, since: u64) -> Vec<Point> {
        let mut by_labels: BTreeMap<&[String], Value> = BTreeMap::new();
        for series in self.series.values() {
            match by_labels.get_mut(series.labels.as_slice()) {
                Some(value) => value.add(&series.value),
                None => {
                    by_labels.insert(&series.labels, series.value.clone());
                }
            }
        }
        let point = |(values, value): (&[String], Value)| {
            let names = self.spec.labels.keys().cloned();
            let mut labels = vec![(PROGRAM.to_owned(), program.to_owned())];
            labels.extend(names.zip(values.iter().cloned()));
            let bounds = self.bounds_of(&value);
            Point {
                labels,
                bounds,
                value,
                since,
            }
        };
        by_labels.into_iter().map(point).collect()
    }

    /// Upper bounds of its buckets but the last, which holds all above.
    fn bounds_of(&self, value: &Value) -> Vec<f64> {
        match value {
            Value::Number(_) => Vec::new(),
            Value::Histogram { .. } if !self.spec.is_sampled() => self.bounds.clone(),
            Value::Histogram { counts, .. } => {
                let last = u32::try_from(counts.len()).unwrap_or(u32::MAX);
                (1..last).map(|slot| self.spec.slot_bound(slot)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests;
