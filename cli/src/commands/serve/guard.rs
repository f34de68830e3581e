//! Who may ask: by the token, and, against pages in a browser, by the names
//! under which they asked. It knows nothing of what is asked.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::answer::Refusal;
use super::connections::Place;
use super::tell;
use crate::libraries::reason;
use crate::problem::Problem;

/// Characters of a token, at least.
const TOKEN: usize = 16;
/// What anybody may ask: whether the service lives.
const OPEN: &str = "/healthz";

/// What must be shown.
pub struct Guard {
    /// By all who come over TCP: the token in this file.
    token: Option<PathBuf>,
    /// Whether it has been told that the file holds none.
    told: AtomicBool,
}

/// How somebody came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the Unix socket, as this user or root.
    Unix,
    /// To a loopback address.
    Loopback,
    Network,
}

/// Reads the token.
fn read_token(path: &Path) -> Result<String, Problem> {
    let text = fs::read_to_string(path).map_err(|error| {
        Problem::new(
            path.display(),
            format_args!("cannot be read ({})", reason(&error)),
            "name a file with a token",
        )
    })?;
    let token = text.trim();
    if token.len() < TOKEN || !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Problem::new(
            path.display(),
            format_args!("holds no token of {TOKEN} or more printable characters"),
            "make one: openssl rand -hex 32",
        ));
    }
    Ok(token.to_owned())
}

/// Lets a request pass, or refuses it.
pub async fn check(
    State((guard, way)): State<(Arc<Guard>, Way)>,
    request: Request,
    next: Next,
) -> Response {
    let open = request.uri().path() == OPEN;
    match guard.admit(way, request.headers(), open) {
        Ok(()) => {
            if let Some(place) = request.extensions().get::<Arc<Place>>()
                && !open
            {
                place.keep();
            }
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl Guard {
    /// With a token in a file, which must be there, or without any.
    pub fn new(token: Option<PathBuf>) -> Result<Guard, Problem> {
        token.as_deref().map(read_token).transpose()?;
        Ok(Guard {
            token,
            told: AtomicBool::new(false),
        })
    }

    /// Whether these headers show the token that the file holds now: it may be
    /// replaced at any time. While it holds none, nobody has it.
    fn knows(&self, path: &Path, headers: &HeaderMap) -> bool {
        let token = read_token(path);
        let was_told = self.told.swap(token.is_err(), Ordering::Relaxed);
        match token {
            Ok(token) => shows(headers, &token),
            Err(problem) => {
                if !was_told {
                    tell(format_args!("{problem}"));
                }
                false
            }
        }
    }

    fn admit(&self, way: Way, headers: &HeaderMap, open: bool) -> Result<(), Refusal> {
        if way == Way::Unix {
            return Ok(());
        }
        if way == Way::Loopback && !host(headers).is_some_and(is_loopback) {
            return Err(forbidden(
                "Host",
                "is not this machine's",
                "ask for localhost or 127.0.0.1",
            ));
        }
        if headers.contains_key(header::ORIGIN) {
            return Err(forbidden(
                "Origin",
                "pages in browsers may not ask",
                "use another client",
            ));
        }
        match &self.token {
            Some(path) if !open && !self.knows(path, headers) => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                Problem::new(
                    "token",
                    "missing or wrong",
                    "send Authorization: Bearer TOKEN",
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn forbidden(who: &str, what: &str, advice: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, Problem::new(who, what, advice))
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

/// Whether a Host header names this machine, whatever the port.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let address = name.parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn shows(headers: &HeaderMap, token: &str) -> bool {
    let value = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.as_bytes());
    let Some((scheme, shown)) = value.and_then(|value| value.split_at_checked("Bearer ".len()))
    else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(shown.ct_eq(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]",
            "[::1]:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.nip.io:80",
            "10.0.0.1",
            "[::2]",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn only_the_token_is_the_token() {
        let token = "0123456789abcdef";
        let shown = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            shows(&headers, token)
        };
        assert!(shown("Bearer 0123456789abcdef") && shown("bearer 0123456789abcdef"));
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeX",
            "Basic 0123456789abcdef",
        ] {
            assert!(!shown(value), "{value}");
        }
    }
}
