//! Processes that change what they are: user, root, namespaces, what they lock.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::world::*;

#[test]
fn programs_that_must_be_alone_are() {
    let world = World::new();
    let tool = world.session();
    tool.work();
    for words in [
        "unshare -Ur true",
        "unshare -Urm --fork true",
        "setpriv --reuid 65534 --regid 65534 --clear-groups true",
        "setpriv --reuid 65534 --regid 65534 --init-groups --bounding-set -all true",
    ] {
        let mut words = words.split(' ');
        let output = world
            .command(&Path::new("/usr/bin").join(words.next().unwrap()))
            .args(words)
            // The last program of each may not read the library, and says so.
            .env("LD_BIND_NOW", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Whether a test that needs root can run; in CI it must.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn is_root_or_says_so() -> bool {
    // SAFETY: geteuid has no arguments.
    let root = unsafe { libc::geteuid() == 0 };
    if !root {
        assert!(
            std::env::var_os("CI").is_none(),
            "needs root; in CI nothing is left out"
        );
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn a_locked_process_is_not_filled_with_a_sparse_session() {
    if !is_root_or_says_so() {
        return;
    }
    let world = World::new();
    let mut victim = world.victim();
    assert_eq!(victim.ask("m"), "locked 0");
    let tool = world.session();
    let link = tool.work();
    tool.session.publish();
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.counts(link), hits(1000));
    let data = std::fs::metadata(tool.session.path().join("data")).unwrap();
    assert!(data.blocks() * 512 < 1 << 20, "{} blocks", data.blocks());
    victim.end();
}

#[test]
fn a_process_that_changes_its_user_or_root_is_followed() {
    if !is_root_or_says_so() {
        return;
    }
    for change in ["u", "r"] {
        let world = World::new();
        let tool = world.session();
        let link = tool.work();
        let mut victim = world.victim();
        assert_eq!(victim.ask("w"), "worked");
        assert_eq!(victim.ask(change), "changed 0");
        assert_eq!(victim.ask("w"), "worked");
        assert_eq!(tool.counts(link), hits(2000));
        let another = tool.work();
        tool.session.publish();
        assert_eq!(victim.ask("w"), "worked");
        assert_eq!(tool.counts(another), hits(1000));
        tool.session.close();
        assert_eq!(victim.ask("w"), "worked");
        victim.end();
    }
}

#[test]
fn a_process_that_has_lost_sight_of_proc_can_still_be_left() {
    if !is_root_or_says_so() {
        return;
    }
    let world = World::new();
    let tool = world.session();
    let link = tool.work();
    let mut victim = world.victim();
    // The second starts the thread anew, in the new root.
    assert_eq!(victim.ask("r"), "changed 0");
    assert_eq!(victim.ask("u"), "changed 0");
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.counts(link), hits(1000));
    let refused = tool.work();
    tool.session.publish();
    let (_, hooks, reason) = tool.agents().remove(0);
    assert_eq!(
        (hooks, reason.as_str()),
        (1, "this process cannot see its /proc any more")
    );
    tool.session.remove(refused).unwrap();
    tool.session.remove(link).unwrap();
    tool.session.publish();
    assert_eq!(tool.agents(), [(victim.pid(), 0, String::new())]);
    assert_eq!(victim.ask("w"), "worked");
    victim.end();
}
