//! Records that are stacks.

use bpftime_tests::{Program, World};
use serde_json::{Value, json};

use super::{called, exported, parcel, run, without_time, write};
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
