//! What tools cost a server under load. One process goes through all states,
//! round after round: untraced, traced by the kernel, with an agent that has
//! nothing to do, traced by bpftime, and without agent again: so where its memory lies and what the machine
//! does meanwhile meets all alike.

use anyhow::{Result, ensure};
use tests::{Mode, World};

use crate::report::{Load, State};
use crate::server::{Cost, Kind, Server};
use crate::tool::Tool;
use crate::{Worlds, is_wanted, median};

/// What is said of a row: server, name, command line, what it shows when it
/// has attached, and whether it has uprobes.
type Row = (
    Kind,
    &'static str,
    &'static [&'static str],
    &'static str,
    bool,
);

const ROWS: [Row; 8] = [
    (
        Kind::Redis,
        "redis, syscount",
        &["syscount", "-p", "{pid}"],
        "Tracing",
        false,
    ),
    (
        Kind::Redis,
        "redis, syscount -L",
        &["syscount", "-L", "-p", "{pid}"],
        "Tracing",
        false,
    ),
    (
        Kind::Redis,
        "redis, opensnoop",
        &["opensnoop", "-p", "{pid}"],
        "PATH",
        false,
    ),
    (
        Kind::Redis,
        "redis, funclatency processCommand",
        &["funclatency", "-p", "{pid}", ":processCommand"],
        "Tracing",
        true,
    ),
    (
        Kind::Redis,
        "redis, funclatency malloc",
        &["funclatency", "-p", "{pid}", "jemalloc:malloc"],
        "Tracing",
        true,
    ),
    (
        Kind::Http,
        "nginx, syscount -L",
        &["syscount", "-L", "-p", "{pid}"],
        "Tracing",
        false,
    ),
    (
        Kind::Https,
        "nginx, bpftrace SSL_read and SSL_write",
        &[
            "bpftrace",
            "-q",
            "-p",
            "{pid}",
            "-e",
            "uprobe:/usr/lib/x86_64-linux-gnu/libssl.so.3:SSL_read,\
             uprobe:/usr/lib/x86_64-linux-gnu/libssl.so.3:SSL_write { @s[tid] = nsecs; }\
             uretprobe:/usr/lib/x86_64-linux-gnu/libssl.so.3:SSL_read,\
             uretprobe:/usr/lib/x86_64-linux-gnu/libssl.so.3:SSL_write /@s[tid]/ {\
             @[probe] = hist(nsecs - @s[tid]); delete(@s[tid]); }\
             interval:s:1 { printf(\"ready\\n\"); }",
        ],
        "ready",
        true,
    ),
    (
        Kind::Https,
        "nginx, bcc sslsniff",
        &["sslsniff-bpfcc", "-p", "{pid}"],
        "FUNC",
        true,
    ),
];

/// Moments of load in one state of one round.
const MOMENTS: usize = 3;

/// Measures every row.
pub fn measure(worlds: &Worlds<'_>, rounds: usize, words: &[String]) -> Result<Vec<Load>> {
    let rows = ROWS.iter().filter(|row| is_wanted(row.1, words));
    rows.map(|row| measure_row(worlds, rounds, row)).collect()
}

fn measure_row(worlds: &Worlds<'_>, rounds: usize, row: &Row) -> Result<Load> {
    let &(kind, name, tool, mark, has_uprobes) = row;
    let server = Server::start(kind, worlds.ours)?;
    let pid = server.pid().to_string();
    let tool: Vec<String> = tool.iter().map(|w| w.replace("{pid}", &pid)).collect();
    let traced = |world: &World| -> Result<Moment> {
        let tool = Tool::start(worlds.tool(world, &tool), mark)?;
        let moment = moment(&server)?;
        tool.stop()?;
        Ok(moment)
    };
    let agent = |what: &str| {
        let done = worlds.ours.run(&[what, &pid]);
        ensure!(done.code == 0, "{what}: {done:?}");
        Ok(())
    };
    let mut states = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let [plain, kernel, idle, ours] = &mut states;
        plain.push(moment(&server)?);
        for world in worlds.both() {
            match world.mode() {
                Mode::Kernel => kernel.push(traced(world)?),
                Mode::Bpftime => {
                    agent("attach")?;
                    idle.push(moment(&server)?);
                    ours.push(traced(world)?);
                    agent("detach")?;
                }
            }
        }
    }
    let [plain, kernel, idle, ours] = states;
    Ok(Load {
        name,
        has_uprobes,
        untraced: state(&plain, &plain),
        idle_agent: state(&idle, &plain),
        bpftime: state(&ours, &plain),
        kernel: (!kernel.is_empty()).then(|| state(&kernel, &plain)),
    })
}

/// The middle of a few: requests a second, and nanoseconds of a request.
#[derive(Clone, Copy)]
struct Moment {
    rate: f64,
    request_ns: f64,
}

fn moment(server: &Server) -> Result<Moment> {
    server.load()?; // what was cold, and is not measured
    let costs: Vec<Cost> = (0..MOMENTS).map(|_| server.load()).collect::<Result<_>>()?;
    let [rates, requests] = [|cost: &Cost| cost.rate, |cost: &Cost| cost.request_ns]
        .map(|of| costs.iter().map(of).collect::<Vec<f64>>());
    Ok(Moment {
        rate: median(&rates),
        request_ns: median(&requests),
    })
}

/// What is left of all rounds; overheads compare moments of the same round.
fn state(moments: &[Moment], plain: &[Moment]) -> State {
    let of = |pick: fn(&Moment) -> f64| moments.iter().map(pick).collect::<Vec<f64>>();
    let pairs = moments.iter().zip(plain);
    let added: Vec<f64> = pairs
        .map(|(traced, plain)| traced.request_ns - plain.request_ns)
        .collect();
    State {
        requests_per_second: median(&of(|moment| moment.rate)),
        request_ns: median(&of(|moment| moment.request_ns)),
        added_ns: median(&added),
    }
}
