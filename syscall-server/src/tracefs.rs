//! The files of tracefs that describe tracepoints of system calls, for tools
//! that may not read the kernel's. It knows no fd.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use runtime::command::kprobe;
use runtime::command::tracepoint::Tracepoint;

use crate::files::{self, Content};
use crate::server;

/// Where tracefs is mounted; tools look at either.
pub const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// What is at a path below a root, if it is about system calls.
pub fn find(path: &str) -> Option<Content> {
    if path == "/available_events" {
        static EVENTS: OnceLock<String> = OnceLock::new();
        return Some(Content::Text(EVENTS.get_or_init(available_events)));
    }
    if path == "/available_filter_functions" {
        static FUNCTIONS: OnceLock<String> = OnceLock::new();
        let names = || kprobe::functions().map(|(_, name)| name + "\n").collect();
        return Some(Content::Text(FUNCTIONS.get_or_init(names)));
    }
    let mut names = path.strip_prefix("/events/")?.split('/');
    let category = names.next()?;
    let Some(name) = names.next() else {
        let known = category == "syscalls" || category == "raw_syscalls";
        return known.then_some(Content::Directory);
    };
    let tracepoint = Tracepoint::find(category, name)?;
    let text = match (names.next(), names.next()) {
        (None, _) => return Some(Content::Directory),
        (Some("id"), None) => format!("{}\n", tracepoint.id()),
        (Some("format"), None) => tracepoint.format(),
        (Some("enable"), None) => "0\n".to_owned(),
        (Some("filter"), None) => "none\n".to_owned(),
        _ => return None,
    };
    Some(Content::Text(kept(path, text)))
}

/// A directory on disk with the entries of the one at `path`, which is in
/// tracefs; made when it is first asked for, beside this library.
pub fn directory(path: &[u8]) -> Option<CString> {
    let path = std::str::from_utf8(path).ok()?.trim_end_matches('/');
    let inside = ROOTS.iter().find_map(|root| path.strip_prefix(root))?;
    if files::find(path.as_bytes()) != Some(Content::Directory) {
        return None;
    }
    let tree = server::own_path()?.with_file_name("tracefs");
    if !tree.exists() {
        let temporary = tree.with_file_name(format!(".tracefs.{}", std::process::id()));
        let made = fill(&temporary).and_then(|()| fs::rename(&temporary, &tree));
        if made.is_err() {
            // Another tool may have been faster.
            drop(fs::remove_dir_all(&temporary));
        }
    }
    let directory = format!("{}{inside}", tree.display());
    CString::new(directory).ok()
}

/// Files are empty: who opens one gets that of [`find`].
fn fill(tree: &Path) -> io::Result<()> {
    for tracepoint in Tracepoint::all() {
        let (category, name) = (tracepoint.category(), tracepoint.name());
        let event = tree.join(format!("events/{category}/{name}"));
        fs::create_dir_all(&event)?;
        for file in ["enable", "filter", "format", "id"] {
            fs::write(event.join(file), "")?;
        }
    }
    for file in files::TRACING_FILES {
        fs::write(tree.join(file), "")?;
    }
    Ok(())
}

/// The tracepoint that perf_event_open(2) names by an id: one of ours, or of
/// the kernel's where its files can be read.
pub fn by_id(id: u64) -> Option<Tracepoint> {
    Tracepoint::by_id(id).or_else(|| {
        static KERNELS: OnceLock<HashMap<u64, Tracepoint>> = OnceLock::new();
        KERNELS.get_or_init(kernels_ids).get(&id).copied()
    })
}

fn kernels_ids() -> HashMap<u64, Tracepoint> {
    let id = |root: &str, tracepoint: Tracepoint| -> Option<u64> {
        let (category, name) = (tracepoint.category(), tracepoint.name());
        let text = std::fs::read_to_string(format!("{root}/events/{category}/{name}/id")).ok()?;
        text.trim().parse().ok()
    };
    // Before it is mounted, and for an ordinary user, there is nothing to see.
    let is_readable = |root: &&&str| id(root, Tracepoint::RawEnter).is_some_and(|id| id <= 0xffff);
    let Some(root) = ROOTS.iter().find(is_readable) else {
        return HashMap::new();
    };
    Tracepoint::all()
        .filter_map(|tracepoint| Some((id(root, tracepoint)?, tracepoint)))
        .collect()
}

/// The text of a virtual file, made once.
fn kept(path: &str, text: String) -> &'static str {
    static TEXTS: Mutex<Option<HashMap<String, &'static str>>> = Mutex::new(None);
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    texts
        .get_or_insert_default()
        .entry(path.to_owned())
        .or_insert_with(|| text.leak())
}

fn available_events() -> String {
    let mut text = String::new();
    for tracepoint in Tracepoint::all() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}:{}", tracepoint.category(), tracepoint.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        match find(path) {
            Some(Content::Text(text)) => text,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn files_of_system_calls() {
        let id = text("/events/syscalls/sys_enter_openat/id");
        let tracepoint = by_id(id.trim().parse().unwrap()).unwrap();
        assert_eq!(tracepoint.name(), "sys_enter_openat");
        let format = text("/events/syscalls/sys_enter_openat/format");
        assert!(
            format.contains("\tfield:const char * filename;\toffset:24;\tsize:8;\tsigned:0;\n")
        );
        assert!(std::ptr::eq(
            format,
            text("/events/syscalls/sys_enter_openat/format")
        ));
        assert!(text("/available_events").contains("\nraw_syscalls:sys_enter\n"));
        assert_eq!(
            find("/events/raw_syscalls/sys_exit"),
            Some(Content::Directory)
        );
        assert_eq!(find("/events/syscalls"), Some(Content::Directory));
        for path in [
            "/events/sched/sched_switch/id",
            "/events/syscalls/sys_enter_none/id",
        ] {
            assert_eq!(find(path), None);
        }
    }
}
