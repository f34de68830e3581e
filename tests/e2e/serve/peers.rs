use std::fs;

use bpftime_tests::World;
use serde_json::{Value, json};

use super::programs::encoded;
use super::{Service, reports, text};

/// What ecli's client sends and expects.
#[test]
fn tasks_as_ecli_has_them() {
    let world = World::new();
    let service = Service::start(&world, &[]);
    let ask = |method: &str, path: &str, body: Value| service.server.json(method, path, &body);
    assert_eq!(
        ask("GET", "/task", Value::Null),
        (200, json!({ "tasks": [] }))
    );

    // The bytes say what it is.
    let object = encoded(&fs::read(world.fixture("reports.bpf.o")).expect("the object"));
    let task =
        json!({ "program_data_buf": object, "program_type": "json", "program_name": "my task" });
    let (status, answer) = ask("POST", "/task", task);
    assert_eq!((status, &answer["id"]), (200, &json!(1)));
    assert_eq!(answer["task_list"]["tasks"][0]["name"], "my_task");
    service.wait("1", "state", "ended");
    let (_, log) = ask("POST", "/log", json!({ "id": 1 }));
    let last = log
        .as_array()
        .and_then(|lines| lines.last())
        .expect("a line");
    assert_eq!(last["log"]["log_type"], "stderr");
    assert!(
        last["log"]["timestamp"]
            .as_u64()
            .is_some_and(|time| time > 1_600_000_000_000)
    );
    let said =
        "bpftime: on_call: section \"uprobe\" does not say where: name PATH:FUNCTION[+OFFSET]: ";
    assert!(text(&last["log"]["log"]).starts_with(said), "{last}");
    let cursor = last["cursor"].clone();
    let (_, same) = ask(
        "POST",
        "/log",
        json!({ "id": 1, "log_cursor": cursor, "maximum_count": 9 }),
    );
    assert_eq!(same, json!([last]));

    let mut request = reports(&world, "puppet", "puppet_step");
    request["name"] = "steps".into();
    service.run(&request);
    service.wait_line("steps", "attached");
    let tasks = |status: &str| {
        (
            200,
            json!({ "tasks": [{ "id": 2, "name": "steps", "status": status }] }),
        )
    };
    assert_eq!(ask("GET", "/task", Value::Null), tasks("running"));
    assert_eq!(
        ask("POST", "/pause", json!({ "id": 2 })),
        (200, "paused".into())
    );
    assert_eq!(ask("GET", "/task", Value::Null), tasks("paused"));
    assert_eq!(
        ask("POST", "/resume", json!({ "id": 2 })),
        (200, "running".into())
    );
    assert_eq!(
        ask("GET", "/list", Value::Null),
        (200, json!([{ "id": 2, "name": "steps" }]))
    );
    assert_eq!(ask("POST", "/stop", json!({ "id": 2 })), (200, json!({})));
    assert_eq!(service.show("2")["exit_code"], 0);
    assert_eq!(ask("GET", "/list", Value::Null), (200, json!([])));
    assert_eq!(ask("POST", "/log", json!({ "id": 3 })).0, 404);
    assert_eq!(
        ask("POST", "/task", json!({ "program_type": "elf" })).0,
        400
    );
}

/// What eunomia-exporter's users send.
#[test]
fn exporters_programs_start() {
    let world = World::new();
    let service = Service::start(&world, &[]);
    let counters = json!([{ "name": "opens", "labels": [{ "name": "pid" }, { "name": "file", "from": "fname" }] }]);
    let config = json!({
        "name": "opensnoop",
        "metrics": { "counters": counters },
        "compiled_ebpf_filename": world.fixture("reports.bpf.o"),
    });
    assert_eq!(
        service.server.json("POST", "/start", &config),
        (200, json!({ "id": 1 }))
    );
    service.wait("opensnoop", "state", "ended");
    assert!(
        service
            .server
            .text("/metrics")
            .contains("# TYPE opens counter\n")
    );
}
