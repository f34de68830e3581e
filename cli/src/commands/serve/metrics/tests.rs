use super::*;

fn metrics(json: &str) -> Metrics {
    let specs = serde_json::from_str(json).expect("specs");
    Metrics::new(specs).unwrap_or_else(|problem| panic!("{problem:?}"))
}

fn told(metrics: &Metrics) -> String {
    let mut families = Vec::new();
    metrics.collect("p", 0, 0, &mut families);
    let lines = text::write(&families);
    let samples = lines.lines().filter(|line| !line.starts_with('#'));
    samples.collect::<Vec<_>>().join("\n")
}

#[test]
fn events_by_fields() {
    let mut metrics = metrics(
        r#"[{"name": "calls", "type": "counter", "labels": {"tag": "in.tag"}, "where": {"ok": true}},
            {"name": "bytes", "type": "counter", "value": "n", "scale": 0.5},
            {"name": "last", "type": "gauge", "value": "n", "limit": 1, "labels": {"tag": "in.tag"}},
            {"name": "sizes", "type": "histogram", "value": "n", "buckets": [1, 4]}]"#,
    );
    for line in [
        r#"{"in":{"tag":"a"},"n":4,"ok":true}"#,
        r#"{"in":{"tag":"b"},"n":5,"ok":true}"#,
        r#"{"in":{"tag":"a"},"n":1,"ok":true}"#,
        r#"{"in":{"tag":"a"},"n":-3,"ok":false}"#,
        r#"{"map":"m","key":1,"value":1}"#,
        "{no JSON",
        "[1]",
    ] {
        metrics.line(line);
    }
    assert_eq!(metrics.events, 4);
    let expected = r#"calls{program="p",tag="a"} 2
calls{program="p",tag="b"} 1
bytes{program="p"} 5
last{program="p",tag="a"} -3
sizes_bucket{program="p",le="1"} 2
sizes_bucket{program="p",le="4"} 3
sizes_bucket{program="p",le="+Inf"} 4
sizes_sum{program="p"} 7
sizes_count{program="p"} 4"#;
    assert_eq!(told(&metrics), expected);
    let refused: Vec<u64> = metrics.refused().map(|(_, count)| count).collect();
    assert_eq!(refused, [0, 0, 1, 0]);
}

#[test]
fn elements_come_and_go() {
    let mut metrics = metrics(
        r#"[{"name": "sum", "type": "counter", "map": "counts"},
            {"name": "by_key", "type": "gauge", "map": "counts", "labels": {"k": "key"}},
            {"name": "seen", "type": "counter", "variable": "seen"}]"#,
    );
    for line in [
        r#"{"key":1,"map":"counts","value":10}"#,
        r#"{"key":2,"map":"counts","value":5}"#,
        r#"{"key":2,"map":"others","value":5}"#,
        r#"{"value":3,"variable":"seen"}"#,
        r#"{"key":1,"map":"counts","value":11}"#,
        r#"{"key":2,"map":"counts","value":6}"#,
        r#"{"value":4,"variable":"seen"}"#,
    ] {
        metrics.line(line);
    }
    let expected = r#"sum{program="p"} 17
by_key{program="p",k="1"} 11
by_key{program="p",k="2"} 6
seen{program="p"} 4"#;
    assert_eq!(told(&metrics), expected);
    // Key 2 is deleted: it goes when the round in which it did not come is over.
    metrics.line(r#"{"key":1,"map":"counts","value":12}"#);
    metrics.line(r#"{"key":1,"map":"counts","value":13}"#);
    assert!(
        told(&metrics).starts_with("sum{program=\"p\"} 13\nby_key{program=\"p\",k=\"1\"} 13\nseen")
    );
    assert_eq!(metrics.events, 0);
}

#[test]
fn slots_are_buckets() {
    let mut metrics = metrics(
        r#"[{"name": "h", "type": "histogram", "map": "hists"},
            {"name": "a", "type": "histogram", "map": "array", "slot": "key", "scale": 2}]"#,
    );
    for line in [
        r#"{"key":"x","map":"hists","value":{"slots":[1,0,2]}}"#,
        r#"{"key":"y","map":"hists","value":{"slots":[0,3,0]}}"#,
        r#"{"key":1,"map":"array","value":7}"#,
        r#"{"key":2,"map":"array","value":1}"#,
    ] {
        metrics.line(line);
    }
    let expected = r#"h_bucket{program="p",le="1"} 1
h_bucket{program="p",le="3"} 4
h_bucket{program="p",le="+Inf"} 6
h_count{program="p"} 6
a_bucket{program="p",le="2"} 0
a_bucket{program="p",le="6"} 7
a_bucket{program="p",le="14"} 8
a_bucket{program="p",le="+Inf"} 8
a_count{program="p"} 8"#;
    assert_eq!(told(&metrics), expected);
}

#[test]
fn what_cannot_be_had() {
    for (spec, what) in [
        (
            r#""name": "a b", "type": "gauge", "value": "x""#,
            "no metric may have that name",
        ),
        (
            r#""name": "bpftime_x", "type": "counter""#,
            "names with bpftime_ are the service's own",
        ),
        (r#""name": "x", "type": "gauge""#, "`value` names no field"),
        (
            r#""name": "x", "type": "counter", "labels": {"program": "p"}"#,
            "no label may have the name \"program\"",
        ),
        (
            r#""name": "x", "type": "counter", "labels": {"é": "p"}"#,
            "no label may have the name \"é\"",
        ),
        (
            r#""name": "x", "type": "histogram", "value": "v", "buckets": [2, 1]"#,
            "`buckets` do not rise",
        ),
        (
            r#""name": "x", "type": "histogram", "value": "v", "labels": {"le": "l"}"#,
            "no label may have the name \"le\"",
        ),
    ] {
        let specs = serde_json::from_str(&format!("[{{{spec}}}]")).expect("a spec");
        let problem = Metrics::new(specs).err().map(|(_, what)| what);
        assert_eq!(problem.as_deref(), Some(what), "{spec}");
    }
    let twice = r#"[{"name": "x", "type": "histogram", "value": "v"}, {"name": "x_count", "type": "counter"}]"#;
    let problem = Metrics::new(serde_json::from_str(twice).expect("specs")).err();
    assert_eq!(
        problem,
        Some(("x_count".into(), "there is another of that name".into()))
    );
}
