//! The results as a table for people and as JSON for programs.

use std::fmt;

use serde::Serialize;

/// Cost of one kind of probe on one function.
#[derive(Serialize)]
pub struct ProbeCost {
    /// What was attached.
    pub probe: &'static str,
    /// How the probed function begins.
    pub first_instruction: &'static str,
    /// Nanoseconds of the call itself.
    pub unprobed_ns: f64,
    /// Nanoseconds above that under bpftime.
    pub bpftime_ns: f64,
    /// The same between the best rounds.
    pub bpftime_best_ns: f64,
    /// Nanoseconds above that under the kernel, if it could be asked.
    pub kernel_ns: Option<f64>,
}

/// One probe hit by one thread, and by many at once.
#[derive(Serialize)]
pub struct Threads {
    /// How many.
    pub threads: u64,
    /// Nanoseconds above the unprobed call on one.
    pub one_ns: f64,
    /// Nanoseconds of processor time above the unprobed call on each of many.
    pub many_ns: f64,
}

/// Cost of the agent when a process starts.
#[derive(Serialize)]
pub struct Startup {
    /// Milliseconds of `/bin/true` itself.
    pub plain_ms: f64,
    /// Milliseconds more with the agent.
    pub agent_ms: f64,
    /// Milliseconds more with the agent and one session with a probe in libc.
    pub agent_with_session_ms: f64,
    /// Milliseconds more as `bpftime start /bin/true`.
    pub start_command_ms: f64,
}

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    /// One row for each probe and function.
    pub probes: Vec<ProbeCost>,
    /// One row for each way to trace and to call.
    pub syscalls: Vec<ProbeCost>,
    /// The agent in `/bin/true`.
    pub startup: Startup,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nanoseconds above the unprobed call (medians)\n")?;
        writeln!(
            f,
            "{:<30}{:<16}{:>10}{:>10}{:>10}",
            "probe", "function", "bpftime", "kernel", "ratio"
        )?;
        for cost in self.probes.iter().chain(&self.syscalls) {
            write!(
                f,
                "{:<30}{:<16}{:>10.1}",
                cost.probe, cost.first_instruction, cost.bpftime_ns
            )?;
            match cost.kernel_ns {
                Some(kernel) => writeln!(f, "{kernel:>10.0}{:>10.0}", kernel / cost.bpftime_ns)?,
                None => writeln!(f, "{:>10}{:>10}", "-", "-")?,
            }
        }
        let Startup {
            plain_ms,
            agent_ms,
            agent_with_session_ms,
            start_command_ms,
        } = &self.startup;
        writeln!(
            f,
            "\nmilliseconds above plain /bin/true ({plain_ms:.2} ms)\n"
        )?;
        writeln!(f, "{:<44}{agent_ms:>10.2}", "agent, no session")?;
        writeln!(
            f,
            "{:<44}{agent_with_session_ms:>10.2}",
            "agent, one session with a probe in libc"
        )?;
        writeln!(
            f,
            "{:<44}{start_command_ms:>10.2}",
            "bpftime start, no session"
        )
    }
}
