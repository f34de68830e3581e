//! Tools on processes without an agent, which they name by `-p`.

use std::time::Duration;

use bpftime_tests::{Program, World};
use nix::sys::signal::Signal;

use crate::table::{behind, both, expand, tool_command};

/// A process that nobody has made a target, and that waits for a line.
struct Target(Program);

impl Target {
    fn rounds(world: &World, rounds: &str) -> Target {
        world.fixture("rounds");
        let words = ["{home}/rounds", rounds, "0", "wait"];
        Target::started(Program::on_pipes(world.plain(&expand(world, &words))))
    }

    /// A shell that does `script` when it is told to, and says `done`.
    fn shell(world: &World, script: &str) -> Target {
        let script = format!("echo pid $$; read go; {script}; echo done; read end");
        Target::started(Program::on_pipes(world.plain(&["sh", "-c", &script])))
    }

    fn started(mut program: Program) -> Target {
        assert_eq!(program.line(), format!("pid {}", program.pid()));
        Target(program)
    }

    fn go(&mut self) -> String {
        self.0.tell("go");
        self.0.line()
    }
}

/// Starts a tool whose command line has `{pid}` in it.
fn start(world: &World, words: &[&str], pid: i32) -> Program {
    let words: Vec<String> = expand(world, words)
        .iter()
        .map(|word| word.replace("{pid}", &pid.to_string()))
        .collect();
    Program::on_terminal(tool_command(world, &words))
}

/// The numbers behind `name` in what a tool shows.
fn count_of(shown: &str, name: &str) -> String {
    let row = shown
        .lines()
        .find(|line| line.trim_start().starts_with(name));
    behind(row.unwrap_or_default(), 1)
}

#[test]
fn bpftrace_on_a_process() {
    both(|world| {
        let mut target = Target::rounds(world, "20");
        let script = "uprobe:{home}/rounds:rounds_add { @calls = count(); } \
                      usdt:{home}/rounds:rounds:watched { @watched = count(); }";
        let tool = start(
            world,
            &["bpftrace", "-p", "{pid}", "-e", script],
            target.0.pid(),
        );
        tool.wait_idle();
        assert_eq!(target.go(), "sum 720 right");
        let shown = super::rows(&tool.interrupt());
        assert_eq!(shown, ["@calls: 20", "@watched: 20"], "{:?}", world.mode());
    });
}

#[test]
fn bcc_trace_on_a_process() {
    both(|world| {
        let mut target = Target::rounds(world, "2");
        let probe = "{home}/rounds:rounds_add(int a, char *s) \"%d %s\", a, s";
        let words = ["trace-bpfcc", "-p", "{pid}", probe];
        let mut tool = start(world, &words, target.0.pid());
        tool.line();
        tool.wait_idle();
        target.go();
        let rows = [tool.line(), tool.line()].map(|line| behind(&line, 2));
        let expected = ["rounds rounds_add 0 round-0", "rounds rounds_add 1 round-1"];
        assert_eq!(rows, expected, "{:?}", world.mode());
        tool.kill();
    });
}

#[test]
fn bcc_funccount_on_a_process() {
    both(|world| {
        let mut target = Target::rounds(world, "30");
        let words = ["funccount-bpfcc", "-p", "{pid}", "{home}/rounds:rounds_*"];
        let mut tool = start(world, &words, target.0.pid());
        tool.lines_until(|line| line.starts_with("Tracing"));
        tool.wait_asleep();
        target.go();
        let shown = tool.interrupt().stdout;
        let counts =
            ["rounds_add", "rounds_alloc", "rounds_leak"].map(|name| count_of(&shown, name));
        assert_eq!(counts, ["30", "33", "3"], "{:?}", world.mode());
    });
}

#[test]
fn bcc_argdist_on_a_process() {
    both(|world| {
        let mut target = Target::rounds(world, "9");
        let probe = "p:{home}/rounds:rounds_add(int a):int:a&1";
        let words = ["argdist-bpfcc", "-p", "{pid}", "-c", "-i", "1", "-C", probe];
        let mut tool = start(world, &words, target.0.pid());
        tool.lines_until(|line| line.starts_with('['));
        target.go();
        let mut rows = Vec::new();
        while rows.len() < 2 {
            let row = behind(&tool.line(), 0);
            rows.extend(row.contains(" = ").then_some(row));
        }
        rows.sort();
        assert_eq!(rows, ["4 a&1 = 1", "5 a&1 = 0"], "{:?}", world.mode());
        tool.kill();
    });
}

