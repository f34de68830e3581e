//! One request and its answer, within limits: a time for each step, a number
//! of bytes, no way from https to http. It knows no registry.

use std::sync::Once;

use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};

use crate::error::{Error, Trouble, plain};
use crate::settings::{CONNECT, SILENCE, Settings, size_words};

/// As often as browsers do.
const REDIRECTS: usize = 10;

/// Who we say we are.
pub(crate) const USER_AGENT: &str = concat!("bpftime/", env!("CARGO_PKG_VERSION"));

static PROVIDER: Once = Once::new();

/// Cryptography for TLS, once in a process.
pub(crate) fn provide_tls() {
    PROVIDER.call_once(|| {
        // Another one that was there first serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

/// Whom a client speaks to.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Peer {
    /// Anybody, by the proxies of the environment.
    Any,
    /// This machine: no proxy stands between us and ourselves.
    Local,
    /// This machine, asked in plain text: no certificates have to be read.
    Plain,
}

/// A client for who speaks plain HTTP, if that is said: it needs no certificates then,
/// but has them, if there are any, for where it is sent from there.
pub(crate) fn client(peer: Peer, is_plain: bool) -> Result<Client, Trouble> {
    match build(peer) {
        Err(Trouble::NoAuthorities) if is_plain => build(Peer::Plain),
        built => built,
    }
}

fn build(peer: Peer) -> Result<Client, Trouble> {
    provide_tls();
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .redirect(Policy::custom(|attempt| {
            let was_safe = attempt.previous().iter().any(|url| url.scheme() == "https");
            if attempt.previous().len() > REDIRECTS {
                attempt.error("too many redirects")
            } else if was_safe && attempt.url().scheme() != "https" {
                attempt.error("a redirect from https to http")
            } else {
                attempt.follow()
            }
        }));
    let builder = match peer {
        Peer::Any => builder,
        Peer::Local => builder.no_proxy(),
        Peer::Plain => builder.no_proxy().tls_certs_only([]),
    };
    builder.build().map_err(|error| trouble(&error))
}

/// Fetches the file at `url`.
pub(crate) async fn fetch(url: &Url, settings: &Settings) -> Result<Vec<u8>, Error> {
    let error = |trouble| Error::new(url.as_str(), trouble);
    let peer = match url.host_str().is_some_and(is_loopback) {
        true => Peer::Local,
        false => Peer::Any,
    };
    let client = client(peer, url.scheme() == "http").map_err(error)?;
    let response = client.get(url.clone()).send().await;
    let response = response.map_err(|cause| error(trouble(&cause)))?;
    match response.status().as_u16() {
        200 => {}
        status @ 400..=499 => return Err(error(Trouble::NotOnServer(status))),
        status => return Err(error(Trouble::Status(status))),
    }
    body(response, settings.largest, |came, of| {
        settings.tell(came, of)
    })
    .await
    .map_err(error)
}

/// All of an answer, if it is not more than `limit`.
pub(crate) async fn body(
    response: Response,
    limit: u64,
    tell: impl Fn(u64, Option<u64>),
) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    body_behind(response, &mut bytes, limit, tell).await?;
    Ok(bytes)
}

/// All of an answer behind what is there, if it is not more than `limit`
/// together. What came before it broke off is there, too.
pub(crate) async fn body_behind(
    mut response: Response,
    bytes: &mut Vec<u8>,
    limit: u64,
    tell: impl Fn(u64, Option<u64>),
) -> Result<(), Trouble> {
    let too_large = || Trouble::TooLarge {
        limit: size_words(limit),
    };
    let before = bytes.len() as u64;
    let of = response.content_length();
    let of = of.map(|of| of.saturating_add(before));
    if of.is_some_and(|of| of > limit) {
        return Err(too_large());
    }
    while let Some(chunk) = response.chunk().await.map_err(|error| trouble(&error))? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
        tell(bytes.len() as u64, of);
    }
    Ok(())
}

/// Whether a host is this machine, whatever the network says.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// What a failed request means.
pub(crate) fn trouble(error: &reqwest::Error) -> Trouble {
    let reason = reason(error);
    match () {
        () if error.is_timeout() => {
            Trouble::Unreachable(format!("no answer in {} s", SILENCE.as_secs()))
        }
        // The words of rustls-platform-verifier.
        () if reason.contains("No CA certificates") => Trouble::NoAuthorities,
        () if reason.contains("certificate") || reason.contains("UnknownIssuer") => {
            Trouble::Certificate(reason)
        }
        () if error.is_connect() => Trouble::Unreachable(reason),
        () if error.is_redirect() => Trouble::Protocol(reason),
        () => Trouble::BrokeOff(reason),
    }
}

/// The innermost cause, without numbers that only programs know.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    plain(&cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (host, wanted) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("localhost.example.org", false),
            ("127.0.0.1.example.org", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(host), wanted, "{host}");
        }
    }
}
