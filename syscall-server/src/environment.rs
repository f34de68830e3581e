//! What the environment asks of the server. It knows no session.

use runtime::command::Seen;

use crate::kernel::placement::Runtime;

/// The agent's file name, in the directory of this library.
pub const AGENT: &str = "libbpftime-agent.so";

/// Set by `bpftime verify`.
const VERIFY_ONLY: &str = "BPFTIME_VERIFY_ONLY";

/// Set by `bpftime exec --session`: the session whose ids are seen.
const SESSION: &str = "BPFTIME_SESSION";

/// Set by `bpftime load --runtime`.
const RUNTIME: &str = "BPFTIME_RUNTIME";

/// What the environment asks for, read once.
pub struct Environment {
    /// Programs are verified only: no session, no storage, no links.
    pub verify_only: bool,
    /// Where programs may run.
    pub runtime: Runtime,
    /// The other sessions that ids lead to.
    pub seen: Seen,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Environment {
        Environment {
            seen: std::env::var(SESSION).map_or(Seen::All, Seen::Only),
            verify_only: std::env::var_os(VERIFY_ONLY).is_some_and(|value| value == "1"),
            runtime: match std::env::var_os(RUNTIME) {
                Some(value) if value == "user" => Runtime::User,
                _ => Runtime::Auto,
            },
        }
    }
}
