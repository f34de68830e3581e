//! An `ExportMetricsServiceRequest` of opentelemetry-proto 1.x as protobuf's
//! JSON, read as strictly as both are written: no field that is not theirs, no
//! value of another type. It knows no metrics.

use serde_json::{Map, Value};

/// # Panics
/// If anything in it is not as it must be.
pub fn check(body: &Value) {
    for resource in list(&fields(body, &["resourceMetrics"])["resourceMetrics"]) {
        let resource = fields(resource, &["resource", "scopeMetrics", "schemaUrl"]);
        let about = fields(
            &resource["resource"],
            &["attributes", "droppedAttributesCount"],
        );
        attributes(&about["attributes"]);
        for scope in list(&resource["scopeMetrics"]) {
            let scope = fields(scope, &["scope", "metrics", "schemaUrl"]);
            let about = fields(&scope["scope"], &["name", "version", "attributes"]);
            assert!(about["name"].is_string() && about["version"].is_string());
            let mut names = Vec::new();
            for metric in list(&scope["metrics"]) {
                names.push(self::metric(metric));
            }
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "a name comes twice: {names:?}");
        }
    }
}

fn metric(metric: &Value) -> &str {
    let common = ["name", "description", "unit"];
    let kinds = ["gauge", "sum", "histogram"];
    let metric = fields(metric, &[&common[..], &kinds[..]].concat());
    let name = metric["name"].as_str().expect("a name");
    assert!(!name.is_empty() && metric["description"].is_string());
    let said: Vec<&str> = kinds
        .into_iter()
        .filter(|kind| metric.contains_key(*kind))
        .collect();
    let [kind] = said[..] else {
        panic!("{name} is {said:?}");
    };
    let more: &[&str] = match kind {
        "gauge" => &[],
        "sum" => &["aggregationTemporality", "isMonotonic"],
        _ => &["aggregationTemporality"],
    };
    let data = fields(&metric[kind], &[more, &["dataPoints"]].concat());
    if kind != "gauge" {
        assert_eq!(data["aggregationTemporality"], 2, "cumulative: {name}");
    }
    let mut seen = Vec::new();
    for point in list(&data["dataPoints"]) {
        match kind {
            "histogram" => histogram(point),
            _ => number(point),
        }
        let attributes = point["attributes"].to_string();
        assert!(!seen.contains(&attributes), "{name}: {attributes} twice");
        seen.push(attributes);
    }
    name
}

const POINT: [&str; 3] = ["attributes", "startTimeUnixNano", "timeUnixNano"];

fn number(point: &Value) {
    let point = fields(
        point,
        &[&POINT[..], &["asInt", "asDouble", "flags"]].concat(),
    );
    times(point);
    match (point.get("asInt"), point.get("asDouble")) {
        (Some(int), None) => assert!(text(int).parse::<i64>().is_ok(), "{int}"),
        (None, Some(real)) => drop(double(real)),
        _ => panic!("no value or two in {point:?}"),
    }
}

fn histogram(point: &Value) {
    let more = ["count", "sum", "bucketCounts", "explicitBounds"];
    let point = fields(point, &[&POINT[..], &more[..]].concat());
    times(point);
    let counts: Vec<u64> = list(&point["bucketCounts"]).iter().map(whole).collect();
    let bounds: Vec<f64> = list(&point["explicitBounds"]).iter().map(double).collect();
    assert_eq!(counts.len(), bounds.len() + 1, "{point:?}");
    assert_eq!(
        counts.iter().sum::<u64>(),
        whole(&point["count"]),
        "{point:?}"
    );
    assert!(
        bounds.windows(2).all(|pair| pair[0] < pair[1]),
        "{bounds:?}"
    );
    if let Some(sum) = point.get("sum") {
        double(sum);
    }
}

fn times(point: &Map<String, Value>) {
    let (start, now) = (
        whole(&point["startTimeUnixNano"]),
        whole(&point["timeUnixNano"]),
    );
    assert!(0 < start && start <= now, "{point:?}");
    attributes(&point["attributes"]);
}

fn attributes(list: &Value) {
    let mut keys = Vec::new();
    for pair in self::list(list) {
        let pair = fields(pair, &["key", "value"]);
        let key = text(&pair["key"]);
        assert!(!key.is_empty() && !keys.contains(&key), "{key}");
        keys.push(key);
        let value = fields(&pair["value"], &["stringValue"]);
        text(&value["stringValue"]);
    }
}

/// A message whose fields are among these.
fn fields<'a>(message: &'a Value, known: &[&str]) -> &'a Map<String, Value> {
    let message = message.as_object().expect("a message");
    for name in message.keys() {
        assert!(known.contains(&name.as_str()), "{name} in {message:?}");
    }
    message
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// Numbers of 64 bits are text in decimal.
fn whole(value: &Value) -> u64 {
    text(value).parse().expect("a number")
}

fn double(value: &Value) -> f64 {
    match value.as_str() {
        Some("NaN") => f64::NAN,
        Some("Infinity") => f64::INFINITY,
        Some("-Infinity") => f64::NEG_INFINITY,
        Some(other) => panic!("{other:?} is no double"),
        None => value.as_f64().expect("a number"),
    }
}
