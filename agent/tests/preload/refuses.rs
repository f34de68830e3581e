//! What is not hooked, and the words for it.

use runtime::session::LinkKind;

use crate::world::*;

#[test]
fn a_refused_probe_says_why() {
    let world = World::new();
    let victim = world.victim();
    let tool = world.session();
    // No instruction begins there.
    tool.link_behind(&built().victim, "main", 1, LinkKind::Uretprobe, -1);
    tool.session.publish();
    let agents = tool.agents();
    assert_eq!((agents[0].0, agents[0].1), (victim.pid(), 0));
    assert!(agents[0].2.contains("cannot be probed"), "{}", agents[0].2);
    victim.end();
}

#[test]
fn a_back_end_that_is_not_there_says_so() {
    let world = World::new();
    let tool = world.session();
    let link = tool.work();
    for (name, reason) in [
        (
            "firda",
            "hook back end firda: there are `native` and `frida`",
        ),
        #[cfg(not(feature = "frida"))]
        ("frida", "this build is without it (cargo feature `frida`"),
    ] {
        let mut victim = world.victim_hooked_by(name);
        assert_eq!(victim.ask("w"), "worked");
        tool.session.publish();
        let (pid, hooks, said) = tool.agents().remove(0);
        assert_eq!((pid, hooks), (victim.pid(), 0));
        assert!(said.contains(reason), "{said}");
        victim.end();
    }
    assert_eq!(tool.counts(link), hits(0));
}

#[test]
fn calls_by_int_0x80_are_told() {
    let world = World::new();
    let mut command = world.command(&built().victim);
    let preload = [agent(), built().old.clone()].map(|path| path.display().to_string());
    command.env("LD_PRELOAD", preload.join(":"));
    let victim = world.start_victim(command);
    let tool = world.session();
    tool.any_syscall();
    tool.session.publish();
    let reason = "int 0x80 and sysenter are not hooked, their calls are not seen";
    assert_eq!(tool.agents(), [(victim.pid(), 1, reason.to_owned())]);
    victim.end();
}
