use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bpftime_tests::{World, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::exposition::parsed;
use super::{Service, reports, three_calls};

/// Of the three calls of `three_calls`.
fn specs() -> Value {
    json!([
        { "name": "calls_total", "help": "Calls.", "type": "counter", "labels": { "kind": "kind", "text": "text" },
          "where": { "large": false } },
        { "name": "first", "type": "histogram", "value": "first", "buckets": [0, 1], "scale": 0.5 },
        { "name": "letter", "type": "gauge", "value": "letter", "where": { "first": 2 } },
        { "name": "by_tag", "type": "counter", "map": "counts", "labels": { "tag": "key.tag" } },
        { "name": "slots", "type": "histogram", "map": "hists", "labels": { "kind": "key" } },
        { "name": "seen", "type": "counter", "variable": "seen" },
        { "name": "few", "type": "counter", "labels": { "text": "text" }, "limit": 2 },
    ])
}

#[test]
fn events_maps_and_variables() {
    let world = World::new();
    let service = Service::start(&world, &[]);
    let mut request = three_calls(&world);
    request["name"] = "calls".into();
    request["metrics"] = specs();
    request["interval"] = 1000.into();
    request["args"] = json!(["--prefix", "x\"", "--", world.fixture("tgt"), "3", "0"]);
    service.run(&request);
    service.wait("calls", "state", "ended");
    let text = service.server.text("/metrics");
    let samples = parsed(&text);
    let ours = samples
        .iter()
        .filter(|(name, _)| !name.starts_with("bpftime_"));
    let ours: Vec<String> = ours
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let expected = [
        r#"by_tag{program="calls",tag="x\""} 3"#,
        r#"calls_total{kind="KIND_EVEN(0)",program="calls",text="round-0"} 2"#,
        r#"few{program="calls",text="round-0"} 2"#,
        r#"few{program="calls",text="round-1"} 2"#,
        r#"first_bucket{le="+Inf",program="calls"} 6"#,
        r#"first_bucket{le="0",program="calls"} 2"#,
        r#"first_bucket{le="1",program="calls"} 6"#,
        r#"first_count{program="calls"} 6"#,
        r#"first_sum{program="calls"} 3"#,
        r#"letter{program="calls"} 99"#,
        r#"seen{program="calls"} 3"#,
        r#"slots_bucket{kind="KIND_EVEN(0)",le="+Inf",program="calls"} 2"#,
        r#"slots_bucket{kind="KIND_EVEN(0)",le="1",program="calls"} 1"#,
    ];
    for line in expected {
        assert!(
            ours.iter().any(|sample| sample == line),
            "{line} is not in {ours:#?}"
        );
    }
    let own = |name: &str| samples.get(name).map(String::as_str);
    assert_eq!(own("bpftime_events_total{program=\"calls\"}"), Some("6"));
    assert_eq!(own("bpftime_programs{state=\"ended\"}"), Some("1"));
    assert_eq!(own("bpftime_programs{state=\"running\"}"), Some("0"));
    assert_eq!(
        own("bpftime_metric_dropped_total{metric=\"few\",program=\"calls\"}"),
        Some("2")
    );

    // Another program may not mean something else by a name.
    let mut other = three_calls(&world);
    other["metrics"] = json!([{ "name": "first_sum", "type": "gauge", "value": "first" }]);
    let (status, answer) = service.server.json("POST", "/v1/programs", &other);
    let message =
        "metric first_sum: program calls has something else of that name: choose another name";
    assert_eq!((status, answer), (400, json!({ "message": message })));
}

/// Programs and metrics of the configuration; what fails is tried again.
#[test]
fn a_configuration_starts_programs() {
    let world = World::new();
    let config = world.home().join("config.yaml");
    let object = world.fixture("reports.bpf.o");
    let text = format!(
        "programs:
  - name: fails
    source: /no/such.bpf.o
    restart: on-failure
  - name: sleeps
    source: {}
    options: [--attach, on_call=off]
    args: [--, sleep, '1000']
    restart: always
metrics:
  - {{name: some, type: counter, program: sleeps}}
",
        object.display()
    );
    fs::write(&config, text).expect("a file");
    let service = Service::start(&world, &["--config", config.to_str().expect("a path")]);
    wait::until_true("a restart", wait::LONG, || {
        service.show("fails")["restarts"] != 0
    });
    let said = "bpftime: /no/such.bpf.o: ";
    assert!(service.server.text("/v1/programs/fails/log").contains(said));
    assert_eq!(service.tell("fails", "stop")["state"], "ended");
    assert_eq!(service.show("sleeps")["state"], "running");
    let text = service.server.text("/metrics");
    assert!(
        text.contains("# TYPE some counter\n") && !text.contains("some{"),
        "{text}"
    );
    let restarts = parsed(&text)["bpftime_restarts_total{program=\"fails\"}"].parse::<u64>();
    assert!(restarts.is_ok_and(|count| count > 0));
    // Stopped is stopped, also for who always restarts.
    assert_eq!(service.tell("sleeps", "stop")["state"], "ended");
}

/// A collector that refuses the first export.
#[test]
fn a_collector_gets_the_metrics() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let service = Service::start(&world, &["--otlp", &url, "--otlp-interval", "0.05"]);
    let first = answer(&listener, "503 Service Unavailable\r\nRetry-After: 0");
    // It comes again as it was.
    assert_eq!(answer(&listener, "200 OK"), first);
    let mut request = three_calls(&world);
    request["name"] = "calls".into();
    request["metrics"] = specs();
    let shown = service.run(&request);
    service.wait("calls", "state", "ended");
    let is_ended = |body: &Value| {
        metric(body, "bpftime_programs").to_string().contains(
            r#""asInt":"1","attributes":[{"key":"state","value":{"stringValue":"ended"}}]"#,
        )
    };
    let body = loop {
        let body = answer(&listener, "200 OK");
        if is_ended(&body) {
            break body;
        }
    };
    let resource = &body["resourceMetrics"][0]["resource"]["attributes"];
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    assert_eq!(
        resource[0],
        json!({ "key": "service.name", "value": { "stringValue": "bpftime" } })
    );
    assert_eq!(
        resource[2],
        json!({ "key": "host.name", "value": { "stringValue": host.trim() } })
    );
    let start = format!("{}000000", shown["started"]);
    let program = json!({ "key": "program", "value": { "stringValue": "calls" } });
    let time = &metric(&body, "seen")["sum"]["dataPoints"][0]["timeUnixNano"];
    assert!(
        time.as_str()
            .is_some_and(|time| time.len() == 19 && time > start.as_str()),
        "{time}"
    );
    assert_eq!(
        metric(&body, "seen"),
        json!({ "name": "seen", "description": "", "sum": {
            "aggregationTemporality": 2, "isMonotonic": true,
            "dataPoints": [{ "attributes": [program], "asInt": "3", "startTimeUnixNano": start, "timeUnixNano": time }],
        }})
    );
    assert_eq!(
        metric(&body, "letter"),
        json!({ "name": "letter", "description": "", "gauge": {
            "dataPoints": [{ "attributes": [program], "asInt": "99", "startTimeUnixNano": start, "timeUnixNano": time }],
        }})
    );
    assert_eq!(
        metric(&body, "first"),
        json!({ "name": "first", "description": "", "histogram": {
            "aggregationTemporality": 2,
            "dataPoints": [{
                "attributes": [program], "startTimeUnixNano": start, "timeUnixNano": time,
                "count": "6", "sum": 3.0, "bucketCounts": ["2", "4", "0"], "explicitBounds": [0.0, 1.0],
            }],
        }})
    );
}