#[test]
fn funclatency_on_a_process() {
    both(|world| {
        let mut target = Target::rounds(world, "40");
        let words = ["funclatency", "-p", "{pid}", ":rounds_add"];
        let mut tool = start(world, &words, target.0.pid());
        tool.lines_until(|line| line.starts_with("Tracing"));
        tool.wait_asleep();
        target.go();
        let shown = tool.interrupt().stdout;
        let count = |line: &str| -> Option<u64> {
            let (_, row) = line.split_once(':')?;
            row.split('|').next()?.trim().parse().ok()
        };
        let sum: u64 = shown.lines().filter_map(count).sum();
        assert_eq!(sum, 40, "{:?}: {shown}", world.mode());
    });
}

/// Its programs compare process ids; nothing else says whom it means.
#[test]
fn syscount_on_a_process() {
    both(|world| {
        let script = "for i in 0 1 2 3 4 5 6 7 8 9; do kill -0 $$; : </etc/hostname; done";
        let mut target = Target::shell(world, script);
        let mut tool = start(
            world,
            &["syscount", "-p", "{pid}", "-T", "50"],
            target.0.pid(),
        );
        tool.lines_until(|line| line.starts_with("Tracing"));
        tool.wait_asleep();
        assert_eq!(target.go(), "done");
        let exit = tool.interrupt();
        let counts = ["kill", "openat", "dup2"].map(|name| count_of(&exit.stdout, name));
        assert_eq!(counts, ["10", "10", "20"], "{:?}: {exit:?}", world.mode());
    });
}

#[test]
fn opensnoop_on_a_process() {
    both(|world| {
        let script = "(:) </nonexistent/file; : </etc/hostname; : </etc/passwd";
        let mut target = Target::shell(world, script);
        let pid = target.0.pid().to_string();
        let mut tool = start(world, &["opensnoop", "-p", "{pid}"], target.0.pid());
        tool.line();
        tool.wait_idle();
        target.go();
        let rows = [tool.line(), tool.line()];
        let rows = rows.map(|line| behind(&line, 0));
        let expected = ["/etc/hostname", "/etc/passwd"].map(|path| format!("{pid} sh 3 0 {path}"));
        assert_eq!(rows, expected, "{:?}", world.mode());
        tool.kill();
    });
}

#[test]
fn bcc_opensnoop_on_a_process() {
    let world = World::new();
    let mut target = Target::shell(&world, ": </etc/hostname; : </etc/passwd");
    let mut tool = start(&world, &["opensnoop-bpfcc", "--pid={pid}"], target.0.pid());
    tool.line();
    tool.wait_idle();
    target.go();
    let rows = [tool.line(), tool.line()].map(|line| behind(&line, 1));
    assert_eq!(rows, ["sh 3 0 /etc/hostname", "sh 3 0 /etc/passwd"]);
    tool.kill();
}

/// The id of any thread stands for its process.
#[test]
fn a_thread_may_be_named() {
    both(|world| {
        let library = world.fixture("libplug.so");
        let script = "import ctypes, threading\n\
                      plug = ctypes.CDLL(input())\n\
                      end = threading.Event()\n\
                      thread = threading.Thread(target=end.wait)\n\
                      thread.start()\n\
                      print(thread.native_id, flush=True)\n\
                      input()\n\
                      for i in range(5): plug.plug_add(i, i)\n\
                      print('done', flush=True)\n\
                      end.set()\n";
        let mut target = Program::on_pipes(world.plain(&["python3", "-c", script]));
        let thread = target.ask(&library.display().to_string());
        assert_ne!(thread, target.pid().to_string());
        let mut counter = world.fixture_tool("counter", &["-p", &thread], &library, "plug_add");
        assert_eq!(target.ask("go"), "done");
        assert_eq!(counter.ask("total"), "5", "{:?}", world.mode());
        assert_eq!(target.finish().code, 0);
    });
}

