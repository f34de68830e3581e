//! The task API of ecli's server and the calls of eunomia-exporter, as their
//! clients make them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Refusal};
use super::log::Stream;
use super::metrics::spec::Counters;
use super::program::{self, Program};
use super::programs::Programs;
use super::request::Request;

/// Lines that are given at once, if nobody asks for another number.
const LINES: u64 = 100;

type Service = State<Arc<Programs>>;
type Answer = Result<Json<Value>, Refusal>;

pub fn routes() -> Router<Arc<Programs>> {
    Router::new()
        .route("/task", get(tasks).post(start_task))
        .route("/stop", post(stop))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/log", post(log))
        .route("/start", post(start))
        .route("/list", get(list))
}

#[derive(Deserialize)]
struct Task {
    program_data_buf: String,
    program_type: ProgramType,
    #[serde(default)]
    program_name: Option<String>,
    #[serde(default)]
    btf_archive_path: Option<String>,
    #[serde(default)]
    extra_args: Option<Vec<String>>,
    #[serde(default)]
    export_json: Option<bool>,
}

/// Said, but not needed: the bytes show it.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProgramType {
    Wasm,
    Json,
    Tar,
}

#[derive(Deserialize)]
struct Id {
    id: u64,
}

#[derive(Deserialize)]
struct Part {
    id: u64,
    #[serde(default)]
    log_cursor: Option<u64>,
    #[serde(default)]
    maximum_count: Option<u64>,
}

/// A program of eunomia-exporter.
#[derive(Deserialize)]
struct Exported {
    name: String,
    metrics: Counters,
    #[serde(default)]
    ebpf_data: String,
    #[serde(default)]
    compiled_ebpf_filename: String,
}

/// A name as near to what was asked for as names may be.
fn named(name: &str) -> String {
    let known = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(known).take(48).collect();
    match name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        true => name,
        false => format!("program-{name}"),
    }
}

async fn start_task(State(programs): Service, body: Body) -> Answer {
    let task: Task = answer::read(body).await?;
    let options = match (task.btf_archive_path, task.program_type) {
        (Some(path), ProgramType::Wasm | ProgramType::Json | ProgramType::Tar) => {
            vec!["--btf".to_owned(), path]
        }
        (None, _) => Vec::new(),
    };
    let request = Request {
        name: task.program_name.as_deref().map(named),
        data: Some(task.program_data_buf),
        options,
        args: task.extra_args.unwrap_or_default(),
        json: Some(task.export_json.unwrap_or(false)),
        ..Request::default()
    };
    let program = programs.start(request, true)?;
    Ok(Json(
        json!({ "id": program.id, "task_list": task_list(&programs) }),
    ))
}

async fn tasks(State(programs): Service) -> Json<Value> {
    Json(task_list(&programs))
}

fn task_list(programs: &Programs) -> Value {
    let running = programs
        .all()
        .into_iter()
        .filter(|program| !program.has_ended());
    let task = |program: Arc<Program>| json!({ "id": program.id, "name": program.name, "status": status(&program) });
    json!({ "tasks": running.map(task).collect::<Vec<_>>() })
}

fn status(program: &Program) -> &'static str {
    match program.now().state {
        program::State::Paused => "paused",
        _ => "running",
    }
}

fn find(programs: &Programs, id: u64) -> Result<Arc<Program>, Refusal> {
    programs
        .find(&id.to_string())
        .map_err(|_| Refusal::unknown(id))
}

async fn stop(State(programs): Service, body: Body) -> Answer {
    let Id { id } = answer::read(body).await?;
    let program = find(&programs, id)?;
    programs.stop(&program).await;
    Ok(Json(json!({})))
}

async fn pause(State(programs): Service, body: Body) -> Answer {
    let Id { id } = answer::read(body).await?;
    let program = find(&programs, id)?;
    program.pause().map_err(as_bad)?;
    Ok(Json(status(&program).into()))
}

async fn resume(State(programs): Service, body: Body) -> Answer {
    let Id { id } = answer::read(body).await?;
    let program = find(&programs, id)?;
    program.resume().map_err(as_bad)?;
    Ok(Json(status(&program).into()))
}

fn as_bad(refusal: Refusal) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        ..refusal
    }
}

async fn log(State(programs): Service, body: Body) -> Answer {
    let part: Part = answer::read(body).await?;
    let program = find(&programs, part.id)?;
    let most = part.maximum_count.unwrap_or(LINES);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let lines = program.now().log.from(part.log_cursor.unwrap_or(0), most);
    let shown = lines.iter().map(|line| {
        let kind = match line.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Service => "plain",
        };
        let log = json!({ "log": line.text, "timestamp": line.time, "log_type": kind });
        json!({ "cursor": line.cursor, "log": log })
    });
    Ok(Json(shown.collect()))
}

async fn start(State(programs): Service, body: Body) -> Answer {
    let asked: Exported = answer::read(body).await?;
    let named_file = !asked.compiled_ebpf_filename.is_empty();
    let data =
        (!asked.ebpf_data.is_empty()).then(|| super::request::encode(asked.ebpf_data.as_bytes()));
    let request = Request {
        name: Some(named(&asked.name)),
        source: (named_file && data.is_none()).then_some(asked.compiled_ebpf_filename),
        data,
        metrics: asked.metrics.specs(),
        ..Request::default()
    };
    let program = programs.start(request, true)?;
    Ok(Json(json!({ "id": program.id })))
}

async fn list(State(programs): Service) -> Json<Value> {
    let running = programs
        .all()
        .into_iter()
        .filter(|program| !program.has_ended());
    let item = |program: Arc<Program>| json!({ "id": program.id, "name": program.name });
    Json(running.map(item).collect())
}
