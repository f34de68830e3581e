//! What tools start and what they name is traced without more ado; what helps
//! them is left alone.

mod inherit;
mod named;

use bpftime_tests::{Exit, Program, World};

use crate::table::{both, expand, tool_command};

/// Runs a tool to its end; what it shows on stdout, its rows sorted.
fn finished(world: &World, words: &[&str]) -> Vec<String> {
    let exit = Program::on_pipes(tool_command(world, &expand(world, words))).finish();
    rows(&exit)
}

fn rows(exit: &Exit) -> Vec<String> {
    let mut rows: Vec<String> = exit.stdout.lines().map(str::to_owned).collect();
    rows.retain(|row| row.starts_with('@') || row.starts_with("sum "));
    rows.sort();
    rows
}

#[test]
fn bpftrace_traces_its_command_from_the_first_instruction() {
    both(|world| {
        world.fixture("rounds");
        let script = "uprobe:{home}/rounds:rounds_add { @calls = count(); } \
                      uretprobe:{home}/rounds:rounds_add { @sum = sum(retval); } \
                      uprobe:{home}/rounds:main { @mains = count(); } \
                      usdt:{home}/rounds:rounds:watched { @watched = count(); }";
        let shown = finished(world, &["bpftrace", "-e", script, "-c", "{home}/rounds 7"]);
        let expected = [
            "@calls: 7",
            "@mains: 1",
            "@sum: 112",
            "@watched: 7",
            "sum 112 right",
        ];
        assert_eq!(shown, expected, "{:?}", world.mode());
    });
}

#[test]
fn bpftrace_traces_its_commands_calls() {
    both(|world| {
        let script = world.home().join("script.sh");
        std::fs::write(&script, "kill -0 $$; kill -0 $$; /bin/kill -0 $$; :\n").expect("a script");
        let program = "tracepoint:syscalls:sys_enter_kill /pid == cpid || comm == \"kill\"/ \
                       { @[comm, args->sig] = count(); }";
        let command = "/bin/sh {home}/script.sh";
        let shown = finished(world, &["bpftrace", "-e", program, "-c", command]);
        assert_eq!(
            shown,
            ["@[kill, 0]: 1", "@[sh, 0]: 2"],
            "{:?}",
            world.mode()
        );
    });
}

#[test]
fn what_bpftrace_has_a_shell_do_is_traced() {
    both(|world| {
        world.fixture("rounds");
        let script = "BEGIN { system(\"{home}/rounds 3\"); } \
                      uprobe:{home}/rounds:rounds_add { @calls = count(); } \
                      uprobe:{home}/rounds:rounds_slow { exit(); }";
        let words = expand(world, &["bpftrace", "--unsafe", "-e", script]);
        let mut tool = Program::on_terminal(tool_command(world, &words));
        tool.lines_until(|line| line == "sum 30 right");
        assert_eq!(rows(&tool.interrupt()), ["@calls: 3", "sum 30 right"]);
    });
}

#[test]
fn memleak_traces_its_command() {
    let world = World::new();
    world.fixture("rounds");
    // The command has the tool's stdin, and waits for a line there.
    let command = "{home}/rounds 200 0 wait";
    let words = ["memleak-bpfcc", "-o", "0", "-c", command, "1"];
    let mut tool = Program::on_terminal(world.tool(&expand(&world, &words)));
    tool.lines_until(|line| line.contains("Attaching to pid"));
    tool.lines_until(|line| line.contains("Top 10"));
    tool.tell("go");
    tool.lines_until(|line| line.contains("20000 bytes in 20 allocations from stack"));
    for function in ["rounds_alloc+", "rounds_leak+", "main+"] {
        let frame = tool.line();
        assert!(frame.contains(function), "{frame}");
    }
    tool.hang_up();
    tool.kill();
}

#[test]
fn executing_answers_as_ever() {
    let world = World::new();
    let tool = world.home().join("tool.py");
    let script = "import bcc, subprocess, os\n\
                  print(subprocess.run(['/bin/true']).returncode)\n\
                  print(os.WEXITSTATUS(os.system('exit 3')))\n\
                  print(subprocess.run('exit 4', shell=True).returncode)\n\
                  try: subprocess.run(['/nonexistent/program'])\n\
                  except FileNotFoundError: print('none')\n\
                  try: os.execv('/etc/passwd', ['x'])\n\
                  except PermissionError: print('no right')\n\
                  print(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp('sh', ['sh', '-c', 'exit 5'], os.environ), 0)[1]))\n\
                  os.execlp('sh', 'sh', '-c', 'echo $1 $2 $3 $4 $5 $6', 'a', 'b', 'c', 'd', 'e', 'f', 'g')\n";
    std::fs::write(&tool, script).expect("a script");
    let path = tool.display().to_string();
    let shown = world.run(&["load", "python3", "-u", &path]);
    let expected = "0\n3\n4\nnone\nno right\n5\nb c d e f g\n";
    assert_eq!(
        (shown.stdout.as_str(), shown.stderr.as_str()),
        (expected, "")
    );
}

#[test]
fn executing_with_wrong_addresses_fails_as_ever() {
    let world = World::new();
    let tool = world.home().join("tool.py");
    let script = "import ctypes, errno, os\n\
                  libc = ctypes.CDLL(None, use_errno=True)\n\
                  strings = lambda *all: (ctypes.c_void_p * len(all))(*all)\n\
                  name = ctypes.create_string_buffer(b'true')\n\
                  argv = strings(ctypes.addressof(name), None)\n\
                  def tell(done):\n\
                  \tprint(done, errno.errorcode[ctypes.get_errno()])\n\
                  wrong = [ctypes.c_void_p(at) for at in (16, 3, 2**63, 2**64 - 8)]\n\
                  for envp in wrong + [strings(16, None)]:\n\
                  \ttell(libc.execve(b'/bin/true', argv, envp))\n\
                  \ttell(libc.syscall(59, b'/bin/true', argv, envp))\n\
                  \tprint(libc.posix_spawn(None, b'/bin/true', None, None, argv, envp))\n\
                  tell(libc.execve(b'/nonexistent', argv, wrong[0]))\n\
                  tell(libc.execve(wrong[0], argv, None))\n\
                  tell(libc.execveat(-100, wrong[0], argv, None, 0))\n\
                  tell(libc.execve(b'/bin/true', wrong[0], None))\n\
                  tell(libc.execvp(b'x' * 5000, argv))\n\
                  libc.execve(b'/bin/true', argv, None)\n";
    std::fs::write(&tool, script).expect("a script");
    let path = tool.display().to_string();
    let shown = world.run(&["load", "python3", "-u", &path]);
    let mut expected = "-1 EFAULT\n-1 EFAULT\n14\n".repeat(5);
    expected += "-1 ENOENT\n-1 EFAULT\n-1 EFAULT\n-1 EFAULT\n-1 ENAMETOOLONG\n";
    assert_eq!(
        (shown.stdout.as_str(), shown.stderr.as_str()),
        (expected.as_str(), "")
    );
}