#[test]
fn who_cannot_be_named_is_told_once() {
    let world = World::new();
    world.fixture("rounds");
    // Someone else's process.
    let tool = start(&world, &["syscount", "-p", "{pid}"], 1);
    tool.wait_stderr("bpftime: 1: no permission to attach: it belongs to root");
    let exit = tool.interrupt();
    assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
    // The kernel's answer for a process that is not there.
    both(|world| {
        world.fixture("rounds");
        let script = "uprobe:{home}/rounds:rounds_add { @calls = count(); }";
        let tool = start(world, &["bpftrace", "-p", "{pid}", "-e", script], 4_194_303);
        let exit = tool.finish();
        assert_ne!(exit.code, 0);
        assert!(exit.stderr.contains("No such process"), "{exit:?}");
    });
}

/// Wherever the tool dies, and wherever its target does, the other is as before.
#[test]
fn killed_while_it_attaches() {
    let world = World::new();
    for delay in 0..12 {
        let mut target = Target::rounds(&world, "8");
        let tool = start(
            &world,
            &["funclatency", "-p", "{pid}", ":rounds_add"],
            target.0.pid(),
        );
        std::thread::park_timeout(Duration::from_millis(delay * 7));
        tool.kill();
        assert_eq!(target.go(), "sum 140 right");
        assert_eq!(target.0.finish().code, 0);
        let target = Target::rounds(&world, "8");
        let tool = start(
            &world,
            &["funclatency", "-p", "{pid}", ":rounds_add"],
            target.0.pid(),
        );
        std::thread::park_timeout(Duration::from_millis(delay * 7));
        target.0.kill();
        tool.signal(Signal::SIGINT);
        let exit = tool.finish();
        assert!(exit.code < 128 || exit.code == 130, "{exit:?}");
    }
}

/// What is answered from outside names processes, too.
#[test]
fn a_static_tool_on_a_process() {
    both(|world| {
        let path = world.fixture("puppet");
        let mut puppet = world.bare_puppet();
        let pid = puppet.pid().to_string();
        let options = ["-p", &pid];
        let mut counter = world.fixture_tool("counter_static", &options, &path, "puppet_step");
        assert_eq!(puppet.ask("call 7"), "ok");
        assert_eq!(counter.ask("total"), "7", "{:?}", world.mode());
    });
    // Someone else's process.
    let world = World::new();
    let path = world.fixture("puppet");
    let options = ["-p", "1"];
    let tool = world.fixture_tool("counter_static", &options, &path, "puppet_step");
    tool.wait_stderr("bpftime: 1: no permission to attach: it belongs to root");
}

/// A tool is a target like any other, if it means itself.
#[test]
fn a_tool_may_name_itself() {
    both(|world| {
        world.fixture("libplug.so");
        let script = "import bcc, ctypes, os, sys\n\
                      b = bcc.BPF(text='BPF_ARRAY(n, u64, 1); int f(void *ctx) { n.atomic_increment(0); return 0; }')\n\
                      b.attach_uprobe(name=sys.argv[1], sym='plug_add', fn_name='f', pid=os.getpid())\n\
                      plug = ctypes.CDLL(sys.argv[1])\n\
                      for i in range(5): plug.plug_add(i, i)\n\
                      print(b['n'][0].value)\n";
        std::fs::write(world.home().join("tool.py"), script).expect("a script");
        let words = ["python3", "{home}/tool.py", "{home}/libplug.so"];
        let exit = Program::on_pipes(tool_command(world, &expand(world, &words))).finish();
        assert_eq!(exit.stdout, "5\n", "{:?}: {exit:?}", world.mode());
    });
}

/// As tools do that know `-c`: the child is there before the tool is one, and
/// executes the command when its probes are placed.
#[test]
fn a_child_that_waits_for_the_tool() {
    let world = World::new();
    world.fixture("rounds");
    let script = "import bcc, os, sys\n\
                  begin, go = os.pipe()\n\
                  child = os.fork()\n\
                  if child == 0:\n\
                  \tos.read(begin, 1)\n\
                  \tos.execl(sys.argv[1], 'rounds', '6')\n\
                  b = bcc.BPF(text='BPF_ARRAY(n, u64, 1); int f(void *ctx) { n.atomic_increment(0); return 0; }')\n\
                  b.attach_uprobe(name=sys.argv[1], sym='rounds_add', fn_name='f', pid=child)\n\
                  os.write(go, b'x')\n\
                  print(os.waitpid(child, 0)[1], b['n'][0].value)\n";
    std::fs::write(world.home().join("tool.py"), script).expect("a script");
    let words = ["load", "python3", "{home}/tool.py", "{home}/rounds"];
    let exit = world.run(&expand(&world, &words));
    assert_eq!(
        (exit.stdout.as_str(), exit.stderr.as_str()),
        ("sum 87 right\n0 6\n", "")
    );
}