/// Maps begin again with their program, what it reported counts on.
#[test]
fn a_program_that_is_started_again_counts_since_then() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let service = Service::start(&world, &["--otlp", &url, "--otlp-interval", "0.2"]);
    let mut request = three_calls(&world);
    request["name"] = "calls".into();
    request["restart"] = "always".into();
    request["metrics"] = json!([
        { "name": "seen", "type": "counter", "variable": "seen" },
        { "name": "events", "type": "counter" },
    ]);
    let started = service.run(&request)["started"].clone();
    let point = |body: &Value, name| metric(body, name)["sum"]["dataPoints"][0].clone();
    let body = loop {
        let body = answer(&listener, "200 OK");
        // Six events of each run.
        let events = point(&body, "events")["asInt"].clone();
        let runs = events
            .as_str()
            .and_then(|events| events.parse::<u32>().ok());
        if runs >= Some(12) && point(&body, "seen")["asInt"] == "3" {
            break body;
        }
    };
    let since = |name| point(&body, name)["startTimeUnixNano"].clone();
    let first = format!("{started}000000");
    assert_eq!(since("events"), first);
    let again = since("seen");
    assert!(again.as_str() > Some(&first), "{again} {first}");
    drop(listener);
    assert_eq!(service.tell("calls", "stop")["state"], "ended");
}

