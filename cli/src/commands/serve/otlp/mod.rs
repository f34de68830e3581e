//! Metrics pushed to a collector by OTLP over HTTP. It knows not where they
//! are from.
//!
//! Reading order: this file (when, and what if it fails), `message` (what is
//! sent). What cannot be delivered now waits, within bounds.

mod message;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header};
use tokio::time::{Instant, MissedTickBehavior};

use super::programs::Programs;
use super::{own, tell};
use crate::problem::Problem;

/// Exports that wait for the collector.
const WAITING: usize = 16;
/// Time for the collector to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Time for it when the service ends.
const LAST_ANSWER: Duration = Duration::from_secs(3);
/// The first wait after a failure; the next are twice as long each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(60);
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
/// Where metrics go, below the endpoint.
const PATH: &str = "v1/metrics";

/// Sends metrics now and then.
pub struct Exporter {
    client: Client,
    url: Url,
    interval: Duration,
    host: String,
}

/// What became of an export.
enum Sent {
    Taken,
    /// To be sent again, after this time if the collector says so.
    Later(Option<Duration>, String),
    Refused(String),
}

impl Exporter {
    pub fn new(endpoint: &Url, interval: Duration) -> Result<Exporter, Problem> {
        let wrong =
            |what: String| Problem::new(endpoint, what, "give a URL as http://collector:4318");
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host().is_none() {
            return Err(wrong("is no HTTP URL".into()));
        }
        let mut url = endpoint.clone();
        if !url.path().ends_with(PATH) {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/{PATH}"));
        }
        // Fails if there is one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(ANSWER).build();
        let client = client.map_err(|error| wrong(format!("cannot be sent to ({error})")))?;
        let host = std::fs::read_to_string(HOST_NAME).map_err(|error| {
            Problem::new(
                HOST_NAME,
                format_args!("cannot be read ({})", crate::libraries::reason(&error)),
                "mount /proc",
            )
        })?;
        Ok(Exporter {
            client,
            url,
            interval,
            host: host.trim().to_owned(),
        })
    }

    /// Exports until the service ends.
    pub async fn run(self: Arc<Exporter>, programs: Arc<Programs>) {
        let mut ticks = tokio::time::interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut queue: VecDeque<String> = VecDeque::new();
        let mut next = Instant::now();
        let mut wait = FIRST_WAIT;
        let mut told = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    queue.push_back(self.message(&programs));
                    if queue.len() > WAITING {
                        queue.pop_front();
                        programs.otlp_dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                () = tokio::time::sleep_until(next), if !queue.is_empty() => {}
            }
            while let Some(body) = queue.front().filter(|_| Instant::now() >= next) {
                let problem = match self.send(body.clone()).await {
                    Sent::Taken => {
                        queue.pop_front();
                        (wait, told) = (FIRST_WAIT, false);
                        continue;
                    }
                    Sent::Later(asked, what) => {
                        next = Instant::now() + asked.unwrap_or(wait).min(LAST_WAIT);
                        wait = (wait * 2).min(LAST_WAIT);
                        what
                    }
                    Sent::Refused(what) => {
                        queue.pop_front();
                        programs.otlp_dropped.fetch_add(1, Ordering::Relaxed);
                        what
                    }
                };
                // Once for each trouble.
                if !std::mem::replace(&mut told, true) {
                    tell(format_args!(
                        "{}: metrics not taken ({problem}): check the collector",
                        self.url
                    ));
                }
            }
        }
    }

    /// Exports what programs said until their ends: once, for the service ends with it.
    pub async fn last(&self, programs: &Programs) {
        let sent = tokio::time::timeout(LAST_ANSWER, self.send(self.message(programs)));
        let problem = match sent.await {
            Ok(Sent::Taken) => return,
            Ok(Sent::Later(_, what) | Sent::Refused(what)) => what,
            Err(_) => "no answer in time".to_owned(),
        };
        tell(format_args!(
            "{}: the last metrics not taken ({problem}): check the collector",
            self.url
        ));
    }

    fn message(&self, programs: &Programs) -> String {
        message::encode(&own::families(programs), &self.host)
    }

    async fn send(&self, body: String) -> Sent {
        let request = self.client.post(self.url.clone());
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let response = match request.body(body).send().await {
            Ok(response) => response,
            Err(error) => return Sent::Later(None, reason(&error)),
        };
        let status = response.status();
        // A date, which it may be as well, counts as nothing said.
        let after = response.headers().get(header::RETRY_AFTER);
        let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
        match status {
            _ if status.is_success() => Sent::Taken,
            // What OTLP says may be tried again.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Sent::Later(after.map(Duration::from_secs), status.to_string())
            }
            _ => Sent::Refused(status.to_string()),
        }
    }
}

/// The innermost cause says most.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_owned()
}
