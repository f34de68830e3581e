//! Where the state and the sessions of this user are. Stands in for
//! `runtime::session::Dirs`.

use std::path::PathBuf;

use nix::unistd::{User, geteuid};

pub struct Dirs {
    pub state: PathBuf,
    pub sessions: PathBuf,
}

impl Dirs {
    pub fn for_cli() -> Self {
        let uid = geteuid();
        let of_env = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let state = of_env("BPFTIME_STATE_DIR").unwrap_or_else(|| match User::from_uid(uid) {
            Ok(Some(user)) if user.dir.is_dir() => user.dir.join(".cache/bpftime"),
            _ => PathBuf::from(format!("/tmp/bpftime-{uid}")),
        });
        let sessions = of_env("BPFTIME_SESSION_DIR")
            .unwrap_or_else(|| PathBuf::from(format!("/dev/shm/bpftime-{uid}")));
        Self { state, sessions }
    }
}
