use std::path::Path;

use bpftime_tests::{World, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{Service, reports, text, three_calls};

/// What is followed is what `bpftime run` prints.
#[test]
fn follows_what_a_program_prints() {
    let world = World::new();
    let service = Service::start(&world, &[]);
    let mut request = three_calls(&world);
    request["name"] = "calls".into();
    let shown = service.run(&request);
    assert_eq!((&shown["id"], &shown["name"]), (&json!(1), &json!("calls")));

    // Programs see the calls of each other's applications.
    service.wait("calls", "state", "ended");
    let mut words = vec!["run", "--json"];
    words.extend(["options", "source", "args"].into_iter().flat_map(|field| {
        match &request[field] {
            Value::Array(all) => all.iter().map(text).collect(),
            one => vec![text(one)],
        }
    }));
    let oracle = world.run(&words);
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let expected = |all: &str| sorted(all.lines().map(str::to_owned).collect());
    let stdout = sorted(service.printed("calls", "stdout"));
    assert!(
        stdout.iter().any(|line| line.ends_with(" right")),
        "{stdout:?}"
    );
    assert_eq!(stdout, expected(&oracle.stdout));
    assert_eq!(
        sorted(service.printed("1", "stderr")),
        expected(&oracle.stderr)
    );

    let shown = service.show("calls");
    let field = |name: &str| shown[name].clone();
    assert_eq!(
        [
            "state",
            "exit_code",
            "exit_signal",
            "events",
            "lost",
            "restarts",
            "pid"
        ]
        .map(field),
        [
            json!("ended"),
            json!(0),
            Value::Null,
            json!(6),
            json!(0),
            json!(0),
            Value::Null
        ]
    );
    let (status, log) = service.server.json(
        "GET",
        "/v1/programs/calls/log?cursor=2&limit=3",
        &Value::Null,
    );
    assert_eq!(
        (status, &log["next"], &log["dropped"]),
        (200, &json!(5), &json!(0))
    );
    assert_eq!(log["lines"].as_array().map(Vec::len), Some(3));

    let events = [("Accept", "text/event-stream"), ("Last-Event-ID", "0")];
    let response = service
        .server
        .ask("GET", "/v1/programs/calls/follow", &events, "");
    assert_eq!(response.headers["content-type"], "text/event-stream");
    let told = response.text();
    assert!(
        told.starts_with("id: 1\nevent: line\ndata: {\"cursor\":1,"),
        "{told}"
    );
    assert!(told.ends_with("\n\nevent: end\ndata: {}\n\n"), "{told}");
    let wrong = [("Last-Event-ID", "last")];
    let response = service
        .server
        .ask("GET", "/v1/programs/calls/follow", &wrong, "");
    assert_eq!(response.status, 400);
    assert_eq!(
        response.text(),
        "{\"message\":\"Last-Event-ID: is no cursor: send the last id that came\"}"
    );
}

/// A paused tool harms nobody, and what fits into buffers is told later.
#[test]
fn a_paused_program_loses_only_what_buffers_cannot_hold() {
    const RECORD: u64 = 8 + 64; // header and record in the ring
    const RING: u64 = 64 << 10;
    let world = World::new();
    let service = Service::start(&world, &[]);
    let mut puppet = world.puppet();
    let mut request = reports(&world, "puppet", "puppet_step");
    request["name"] = "steps".into();
    request["metrics"] = json!([{ "name": "seen", "type": "counter", "variable": "seen" }]);
    service.run(&request);
    service.wait_line("steps", "attached");
    assert_eq!(puppet.ask("call 5"), "ok");
    service.wait("steps", "events", 10);

    let paused = service.tell("steps", "pause");
    assert_eq!(paused["state"], "paused");
    wait_stopped(&paused["pid"]);
    assert_eq!(service.tell("steps", "pause")["state"], "paused");
    assert_eq!(puppet.ask("call 100"), "ok");
    // A process that comes now can be traced as well.
    let mut late = world.puppet();
    assert_eq!(late.ask("call 100"), "ok");
    assert_eq!(service.show("steps")["events"], 10);
    assert_eq!(service.tell("steps", "resume")["state"], "running");
    service.wait("steps", "events", 410);

    service.tell("steps", "pause");
    wait_stopped(&paused["pid"]);
    assert_eq!(puppet.ask("call 20000"), "ok");
    service.tell("steps", "resume");
    // What was lost is told with the first record that finds room again.
    let mut calls = 20_000;
    wait::until_true("losses are told", wait::LONG, || {
        assert_eq!(puppet.ask("call 1"), "ok");
        calls += 1;
        service.show("steps")["lost"] != 0
    });
    let stopped = service.tell("steps", "stop");
    let number = |field: &str| stopped[field].as_u64().expect("a number");
    assert_eq!(
        (&stopped["state"], number("exit_code")),
        (&json!("ended"), 0)
    );
    // All calls were written to each buffer; the perf buffer counts what it did not take.
    let from_ring = number("events") + number("lost") - 410 - calls;
    assert!(
        (1..=RING / RECORD + calls - 20_000).contains(&from_ring),
        "{stopped}"
    );
    let seen = format!("\nseen{{program=\"steps\"}} {}\n", 205 + calls);
    assert!(service.server.text("/metrics").contains(&seen));
    assert_eq!((puppet.finish().code, late.finish().code), (0, 0));
}

fn wait_stopped(pid: &Value) {
    wait::until_true("stopped", wait::LONG, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    });
}

