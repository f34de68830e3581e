//! `bpftime serve`: programs by HTTP, for machines that are looked after from
//! elsewhere. Each program is a process of its own, `bpftime run …`: the
//! service reads what it prints, and knows no eBPF.
//!
//! Reading order: this file (the command), `request` (what is to be run),
//! `program` (a child process), `reader`, `log` and `metrics` (what it
//! prints), `programs` (all of them), `guardian` (ends what a killed service
//! leaves), `listen`, `connections` and `guard` (who may ask), `api`,
//! `follow` and `peers` (what may be asked), `own` (all metrics), `otlp`.

mod answer;
mod api;
mod config;
mod connections;
mod follow;
mod guard;
mod guardian;
mod listen;
mod log;
mod metrics;
mod otlp;
mod own;
mod peers;
mod program;
mod programs;
mod reader;
mod request;
mod shown;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use nix::sys::signal::{SigHandler, Signal, signal};
use runtime::session::{self, Dirs};
use tokio::signal::unix::{SignalKind, signal as listen_to};

use crate::libraries::reason;
use crate::problem::Problem;
use answer::Refusal;
use guard::{Guard, Way};
use guardian::Guardian;
use program::Surroundings;
use programs::{Limits, Programs};

/// Run programs for others: start, follow and stop them by HTTP, with metrics
///
/// Each program is a process of its own, as `bpftime run` makes it, and ends
/// with the service. Clients use a Unix socket of yours, or an address.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The Unix socket; by default bpftime.sock in $XDG_RUNTIME_DIR or the state directory
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Listen at this address, too; off loopback only with a token
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// A file with the token that clients over TCP must show; it may be replaced
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Programs to start and metrics to make of what they report (YAML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Push metrics to this OTLP endpoint, as http://collector:4318
    #[arg(long, value_name = "URL")]
    otlp: Option<reqwest::Url>,

    /// How often metrics are pushed
    #[arg(long, value_name = "SECONDS", value_parser = super::run::seconds, default_value = "15")]
    otlp_interval: Duration,

    /// Programs that may run at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_programs: usize,

    /// Clients that may follow programs at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_followers: usize,

    /// Bytes of output that are kept of each program
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    log_bytes: usize,

    /// How long a program may take to stop before it is killed
    #[arg(long, value_name = "SECONDS", value_parser = super::run::seconds, default_value = "10")]
    grace: Duration,
}

const EXAMPLES: &str = "\
Examples:
  bpftime serve
  curl --unix-socket $XDG_RUNTIME_DIR/bpftime.sock localhost/v1/programs \\
    -d '{\"name\": \"opens\", \"source\": \"/opt/probes/opensnoop.bpf.o\"}'
  curl --unix-socket $XDG_RUNTIME_DIR/bpftime.sock localhost/v1/programs/opens/follow
  bpftime serve --config probes.yaml --listen 0.0.0.0:8527 --token-file token";

/// Serves until it is asked to end.
pub fn run(args: &Args) -> Result<(), Problem> {
    let guard = Guard::new(args.token_file.clone())?;
    if let (Some(address), None) = (args.listen, &args.token_file)
        && !address.ip().is_loopback()
    {
        return Err(Problem::new(
            address,
            "can be reached from elsewhere, and anybody could run programs",
            "give a token by --token-file, or listen at 127.0.0.1",
        ));
    }
    let config = args
        .config
        .as_deref()
        .map(config::read)
        .transpose()?
        .unwrap_or_default();
    // SAFETY: ignoring a signal installs no code. Clients go away while they are written to.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
    let directory = tempfile::Builder::new().prefix("bpftime-serve-").tempdir();
    let directory =
        directory.map_err(|error| failed(&error, "set TMPDIR to a directory of yours"))?;
    let guardian = Guardian::start(directory.path())
        .map_err(|error| failed(&error, "raise limits on processes"))?;
    let socket = listen::unix(&args.socket.clone().unwrap_or_else(listen::default_path))?;
    let tcp = args.listen.map(listen::tcp).transpose()?;
    // What programs have left that were killed with a service while they began.
    session::sweep(&Dirs::for_cli());
    let around = Surroundings {
        bpftime: super::run::own_path()?.into(),
        guardian: Mutex::new(guardian),
        grace: args.grace,
    };
    let limits = Limits {
        programs: args.max_programs,
        followers: args.max_followers,
        log_bytes: args.log_bytes,
    };
    let programs = Programs::new(
        Arc::new(around),
        limits,
        directory.path().to_owned(),
        config.metrics,
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| failed(&error, "raise limits on files"))?;
    runtime.block_on(async {
        let programs = Arc::new(programs);
        let mut signals = Signals::new().map_err(|error| failed(&error, "see signal(7)"))?;
        for request in config.programs {
            let started = programs.start(request, false);
            started.map_err(|refusal| {
                Problem::new("configuration", refusal.message, "see docs/serve.md")
            })?;
        }
        serve(&socket, tcp, &programs, guard)?;
        let exporter = args.otlp.as_ref();
        let exporter = exporter.map(|url| otlp::Exporter::new(url, args.otlp_interval));
        let exporter = exporter.transpose()?.map(Arc::new);
        let exports = exporter
            .clone()
            .map(|exporter| tokio::spawn(exporter.run(programs.clone())));
        signals.wait().await;
        programs.close().await;
        if let Some((exporter, exports)) = exporter.zip(exports) {
            exports.abort();
            exporter.last(&programs).await;
        }
        Ok(())
    })
}

fn failed(error: &io::Error, advice: &str) -> Problem {
    Problem::new(
        "service",
        format_args!("cannot be set up ({})", reason(error)),
        advice,
    )
}

/// Begins to answer, and says where.
fn serve(
    socket: &listen::Socket,
    tcp: Option<std::net::TcpListener>,
    programs: &Arc<Programs>,
    guard: Guard,
) -> Result<(), Problem> {
    let failed = |error: io::Error| failed(&error, "raise limits on files");
    let guard = Arc::new(guard);
    let listener = socket
        .listener
        .try_clone()
        .and_then(tokio::net::UnixListener::from_std);
    tokio::spawn(connections::unix(
        listener.map_err(failed)?,
        router(programs, &guard, Way::Unix),
    ));
    tell(format_args!("serving at {}", socket.path.display()));
    if let Some(listener) = tcp {
        let address = listener.local_addr().map_err(failed)?;
        let way = if address.ip().is_loopback() {
            Way::Loopback
        } else {
            Way::Network
        };
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        tokio::spawn(connections::tcp(listener, router(programs, &guard, way)));
        tell(format_args!("serving at http://{address}"));
    }
    Ok(())
}

fn tell(what: std::fmt::Arguments<'_>) {
    // In one piece, for who waits for it. Nobody is left to tell if stderr is gone.
    let _ = io::stderr().write_all(format!("bpftime: {what}\n").as_bytes());
}

/// All that may be asked, by one way.
fn router(programs: &Arc<Programs>, guard: &Arc<Guard>, way: Way) -> Router {
    let unknown = |status, what: &'static str| async move {
        Refusal::new(status, Problem::new("request", what, "see /openapi.yaml"))
    };
    api::routes()
        .merge(peers::routes())
        .fallback(move || unknown(StatusCode::NOT_FOUND, "nothing is served at this path"))
        .method_not_allowed_fallback(move || {
            unknown(StatusCode::METHOD_NOT_ALLOWED, "not by this method")
        })
        .layer(from_fn_with_state((guard.clone(), way), guard::check))
        .with_state(programs.clone())
}

/// The signals that ask the service to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: listen_to(SignalKind::interrupt())?,
            terminate: listen_to(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
