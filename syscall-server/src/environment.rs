//! What the environment asks of the server, and what a tool's children
//! inherit: the agent in place of this library, so that `bpftrace -c` traces
//! its child. It knows no session.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use runtime::command::Seen;

use crate::kernel::placement::Runtime;
use crate::log;

const LD_PRELOAD: &str = "LD_PRELOAD";
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

/// Replaces this library in `LD_PRELOAD` by the agent; takes it out where
/// there is no agent beside it.
pub fn hand_children_the_agent(own_path: &Path) {
    let Some(old) = std::env::var_os(LD_PRELOAD) else {
        return;
    };
    let agent = own_path.with_file_name(AGENT);
    let new = replaced(
        old.as_bytes(),
        own_path,
        agent.exists().then_some(agent.as_path()),
    );
    let (Ok(name), Ok(new)) = (CString::new(LD_PRELOAD), CString::new(new)) else {
        return;
    };
    // SAFETY: both are terminated strings. Another thread that reads the
    // environment at this moment gets the old or the new array, both of which
    // libc keeps.
    if unsafe { libc::setenv(name.as_ptr(), new.as_ptr(), 1) } != 0 {
        log::debug(format_args!(
            "children will not be traced: no memory for the environment"
        ));
    }
}

fn replaced(list: &[u8], own_path: &Path, agent: Option<&Path>) -> Vec<u8> {
    let name = own_path.file_name().map(OsStrExt::as_bytes);
    let is_own = |entry: &[u8]| {
        Path::new(std::ffi::OsStr::from_bytes(entry))
            .file_name()
            .map(OsStrExt::as_bytes)
            == name
    };
    let mut out: Vec<u8> = Vec::new();
    // ld.so(8): separated by colons or spaces.
    for entry in list.split(|&b| b == b':' || b == b' ') {
        let entry = match agent {
            Some(agent) if is_own(entry) => agent.as_os_str().as_bytes(),
            None if is_own(entry) => continue,
            _ if entry.is_empty() => continue,
            _ => entry,
        };
        if !out.is_empty() {
            out.push(b':');
        }
        out.extend_from_slice(entry);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_library_is_replaced() {
        let own = Path::new("/s/lib-1/libbpftime_syscall_server.so");
        let agent = Path::new("/s/lib-1/libbpftime-agent.so");
        let check = |list: &str, expected: &str| {
            let new = replaced(list.as_bytes(), own, Some(agent));
            assert_eq!(String::from_utf8(new).unwrap(), expected);
        };
        check(
            "/s/lib-1/libbpftime_syscall_server.so",
            "/s/lib-1/libbpftime-agent.so",
        );
        check(
            "libjemalloc.so /other/libbpftime_syscall_server.so::x.so",
            "libjemalloc.so:/s/lib-1/libbpftime-agent.so:x.so",
        );
        check("", "");
        let alone = replaced(b"a.so:/s/lib-1/libbpftime_syscall_server.so", own, None);
        assert_eq!(alone, b"a.so");
    }
}
