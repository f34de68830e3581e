//! The results as tables for people and as JSON for programs.

use std::fmt;

use serde::Serialize;

/// How long a tool takes until it has attached.
#[derive(Serialize)]
pub struct Startup {
    /// The tool.
    pub tool: &'static str,
    /// Milliseconds under bpftime.
    pub bpftime_ms: f64,
    /// The same in the best round.
    pub bpftime_best_ms: f64,
    /// Milliseconds in the kernel, if it starts there.
    pub kernel_ms: Option<f64>,
    /// The same in the best round.
    pub kernel_best_ms: Option<f64>,
}

/// A server in one state.
#[derive(Serialize)]
pub struct State {
    /// As the client has it; other load on the machine shows in it.
    pub requests_per_second: f64,
    /// Nanoseconds of the server's processor time for a request.
    pub request_ns: f64,
    /// How many of them it did not need in the untraced moments of the same rounds.
    pub added_ns: f64,
}

/// A tool on a server under load.
#[derive(Serialize)]
pub struct Load {
    /// Server and tool.
    pub name: &'static str,
    /// The tool's probes are in functions, not at system calls.
    pub has_uprobes: bool,
    /// Nobody traces.
    pub untraced: State,
    /// An agent without a session.
    pub idle_agent: State,
    /// Traced by bpftime.
    pub bpftime: State,
    /// Traced by the kernel.
    pub kernel: Option<State>,
}

impl Load {
    /// The share of the kernel's overhead that is gone, in percent.
    fn gone(&self) -> Option<f64> {
        let kernel = self.kernel.as_ref()?;
        Some(100.0 * (1.0 - self.bpftime.added_ns / kernel.added_ns))
    }

    /// Its goal.
    fn goal(&self) -> u32 {
        if self.has_uprobes { 90 } else { 50 }
    }
}

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    /// One row for each tool.
    pub startup: Vec<Startup>,
    /// One row for each tool and server.
    pub load: Vec<Load>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "milliseconds until attached: median (best)\n")?;
        writeln!(f, "{:<28}{:>16}{:>16}", "tool", "bpftime", "kernel")?;
        for row in &self.startup {
            let pair = |middle: f64, best: f64| format!("{middle:.0} ({best:.0})");
            let kernel = row.kernel_ms.zip(row.kernel_best_ms);
            let kernel = kernel.map_or("-".to_owned(), |(middle, best)| pair(middle, best));
            let here = pair(row.bpftime_ms, row.bpftime_best_ms);
            writeln!(f, "{:<28}{here:>16}{kernel:>16}", row.tool)?;
        }
        writeln!(
            f,
            "\nservers on one core, clients on the other; the tool's own reading takes from both.\n\
             added: processor time of a request, medians of rounds, and of which in %;\n\
             requests/s: as the client has it\n"
        )?;
        writeln!(
            f,
            "{:<40}{:>9}{:>10}{:>18}{:>18}{:>12}{:>7}   requests/s: untraced, idle, bpftime, kernel",
            "server, tool", "untraced", "idle", "bpftime", "kernel", "gone, reach", ""
        )?;
        for row in &self.load {
            let base = row.untraced.request_ns;
            let added = |state: &State| {
                format!(
                    "{:+.0} ({:+.1}%)",
                    state.added_ns,
                    100.0 * state.added_ns / base
                )
            };
            let dash = || "-".to_owned();
            writeln!(
                f,
                "{:<40}{:>6.0} ns{:>10.0}{:>18}{:>18}{:>9}{:>7}%   {:.0}, {:.0}, {:.0}, {}",
                row.name,
                base,
                row.idle_agent.added_ns,
                added(&row.bpftime),
                row.kernel.as_ref().map_or_else(dash, added),
                row.gone().map_or_else(dash, |gone| format!("{gone:.0}%")),
                row.goal(),
                row.untraced.requests_per_second,
                row.idle_agent.requests_per_second,
                row.bpftime.requests_per_second,
                row.kernel
                    .as_ref()
                    .map_or_else(dash, |k| format!("{:.0}", k.requests_per_second)),
            )?;
        }
        Ok(())
    }
}
