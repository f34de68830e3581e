//! What is left of programs and services that end, in order and in any other
//! way: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bpftime_tests::{World, wait};
use serde_json::{Value, json};

use super::{Service, reports, text};

/// Processes whose environment has this world's home in it, by their ids.
fn processes(world: &World) -> BTreeSet<u32> {
    let home = format!("HOME={}\0", world.home().display()).into_bytes();
    let ids = fs::read_dir("/proc").expect("/proc");
    let ids = ids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // Those of the dead are empty, and some end while we look.
    let has_it = |id: &u32| {
        fs::read(format!("/proc/{id}/environ"))
            .is_ok_and(|all| all.windows(home.len()).any(|part| part == home))
    };
    ids.filter(has_it).collect()
}

fn count(directory: impl AsRef<Path>) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[test]
fn a_hundred_programs_leave_nothing() {
    const AT_ONCE: usize = 10;
    let world = World::new();
    let most = AT_ONCE.to_string();
    let service = Service::start(&world, &["--max-programs", &most]);
    let files = format!("/proc/{}/fd", service.program.pid());
    let kept = |service: &Service| {
        let (_, list) = service.server.json("GET", "/v1/programs", &Value::Null);
        list["programs"].as_array().expect("programs").len()
    };
    let object = fs::read(world.fixture("reports.bpf.o")).expect("the object");
    let data = super::programs::encoded(&object);
    let mut before = None;
    for round in 0..10 {
        for n in 0..AT_ONCE {
            let mut request = reports(&world, "puppet", "puppet_step");
            request["name"] = format!("p{n}").into();
            if n == 0 {
                request["data"] = data.clone().into();
                request.as_object_mut().expect("fields").remove("source");
            }
            service.run(&request);
        }
        for n in 0..AT_ONCE {
            let id = format!("p{n}");
            service.wait_line(&id, "attached");
            let stopped = service.tell(&id, "stop");
            assert_eq!(stopped["exit_code"], 0, "round {round}: {stopped}");
        }
        // Sweepers of sessions end a little later than their tools.
        wait::until_true("the service and its guardian alone", wait::LONG, || {
            processes(&world).len() == 2
        });
        wait::until_true("no session", wait::LONG, || count(world.sessions()) == 0);
        // Connections of ours that have just been closed may still be open there.
        let before = *before.get_or_insert_with(|| count(&files));
        wait::until_true("no more files", wait::LONG, || count(&files) <= before);
    }
    // As many that ended are remembered as may run when one starts: so these and those before.
    assert_eq!(kept(&service), 2 * AT_ONCE);
    let shown = service.show("p0");
    assert_eq!(shown["id"], 91);
    let directory = Path::new(text(&shown["source"])).ancestors().nth(2);
    assert_eq!(count(directory.expect("the service's directory")), 2);
}

/// However far a start has come.
#[test]
fn a_service_killed_in_the_midst_of_a_start_leaves_nothing() {
    let world = World::new();
    let marks = ["serving", "attached", "app"];
    for mark in marks {
        let service = Service::start(&world, &[]);
        let mut request = json!({
            "name": "app",
            "source": world.fixture("reports.bpf.o"),
            "options": ["--attach", "on_call=off"],
            "args": ["--", "sh", "-c", "echo app; sleep 1000"],
        });
        for n in 0..3 {
            request["name"] = format!("app{n}").into();
            service.run(&request);
        }
        if mark != "serving" {
            service.wait_line("app0", mark);
        }
        service.program.kill();
        wait::until_true(&format!("nothing after {mark}"), wait::LONG, || {
            processes(&world).is_empty()
        });
        assert!(super::socket(&world).exists(), "which nobody serves");
    }
    let service = Service::start(&world, &[]);
    assert_eq!(service.server.text("/healthz"), "ok\n");
    let service = service.program.interrupt();
    assert_eq!(service.code, 0);
    assert!(!super::socket(&world).exists());
}
