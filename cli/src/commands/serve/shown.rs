//! Programs as the API shows them.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;

use serde::Serialize;

use super::program::{Program, State};
use super::request::Restart;

#[derive(Serialize)]
pub struct Shown {
    id: u64,
    name: String,
    source: String,
    options: Vec<String>,
    args: Vec<String>,
    state: State,
    pid: Option<i32>,
    /// Milliseconds since 1970.
    started: u64,
    ended: Option<u64>,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    restart: Restart,
    restarts: u64,
    events: u64,
    lost: u64,
    /// Cursors: of the oldest line that is there, and the next one's.
    log_first: u64,
    log_next: u64,
    /// Series of each metric; none if nothing of what it is made of has come.
    metrics: BTreeMap<String, usize>,
}

impl Shown {
    pub fn of(program: &Program) -> Shown {
        let now = program.now();
        Shown {
            id: program.id,
            name: program.name.clone(),
            source: program.source.to_string_lossy().into_owned(),
            options: program.request.options.clone(),
            args: program.request.args.clone(),
            state: now.state,
            pid: now.pid,
            started: now.started,
            ended: now.ended,
            exit_code: now.exit.and_then(|exit| exit.code()),
            exit_signal: now.exit.and_then(|exit| exit.signal()),
            restart: program.request.restart,
            restarts: now.restarts,
            events: now.metrics.events,
            lost: now.lost,
            log_first: now.log.first(),
            log_next: now.log.next(),
            metrics: now.metrics.series().collect(),
        }
    }
}
