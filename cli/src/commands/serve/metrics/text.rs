//! Metrics in Prometheus' text format 0.0.4. It knows not where they are from.

use std::fmt::Write;

use super::spec::Kind;
use super::value::{Number, Value};

/// The type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All series of one name.
#[derive(Debug, Clone)]
pub struct Family {
    pub name: String,
    pub help: String,
    pub kind: Kind,
    pub points: Vec<Point>,
}

/// A series' value.
#[derive(Debug, Clone)]
pub struct Point {
    pub labels: Vec<(String, String)>,
    /// Upper bounds of a histogram's buckets but the last.
    pub bounds: Vec<f64>,
    pub value: Value,
    /// Since when it counts: milliseconds since 1970.
    pub since: u64,
}

/// The text of all.
pub fn write(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a string cannot fail.
        let _ = write_family(&mut text, family);
    }
    text
}

fn write_family(text: &mut String, family: &Family) -> std::fmt::Result {
    let name = &family.name;
    if !family.help.is_empty() {
        writeln!(text, "# HELP {name} {}", escaped(&family.help, false))?;
    }
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(text, "# TYPE {name} {kind}")?;
    for point in &family.points {
        let labels = &point.labels;
        match &point.value {
            Value::Number(number) => writeln!(text, "{name}{} {number}", set(labels, None))?,
            Value::Histogram { counts, sum } => {
                let mut total = 0u64;
                for (at, count) in counts.iter().enumerate() {
                    total = total.saturating_add(*count);
                    let bound = point.bounds.get(at).copied().unwrap_or(f64::INFINITY);
                    let le = Number::Real(bound).to_string();
                    writeln!(text, "{name}_bucket{} {total}", set(labels, Some(&le)))?;
                }
                if let Some(sum) = sum {
                    writeln!(text, "{name}_sum{} {sum}", set(labels, None))?;
                }
                writeln!(text, "{name}_count{} {total}", set(labels, None))?;
            }
        }
    }
    Ok(())
}

fn set(labels: &[(String, String)], le: Option<&str>) -> String {
    let labels = labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let pairs: Vec<String> = labels
        .chain(le.map(|le| ("le", le)))
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value, true)))
        .collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", pairs.join(",")),
    }
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    match quotes {
        true => text.replace('"', "\\\""),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(labels: &[(&str, &str)], value: Value) -> Point {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Point {
            labels: labels.iter().map(pair).collect(),
            bounds: vec![1.0, 2.5],
            value,
            since: 0,
        }
    }

    #[test]
    fn is_escaped_and_cumulative() {
        let family = |name: &str, kind, point| Family {
            name: name.into(),
            help: "a\\b\nc \"d\"".into(),
            kind,
            points: vec![point],
        };
        let histogram = Value::Histogram {
            counts: vec![1, 0, 2],
            sum: None,
        };
        let large = Value::Number(Number::Whole(u64::MAX.into()));
        let text = write(&[
            family("x", Kind::Gauge, point(&[("l", "a\\b\nc \"d\"")], large)),
            family("h", Kind::Histogram, point(&[], histogram)),
        ]);
        let expected = r#"# HELP x a\\b\nc "d"
# TYPE x gauge
x{l="a\\b\nc \"d\""} 18446744073709551615
# HELP h a\\b\nc "d"
# TYPE h histogram
h_bucket{le="1"} 1
h_bucket{le="2.5"} 1
h_bucket{le="+Inf"} 3
h_count 3
"#;
        assert_eq!(text, expected);
    }
}
