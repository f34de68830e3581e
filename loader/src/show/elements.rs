//! Elements of a map that is looked at again and again: as key and value, or as
//! histograms, in eunomia-bpf's layout.

use std::fmt::Write;

use libbpf_rs::{Map as BpfMap, MapCore, MapFlags, MapType};
use serde_json::{Map, Value, json};

use super::columns::Columns;
use super::histogram::{Histogram, Steps};
use super::table::{element_header, plain};
use super::value::Values;

/// The member of a value whose numbers are counts.
const SLOTS: &str = "slots";
/// Most slots of a histogram whose slots are elements.
const MAX_SLOTS: usize = 1 << 12;

/// What elements are shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line each.
    KeyValue,
    /// Histograms.
    Slots(Steps),
}

/// How a map's elements are shown.
pub struct Elements {
    key: Columns,
    value: Columns,
    form: Form,
    unit: String,
}

impl Elements {
    /// Of keys and values that consist of these columns.
    pub fn new(key: Columns, value: Columns, form: Form, unit: &str) -> Elements {
        Elements {
            key,
            value,
            form,
            unit: unit.to_owned(),
        }
    }

    /// The line above all, if there is one.
    pub fn header(&self) -> Option<String> {
        match self.form {
            Form::KeyValue => Some(element_header(&self.key, &self.value)),
            Form::Slots(_) => None,
        }
    }

    /// The elements of `map` as they are now; taken out of it, if `clear`.
    pub fn take(&self, map: &BpfMap<'_>, values: Values<'_>, clear: bool) -> Vec<Element> {
        let mut elements = Vec::new();
        for key in map.keys() {
            let Some(parts) = parts(map, &key) else {
                continue;
            };
            let value = parts.iter().map(|bytes| self.value.json(values, bytes));
            let value = value.reduce(added).unwrap_or_default();
            elements.push(Element {
                key: self.key.json(values, &key),
                value,
            });
            if clear {
                // It may have gone by itself, and arrays keep theirs.
                let _ = map.delete(&key);
            }
        }
        elements
    }

    /// Elements as lines; `time` is `HH:MM:SS`.
    ///
    /// # Errors
    /// In one line, if values are no histograms.
    pub fn draw(&self, elements: &[Element], time: &str) -> Result<String, String> {
        let mut text = String::new();
        match self.form {
            Form::KeyValue => {
                for element in elements {
                    let (key, value) = (json!(element.key), json!(element.value));
                    // Writing to a string cannot fail.
                    let _ = writeln!(text, "{time:<8} {key} {value}");
                }
            }
            Form::Slots(steps) => match self.whole(elements) {
                Some(counts) => text = self.histogram(&counts, steps),
                None => {
                    for element in elements {
                        self.slots(element, steps, &mut text)?;
                    }
                }
            },
        }
        Ok(text)
    }

    /// The counts, where every element is a slot.
    fn whole(&self, elements: &[Element]) -> Option<Vec<u64>> {
        let mut counts = Vec::new();
        for element in elements {
            let slot = usize::try_from(only(&element.key)?.as_u64()?).ok()?;
            let count = only(&element.value)?.as_u64()?;
            if slot >= MAX_SLOTS {
                return None;
            }
            counts.resize(counts.len().max(slot + 1), 0);
            counts[slot] = count;
        }
        Some(counts)
    }

    fn slots(&self, element: &Element, steps: Steps, text: &mut String) -> Result<(), String> {
        let numbers = |value: &Value| -> Option<Vec<u64>> {
            value.as_array()?.iter().map(Value::as_u64).collect()
        };
        let found = element.value.get(SLOTS).or_else(|| only(&element.value));
        let counts = found
            .and_then(numbers)
            .ok_or_else(|| format!("is to be a histogram, but has no {SLOTS} that are counts"))?;
        let key: Vec<String> = self
            .key
            .names()
            .map(|name| plain(element.key.get(name).unwrap_or(&Value::Null)))
            .collect();
        let _ = writeln!(text, "key =  {}", key.join(" "));
        let others = self.value.names().filter(|name| *name != SLOTS);
        for name in others.filter(|_| element.value.len() > 1) {
            let value = element.value.get(name).unwrap_or(&Value::Null);
            let _ = writeln!(text, "{name} = {}", plain(value));
        }
        text.push_str(&self.histogram(&counts, steps));
        text.push('\n');
        Ok(())
    }

    fn histogram(&self, counts: &[u64], steps: Steps) -> String {
        let unit = &self.unit;
        Histogram {
            counts,
            steps,
            unit,
        }
        .draw()
    }
}

/// An element of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    /// Its key.
    pub key: Map<String, Value>,
    /// Its value, added up over processors.
    pub value: Map<String, Value>,
}

impl Element {
    /// As an object of JSON.
    pub fn json(&self) -> Value {
        json!({ "key": self.key, "value": self.value })
    }
}

/// An element's value, or its values of all processors.
pub fn parts(map: &BpfMap<'_>, key: &[u8]) -> Option<Vec<Vec<u8>>> {
    let per_cpu = matches!(
        map.map_type(),
        MapType::PercpuHash | MapType::PercpuArray | MapType::LruPercpuHash
    );
    match per_cpu {
        true => map.lookup_percpu(key, MapFlags::ANY).ok()?,
        false => map
            .lookup(key, MapFlags::ANY)
            .ok()?
            .map(|value| vec![value]),
    }
}

fn only(object: &Map<String, Value>) -> Option<&Value> {
    let mut values = object.values();
    values.next().filter(|_| values.next().is_none())
}

/// What two processors counted, together. Of text that of the first who has some.
fn added(one: Map<String, Value>, mut other: Map<String, Value>) -> Map<String, Value> {
    let sum = |(name, value): (String, Value)| {
        let value = match other.remove(&name) {
            Some(with) => sum(value, with),
            None => value,
        };
        (name, value)
    };
    one.into_iter().map(sum).collect()
}

fn sum(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => Value::Object(added(one, other)),
        (Value::Array(one), Value::Array(other)) => {
            let pairs = one.into_iter().zip(other);
            Value::Array(pairs.map(|(one, other)| sum(one, other)).collect())
        }
        (Value::Number(one), Value::Number(other)) => match (one.as_u64(), other.as_u64()) {
            (Some(one), Some(other)) => one.wrapping_add(other).into(),
            _ => match (one.as_i64(), other.as_i64()) {
                (Some(one), Some(other)) => one.wrapping_add(other).into(),
                _ => (one.as_f64().unwrap_or(0.0) + other.as_f64().unwrap_or(0.0)).into(),
            },
        },
        (Value::String(one), other) if one.is_empty() => other,
        (Value::Bool(false), other) => other,
        (one, _) => one,
    }
}
