//! Refusals in HTTP's words: a status and a line for people, as
//! `{"message": …}`; and bodies of requests, read within bounds.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::problem::Problem;

/// Bytes of a request's body.
const BODY_BYTES: usize = 32 << 20;
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

async fn read_bytes(body: Body) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, BODY_BYTES).collect();
    match tokio::time::timeout(BODY_TIME, collected).await {
        Ok(Ok(bytes)) => Ok(bytes.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::new(
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