/// A tool that waits for its own children sees nobody else, and no signal.
#[test]
fn the_tool_sees_no_child_of_ours() {
    let world = World::new();
    let target = Target::rounds(&world, "1");
    let script = "import bcc, os, signal, sys, threading\n\
                  seen = []\n\
                  signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))\n\
                  b = bcc.BPF(text='int f(void *ctx) { return 0; }')\n\
                  def attach():\n\
                  \tb.attach_uprobe(name=sys.argv[2], sym='rounds_add', fn_name='f', pid=int(sys.argv[1]))\n\
                  t = threading.Thread(target=attach)\n\
                  t.start(); t.join()\n\
                  try: os.waitpid(-1, 0)\n\
                  except ChildProcessError: seen.append('nobody')\n\
                  print(seen, signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)\n";
    std::fs::write(world.home().join("tool.py"), script).expect("a script");
    let words = ["python3", "{home}/tool.py", "{pid}", "{home}/rounds"];
    let exit = start(&world, &words, target.0.pid()).finish();
    assert_eq!(
        (exit.stdout.as_str(), exit.stderr.as_str()),
        ("['nobody'] set()\n", "")
    );
    let status = world.run(&["status"]);
    assert!(status.stdout.contains("rounds"), "{status:?}");
}

/// Where no process can be made, the tool goes on.
#[test]
fn without_processes_the_tool_goes_on() {
    let world = World::new();
    let target = Target::rounds(&world, "1");
    let pid = target.0.pid().to_string();
    let probe = expand(&world, &["{home}/rounds:rounds_add"]).concat();
    // Its own and the sweeper's come before the limit that it sets itself.
    let script = "import bcc, resource, sys\n\
                  b = bcc.BPF(text='int f(void *ctx) { return 0; }')\n\
                  b.load_func('f', bcc.BPF.KPROBE)\n\
                  resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n\
                  b.attach_uprobe(name=sys.argv[2].split(':')[0], sym='rounds_add', fn_name='f', pid=int(sys.argv[1]))\n\
                  print('attached', flush=True)\n";
    std::fs::write(world.home().join("tool.py"), script).expect("a script");
    let exit = start(
        &world,
        &["python3", "{home}/tool.py", "{pid}", &probe],
        target.0.pid(),
    )
    .finish();
    assert_eq!(exit.stdout, "attached\n", "{exit:?}");
    let told = format!("bpftime: {pid}: no process can be made to attach to it");
    assert!(exit.stderr.starts_with(&told), "{exit:?}");
    assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
}

/// Only who sits before a terminal is told how processes get traced, and only
/// while none is.
#[test]
fn who_names_nobody_is_told_how() {
    let world = World::new();
    let advices = |tool: &str, is_last: fn(&str) -> bool| {
        let bpftime = bpftime_tests::Stage::get().bpftime();
        let command = format!("{} load {tool}", bpftime.display());
        let mut terminal =
            Program::on_pipes(world.plain(&["script", "-qec", &command, "/dev/null"]));
        let shown = terminal.lines_until(is_last);
        terminal.kill();
        let is_advice = |line: &&String| line.starts_with("bpftime: no process is traced yet: ");
        shown.iter().filter(is_advice).count()
    };
    let has_columns = |line: &str| line.contains("COMM");
    assert_eq!(advices("opensnoop", has_columns), 1);
    let timer = "bpftrace -e 'interval:ms:10 { printf(\"tick\\n\"); exit(); }'";
    assert_eq!(advices(timer, |line| line.contains("tick")), 0);
    let puppet = world.puppet();
    assert_eq!(advices("opensnoop", has_columns), 0);
    puppet.kill();
    assert_eq!(advices("opensnoop", has_columns), 1);
}
