//! `status`, `doctor` and `detach`: what they say of processes that come and
//! go.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Place, check};

/// A program that waits for its stdin to end.
struct Waiting(Child);

impl Waiting {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.as_mut().expect("a pipe"));
        out.read_line(&mut line).expect("its output");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().expect("its status").success());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A failed test leaves nothing running; an ended program is no error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const EMPTY: &str = "no sessions and no targets\n";

fn waiting(place: &Place) -> std::path::PathBuf {
    place.compile(
        "gcc",
        &[],
        "waiting",
        "#include <stdio.h>\nint main(void) { char c; puts(\"ready\"); fflush(stdout); while (fread(&c, 1, 1, stdin)) ; }\n",
    )
}

#[track_caller]
fn status_is(place: &Place, expected: &str) {
    check(&mut place.bpftime(["status"]), 0, expected, "");
}

#[test]
fn nothing_runs() {
    let place = Place::new();
    status_is(&place, EMPTY);
    check(
        &mut place.bpftime(["status", "--json"]),
        0,
        "{\n  \"sessions\": [],\n  \"targets\": []\n}\n",
        "",
    );
}

#[test]
fn a_started_program_is_a_target_until_it_ends() {
    let place = Place::new();
    let program = waiting(&place);
    let running =
        Waiting::start(place.bpftime([std::ffi::OsStr::new("start"), program.as_os_str()]));
    let pid = running.pid();
    let width = pid.to_string().len().max(3);
    let table = format!(
        "no sessions\n\ntargets\n  {:width$}  COMMAND  HOOKS  REFUSED  WHY\n  {pid:<width$}  waiting  0      0\n",
        "PID"
    );
    // Nobody waits for its agent when there is no session.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let output = place.bpftime(["status"]).output().expect("run bpftime");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text == table {
            break;
        }
        assert_eq!(text, EMPTY);
        assert!(Instant::now() < deadline);
    }
    running.end();
    status_is(&place, EMPTY);
}

#[test]
fn attach_and_detach_again_and_again() {
    let place = Place::new();
    let running = Waiting::start(Command::new(waiting(&place)));
    let pid = running.pid().to_string();
    for _ in 0..20 {
        check(
            &mut place.bpftime(["detach", &pid]),
            1,
            "",
            &format!(
                "bpftime: {pid}: has no agent: nothing to detach; bpftime status lists those that have one\n"
            ),
        );
        status_is(&place, EMPTY);
        check(&mut place.bpftime(["attach", &pid]), 0, "", "");
        let output = place.bpftime(["status"]).output().expect("run bpftime");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("\n  {pid}  waiting  0")), "{text}");
        check(&mut place.bpftime(["detach", &pid]), 0, "", "");
    }
    running.end();
    check(
        &mut place.bpftime(["detach", &pid]),
        1,
        "",
        &format!("bpftime: {pid}: no such process: check the process id (pidof NAME, ps)\n"),
    );
}

#[test]
fn the_doctor_finds_this_machine_fit() {
    let place = Place::new();
    let output = place.bpftime(["doctor"]).output().expect("run bpftime");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let subjects: Vec<&str> = text
        .lines()
        .filter_map(|line| line.get(9..24))
        .map(str::trim)
        .collect();
    let expected = [
        "processor",
        "kernel",
        "sessions",
        "libraries",
        "roster",
        "attach",
        "patching",
        "membarrier",
        "probe_read",
        "BTF",
        "kernel BPF",
        "perf events",
        "kernel uprobes",
    ];
    assert_eq!(subjects, expected, "{text}");
    let levels = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    assert!(
        levels
            .into_iter()
            .all(|level| matches!(level, "ok" | "limited")),
        "{text}"
    );
}

#[test]
fn the_doctor_names_what_is_missing() {
    let place = Place::new();
    let output = place
        .bpftime(["doctor"])
        .env("BPFTIME_SESSION_DIR", "/proc/none")
        .output()
        .expect("run bpftime");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "bpftime: doctor: 1 missing: see the lines above\n"
    );
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.starts_with("missing"))
        .expect("a missing line");
    assert_eq!(
        line,
        "missing  sessions        session directory not writable (No such file or directory): \
         /proc/none: set BPFTIME_SESSION_DIR to a directory of your own"
    );
}
