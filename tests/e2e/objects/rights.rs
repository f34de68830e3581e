//! What a user is told when the kernel does not let a program be loaded: the
//! capability that is missing, or that this kernel lets nobody load such programs.

use bpftime_tests::{Exit, Mode, Program, World};
use nix::errno::Errno;

use super::kernels;

/// `kernels` with one of its programs, by a root who has these capabilities only.
fn with_capabilities(world: &World, capabilities: &str, program: &str) -> (i32, String) {
    let tool = kernels::run(world, &[program], &["--attach", &format!("{program}=off")]);
    // It reads the files of an ordinary user.
    let set = format!("-all,+dac_override,{capabilities}");
    let exit = first_line(Program::on_pipes(kernels::as_root(
        &["setpriv", "--bounding-set", &set],
        &tool,
    )));
    (exit.code, exit.stderr)
}

/// Ends a tool when it has said that it is attached, or why it is not.
fn first_line(tool: Program) -> Exit {
    tool.wait_stderr("\n");
    match tool.stderr().contains("attached") {
        true => tool.interrupt(),
        false => tool.finish(),
    }
}

#[test]
fn the_missing_capability_is_named() {
    let Some(worlds) = kernels::worlds() else {
        return;
    };
    let confined = "what confines this process does not allow it, though it is root's";
    for world in worlds {
        let told =
            |capabilities: &str, program: &str| with_capabilities(&world, capabilities, program);
        let lacking = |program: &str, section: &str, what: &str| {
            format!(
                "bpftime: {program}: section \"{section}\": takes {what}, which this process \
                 lacks (Operation not permitted): {confined}\n"
            )
        };
        let all = told("+bpf,+perfmon,+net_admin", "on_packet");
        let attached = (0, "bpftime: attached; Ctrl-C ends\n".to_owned());
        let shared = "bpftime: on_packet: section \"xdp\": only the kernel hosts xdp programs, and \
                      to share maps with it takes CAP_SYS_ADMIN, unless all is there (--runtime \
                      kernel): run it as root, or leave it out by --without on_packet\n";
        if world.mode() == Mode::Bpftime {
            assert_eq!(all, (1, shared.to_owned()));
            continue;
        }
        assert_eq!(all, attached);
        let line = lacking("on_packet", "xdp", "CAP_NET_ADMIN");
        assert_eq!(told("+bpf,+perfmon", "on_packet"), (1, line));
        let line = lacking("on_switch", "tp_btf/sched_switch", "CAP_PERFMON");
        assert_eq!(told("+bpf", "on_switch"), (1, line));
    }
}

/// Whether the running kernel lets nobody load programs of this type and way to
/// attach: it refuses even one without instructions for lack of a right.
fn is_refused(kind: u32, attach_type: u32) -> bool {
    const BPF_PROG_LOAD: libc::c_long = 5;
    let mut attributes = [0_u32; 32];
    attributes[0] = kind;
    // `expected_attach_type` of `union bpf_attr`.
    attributes[17] = attach_type;
    // SAFETY: attributes that outlive the call, of the size that is said.
    let made = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    assert_eq!(made, -1);
    Errno::last() == Errno::EPERM
}

#[test]
fn programs_that_the_kernel_lets_nobody_load_are_told() {
    let Some(worlds) = kernels::worlds() else {
        return;
    };
    // Types and ways to attach of include/uapi/linux/bpf.h.
    let (tracing, lsm) = (26, 29);
    let (fentry, mac) = (24, 27);
    for world in worlds {
        for (program, section, family, refused) in [
            (
                "on_entry",
                "fentry/do_mkdirat",
                "fentry",
                is_refused(tracing, fentry),
            ),
            ("on_mkdir", "lsm/path_mkdir", "lsm", is_refused(lsm, mac)),
        ] {
            let exit = first_line(Program::on_pipes(kernels::as_root(
                &["env"],
                &kernels::run(&world, &[program], &[]),
            )));
            let begin = format!(
                "bpftime: {program}: section \"{section}\": this kernel refuses all {family} \
                 programs before it looks at them"
            );
            let end = format!(": leave it out by --without {program}\n");
            match refused {
                true => assert!(
                    exit.code == 1
                        && exit.stderr.starts_with(&begin)
                        && exit.stderr.ends_with(&end),
                    "{exit:?}"
                ),
                false => assert_eq!(
                    (exit.code, exit.stderr.as_str()),
                    (0, "bpftime: attached; Ctrl-C ends\n")
                ),
            }
        }
    }
}
