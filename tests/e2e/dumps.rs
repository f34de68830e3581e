//! `bpftime prog dump` on the programs of a running tool.

use bpftime_tests::World;

/// The lines of one program's dump, without the heading.
fn dump(world: &World, what: &str, program: &str) -> Vec<String> {
    let dump = world.run(&["prog", "dump", what, program]);
    assert_eq!((dump.code, dump.stderr.as_str()), (0, ""), "{dump:?}");
    let mut lines = dump.stdout.lines().map(str::to_owned);
    let heading = lines.next().expect("a heading");
    assert!(heading.contains(&format!(": {program} of ")), "{heading}");
    lines.collect()
}

fn fact<'a>(facts: &'a [String], name: &str) -> &'a str {
    let line = facts
        .iter()
        .find(|line| line.trim_start().starts_with(name));
    line.expect(name).trim_start()[name.len()..].trim()
}

#[test]
fn bytecode_machine_code_and_facts_of_a_program() {
    let world = World::new();
    let target = world.fixture("puppet");
    let tool = world.fixture_tool("ringtrace", &[], &target, "puppet_step");
    let xlated = dump(&world, "xlated", "on_return");
    let code: Vec<&String> = xlated.iter().filter(|line| line.contains(": (")).collect();
    assert!(code[0].starts_with("   0: ("), "{}", code[0]);
    assert!(code[code.len() - 1].ends_with(": (95) exit"));
    assert!(xlated.iter().any(|line| line == "on_return:"), "{xlated:?}");

    let facts = dump(&world, "facts", "on_return");
    assert_eq!(
        fact(&facts, "helpers"),
        "map_lookup_elem map_delete_elem ktime_get_ns get_current_pid_tgid get_current_comm \
         probe_read_user_str ringbuf_reserve ringbuf_submit"
    );
    // The return value is in ax, at byte 80 of pt_regs.
    assert_eq!(fact(&facts, "context words read at"), "80");

    let jited = dump(&world, "jited", "on_return");
    for helper in [
        "bpf_map_lookup_elem",
        "bpf_ringbuf_reserve",
        "bpf_get_current_comm",
    ] {
        let calls = |lines: &[String]| lines.iter().filter(|l| l.contains(helper)).count();
        let bytecode = xlated
            .iter()
            .filter(|l| l.contains(&format!("call {helper}#")))
            .count();
        assert_eq!(calls(&jited), bytecode, "{helper}");
    }
    assert!(jited.iter().any(|line| line.ends_with(" ret")), "{jited:?}");
    drop(tool);
}

#[test]
fn programs_links_and_global_data_by_id() {
    let world = World::new();
    let target = world.fixture("puppet");
    let tool = world.fixture_tool("ringtrace", &[], &target, "puppet_step");
    let json = |args: &[&str]| -> serde_json::Value {
        let output = world.run(&[args, &["-j"]].concat());
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
        serde_json::from_str(&output.stdout).expect("JSON")
    };
    let programs = json(&["prog", "list", "on_return"]);
    let program = &programs[0];
    assert_eq!(programs.as_array().map(Vec::len), Some(1));
    assert_eq!(program["type"], "kprobe");
    assert_eq!(program["pids"][0]["pid"], tool.pid());
    let maps = json(&["map", "list"]);
    let name_of = |id: &serde_json::Value| {
        let map = maps
            .as_array()
            .and_then(|maps| maps.iter().find(|map| map["id"] == *id));
        map.expect("a map of the program")["name"].clone()
    };
    let used: Vec<_> = program["map_ids"]
        .as_array()
        .expect("ids")
        .iter()
        .map(name_of)
        .collect();
    assert!(used.iter().any(|name| name == "events"), "{used:?}");

    let links = json(&["link", "list"]);
    let of_program = |link: &&serde_json::Value| link["prog_id"] == program["id"];
    let link = links
        .as_array()
        .and_then(|links| links.iter().find(of_program));
    let link = link.expect("its link");
    assert_eq!(link["type"], "uretprobe");
    assert_eq!(link["path"], target.to_str().expect("a plain path"));
    assert_eq!(link["enabled"], true);
    assert!(link["places"][0]["offset"].as_u64() > Some(0), "{link}");
    drop(tool);
}

#[test]
fn what_is_not_there() {
    let world = World::new();
    let none = world.run(&["prog", "dump", "xlated"]);
    assert_eq!(none.code, 1);
    assert_eq!(
        none.stderr,
        "bpftime: programs: no tool runs: start one with bpftime load\n"
    );
}
