//! Fetches what is to be run from URLs and OCI registries, and pushes it
//! there. It knows bytes, names and digests, and by their first bytes what
//! kinds there are; it runs nothing and knows no eBPF.
//!
//! Reading order: [`source`] (what a user's word means), [`settings`] (limits
//! and places), `fetch` (from word to bytes), `remote` (one registry), `http`,
//! `cache` (blobs by digest), `contents` (what is in an image), `signatures`
//! and `keys`, `push`, `credentials` (log in and out), `token` (what a login is exchanged
//! for), [`error`].

mod cache;
mod contents;
mod credentials;
mod digest;
pub mod error;
mod fetch;
mod http;
mod keys;
mod kind;
mod push;
mod remote;
pub mod settings;
mod signatures;
pub mod source;
mod token;

use std::future::Future;

pub use cache::write_file;
pub use contents::safe_name;
pub use credentials::{Gone, login, logout};
pub use error::{Error, Trouble};
pub use fetch::{Fetched, Note, fetch};
pub use kind::Kind;
pub use push::{Form, Parcel, Pushed, push};
pub use settings::{Places, Settings};
pub use source::Source;

/// Runs something asynchronous to its end on this thread.
fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new("network", Trouble::Io(error)))?;
    let done = runtime.block_on(work);
    // A name that is still being looked up must not hold the command.
    runtime.shutdown_background();
    done
}
