//! The service's own API: programs as resources.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::answer::{self, Refusal};
use super::metrics::text;
use super::programs::Programs;
use super::request::Request;
use super::shown::Shown;
use super::{follow, own};

/// Lines that are given at once, if nobody asks for another number.
const LINES: usize = 1000;

/// What is served, as it is documented.
const OPENAPI: &str = include_str!("../../../../docs/openapi.yaml");

type Service = State<Arc<Programs>>;

pub fn routes() -> Router<Arc<Programs>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/openapi.yaml", get(openapi))
        .route("/v1/programs", get(list).post(start))
        .route("/v1/programs/{id}", get(show).delete(remove))
        .route("/v1/programs/{id}/stop", post(stop))
        .route("/v1/programs/{id}/pause", post(pause))
        .route("/v1/programs/{id}/resume", post(resume))
        .route("/v1/programs/{id}/log", get(log))
        .route("/v1/programs/{id}/follow", get(follow_log))
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI).into_response()
}

async fn metrics(State(programs): Service) -> Response {
    let text = text::write(&own::families(&programs));
    ([(header::CONTENT_TYPE, text::CONTENT_TYPE)], text).into_response()
}

async fn start(State(programs): Service, body: Body) -> Result<Response, Refusal> {
    let request: Request = answer::read(body).await?;
    let program = programs.start(request, false)?;
    Ok((StatusCode::CREATED, Json(Shown::of(&program))).into_response())
}

async fn list(State(programs): Service) -> Response {
    let all: Vec<Shown> = programs
        .all()
        .iter()
        .map(|program| Shown::of(program))
        .collect();
    Json(json!({ "programs": all })).into_response()
}

async fn show(State(programs): Service, Path(id): Path<String>) -> Result<Json<Shown>, Refusal> {
    Ok(Json(Shown::of(&*programs.find(&id)?)))
}

async fn remove(State(programs): Service, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    let program = programs.find(&id)?;
    programs.remove(&program).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn stop(State(programs): Service, Path(id): Path<String>) -> Result<Json<Shown>, Refusal> {
    let program = programs.find(&id)?;
    programs.stop(&program).await;
    Ok(Json(Shown::of(&program)))
}

async fn pause(State(programs): Service, Path(id): Path<String>) -> Result<Json<Shown>, Refusal> {
    let program = programs.find(&id)?;
    program.pause()?;
    Ok(Json(Shown::of(&program)))
}

async fn resume(State(programs): Service, Path(id): Path<String>) -> Result<Json<Shown>, Refusal> {
    let program = programs.find(&id)?;
    program.resume()?;
    Ok(Json(Shown::of(&program)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    #[serde(default)]
    cursor: Option<u64>,
    #[serde(default)]
    limit: Option<usize>,
}

fn part(
    query: Result<Query<Part>, axum::extract::rejection::QueryRejection>,
) -> Result<Part, Refusal> {
    match query {
        Ok(Query(part)) => Ok(part),
        Err(error) => Err(Refusal::bad(
            "query",
            error.body_text(),
            "see /openapi.yaml",
        )),
    }
}

async fn log(
    State(programs): Service,
    Path(id): Path<String>,
    query: Result<Query<Part>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let part = part(query)?;
    let program = programs.find(&id)?;
    let now = program.now();
    let first = now.log.first();
    let cursor = part.cursor.unwrap_or(first);
    let lines = now.log.from(cursor, part.limit.unwrap_or(LINES).min(LINES));
    let next = lines
        .last()
        .map_or(cursor.max(first), |line| line.cursor + 1);
    let lines: Vec<_> = lines.iter().map(AsRef::as_ref).collect();
    let dropped = first.saturating_sub(cursor);
    Ok(Json(json!({ "lines": lines, "next": next, "dropped": dropped })).into_response())
}

async fn follow_log(
    State(programs): Service,
    Path(id): Path<String>,
    query: Result<Query<Part>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let part = part(query)?;
    let program = programs.find(&id)?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let events = text("accept").is_some_and(|kinds| kinds.contains("text/event-stream"));
    let wrong = |_| {
        Refusal::bad(
            "Last-Event-ID",
            "is no cursor",
            "send the last id that came",
        )
    };
    let last = headers.get("last-event-id").map(|id| id.to_str());
    let last = last.map(|id| id.unwrap_or_default().parse::<u64>());
    let after = last
        .transpose()
        .map_err(wrong)?
        .map(|last| last.saturating_add(1));
    let first = program.now().log.first();
    let cursor = after.or(part.cursor).unwrap_or(first);
    let follower = programs.follow()?;
    Ok(follow::respond(program, cursor, events, follower))
}