/// What happened since the last export is told when the service ends.
#[test]
fn the_last_export_is_made_at_the_end() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let service = Service::start(&world, &["--otlp", &url, "--otlp-interval", "1000"]);
    let mut request = reports(&world, "puppet", "puppet_step");
    request["name"] = "steps".into();
    request["metrics"] = json!([{ "name": "seen", "type": "counter", "variable": "seen" }]);
    request["interval"] = 1000.into();
    service.run(&request);
    service.wait_line("steps", "attached");
    let mut puppet = world.puppet();
    assert_eq!(puppet.ask("call 3"), "ok");
    service.program.signal(Signal::SIGTERM);
    let body = answer(&listener, "200 OK");
    assert_eq!(metric(&body, "seen")["sum"]["dataPoints"][0]["asInt"], "3");
    let exit = service.program.finish();
    assert_eq!((exit.code, exit.stderr.lines().count()), (0, 1), "{exit:?}");
    assert_eq!(puppet.finish().code, 0);

    // Nobody waits for a collector that is not there.
    drop(listener);
    let service = Service::start(&world, &["--otlp", &url, "--otlp-interval", "1000"]);
    let exit = service.program.interrupt();
    let last = format!(
        "bpftime: {url}/v1/metrics: the last metrics not taken (Connection refused): check the collector"
    );
    assert_eq!(
        (exit.code, exit.stderr.lines().last()),
        (0, Some(last.as_str()))
    );
}

pub fn metric(body: &Value, name: &str) -> Value {
    let metrics = body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
        .as_array()
        .expect("metrics");
    metrics
        .iter()
        .find(|metric| metric["name"] == name)
        .cloned()
        .unwrap_or(Value::Null)
}

/// Takes one request, answers it, and returns its body.
pub fn answer(listener: &TcpListener, status: &str) -> Value {
    listener.set_nonblocking(true).expect("a listener");
    let ((mut stream, _), _) = wait::until("an export", wait::LONG, || listener.accept().ok());
    stream.set_nonblocking(false).expect("a stream");
    let (head, body) = request(&mut stream);
    assert!(head.starts_with("POST /v1/metrics HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_ascii_lowercase()
            .contains("\r\ncontent-type: application/json\r\n"),
        "{head}"
    );
    let response =
        format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
    stream.write_all(response.as_bytes()).expect("an answer");
    let body = serde_json::from_slice(&body).expect("JSON");
    super::otlp::check(&body);
    body
}

fn request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    stream
        .set_read_timeout(Some(wait::LONG))
        .expect("a timeout");
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let end = bytes.windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(bytes[..end + 2].to_vec()).expect("text");
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(str::to_owned)
            });
            let length: usize = length
                .and_then(|length| length.parse().ok())
                .expect("a length");
            if bytes.len() >= end + 4 + length {
                return (head, bytes[end + 4..].to_vec());
            }
        }
        let read = stream.read(&mut part).expect("a request");
        assert!(read > 0, "a whole request");
        bytes.extend_from_slice(&part[..read]);
    }
}
