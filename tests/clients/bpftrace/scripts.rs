//! The tools that come with bpftrace, as they are.

use bpftime_tests::World;

use super::{renamed, traced};
use crate::table::both;

/// The words of lines that hold `mark`, without the first ones.
fn rows(world: &World, tool: &str, work: &[&str], mark: &str, skip: usize) -> Vec<String> {
    let path = format!("/usr/sbin/{tool}.bt");
    let exit = traced(world, &[&path], work);
    assert_eq!(exit.code, 0, "{tool}: {exit:?}");
    let marked = exit.stdout.lines().filter(|line| line.contains(mark));
    let words = |line: &str| -> Vec<String> {
        line.split_whitespace()
            .skip(skip)
            .map(str::to_owned)
            .collect()
    };
    marked.map(|line| words(line).join(" ")).collect()
}

#[test]
fn bashreadline_bt_shows_commands() {
    both(|world| {
        let typed = "(echo 'echo marked 1'; echo exit) | bash --norc -i 2>/dev/null";
        let rows = rows(world, "bashreadline", &["sh", "-c", typed], "marked", 2);
        assert_eq!(rows, ["echo marked 1"], "{:?}", world.mode());
    });
}

#[test]
fn execsnoop_bt_shows_commands() {
    both(|world| {
        let work = [
            "sh",
            "-c",
            "/bin/true marked-1; /bin/true marked-2 'two words'; :",
        ];
        let mut rows = rows(world, "execsnoop", &work, "marked", 2);
        rows.retain(|row| row.starts_with("/bin/true"));
        let expected = ["/bin/true marked-1", "/bin/true marked-2 two words"];
        assert_eq!(rows, expected, "{:?}", world.mode());
    });
}

#[test]
fn gethostlatency_bt_shows_names() {
    both(|world| {
        let gai = world.fixture("gai").display().to_string();
        let mut rows = rows(world, "gethostlatency", &[&gai, "1"], " gai ", 4);
        // The kernel does not see a name whose page was never read.
        rows.iter_mut()
            .filter(|row| row.is_empty())
            .for_each(|row| "ip6-localhost".clone_into(row));
        let expected = ["ip6-localhost", "localhost", "localhost"];
        assert_eq!(rows, expected, "{:?}", world.mode());
    });
}

#[test]
fn killsnoop_bt_shows_signals_and_results() {
    both(|world| {
        renamed(world, "/bin/sh", "slayer");
        let script = "kill -0 $$; kill -9 4194303 2>/dev/null; :";
        let work = ["{home}/slayer", "-c", script];
        let rows = rows(world, "killsnoop", &work, "slayer", 2);
        let signals: Vec<String> = rows.iter().map(|row| without(row, 2)).collect();
        assert_eq!(signals, ["slayer 0 0", "slayer 9 -3"], "{:?}", world.mode());
    });
}

/// A row without one of its words.
fn without(row: &str, word: usize) -> String {
    let mut words: Vec<&str> = row.split(' ').collect();
    words.remove(word);
    words.join(" ")
}

#[test]
fn opensnoop_bt_shows_paths_and_results() {
    both(|world| {
        renamed(world, "/bin/cat", "reader");
        let script = "{home}/reader /etc/hostname /nonexistent/file >/dev/null 2>&1; :";
        let rows = rows(world, "opensnoop", &["sh", "-c", script], "reader", 1);
        // Numbers of files are those of the test's own, and more.
        let mut rows: Vec<String> = rows.iter().map(|row| without(row, 1)).collect();
        // The kernel sees the loader of the program, too.
        rows.retain(|row| row.ends_with("/hostname") || row.ends_with("/file"));
        let expected = ["reader 0 /etc/hostname", "reader 2 /nonexistent/file"];
        assert_eq!(rows, expected, "{:?}", world.mode());
    });
}

#[test]
fn statsnoop_bt_shows_paths_and_results() {
    both(|world| {
        renamed(world, "/usr/bin/stat", "prober");
        let script = "{home}/prober /etc/hostname /nonexistent/file; {home}/prober -f /etc; :";
        let work = ["sh", "-c", script];
        let mut rows = rows(world, "statsnoop", &work, "prober", 1);
        rows.retain(|row| row.contains("/etc") || row.contains("/nonexistent"));
        let expected = [
            "prober 0 /etc/hostname",
            "prober 2 /nonexistent/file",
            "prober 0 /etc",
        ];
        assert_eq!(rows, expected, "{:?}", world.mode());
    });
}

#[test]
fn syncsnoop_bt_shows_calls() {
    both(|world| {
        renamed(world, "/bin/sync", "flusher");
        let script = "{home}/flusher /etc/hostname; {home}/flusher -d /etc/hostname";
        let rows = rows(world, "syncsnoop", &["sh", "-c", script], "flusher", 2);
        let expected = [
            "flusher tracepoint:syscalls:sys_enter_fsync",
            "flusher tracepoint:syscalls:sys_enter_fdatasync",
        ];
        assert_eq!(rows, expected, "{:?}", world.mode());
    });
}

#[test]
fn setuids_bt_shows_calls() {
    both(|world| {
        renamed(world, "/usr/bin/setpriv", "changer");
        let uid = world.uid().to_string();
        let work = ["{home}/changer", "--reuid", &uid, "--keep-groups", "true"];
        let rows = rows(world, "setuids", &work, "changer", 2);
        let expected = format!("changer {uid} setresuid ruid={uid} euid={uid} suid={uid} (0)");
        assert_eq!(rows, [expected], "{:?}", world.mode());
    });
}
