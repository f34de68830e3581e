//! Numbers and histograms, added up.

use std::fmt;

use serde_json::Value as Json;

/// A number; whole ones stay exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    /// A field's value, multiplied.
    pub fn from(json: &Json, scale: Option<f64>) -> Option<Number> {
        let number = match json {
            Json::Number(number) => match number.as_i128() {
                Some(whole) => Number::Whole(whole),
                None => Number::Real(number.as_f64()?),
            },
            Json::Bool(is) => Number::Whole((*is).into()),
            // Numbers that JSON cannot hold come as text; other text is no number.
            Json::String(text) => match text.as_str() {
                "NaN" => Number::Real(f64::NAN),
                "inf" => Number::Real(f64::INFINITY),
                "-inf" => Number::Real(f64::NEG_INFINITY),
                text => Number::Whole(text.parse().ok()?),
            },
            _ => return None,
        };
        Some(match scale {
            Some(scale) => Number::Real(number.real() * scale),
            None => number,
        })
    }

    pub fn real(self) -> f64 {
        match self {
            Number::Whole(whole) => whole as f64,
            Number::Real(real) => real,
        }
    }

    pub fn plus(self, other: Number) -> Number {
        match (self, other) {
            (Number::Whole(a), Number::Whole(b)) => Number::Whole(a.saturating_add(b)),
            (a, b) => Number::Real(a.real() + b.real()),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Whole(whole) => write!(f, "{whole}"),
            Number::Real(real) if real.is_nan() => f.write_str("NaN"),
            Number::Real(real) if real.is_infinite() => {
                f.write_str(if *real > 0.0 { "+Inf" } else { "-Inf" })
            }
            Number::Real(real) => write!(f, "{real}"),
        }
    }
}

/// What a series holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(Number),
    /// Counts by bucket, the last without an upper bound, and the sum, if known.
    Histogram {
        counts: Vec<u64>,
        sum: Option<Number>,
    },
}

impl Value {
    /// One value, in its bucket below the first bound that is not smaller.
    pub fn observed(bounds: &[f64], number: Number) -> Value {
        let mut counts = vec![0; bounds.len() + 1];
        let above = |bound: &&f64| number.real() > **bound;
        counts[bounds.iter().take_while(above).count()] = 1;
        Value::Histogram {
            counts,
            sum: Some(number),
        }
    }

    /// Adds another one of the same kind.
    pub fn add(&mut self, other: &Value) {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => *a = a.plus(*b),
            (
                Value::Histogram { counts, sum },
                Value::Histogram {
                    counts: more,
                    sum: more_sum,
                },
            ) => {
                counts.resize(counts.len().max(more.len()), 0);
                for (count, more) in counts.iter_mut().zip(more) {
                    *count = count.saturating_add(*more);
                }
                *sum = sum.zip(*more_sum).map(|(a, b)| a.plus(b));
            }
            _ => {}
        }
    }
}
