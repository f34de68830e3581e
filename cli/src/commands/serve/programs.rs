//! All programs of the service, by their ids. It knows no HTTP.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use super::answer::Refusal;
use super::metrics::Metrics;
use super::metrics::spec::Spec;
use super::program::{Program, Surroundings};
use super::request::{Request, Source};
use crate::libraries::reason;
use crate::problem::Problem;

/// What a service may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Programs that run; as many that have ended are remembered.
    pub programs: usize,
    pub followers: usize,
    pub log_bytes: usize,
}

/// The programs.
pub struct Programs {
    pub around: Arc<Surroundings>,
    pub limits: Limits,
    /// For programs whose bytes came with the request.
    directory: PathBuf,
    /// Metrics for programs of any name, or of a certain one.
    specs: Vec<Spec>,
    table: Mutex<Table>,
    pub followers: AtomicUsize,
    pub otlp_dropped: std::sync::atomic::AtomicU64,
}

struct Table {
    by_id: BTreeMap<u64, Arc<Program>>,
    next: u64,
    closed: bool,
}

/// One who follows; counted while it is there.
pub struct Follower(Arc<Programs>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Programs {
    pub fn new(
        around: Arc<Surroundings>,
        limits: Limits,
        directory: PathBuf,
        specs: Vec<Spec>,
    ) -> Programs {
        Programs {
            around,
            limits,
            directory,
            specs,
            table: Mutex::new(Table {
                by_id: BTreeMap::new(),
                next: 1,
                closed: false,
            }),
            followers: AtomicUsize::new(0),
            otlp_dropped: std::sync::atomic::AtomicU64::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, oldest first.
    pub fn all(&self) -> Vec<Arc<Program>> {
        self.table().by_id.values().cloned().collect()
    }

    /// By id, or by name the newest.
    pub fn find(&self, id: &str) -> Result<Arc<Program>, Refusal> {
        let table = self.table();
        let by_id = id.parse().ok().and_then(|id: u64| table.by_id.get(&id));
        let found = by_id.or_else(|| {
            table
                .by_id
                .values()
                .rev()
                .find(|program| program.name == id)
        });
        found
            .cloned()
            .ok_or_else(|| Refusal::unknown(format_args!("{id:?}")))
    }

    /// Starts one. With `renamed`, a name that is taken gets the id behind it.
    pub fn start(&self, request: Request, renamed: bool) -> Result<Arc<Program>, Refusal> {
        let source = request.check()?;
        let mut table = self.table();
        let lives = |program: &&Arc<Program>| !program.has_ended();
        let running = table.by_id.values().filter(lives).count();
        if table.closed || running >= self.limits.programs {
            let what = format!("{running} run already");
            let problem = Problem::new("program", what, "stop one, or raise --max-programs");
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, problem));
        }
        let id = table.next;
        let name = table.name(request.name.as_deref(), id, renamed)?;
        let metrics = self.metrics(&request, &name, &table)?;
        let file = match source {
            Source::Named(source) => PathBuf::from(source),
            Source::Bytes(bytes) => self.keep(id, &name, &bytes)?,
        };
        let log_bytes = self.limits.log_bytes;
        let program = Program::new(id, name, request, file, metrics, log_bytes);
        let program = Arc::new(program);
        table.next += 1;
        table.by_id.insert(id, program.clone());
        let forgotten = table.forget(self.limits.programs);
        drop(table);
        forgotten.into_iter().for_each(|id| self.remove_file(id));
        tokio::spawn(program.clone().run(self.around.clone()));
        Ok(program)
    }

    fn metrics(&self, request: &Request, name: &str, table: &Table) -> Result<Metrics, Refusal> {
        let for_it = |spec: &&Spec| spec.program.as_deref().is_none_or(|wanted| wanted == name);
        let mut specs = request.metrics.clone();
        specs.extend(self.specs.iter().filter(for_it).cloned());
        let plain = request.json == Some(false);
        let metrics = Metrics::new(specs).map_err(|(name, what)| {
            Refusal::bad(format_args!("metric {name}"), what, "see docs/serve.md")
        })?;
        if plain && !request.metrics.is_empty() {
            return Err(Refusal::bad(
                "metrics",
                "need JSON",
                "leave out `json: false`",
            ));
        }
        for other in table.by_id.values().filter(|other| other.name != name) {
            if let Some(metric) = metrics.conflict(&other.now().metrics) {
                return Err(Refusal::bad(
                    format_args!("metric {metric}"),
                    format_args!("program {} has something else of that name", other.name),
                    "choose another name",
                ));
            }
        }
        Ok(metrics)
    }

    /// Puts a program's bytes where `bpftime run` finds them.
    fn keep(&self, id: u64, name: &str, bytes: &[u8]) -> Result<PathBuf, Refusal> {
        let directory = self.directory.join(id.to_string());
        let file = directory.join(name);
        let kept = fs::create_dir(&directory).and_then(|()| fs::write(&file, bytes));
        match kept {
            Ok(()) => Ok(file),
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                let problem = Problem::new(
                    file.display(),
                    format_args!("cannot be written ({})", reason(&error)),
                    "set TMPDIR to a directory with room",
                );
                Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, problem))
            }
        }
    }

    fn remove_file(&self, id: u64) {
        // There is none for most.
        let _ = fs::remove_dir_all(self.directory.join(id.to_string()));
    }

    /// Ends one; returns when it has ended.
    pub async fn stop(&self, program: &Program) {
        program.stop(self.around.grace).await;
    }

    /// Ends one and forgets it.
    pub async fn remove(&self, program: &Program) {
        self.stop(program).await;
        self.table().by_id.remove(&program.id);
        self.remove_file(program.id);
    }

    /// Ends all; no more can be started.
    pub async fn close(&self) {
        self.table().closed = true;
        let all = self.all();
        all.iter().for_each(|program| program.ask_to_stop());
        let ends = all.iter().map(|program| program.stop(self.around.grace));
        futures_util::future::join_all(ends).await;
    }

    /// One more who follows, if there may be.
    pub fn follow(self: &Arc<Programs>) -> Result<Follower, Refusal> {
        let before = self.followers.fetch_add(1, Ordering::Relaxed);
        let follower = Follower(self.clone());
        match before < self.limits.followers {
            true => Ok(follower),
            false => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Problem::new("follow", format_args!("{before} follow already"), "end one"),
            )),
        }
    }
}

impl Table {
    fn name(&self, wanted: Option<&str>, id: u64, renamed: bool) -> Result<String, Refusal> {
        let numbered = || format!("{}-{id}", wanted.unwrap_or("program"));
        let Some(name) = wanted else {
            return Ok(numbered());
        };
        let runs = |program: &Arc<Program>| program.name == name && !program.has_ended();
        match self.by_id.values().any(runs) {
            false => Ok(name.to_owned()),
            true if renamed => Ok(numbered()),
            true => Err(Refusal::new(
                StatusCode::CONFLICT,
                Problem::new(
                    format_args!("program {name}"),
                    "runs already",
                    "stop it, or choose another name",
                ),
            )),
        }
    }

    /// Takes out those that ended first, so that at most `most` of them stay.
    fn forget(&mut self, most: usize) -> Vec<u64> {
        let ended = |program: &&Arc<Program>| program.has_ended();
        let mut ended: Vec<u64> = self
            .by_id
            .values()
            .filter(ended)
            .map(|program| program.id)
            .collect();
        ended.truncate(ended.len().saturating_sub(most));
        for id in &ended {
            self.by_id.remove(id);
        }
        ended
    }
}
