//! Where programs would run, and why, word by word; and that those run there.

use bpftime_tests::World;

use super::text;

/// What `--explain` prints of `kernels`, of which three programs are named.
fn explained(world: &World, options: &[&str]) -> String {
    let object = world.fixture("kernels.bpf.o");
    let mut words = vec!["run", "--explain"];
    let rest = [
        "on_ingress",
        "on_egress",
        "on_group",
        "on_connection",
        "on_mkdir",
        "on_entry",
        "each_task",
        "on_function",
    ];
    words.extend(rest.iter().flat_map(|name| ["--without", name]));
    words.extend([
        "--attach",
        "on_call=/bin/true:f",
        "--attach",
        "on_packet=lo",
    ]);
    words.extend(options);
    words.push(text(&object));
    let exit = world.run(&words);
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{exit:?}");
    let lines = exit.stdout.lines();
    let lines = lines.filter(|line| !line.ends_with("left out by --without"));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    let missing = "which takes CAP_BPF and CAP_PERFMON, as root has";
    assert_eq!(
        explained(&World::new(), &[]),
        format!(
            "PROGRAM        SECTION                RUNS IN     WHY
on_call        uprobe                 user space  user space hosts it
on_packet      xdp                    nowhere     only the kernel hosts xdp programs, {missing}
on_switch      tp_btf/sched_switch    nowhere     only the kernel hosts tracing programs, {missing}
on_wakeup      tp/sched/sched_wakeup  nowhere     only the kernel hosts tracepoint sched:sched_wakeup, {missing}
on_socket      socket                 user space  user space hosts it; attached to nothing
"
        )
    );
}

#[test]
fn root_is_told_who_hosts_what() {
    let Some(world) = World::privileged() else {
        return;
    };
    assert_eq!(
        explained(&world, &[]),
        "PROGRAM        SECTION                RUNS IN     WHY
on_call        uprobe                 user space  user space hosts it
on_packet      xdp                    kernel      only the kernel hosts xdp programs
on_switch      tp_btf/sched_switch    kernel      only the kernel hosts tracing programs
on_wakeup      tp/sched/sched_wakeup  kernel      only the kernel hosts tracepoint sched:sched_wakeup
on_socket      socket                 user space  user space hosts it; attached to nothing
"
    );
    let forbidden = explained(&world, &["--runtime", "user", "--json"]);
    assert_eq!(
        forbidden.lines().nth(1),
        Some(
            r#"{"program":"on_packet","runs_in":"nowhere","section":"xdp","why":"only the kernel hosts xdp programs, which --runtime user forbids"}"#
        )
    );
    let kernel = explained(&world, &["--runtime", "kernel", "--json"]);
    assert_eq!(
        kernel.lines().next(),
        Some(
            r#"{"program":"on_call","runs_in":"kernel","section":"uprobe","why":"--runtime kernel"}"#
        )
    );
}

#[test]
fn what_the_verifier_refuses_is_said() {
    let world = World::new();
    let object = world.fixture("refused.bpf.o");
    let exit = world.run(&["run", "--explain", text(&object)]);
    assert_eq!(exit.code, 0, "{exit:?}");
    let missing = "which takes CAP_BPF and CAP_PERFMON, as root has";
    assert_eq!(
        exit.stdout,
        format!(
            "PROGRAM  SECTION             RUNS IN     WHY
wild     uprobe//bin/true:f  nowhere     user space refuses it: R0 invalid mem access 'scalar', {missing}
good     uprobe//bin/true:g  user space  user space hosts it
"
        )
    );
}
