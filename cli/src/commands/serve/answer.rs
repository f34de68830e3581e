//! Refusals in HTTP's words: a status and a line for people, as
//! `{"message": …}`; and bodies of requests, read within bounds.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::problem::Problem;

/// Bytes of a request's body.
const BODY_BYTES: usize = 32 << 20;
/// How much of a larger one is read before the refusal.
const MOST_READ: usize = 4 * BODY_BYTES;
/// Time for a request's body to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Why a request was not done.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl fmt::Display) -> Refusal {
        Refusal {
            status,
            message: message.to_string(),
        }
    }

    /// What was asked for makes no sense.
    pub fn bad(
        who: impl fmt::Display,
        what: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, Problem::new(who, what, advice))
    }

    pub fn unknown(id: impl fmt::Display) -> Refusal {
        let problem = Problem::new(
            format_args!("program {id}"),
            "there is none",
            "GET /v1/programs lists them",
        );
        Refusal::new(StatusCode::NOT_FOUND, problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "message": self.message }))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// A request's body as JSON.
pub async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = read_bytes(body).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::bad(
            "body",
            format_args!("not as wanted ({error})"),
            "see /openapi.yaml",
        )
    })
}

async fn read_bytes(body: Body) -> Result<Vec<u8>, Refusal> {
    match tokio::time::timeout(BODY_TIME, collect(body)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Problem::new(
                "body",
                format_args!("larger than {} MiB", BODY_BYTES >> 20),
                "give the program's path instead",
            ),
        )),
        Ok(Err(error)) => Err(Refusal::bad(
            "body",
            format_args!("not read ({error})"),
            "send it again",
        )),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            Problem::new("body", "did not arrive in time", "send it again"),
        )),
    }
}

/// The bytes of a body, or `None` if they are too many. Those are read, too,
/// unless they are far too many: a client whose words nobody takes gets a reset
/// in the place of the answer.
async fn collect(mut body: Body) -> Result<Option<Vec<u8>>, axum::Error> {
    let mut bytes = Vec::new();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        // What follows a body, as trailers, says nothing to us.
        let data = frame?.into_data().unwrap_or_default();
        count += data.len();
        if count <= BODY_BYTES {
            bytes.extend_from_slice(&data);
        } else if count <= MOST_READ {
            bytes = Vec::new();
        } else {
            break;
        }
    }
    Ok((count <= BODY_BYTES).then_some(bytes))
}
