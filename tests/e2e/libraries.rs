//! Shared libraries: probes reach them when they are opened, and processes
//! that do not have them are left alone.

use bpftime_tests::World;

#[test]
fn dlopen_and_dlclose() {
    for world in [World::kernel(), Some(World::new())].into_iter().flatten() {
        let library = world.fixture("libplug.so");
        let open = format!("open {}", library.display());
        let mut puppet = world.puppet();
        assert_eq!(puppet.ask(&open), "ok");
        let mut counter = world.fixture_tool("counter", &[], &library, "plug_add");
        assert_eq!(puppet.ask("plug 10"), "ok");
        assert_eq!(counter.ask("total"), "10");
        for round in 1..4 {
            assert_eq!(puppet.ask("close"), "ok");
            assert_eq!(puppet.ask("call 5"), "ok");
            assert_eq!(puppet.ask(&open), "ok");
            assert_eq!(puppet.ask("plug 10"), "ok", "{round}");
            assert_eq!(
                counter.ask("total"),
                (10 + 10 * round).to_string(),
                "{:?}",
                world.mode()
            );
        }
        assert_eq!(counter.finish().code, 0);
        assert_eq!(puppet.ask("plug 10"), "ok");
    }
}

#[test]
fn a_library_opened_after_the_tool_came() {
    for world in [World::kernel(), Some(World::new())].into_iter().flatten() {
        let library = world.fixture("libplug.so");
        let mut counter = world.fixture_tool("counter", &[], &library, "plug_add");
        let mut puppet = world.puppet();
        assert_eq!(puppet.ask(&format!("open {}", library.display())), "ok");
        assert_eq!(puppet.ask("plug 25"), "ok");
        assert_eq!(counter.ask("total"), "25", "{:?}", world.mode());
    }
}

#[test]
fn libc_in_every_target() {
    for world in [World::kernel(), Some(World::new())].into_iter().flatten() {
        let libc = std::path::Path::new("/lib/x86_64-linux-gnu/libc.so.6");
        let mut puppet = world.puppet();
        let pid = puppet.pid().to_string();
        let mut counter = world.fixture_tool("counter", &["-p", &pid, "-m", "0"], libc, "waitpid");
        assert_eq!(puppet.ask("fork 1"), "ok");
        assert_eq!(puppet.ask("fork 1"), "ok");
        assert_eq!(counter.ask("total"), "2", "{:?}", world.mode());
    }
}

#[test]
fn a_target_without_the_probed_file_is_left_alone() {
    let world = World::new();
    let mut puppet = world.puppet();
    let text = puppet.ask("text");
    let counter = world.fixture_tool("counter", &[], &world.fixture("tgt"), "tgt_add");
    assert_eq!(puppet.ask("call 10"), "ok");
    assert_eq!(puppet.ask("text"), text);
    let status = world.run(&["status"]).stdout;
    let row = status
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = row
        .into_iter()
        .find(|words| words.first() == Some(&puppet.pid().to_string().as_str()));
    // Command, hooks, refused hooks.
    assert_eq!(
        row.as_ref().map(|words| &words[1..4]),
        Some(&["puppet", "0", "0"][..]),
        "{status}"
    );
    assert_eq!(counter.finish().code, 0);
}
