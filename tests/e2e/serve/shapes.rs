//! Metrics of every shape, from programs of every kind and in every state, as
//! Prometheus and collectors read them.

use std::fs;
use std::net::TcpListener;

use bpftime_tests::{World, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::exposition::parsed;
use super::metrics::{answer, metric};
use super::programs::encoded;
use super::{Service, reports, text, three_calls};
use crate::packages::{events, exported, parcel};

/// Samples that are not the service's own, as lines.
fn ours(service: &Service) -> Vec<String> {
    let samples = parsed(&service.server.text("/metrics"));
    let ours = samples
        .into_iter()
        .filter(|(name, _)| !name.starts_with("bpftime_"));
    ours.map(|(name, value)| format!("{name} {value}"))
        .collect()
}

/// What an application prints as JSON are events, too, so it can say anything.
#[test]
fn whatever_is_said_is_exposed_rightly() {
    let world = World::new();
    let lines = world.home().join("lines");
    let mut said = br#"{"value":"NaN","text":"a\"b\\c\nd\re\tf"}
{"value":"inf","text":"plus"}
{"value":"-inf","text":{"of":["parts",1]}}
{"value":18446744073709551615,"text":"whole"}
{"value":1e300,"text":null}
{"value":"many","text":"none"}
{"value": no JSON
"#
    .to_vec();
    said.extend(b"{\"value\":-1.5,\"text\":\"\xff\xfe\"}\n");
    fs::write(&lines, said).expect("a file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let service = Service::start(&world, &["--otlp", &url, "--otlp-interval", "0.05"]);
    let help = "Two\nlines \\ \"quoted\".";
    let shown = service.run(&json!({
        "name": "says",
        "source": world.fixture("reports.bpf.o"),
        "options": ["--attach", "on_call=off"],
        "args": ["--", "cat", lines],
        "metrics": [
            { "name": "last:value", "help": help, "type": "gauge", "value": "value", "labels": { "text": "text" } },
            { "name": "values", "type": "counter", "value": "value" },
            { "name": "sizes", "type": "histogram", "value": "value", "buckets": [-2, 1e9] },
            { "name": "wide", "type": "histogram", "value": "value", "scale": 1e-9 },
            { "name": "lost_map", "type": "gauge", "map": "no_such" },
            { "name": "lost_slots", "type": "histogram", "map": "no_such" },
            { "name": "lost_variable", "type": "counter", "variable": "no_such" },
        ],
    }));
    assert_eq!(shown["metrics"]["lost_map"], 0);
    service.wait("says", "state", "ended");
    let text = service.server.text("/metrics");
    assert!(
        text.contains(
            "\n# HELP last:value Two\\nlines \\\\ \"quoted\".\n# TYPE last:value gauge\n"
        )
    );
    let all = ours(&service);
    let gauges: Vec<&str> = all
        .iter()
        .filter(|line| line.starts_with("last:value"))
        .map(String::as_str)
        .collect();
    let huge = format!("1{}", "0".repeat(300));
    assert_eq!(
        gauges,
        [
            format!(r#"last:value{{program="says",text=""}} {huge}"#).as_str(),
            "last:value{program=\"says\",text=\"a\\\"b\\\\c\\nd\re\tf\"} NaN",
            "last:value{program=\"says\",text=\"plus\"} +Inf",
            "last:value{program=\"says\",text=\"whole\"} 18446744073709551615",
            r#"last:value{program="says",text="{\"of\":[\"parts\",1]}"} -Inf"#,
            "last:value{program=\"says\",text=\"\u{fffd}\u{fffd}\"} -1.5",
        ]
    );
    for line in [
        "values{program=\"says\"} +Inf",
        "sizes_bucket{le=\"+Inf\",program=\"says\"} 5",
        "sizes_bucket{le=\"-2\",program=\"says\"} 1",
        "sizes_bucket{le=\"1000000000\",program=\"says\"} 2",
        "sizes_count{program=\"says\"} 5",
        "sizes_sum{program=\"says\"} NaN",
        "wide_count{program=\"says\"} 5",
    ] {
        assert!(all.iter().any(|sample| sample == line), "{line}: {all:#?}");
    }
    assert!(!all.iter().any(|line| line.starts_with("lost")), "{all:#?}");
    let shown = service.show("says");
    assert_eq!(
        shown["metrics"],
        json!({ "last:value": 6, "values": 1, "sizes": 1, "wide": 1,
            "lost_map": 0, "lost_slots": 0, "lost_variable": 0 })
    );

    // Protobuf's JSON has words for what is no number in JSON.
    let body = loop {
        let body = answer(&listener, "200 OK");
        if metric(&body, "values")["sum"]["dataPoints"][0]["asDouble"] == "Infinity" {
            break body;
        }
    };
    let points = &metric(&body, "last:value")["gauge"]["dataPoints"];
    let value = |text: &str| {
        let points = points.as_array().expect("points").iter();
        let is = |point: &&Value| point["attributes"][1]["value"]["stringValue"] == text;
        points.clone().find(is).cloned().expect("a point")["asDouble"].clone()
    };
    assert_eq!(
        ["a\"b\\c\nd\re\tf", "plus", "whole", "\u{fffd}\u{fffd}"].map(value),
        [
            json!("NaN"),
            json!("Infinity"),
            json!(18446744073709551615.0),
            json!(-1.5)
        ]
    );
    assert_eq!(
        metric(&body, "sizes")["histogram"]["dataPoints"][0]["sum"],
        "NaN"
    );
}

/// A package that came with the request, and two who follow it.
#[test]
fn packages_run_and_all_who_follow_see_the_same() {
    let world = World::new();
    let target = world.fixture("tgt");
    let package = parcel(&["on_call"], &events(), &exported("event"));
    let package = package.to_string();
    let options = json!(["--attach", format!("on_call={}:tgt_add", target.display())]);
    let service = Service::start(&world, &[]);
    let ready = world.home().join("ready");
    let script = format!(
        "until [ -e {} ]; do sleep 0.1; done; exec \"$0\" 3 0",
        ready.display()
    );
    service.run(&json!({
        "name": "parcel",
        "data": encoded(package.as_bytes()),
        "options": options,
        "args": ["--name", "\"\\\n", "--exact", "NaN", "--", "sh", "-c", script, target],
        "metrics": [
            { "name": "calls", "type": "counter", "labels": { "name": "name", "text": "text" } },
            { "name": "exact", "type": "gauge", "value": "exact" },
        ],
    }));
    let follow = || {
        let path = "/v1/programs/parcel/follow";
        service.server.ask("GET", path, &[], "")
    };
    let (one, other) = (follow(), follow());
    fs::write(&ready, "").expect("a file");
    let lines = |response: bpftime_tests::http::Response| response.lines().collect::<Vec<_>>();
    let (one, other) = (lines(one), lines(other));
    assert_eq!(one, other);
    let seen = one.iter().filter(|line| line.contains("round-"));
    assert_eq!(seen.count(), 2, "{one:#?}");
    assert_eq!(lines(follow()), one);
    assert_eq!(service.show("parcel")["exit_code"], 0);
    let mut expected: Vec<String> = ["1", "2"]
        .map(|n| format!(r#"calls{{name="\"\\\n",program="parcel",text="round-{n}"}} 1"#))
        .into();
    expected.push("exact{program=\"parcel\"} NaN".to_owned());
    assert_eq!(ours(&service), expected);

    // As a path, and as an object beside it.
    let path = world.home().join("package.json");
    fs::write(&path, &package).expect("a file");
    let args = json!(["--", target, "2", "0"]);
    service.run(&json!({ "name": "path", "source": path, "options": options, "args": args }));
    let mut object = three_calls(&world);
    object["name"] = "object".into();
    service.run(&object);
    for name in ["path", "object"] {
        service.wait(name, "state", "ended");
        assert_eq!(service.show(name)["exit_code"], 0, "{name}");
    }
    service.run(&json!({ "name": "none", "data": encoded(b"{\"meta\": {}}") }));
    service.wait("none", "state", "ended");
    assert_eq!(service.show("none")["exit_code"], 1);
    let said = service.printed("none", "stderr");
    assert_eq!(said.len(), 1, "{said:?}");
    let kept = text(&service.show("none")["source"]).to_owned();
    assert!(
        said[0].starts_with(&format!("bpftime: {kept}: ")),
        "{said:?}"
    );
}

/// What a program counted stays when it is paused, and when it dies.
#[test]
fn metrics_outlive_a_program_that_dies() {
    let world = World::new();
    let service = Service::start(&world, &[]);
    let mut puppet = world.puppet();
    let mut request = reports(&world, "puppet", "puppet_step");
    request["name"] = "steps".into();
    request["interval"] = 0.05.into();
    request["metrics"] = json!([
        { "name": "seen", "type": "counter", "variable": "seen" },
        { "name": "events", "type": "counter" },
    ]);
    let started = service.run(&request);
    service.wait_line("steps", "attached");
    assert_eq!(puppet.ask("call 5"), "ok");
    let has = |lines: &[&str]| {
        wait::until_true(&format!("{lines:?}"), wait::LONG, || {
            ours(&service) == lines
        })
    };
    let five = ["events{program=\"steps\"} 10", "seen{program=\"steps\"} 5"];
    has(&five);
    service.tell("steps", "pause");
    assert_eq!(ours(&service), five);
    service.tell("steps", "resume");
    assert_eq!(puppet.ask("call 1"), "ok");
    let six = ["events{program=\"steps\"} 12", "seen{program=\"steps\"} 6"];
    has(&six);
    let pid = service.show("steps")["pid"].as_i64().expect("a pid");
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(pid, Signal::SIGKILL).expect("a process");
    service.wait("steps", "state", "ended");
    assert_eq!(ours(&service), six);
    let shown = service.show("steps");
    let field = |name: &str| shown[name].clone();
    assert_eq!(
        ["exit_code", "exit_signal", "pid"].map(field),
        [Value::Null, json!(9), Value::Null]
    );
    assert!(shown["ended"].as_u64() >= started["started"].as_u64());
    assert_eq!(puppet.ask("call 1"), "ok");
    // Who comes next under this name counts anew.
    let shown = service.run(&request);
    assert_eq!(shown["id"], 2);
    service.wait_line("steps", "attached");
    assert_eq!(puppet.ask("call 2"), "ok");
    has(&["events{program=\"steps\"} 4", "seen{program=\"steps\"} 2"]);
    assert_eq!(puppet.finish().code, 0);
}
