//! Nanoseconds that tracing adds to a system call, to the traced one and to
//! others of the same process. Both worlds have a process and a tool of their
//! own; rounds are interleaved.

use anyhow::{Result, ensure};
use tests::{Program, World};

use crate::report::ProbeCost;
use crate::{best, median};

/// What is attached, which call is timed, and its name.
const ROWS: [(&str, &str, &str); 8] = [
    ("enter", "getppid", "traced system call, enter"),
    ("enter", "syscall_getppid", "traced system call, enter"),
    ("both", "getppid", "traced system call, both"),
    ("both", "syscall_getppid", "traced system call, both"),
    ("enter", "getuid", "other system call"),
    ("enter", "syscall_getuid", "other system call"),
    ("every", "getppid", "every system call, enter"),
    ("every", "syscall_getuid", "every system call, enter"),
];

const ROUNDS: usize = 15;
const CALLS: u64 = 200_000;

/// A process and a tool of one world.
struct Pair {
    caller: Program,
    tool: Program,
}

impl Pair {
    fn start(world: &World) -> Pair {
        let mut tool = Program::on_pipes(world.tool(&[world.fixture("callcost")]));
        assert_eq!(tool.line(), "ready");
        let mut caller = world.start(&[world.fixture("caller")]);
        assert_eq!(caller.line(), format!("pid {}", caller.pid()));
        Pair { caller, tool }
    }

    /// Nanoseconds a call.
    fn time(&mut self, form: &str) -> Result<f64> {
        self.caller.ask(&format!("{form} {}", CALLS / 10)); // cold caches
        let total: f64 = self.caller.ask(&format!("{form} {CALLS}")).parse()?;
        Ok(total / CALLS as f64)
    }

    /// What tracing adds: both are measured right after each other.
    fn added(&mut self, what: &str, form: &str) -> Result<(f64, f64)> {
        let plain = self.time(form)?;
        ensure!(self.tool.ask(what) == "attached");
        let traced = self.time(form)?;
        ensure!(self.tool.ask("detach") == "detached");
        Ok((plain, traced - plain))
    }
}

/// Measures every row in both worlds.
pub fn measure(ours: &World, kernel: Option<&World>) -> Result<Vec<ProbeCost>> {
    let mut ours = Pair::start(ours);
    let mut kernel = kernel.map(Pair::start);
    let mut costs = Vec::new();
    for (what, form, name) in ROWS {
        let (mut plain, mut here, mut there) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (before, added) = ours.added(what, form)?;
            plain.push(before);
            here.push(added);
            if let Some(kernel) = &mut kernel {
                there.push(kernel.added(what, form)?.1);
            }
        }
        costs.push(ProbeCost {
            probe: name,
            first_instruction: form,
            unprobed_ns: median(plain),
            bpftime_best_ns: best(&here),
            bpftime_ns: median(here),
            kernel_ns: kernel.is_some().then(|| median(there)),
        });
    }
    Ok(costs)
}
