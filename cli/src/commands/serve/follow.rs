//! A program's lines as they come, as server-sent events or as a JSON object
//! per line. Who reads slowly loses the oldest lines and is told how many;
//! nobody waits for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde_json::json;
use tokio::sync::watch;

use super::log::Line;
use super::program::{Program, State};
use super::programs::Follower;

/// Lines taken from a log at once.
const LINES: usize = 256;

struct Following {
    program: Arc<Program>,
    changes: watch::Receiver<()>,
    cursor: u64,
    events: bool,
    ended: bool,
    /// Held while there is somebody.
    _follower: Follower,
}

/// A response that goes on until the program has ended.
pub fn respond(program: Arc<Program>, cursor: u64, events: bool, follower: Follower) -> Response {
    let kind = match events {
        true => "text/event-stream",
        false => "application/x-ndjson",
    };
    let following = Following {
        changes: program.changed.subscribe(),
        program,
        cursor,
        events,
        ended: false,
        _follower: follower,
    };
    let stream = unfold(following, |mut following| async {
        let text = following.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), following))
    });
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(stream)).into_response()
}

impl Following {
    /// The next lines; `None` when there will be none.
    async fn next(&mut self) -> Option<String> {
        while !self.ended {
            self.changes.mark_unchanged();
            let (lines, first, ended) = {
                let now = self.program.now();
                let lines = VecDeque::from(now.log.from(self.cursor, LINES));
                (lines, now.log.first(), now.state == State::Ended)
            };
            let mut text = String::new();
            if first > self.cursor {
                text += &self.lost(first - self.cursor);
                self.cursor = first;
            }
            for line in &lines {
                text += &self.line(line);
                self.cursor = line.cursor + 1;
            }
            if ended && lines.is_empty() {
                self.ended = true;
                text += self.end();
            }
            if self.ended || !text.is_empty() {
                return (!text.is_empty()).then_some(text);
            }
            // The sender lives as long as the program, which is held.
            let _ = self.changes.changed().await;
        }
        None
    }

    fn line(&self, line: &Line) -> String {
        let json = json!(line);
        match self.events {
            true => format!("id: {}\nevent: line\ndata: {json}\n\n", line.cursor),
            false => format!("{json}\n"),
        }
    }

    fn lost(&self, count: u64) -> String {
        let json = json!({ "dropped": count });
        match self.events {
            true => format!("event: dropped\ndata: {json}\n\n"),
            false => format!("{json}\n"),
        }
    }

    /// Readers of events connect again unless they are told.
    fn end(&self) -> &'static str {
        match self.events {
            true => "event: end\ndata: {}\n\n",
            false => "",
        }
    }
}
