//! An export as OTLP's JSON: opentelemetry-proto's messages with their fields
//! in lower camel case, 64-bit numbers as text, enumerations as numbers.

use serde_json::{Value as Json, json};

use crate::commands::serve::log::now;
use crate::commands::serve::metrics::spec::Kind;
use crate::commands::serve::metrics::text::{Family, Point};
use crate::commands::serve::metrics::value::{Number, Value};

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u32 = 2;
const NANOSECONDS: u128 = 1_000_000;

/// An `ExportMetricsServiceRequest`.
pub fn encode(families: &[Family], host: &str) -> String {
    let time = now();
    let metrics: Vec<Json> = families.iter().map(|family| metric(family, time)).collect();
    json!({
        "resourceMetrics": [{
            "resource": { "attributes": [
                attribute("service.name", "bpftime"),
                attribute("service.version", env!("CARGO_PKG_VERSION")),
                attribute("host.name", host),
            ]},
            "scopeMetrics": [{
                "scope": { "name": "bpftime", "version": env!("CARGO_PKG_VERSION") },
                "metrics": metrics,
            }],
        }],
    })
    .to_string()
}

fn attribute(key: &str, value: &str) -> Json {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn metric(family: &Family, time: u64) -> Json {
    let points: Vec<Json> = family
        .points
        .iter()
        .map(|point| data_point(point, time))
        .collect();
    let (kind, data) = match family.kind {
        Kind::Counter => (
            "sum",
            json!({ "dataPoints": points, "aggregationTemporality": CUMULATIVE, "isMonotonic": true }),
        ),
        Kind::Gauge => ("gauge", json!({ "dataPoints": points })),
        Kind::Histogram => (
            "histogram",
            json!({ "dataPoints": points, "aggregationTemporality": CUMULATIVE }),
        ),
    };
    json!({ "name": family.name, "description": family.help, kind: data })
}

fn data_point(point: &Point, time: u64) -> Json {
    let labels = point.labels.iter();
    let attributes: Vec<Json> = labels.map(|(name, value)| attribute(name, value)).collect();
    let mut data = json!({
        "attributes": attributes,
        "startTimeUnixNano": nanoseconds(point.since),
        "timeUnixNano": nanoseconds(time),
    });
    match &point.value {
        Value::Number(Number::Whole(whole)) if i64::try_from(*whole).is_ok() => {
            data["asInt"] = whole.to_string().into();
        }
        Value::Number(number) => data["asDouble"] = double(number.real()),
        Value::Histogram { counts, sum } => {
            let total = counts
                .iter()
                .fold(0u64, |sum, count| sum.saturating_add(*count));
            let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
            data["count"] = total.to_string().into();
            data["bucketCounts"] = counts.into();
            data["explicitBounds"] = point.bounds.iter().copied().map(double).collect();
            if let Some(sum) = sum {
                data["sum"] = double(sum.real());
            }
        }
    }
    data
}

/// A number as protobuf's JSON has it.
fn double(value: f64) -> Json {
    match value.is_finite() {
        true => value.into(),
        false if value.is_nan() => "NaN".into(),
        false if value > 0.0 => "Infinity".into(),
        false => "-Infinity".into(),
    }
}

fn nanoseconds(milliseconds: u64) -> String {
    (u128::from(milliseconds) * NANOSECONDS).to_string()
}
