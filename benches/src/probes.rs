//! Nanoseconds that a probe adds to a call. Both worlds have a victim process
//! of their own (the kernel's uprobes go by file and would reach ours, too)
//! and a tool that attaches and detaches for each measurement. Rounds are
//! interleaved: drift of the machine meets everything alike.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Program, World};

use crate::report::{ProbeCost, Threads};
use crate::{best, median};

/// Functions of the victim, and what their first instruction is.
const FUNCTIONS: [(&str, &str); 4] = [
    ("v_push", "push"),
    ("v_nop5", "5-byte nop"),
    ("v_lea", "lea"),
    ("v_endbr", "endbr64"),
];

/// What is measured on each function: program, kind of probe, name.
const PROBES: [(&str, &str, &str); 8] = [
    ("empty", "entry", "empty uprobe"),
    ("empty", "return", "empty uretprobe"),
    ("hash", "entry", "uprobe + hash ++"),
    ("percpu", "entry", "uprobe + per-CPU array ++"),
    ("record", "entry", "uprobe + 16-byte ring record"),
    ("read_stack", "entry", "uprobe + read 16 bytes, stack"),
    ("read_heap", "entry", "uprobe + read 16 bytes, heap"),
    ("read_text", "entry", "uprobe + read 16 bytes, program"),
];

const ROUNDS: usize = 9;

/// Threads of a measurement with many, see `fixtures/targets/victim.c`.
const THREADS: u64 = 8;
/// Threads run longer, so that those of a second core are met.
const THREAD_CALLS: u64 = 400_000;

/// Calls in one measurement; a kernel probe costs up to 10,000 ns.
const OUR_CALLS: u64 = 200_000;
const KERNEL_CALLS: u64 = 4_000;
const PLAIN_CALLS: u64 = 1_000_000;

/// A victim and a tool of one world.
struct Pair {
    victim: Program,
    tool: Program,
    /// Another tool, with a program that reads memory at a place that is not
    /// passed again: what lasts of a process is found out once such a program
    /// is there, within a second.
    _reader: Program,
    calls: u64,
    counted: u64,
}

impl Pair {
    fn start(world: &World, calls: u64) -> Pair {
        let path = world.fixture("victim");
        let start_tool = || {
            let mut tool = Program::on_pipes(world.tool(&[world.fixture("cost"), path.clone()]));
            assert_eq!(tool.line(), "ready");
            tool
        };
        let (tool, mut reader) = (start_tool(), start_tool());
        let mut victim = world.start(std::slice::from_ref(&path));
        assert_eq!(victim.line(), format!("pid {}", victim.pid()));
        assert_eq!(reader.ask("attach read_heap main entry"), "attached");
        sleep(Duration::from_secs(2));
        Pair {
            victim,
            tool,
            _reader: reader,
            calls,
            counted: 0,
        }
    }

    /// Nanoseconds a call of `function`.
    fn time(&mut self, function: &str, calls: u64) -> Result<f64> {
        let total: f64 = self.victim.ask(&format!("{function} {calls}")).parse()?;
        Ok(total / calls as f64)
    }

    /// Nanoseconds of processor time a call of `function`, on many threads.
    fn time_of_threads(&mut self, function: &str) -> Result<f64> {
        let command = format!("{THREADS}:{function} {THREAD_CALLS}");
        let total: f64 = self.victim.ask(&command).parse()?;
        Ok(total / (THREADS * THREAD_CALLS) as f64)
    }

    /// The same with a probe, which must have run at every call.
    fn time_probed(&mut self, function: &str, program: &str, kind: &str) -> Result<f64> {
        ensure!(
            self.tool
                .ask(&format!("attach {program} {function} {kind}"))
                == "attached"
        );
        self.time(function, self.calls / 10)?; // the first calls find cold caches
        let time = self.time(function, self.calls)?;
        let answer = self.tool.ask("detach");
        let counted: u64 = answer
            .strip_prefix("counted ")
            .context("a count")?
            .parse()?;
        let expected = if program == "empty" {
            0
        } else {
            self.calls / 10 + self.calls
        };
        ensure!(
            counted - self.counted == expected,
            "{program} on {function}: {} runs counted instead of {expected}",
            counted - self.counted
        );
        self.counted = counted;
        Ok(time)
    }
}

/// Measures every probe on every function in both worlds.
pub fn measure(ours: &World, kernel: Option<&World>) -> Result<Vec<ProbeCost>> {
    let mut ours = Pair::start(ours, OUR_CALLS);
    let mut kernel = kernel.map(|world| Pair::start(world, KERNEL_CALLS));
    let mut costs = Vec::new();
    for (function, first) in FUNCTIONS {
        for (program, kind, name) in PROBES {
            let (mut plain, mut here, mut there) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                plain.push(ours.time(function, PLAIN_CALLS)?);
                here.push(ours.time_probed(function, program, kind)?);
                if let Some(kernel) = &mut kernel {
                    there.push(kernel.time_probed(function, program, kind)?);
                }
            }
            let best_cost = best(&here) - best(&plain);
            let plain = median(plain);
            costs.push(ProbeCost {
                probe: name,
                first_instruction: first,
                unprobed_ns: plain,
                bpftime_ns: median(here) - plain,
                bpftime_best_ns: best_cost,
                kernel_ns: kernel.is_some().then(|| median(there) - plain),
            });
        }
    }
    Ok(costs)
}

/// What a hit costs on one thread and on many at once, in processor time
/// above the unprobed call.
pub fn measure_threads(world: &World) -> Result<Threads> {
    let mut pair = Pair::start(world, OUR_CALLS);
    let (function, _) = FUNCTIONS[0];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        times[0].push(pair.time(function, PLAIN_CALLS)?);
        times[1].push(pair.time_of_threads(function)?);
        ensure!(pair.tool.ask(&format!("attach empty {function} entry")) == "attached");
        pair.time(function, OUR_CALLS / 10)?;
        times[2].push(pair.time(function, OUR_CALLS)?);
        times[3].push(pair.time_of_threads(function)?);
        ensure!(pair.tool.ask("detach").starts_with("counted "));
    }
    let [plain, plain_threads, probed, probed_threads] = times.each_ref().map(|times| best(times));
    Ok(Threads {
        threads: THREADS,
        one_ns: probed - plain,
        many_ns: probed_threads - plain_threads,
    })
}
