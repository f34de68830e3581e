//! `bpf_trace_printk`, whose lines the tool or any other process of the user
//! reads from trace_pipe.

use bpftime_tests::{Mode, Program, World};

use crate::table::{both, expand, tool_command, trace_pipe_turn};

/// A tool of bcc's that prints, and whose reader of trace_pipe it may be.
const SCRIPT: &str = include_str!("scripts/printk.py");

fn start(world: &World, words: &[&str]) -> Program {
    world.fixture("rounds");
    let script = world.home().join("printk.py");
    std::fs::write(&script, SCRIPT).expect("a script in the user's home");
    let all = [&["python3", "{home}/printk.py", "{home}/rounds"], words].concat();
    let mut tool = Program::on_terminal(tool_command(world, &expand(world, &all)));
    tool.lines_until(|line| line == "ready");
    tool
}

/// A line without who, where and when, which is checked. The kernel does not
/// know the names of all tasks that printed.
fn message(line: &str, pid: i32, mode: Mode) -> String {
    let (head, message) = line
        .split_once(": bpf_trace_printk: ")
        .expect("a line of trace_pipe");
    let (task, rest) = head.split_at(25);
    let name = match mode {
        Mode::Kernel if task.contains("<...>") => "<...>",
        _ => "rounds",
    };
    assert_eq!(task, format!("{name:>16}-{pid:<7} "), "{line}");
    let words: Vec<&str> = rest.split_whitespace().collect();
    let cpu = words[0]
        .strip_prefix('[')
        .and_then(|cpu| cpu.strip_suffix(']'));
    assert!(
        cpu.is_some_and(|cpu| cpu.len() == 3 && cpu.parse::<u32>().is_ok()),
        "{line}"
    );
    assert_eq!((words[1].len(), words.len()), (5, 3), "{line}");
    let seconds: f64 = words[2].parse().expect("seconds");
    let point = words[2].len() - words[2].find('.').expect("microseconds");
    assert!(seconds > 0.0 && point == 7, "{line}");
    message.to_owned()
}

const EXPECTED: [&str; 3] = [
    "add 0 round-0 0",
    "leak 3e8|   -7|7    |",
    "add 1 round-1 2",
];

#[test]
fn a_tool_reads_what_its_programs_print() {
    both(|world| {
        let _turn = trace_pipe_turn(world);
        let mut tool = start(world, &["raw"]);
        let work = world.start(&expand(world, &["{home}/rounds", "2"]));
        let pid = work.pid();
        assert_eq!(work.finish().code, 0);
        let mut lines = Vec::new();
        while lines.len() < EXPECTED.len() {
            let line = tool.line();
            // The kernel ends a message that ends a line by another end, and
            // shows what whoever else prints.
            let is_ours = world.mode() != Mode::Kernel || line.contains(&format!("-{pid} "));
            if !line.is_empty() && is_ours {
                lines.push(message(&line, pid, world.mode()));
            }
        }
        assert_eq!(lines, EXPECTED, "{:?}", world.mode());
        tool.kill();
    });
}

#[test]
fn another_process_reads_what_programs_print() {
    let world = World::new();
    assert_eq!(world.mode(), Mode::Bpftime);
    let tool = start(&world, &["silent"]);
    let pipe = "/sys/kernel/tracing/trace_pipe";
    let mut reader = Program::on_terminal(world.bpftime(&["load", "head", "-n", "4", pipe]));
    let work = world.start(&expand(&world, &["{home}/rounds", "2"]));
    let pid = work.pid();
    assert_eq!(work.finish().code, 0);
    let lines: Vec<String> = (0..4)
        .map(|_| reader.line())
        .filter(|line| !line.is_empty())
        .collect();
    let lines: Vec<String> = lines
        .iter()
        .map(|line| message(line, pid, world.mode()))
        .collect();
    assert_eq!(lines, EXPECTED);
    assert_eq!(reader.finish().code, 0);
    tool.kill();
}

/// A tool that looks at its own calls: libbpf's examples for newcomers do.
#[test]
fn a_tool_traces_itself() {
    both(|world| {
        let _turn = trace_pipe_turn(world);
        let mut tool = Program::on_pipes(world.tool(&[world.fixture("selftrace")]));
        assert_eq!(tool.line(), "ready");
        let pipe = "/sys/kernel/tracing/trace_pipe";
        let mut reader = Program::on_terminal(world.tool(&["cat", pipe]));
        for round in 1..=2 {
            assert_eq!(tool.ask("go"), "done");
            let mut lines = Vec::new();
            while lines.len() < 5 {
                // Others may print into the kernel's.
                let line = reader.line();
                lines.extend(line.split_once(": self_").map(|(_, said)| said.to_owned()));
            }
            let expected = [
                format!("write: {} bytes", 100 + round),
                format!("add ENTRY: a = {}, b = 3", 2 * round),
                format!("add EXIT: return = {}", 2 * round + 3),
                format!("sub ENTRY: a = {}, b = 2", 4 * round),
                format!("sub EXIT: return = {}", 4 * round - 2),
            ];
            assert_eq!(lines, expected, "{:?}", world.mode());
        }
        reader.kill();
        tool.hang_up();
        assert_eq!(tool.finish().code, 0);
    });
}
