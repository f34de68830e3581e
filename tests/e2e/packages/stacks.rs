//! Records that are stacks.

use bpftime_tests::{Program, World};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{ATTACHED, called, exported, parcel, run, without_time, write};
use crate::oracle::same;

#[test]
fn stacks_have_names() {
    let stacks = |symbols: bool| {
        json!([{"name": "stacks", "ident": "stacks", "intepreter": {"stack_trace": {
            "field_map": {"pid": "process"}, "with_symbols": symbols}}}])
    };
    let package = |symbols| {
        parcel(
            &["on_stack"],
            &stacks(symbols),
            &exported("stacktrace_event"),
        )
    };
    // Of a process that lives when its names are looked up.
    let shown = |world: &World, options: &[&str]| {
        let package = package(true).to_string();
        let file = write(world, "package.json", package.as_bytes());
        let path = world.fixture("puppet");
        let mut puppet = world.bare_puppet();
        let pid = puppet.pid().to_string();
        let attach = format!("on_stack={}:puppet_step", path.display());
        let mut words = options.to_vec();
        words.extend(["--pid", &pid, "--attach", &attach, &file]);
        let mut tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        assert_eq!(puppet.ask("call 1"), "ok");
        tool.lines_until(|line| line.contains("puppet_step"));
        let exit = tool.interrupt();
        assert_eq!(puppet.finish().code, 0);
        without_time(&exit)
    };
    let said = same(|world| {
        let said = shown(world, &[]);
        let pid = said
            .split("pid=")
            .nth(1)
            .and_then(|rest| rest.split(')').next());
        let address = said
            .split("[<")
            .nth(1)
            .and_then(|rest| rest.split('>').next());
        said.replace(pid.expect("a pid"), "PID")
            .replace(address.expect("an address"), "ADDRESS")
    });
    assert_eq!(
        said,
        "COMM: puppet (pid=PID) @ CPU 7\nNo Kernel Stack\nUserspace:\n  0 [<ADDRESS>] puppet_step+0x0\n\n"
    );
    let said = same(|world| {
        let mut said: Value = serde_json::from_str(&shown(world, &["--json"])).expect("JSON");
        assert!(said["pid"].as_u64() > Some(1));
        let address = said["ustack"][0]["address"].as_str().expect("an address");
        assert!(address.starts_with("0x"));
        said["pid"] = 1.into();
        said["ustack"][0]["address"] = "".into();
        said.to_string()
    });
    assert_eq!(
        said,
        r#"{"comm":"puppet","cpu_id":7,"kstack":[],"pid":1,"ustack":[{"address":"","offset":0,"symbol":"puppet_step"}]}"#
    );
    let plain = called(&World::new(), &[], &package(false), &[], "1");
    let plain = without_time(&plain);
    assert!(!plain.contains("tgt_add"), "{plain}");
}

#[test]
fn lost_records_are_told_among_others() {
    let stacks = json!([{"name": "stacks", "ident": "stacks"}]);
    let mut package = parcel(&["on_stack"], &stacks, &exported("stacktrace_event"));
    package["meta"]["perf_buffer_pages"] = 1.into();
    let told = |world: &World| {
        let file = write(world, "package.json", package.to_string().as_bytes());
        let path = world.fixture("puppet");
        // On one processor, so that there is one buffer.
        let words = ["taskset", "-c", "0", path.to_str().expect("a path of ours")];
        let mut puppet = Program::on_pipes(world.plain(&words));
        let pid = puppet.pid().to_string();
        assert_eq!(puppet.line(), format!("pid {pid}"));
        let attach = format!("on_stack={}:puppet_step", path.display());
        let words = ["--json", "--pid", &pid, "--attach", &attach, &file];
        let mut tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        tool.signal(Signal::SIGSTOP);
        assert_eq!(puppet.ask("call 2000"), "ok");
        tool.signal(Signal::SIGCONT);
        tool.line();
        tool.wait_idle();
        // What was lost is told by the first record that finds room again.
        assert_eq!(puppet.ask("call 1"), "ok");
        tool.lines_until(|line| line.contains("lost"));
        let exit = tool.interrupt();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ATTACHED));
        assert_eq!(puppet.finish().code, 0);
        let lines = exit.stdout.lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let (lost, seen): (Vec<Value>, Vec<Value>) =
            lines.partition(|line| line.get("lost").is_some());
        assert!(lost.iter().all(|line| line["map"] == "stacks"), "{lost:?}");
        let lost = lost.iter().filter_map(|line| line["lost"].as_u64());
        (lost.sum::<u64>() + seen.len() as u64).to_string()
    };
    assert_eq!(same(told), "2001");
}
