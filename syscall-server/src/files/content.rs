//! Which virtual files there are and what is in them. It knows no fd.

use crate::tracefs;

/// The number of the uprobe PMU where the kernel shows none.
pub const UPROBE_TYPE: u32 = 8;
/// Where the kernel shows it.
pub const UPROBE_TYPE_PATH: &str = "/sys/bus/event_source/devices/uprobe/type";
/// The same of the kprobe PMU: a number that no kernel gives.
pub const KPROBE_TYPE: u32 = 1010;
/// Where the kernel shows it.
pub const KPROBE_TYPE_PATH: &str = "/sys/bus/event_source/devices/kprobe/type";

/// What is at a virtual path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file with this text.
    Text(&'static str),
    /// A directory.
    Directory,
}

/// In the directory of the uprobe PMU.
const UPROBE_PMU: &[(&str, Content)] = &[
    ("", Content::Directory),
    ("/type", Content::Text("8\n")),
    ("/format", Content::Directory),
    ("/format/retprobe", Content::Text("config:0\n")),
    ("/format/ref_ctr_offset", Content::Text("config:32-63\n")),
];

/// In the directory of the kprobe PMU.
const KPROBE_PMU: &[(&str, Content)] = &[
    ("", Content::Directory),
    ("/type", Content::Text("1010\n")),
    ("/format", Content::Directory),
    ("/format/retprobe", Content::Text("config:0\n")),
];

/// In tracefs, beside the events of system calls: there are no probes by name.
const TRACING: &[(&str, Content)] = &[
    ("", Content::Directory),
    ("/events", Content::Directory),
    ("/uprobe_events", Content::Text("")),
    ("/kprobe_events", Content::Text("")),
];

/// The files right in tracefs.
pub const TRACING_FILES: [&str; 4] = [
    "available_events",
    "available_filter_functions",
    "kprobe_events",
    "uprobe_events",
];

/// What is at `path`, if it is one of ours.
pub fn find(path: &[u8]) -> Option<Content> {
    // Nearly every path of a process ends here.
    if !path.starts_with(b"/sys/") {
        return None;
    }
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let under = |root: &str, files: &[(&str, Content)]| {
        let rest = path.strip_prefix(root.as_bytes())?;
        let found = files.iter().find(|(name, _)| name.as_bytes() == rest)?;
        Some(found.1)
    };
    under("/sys/bus/event_source/devices/uprobe", UPROBE_PMU)
        .or_else(|| under("/sys/bus/event_source/devices/kprobe", KPROBE_PMU))
        .or_else(|| tracefs::ROOTS.iter().find_map(|root| under(root, TRACING)))
        .or_else(|| {
            let path = std::str::from_utf8(path).ok()?;
            let inside = |root: &&str| tracefs::find(path.strip_prefix(*root)?);
            tracefs::ROOTS.iter().find_map(inside)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(
            find(UPROBE_TYPE_PATH.as_bytes()),
            Some(Content::Text("8\n"))
        );
        assert_eq!(
            find(KPROBE_TYPE_PATH.as_bytes()),
            Some(Content::Text("1010\n"))
        );
        assert_eq!((UPROBE_TYPE, KPROBE_TYPE), (8, 1010));
        assert_eq!(
            find(b"/sys/kernel/debug/tracing/events/syscalls/"),
            Some(Content::Directory)
        );
        assert_eq!(find(b"/sys/kernel/tracing/"), Some(Content::Directory));
        assert_eq!(find(b"/etc/passwd"), None);
        assert_eq!(find(b"/sys/bus/event_source/devices/uprobes"), None);
    }
}
