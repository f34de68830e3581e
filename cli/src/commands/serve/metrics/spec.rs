//! What a user asks for as a metric, and whether it can be had. It knows no
//! values.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

/// Label values, or keys of a map, that a metric has at most unless it says otherwise.
const SERIES: usize = 1000;
/// The label that every metric has.
pub const PROGRAM: &str = "program";
/// Names of the service's own metrics begin so.
pub const OWN: &str = "bpftime_";
/// Buckets of observed values, when they are powers of two.
const LOG2_BUCKETS: u32 = 32;
/// Slots of a histogram in a map have this number at most.
pub const LAST_SLOT: u32 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric as it is asked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub name: String,
    #[serde(default)]
    pub help: String,
    pub r#type: Kind,
    /// The program it is of; in a list for all programs only.
    #[serde(default)]
    pub program: Option<String>,
    /// The map whose elements are the values, in place of events.
    #[serde(default)]
    pub map: Option<String>,
    /// The global variable that is the value, in place of events.
    #[serde(default)]
    pub variable: Option<String>,
    /// What fields must hold.
    #[serde(default)]
    pub r#where: BTreeMap<String, Json>,
    /// The field with the value.
    #[serde(default)]
    pub value: Option<String>,
    /// The field with the number of the slot that an element counts.
    #[serde(default)]
    pub slot: Option<String>,
    /// Labels, and the fields they are from.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What values are multiplied by.
    #[serde(default)]
    pub scale: Option<f64>,
    /// Upper bounds of a histogram of events; powers of two if there are none.
    #[serde(default)]
    pub buckets: Option<Vec<f64>>,
    #[serde(default = "series")]
    pub limit: usize,
}

fn series() -> usize {
    SERIES
}

/// The metrics of a program of eunomia-exporter.
#[derive(Debug, Clone, Deserialize)]
pub struct Counters {
    counters: Vec<Counter>,
}

#[derive(Debug, Clone, Deserialize)]
struct Counter {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    labels: Vec<Label>,
}

#[derive(Debug, Clone, Deserialize)]
struct Label {
    name: String,
    #[serde(default)]
    from: String,
}

impl Counters {
    /// The same in our words.
    pub fn specs(self) -> Vec<Spec> {
        let from = |label: Label| match label.from.is_empty() {
            true => (label.name.clone(), label.name),
            false => (label.name, label.from),
        };
        let spec = |counter: Counter| Spec {
            name: counter.name,
            help: counter.description,
            r#type: Kind::Counter,
            program: None,
            map: None,
            variable: None,
            r#where: BTreeMap::new(),
            value: None,
            slot: None,
            labels: counter.labels.into_iter().map(from).collect(),
            scale: None,
            buckets: None,
            limit: SERIES,
        };
        self.counters.into_iter().map(spec).collect()
    }
}

impl Spec {
    /// Whether values are sampled, not reported as they happen.
    pub fn is_sampled(&self) -> bool {
        self.map.is_some() || self.variable.is_some()
    }

    /// Upper bounds of the buckets of observed values.
    pub fn bounds(&self) -> Vec<f64> {
        match &self.buckets {
            Some(bounds) => bounds.clone(),
            None => (1..=LOG2_BUCKETS).map(|n| self.slot_bound(n)).collect(),
        }
    }

    /// The largest value of slot `slot - 1`.
    pub fn slot_bound(&self, slot: u32) -> f64 {
        (2f64.powi(slot.try_into().unwrap_or(i32::MAX)) - 1.0) * self.scale.unwrap_or(1.0)
    }

    /// Names of the lines that the metric has in Prometheus' format.
    pub fn samples(&self) -> Vec<String> {
        let mut names = vec![self.name.clone()];
        if self.r#type == Kind::Histogram {
            let parts = ["_bucket", "_sum", "_count"];
            names.extend(parts.map(|part| format!("{}{part}", self.name)));
        }
        names
    }

    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if !is_name(&self.name, true) {
            return Err("no metric may have that name".into());
        }
        if self.name.starts_with(OWN) {
            return Err(format!("names with {OWN} are the service's own"));
        }
        if self.map.is_some() && self.variable.is_some() {
            return Err("is from a map or from a variable, not from both".into());
        }
        for label in self.labels.keys() {
            let taken = label == PROGRAM || label.starts_with("__");
            if taken || (label == "le" && self.r#type == Kind::Histogram) || !is_name(label, false)
            {
                return Err(format!("no label may have the name {label:?}"));
            }
        }
        let histogram = self.r#type == Kind::Histogram;
        if !histogram && (self.buckets.is_some() || self.slot.is_some()) {
            return Err("buckets and slots are a histogram's".into());
        }
        if self.slot.is_some() && self.map.is_none() {
            return Err("slots are a map's".into());
        }
        if self.buckets.is_some() && self.is_sampled() {
            return Err("buckets are for events; those of a map are its slots".into());
        }
        if self.value.is_none() && !self.is_sampled() && self.r#type != Kind::Counter {
            return Err("`value` names no field".into());
        }
        if !self
            .scale
            .is_none_or(|scale| scale.is_finite() && scale > 0.0)
        {
            return Err("`scale` is not positive".into());
        }
        let bounds = self.buckets.as_deref().unwrap_or_default();
        if !rise(bounds) {
            return Err("`buckets` do not rise".into());
        }
        let slots: Vec<f64> = (1..=LAST_SLOT).map(|n| self.slot_bound(n)).collect();
        if histogram && !rise(&slots) {
            return Err("`scale` leaves no room for buckets".into());
        }
        Ok(())
    }
}

fn rise(bounds: &[f64]) -> bool {
    let rising = bounds.windows(2).all(|pair| pair[0] < pair[1]);
    rising && bounds.iter().all(|bound| bound.is_finite())
}

fn is_name(name: &str, metric: bool) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || (metric && c == ':');
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}