#[test]
fn twenty_programs_at_once() {
    let world = World::new();
    let service = Service::start(&world, &[]);
    for n in 0..20 {
        let mut request = reports(&world, "puppet", "puppet_step");
        request["name"] = format!("p{n}").into();
        service.run(&request);
    }
    for n in 0..20 {
        service.wait_line(&format!("p{n}"), "attached");
    }
    let mut puppet = world.puppet();
    assert_eq!(puppet.ask("call 3"), "ok");
    for n in 0..20 {
        service.wait(&format!("p{n}"), "events", 6);
        if n % 2 == 0 {
            let stopped = service.tell(&format!("p{n}"), "stop");
            assert_eq!(
                (&stopped["state"], &stopped["exit_code"]),
                (&json!("ended"), &json!(0))
            );
        }
    }
    let (_, list) = service.server.json("GET", "/v1/programs", &Value::Null);
    let programs = list["programs"].as_array().expect("programs");
    let states: Vec<&str> = programs
        .iter()
        .map(|program| text(&program["state"]))
        .collect();
    assert_eq!(states, ["ended", "running"].repeat(10));
    let (status, _) = service
        .server
        .json("DELETE", "/v1/programs/p1", &Value::Null);
    assert_eq!(status, 204);
    assert_eq!(
        service
            .server
            .json("GET", "/v1/programs/p1", &Value::Null)
            .0,
        404
    );

    // The others end with the service, in their own way.
    let pids: Vec<i64> = programs
        .iter()
        .filter_map(|program| program["pid"].as_i64())
        .collect();
    assert_eq!(pids.len(), 10);
    service.program.signal(Signal::SIGTERM);
    let exit = service.program.finish();
    assert_eq!(exit.code, 0, "{exit:?}");
    assert!(
        pids.iter()
            .all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    );
    assert!(!super::socket(&world).exists());
    assert_eq!(puppet.finish().code, 0);
}

#[test]
fn nothing_is_left_of_a_killed_service() {
    let world = World::new();
    let service = Service::start(&world, &[]);
    let request = json!({
        "name": "app",
        "data": encoded(&std::fs::read(world.fixture("reports.bpf.o")).expect("the object")),
        "options": ["--attach", "on_call=off"],
        "args": ["--", "sh", "-c", "echo app $$; exec sleep 1000"],
    });
    let tool = service.run(&request);
    service.wait_line("app", "\"text\":\"app ");
    let log = service
        .server
        .json("GET", "/v1/programs/app/log", &Value::Null)
        .1;
    let lines = log["lines"].as_array().expect("lines");
    let app = lines
        .iter()
        .find_map(|line| text(&line["text"]).strip_prefix("app "));
    let app: i32 = app.and_then(|pid| pid.parse().ok()).expect("a pid");
    let tool_pid =
        i32::try_from(service.show("app")["pid"].as_i64().expect("a pid")).expect("a pid");
    let kept = Path::new(text(&tool["source"])).to_owned();
    assert!(kept.exists());
    service.program.kill();
    let is_gone = |pid: i32| kill(Pid::from_raw(pid), None).is_err();
    wait::until_true("both are gone", wait::LONG, || {
        is_gone(app) && is_gone(tool_pid)
    });
    wait::until_true("the file is gone", wait::LONG, || !kept.exists());

    // The socket is nobody's now.
    assert!(super::socket(&world).exists());
    let service = Service::start(&world, &[]);
    assert_eq!(service.server.text("/healthz"), "ok\n");
}

#[test]
fn nobody_waits_for_a_slow_reader() {
    const LINES: usize = 30_000;
    let world = World::new();
    let service = Service::start(&world, &[]);
    let object = world.fixture("reports.bpf.o");
    let run = |service: &Service, name: &str| {
        let args = ["--", "seq", "1", &LINES.to_string()];
        let options = ["--attach", "on_call=off"];
        service.run(&json!({ "name": name, "source": object, "options": options, "args": args }));
    };
    run(&service, "many");
    // It reads nothing until others have read all.
    let slow = service
        .server
        .ask("GET", "/v1/programs/many/follow?cursor=0", &[], "");
    let numbers: Vec<String> = (1..=LINES).map(|n| n.to_string()).collect();
    assert!(service.printed("many", "stdout") == numbers);
    assert_eq!(
        slow.lines()
            .filter(|line| line.contains("\"stdout\""))
            .count(),
        LINES
    );
    drop(service);

    // Where there is no room for all, the oldest go.
    let small = Service::start(&world, &["--log-bytes", "100000"]);
    run(&small, "many");
    small.wait("many", "state", "ended");
    let response = small
        .server
        .ask("GET", "/v1/programs/many/follow?cursor=0", &[], "");
    let told: Vec<Value> = response
        .lines()
        .map(|line| serde_json::from_str(&line).expect("JSON"))
        .collect();
    let all = small.show("many")["log_next"].as_u64().expect("a number");
    let dropped = told[0]["dropped"].as_u64().expect("a number");
    assert!(dropped > 28_000 && all > LINES as u64, "{dropped} {all}");
    assert_eq!(dropped + told.len() as u64 - 1, all);
    let last = Value::from(LINES.to_string());
    assert!(told.iter().any(|line| line["text"] == last));
}

/// In base64, without padding.
pub fn encoded(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let word = part
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - part.len()));
        for digit in 0..=part.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}
