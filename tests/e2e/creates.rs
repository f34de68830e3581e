//! What `BPF_MAP_CREATE` takes and refuses, and what fds allow that may only
//! read or write, as in the kernel.

use bpftime_tests::World;

#[test]
fn maps_are_made_and_refused_as_in_the_kernel() {
    let say = |world: &World| {
        let tool = world.load(&[world.fixture("creates")]).finish();
        assert_eq!(tool.code, 0, "{}", tool.stderr);
        tool.stdout
    };
    let ours = say(&World::new());
    let count = |what| ours.lines().filter(|line| line.contains(what)).count();
    assert_eq!((count(" flags:"), count("rights ")), (38, 45));
    assert!(ours.contains("type 29 usual: 0\n"));
    let Some(kernel) = World::kernel() else {
        return;
    };
    let theirs = say(&kernel);
    assert_eq!(ours.lines().count(), theirs.lines().count());
    let differ = ours.lines().zip(theirs.lines()).filter(|(a, b)| a != b);
    let differ: Vec<_> = differ.collect();
    assert!(
        differ.is_empty(),
        "left: bpftime, right: kernel: {differ:#?}"
    );
}

#[test]
fn what_only_kernels_have_is_refused() {
    let world = World::new();
    let creates = world.fixture("creates").into_os_string();
    let tool = world.load(&[creates, "others".into()]).finish();
    assert_eq!(tool.code, 0);
    let lines = tool.stdout.lines();
    assert!(lines.clone().count() == 17 && lines.clone().all(|line| line.ends_with(": 22 22")));
    // Without a name it is a look for what there is.
    let line = "bpftime: map seen cannot be made: sockets in maps are the kernel's\n";
    assert_eq!(tool.stderr, line);
}
