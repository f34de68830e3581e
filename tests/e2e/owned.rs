//! Storage of threads, in programs and by pidfds, as the kernel's.

use bpftime_tests::World;

use crate::oracle::same;

#[test]
fn each_thread_has_a_value_of_its_own() {
    let said = same(|world: &World| {
        let path = world.fixture("puppet");
        let mut tool = world.fixture_tool("owned", &[], &path, "puppet_step");
        let mut puppet = world.puppet();
        let pid = puppet.pid();
        let mut said = Vec::new();
        said.push(tool.ask(&format!("get {pid}")));
        for story in [
            "call 10",
            "threads 5 20",
            "fork 30",
            "vfork 3",
            "threads 3 1",
            "call 1",
        ] {
            puppet.ask(story);
            said.push(tool.ask("counts"));
            said.push(tool.ask(&format!("get {pid}")));
        }
        // The parent of a process that is neither the tool nor the test.
        puppet.ask("fork 1");
        assert_eq!(tool.ask("parent"), pid.to_string());
        for command in [
            "set PID 100 1",
            "set PID 100 2",
            "get PID",
            "set PID 1 4",
            "set PID 1 3",
            "delete PID",
            "delete PID",
            "get PID",
            "set PID 5 2",
            "set PID 5 1",
            "get PID",
            "dead",
            "other",
        ] {
            said.push(tool.ask(&command.replace("PID", &pid.to_string())));
        }
        tool.tell("quit");
        assert_eq!(tool.finish().code, 0);
        said.join("\n")
    });
    let begins = "2: 0 0\n1 threads, 10 calls, 0 dropped, 0 wrong\n0: 10 8\n\
        6 threads, 110 calls, 0 dropped, 0 wrong\n0: 10 8\n\
        7 threads, 140 calls, 0 dropped, 0 wrong\n";
    assert!(said.starts_with(begins), "{said}");
}

#[test]
fn values_are_dropped_and_made_anew() {
    let said = same(|world: &World| {
        let path = world.fixture("puppet");
        let mut tool = world.fixture_tool("owned", &[], &path, "puppet_step");
        let mut puppet = world.puppet();
        tool.ask("drop 10");
        puppet.ask("call 95");
        puppet.ask("threads 8 1001");
        // The same thread as another program.
        puppet.ask("exec 7");
        let said = tool.ask("counts");
        tool.tell("quit");
        assert_eq!(tool.finish().code, 0);
        said
    });
    assert_eq!(said, "819 threads, 8110 calls, 810 dropped, 0 wrong",);
}
