//! Prometheus' text format 0.0.4, read as strictly as its description is
//! written. It knows no metrics.

use std::collections::{BTreeMap, BTreeSet};

/// Samples by their names and sorted labels, whose values are still escaped.
///
/// # Panics
/// If anything in the text is not as it must be.
pub fn parsed(text: &str) -> BTreeMap<String, String> {
    assert!(text.is_empty() || text.ends_with('\n'));
    let mut reader = Reader::default();
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        match line.strip_prefix("# ") {
            Some(comment) => reader.comment(comment),
            None => reader.sample(line),
        }
    }
    reader.buckets();
    reader.samples
}

#[derive(Default)]
struct Reader {
    /// The family whose lines are being read, and its type.
    name: String,
    kind: String,
    helped: bool,
    seen: BTreeSet<String>,
    samples: BTreeMap<String, String>,
    /// Bounds and counts by family and labels, as they come.
    histograms: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Reader {
    fn comment(&mut self, comment: &str) {
        let mut words = comment.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("short: {comment:?}"));
        let (what, name, rest) = (word(), word(), word());
        match what {
            "HELP" => {
                assert!(!unescaped(rest, false).is_empty(), "{comment}");
                self.begin(name);
                self.helped = true;
            }
            "TYPE" => {
                if !(self.helped && self.name == name) {
                    self.begin(name);
                }
                assert!(["counter", "gauge", "histogram"].contains(&rest), "{rest}");
                self.helped = false;
                rest.clone_into(&mut self.kind);
            }
            other => panic!("a comment of {other:?}"),
        }
    }

    /// Lines of one family come together.
    fn begin(&mut self, name: &str) {
        assert!(is_name(name, true), "{name:?}");
        assert!(self.seen.insert(name.to_owned()), "{name} comes twice");
        name.clone_into(&mut self.name);
        self.kind.clear();
    }

    fn sample(&mut self, line: &str) {
        let end = line.find([' ', '{']).expect("a name's end");
        let (name, rest) = line.split_at(end);
        let part = name.strip_prefix(&self.name);
        let part = part.unwrap_or_else(|| panic!("{line:?} in {:?}", self.name));
        let parts: &[&str] = match self.kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            "" => panic!("{name} has no type"),
            _ => &[""],
        };
        assert!(parts.contains(&part), "{name} is no {}", self.kind);
        let (mut labels, value) = labels(rest);
        let number = number(value);
        assert!(
            self.kind == "gauge" || part == "_sum" || number >= 0.0,
            "{line}"
        );
        let key = format!("{name}{}", shown(&labels));
        let before = self.samples.insert(key, value.to_owned());
        assert!(before.is_none(), "{line} comes twice");
        if part == "_bucket" || part == "_count" {
            let bound = labels.remove("le");
            assert_eq!(bound.is_some(), part == "_bucket", "{line}");
            // The count stands for one more bucket, which must be as the last.
            let bound = bound.map_or(f64::INFINITY, |bound| self::number(&bound));
            let key = format!("{}{}", self.name, shown(&labels));
            self.histograms
                .entry(key)
                .or_default()
                .push((bound, number));
        }
    }

    fn buckets(&self) {
        for (name, buckets) in &self.histograms {
            let (count, buckets) = buckets.split_last().expect("a count");
            assert_eq!(buckets.last(), Some(count), "{name}: the last holds all");
            for pair in buckets.windows(2) {
                assert!(
                    pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1,
                    "{name}: {pair:?}"
                );
            }
        }
    }
}

fn shown(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", pairs.join(",")),
    }
}

/// Labels, and the value behind them.
fn labels(text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = text.strip_prefix('{') else {
        return (labels, text.strip_prefix(' ').expect("a value"));
    };
    loop {
        let (name, quoted) = rest.split_once("=\"").expect("a label");
        assert!(is_name(name, false), "{name:?}");
        let mut escaped = false;
        let end = quoted.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (value, more) = quoted.split_at(end.expect("a quote"));
        unescaped(value, true);
        let before = labels.insert(name.to_owned(), value.to_owned());
        assert!(before.is_none(), "{name} comes twice");
        match more[1..].strip_prefix(',') {
            Some(next) => rest = next,
            None => return (labels, more[1..].strip_prefix("} ").expect("a value")),
        }
    }
}

fn is_name(name: &str, metric: bool) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || (metric && c == ':');
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// Text as it was meant; quotes are escaped in labels only.
fn unescaped(text: &str, quotes: bool) -> String {
    let mut meant = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        meant.push(match char {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('\\') => '\\',
                Some('"') if quotes => '"',
                other => panic!("{other:?} is escaped in {text:?}"),
            },
            other => other,
        });
    }
    meant
}

/// A value, as Go's `ParseFloat` takes it.
fn number(text: &str) -> f64 {
    match text {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        digits => {
            let plain = |c: char| c.is_ascii_digit() || "+-.e".contains(c);
            assert!(digits.chars().all(plain), "{digits:?}");
            digits.parse().expect("a number")
        }
    }
}
