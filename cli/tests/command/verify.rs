//! `verify`: verdicts, exit statuses, and what becomes of bad objects.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::{Place, can, check, installed, is_root};

const HEAD: &str = r#"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "GPL";
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");
"#;

/// In assembly, and without paths that meet: the number of instructions, and of
/// those processed, is the same from every compiler and with any pruning.
const ACCEPTED: &str = r#"
SEC("uprobe")
__attribute__((naked)) int counts(void)
{
	asm volatile("r1 = 1; *(u32 *)(r10 - 4) = r1; r2 = r10; r2 += -4; r1 = %[calls] ll;"
		     "call 1; if r0 != 0 goto +2; r0 = 0; exit; r1 = *(u64 *)(r0 + 0); r0 = 0; exit;"
		     :: [calls]"i"(&calls));
}
"#;

const REFUSED: &str = r#"
SEC("uprobe")
__attribute__((naked)) int forgets(void)
{
	asm volatile("r1 = 1; *(u32 *)(r10 - 4) = r1; r2 = r10; r2 += -4; r1 = %[calls] ll;"
		     "call 1; r1 = *(u64 *)(r0 + 0); r0 = 0; exit;"
		     :: [calls]"i"(&calls));
}
"#;

/// User space has no control groups.
const KERNEL_ONLY: &str = r#"
SEC("cgroup_skb/egress")
int passes(struct __sk_buff *skb)
{
	return 1;
}
"#;

/// An object in `place` with these programs.
fn object(place: &Place, name: &str, programs: &[&str]) -> PathBuf {
    let clang = ["clang-19", "clang-14", "clang"]
        .into_iter()
        .find(|name| installed(name))
        .expect("clang; `make deps` installs it");
    let flags = [
        "-target",
        "bpf",
        "-mcpu=v3",
        "-O2",
        "-g",
        "-c",
        "-I/usr/include/x86_64-linux-gnu",
    ];
    place.compile(clang, &flags, name, &(HEAD.to_owned() + &programs.concat()))
}

/// Exit status, stdout without the column of times, stderr.
fn verify(place: &Place, args: &[&str]) -> (Option<i32>, String, String) {
    said(place.bpftime(["verify"]).args(args))
}

fn said(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("run bpftime");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| match line.strip_suffix(" ms") {
        Some(line) => line
            .trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
            .trim_end(),
        None => line,
    });
    (
        output.status.code(),
        lines.map(|line| format!("{line}\n")).collect(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn an_accepted_object() {
    let place = Place::new();
    object(&place, "good.o", &[ACCEPTED]);
    let expected = "  \
  PROGRAM  SECTION  TYPE    INSNS  VERDICT   PROCESSED  TIME
  counts   uprobe   kprobe  13     accepted  12
";
    assert_eq!(
        verify(&place, &["good.o"]),
        (Some(0), expected.to_owned(), String::new())
    );
    let (status, stdout, _) = verify(&place, &["good.o", "--log-level", "4"]);
    assert_eq!(status, Some(0));
    let tail: Vec<&str> = stdout.lines().skip(2).collect();
    assert_eq!(tail[..2], ["", "counts: accepted"]);
    assert!(tail[2].starts_with("  verification time "), "{stdout}");
    assert!(
        tail[4].starts_with("  processed 12 insns (limit 1000000)"),
        "{stdout}"
    );
    assert_eq!(tail.len(), 5);
}

#[test]
fn a_refused_program_among_others() {
    let place = Place::new();
    object(&place, "mixed.o", &[ACCEPTED, REFUSED]);
    let expected = "  \
  PROGRAM  SECTION  TYPE    INSNS  VERDICT   PROCESSED  TIME
  counts   uprobe   kprobe  13     accepted  12
  forgets  uprobe   kprobe  10     refused   7

forgets: refused (EACCES): R0 invalid mem access 'map_value_or_null'
";
    let problem = "bpftime: mixed.o: 1 of 2 programs not accepted: see the lines above\n";
    assert_eq!(
        verify(&place, &["mixed.o", "--log-level", "0"]),
        (Some(1), expected.to_owned(), problem.to_owned())
    );
    let (status, stdout, _) = verify(&place, &["mixed.o"]);
    assert_eq!(status, Some(1));
    assert!(stdout.starts_with(expected), "{stdout}");
    assert!(
        stdout.contains("\n  R0 invalid mem access 'map_value_or_null'\n"),
        "{stdout}"
    );
    let (status, stdout, stderr) = verify(&place, &["mixed.o", "--program", "counts"]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert_eq!(stdout.lines().count(), 2);
}

#[test]
fn a_program_that_only_kernels_run() {
    let place = Place::new();
    object(&place, "skb.o", &[KERNEL_ONLY]);
    let (status, stdout, _) = verify(&place, &["skb.o", "--log-level", "0"]);
    assert_eq!(status, Some(1));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[1],
        "  passes   cgroup_skb/egress  cgroup_skb  2      refused  -          -"
    );
    assert!(lines[3].starts_with("passes: refused (EINVAL)"), "{stdout}");
}

#[test]
fn beside_the_kernel() {
    if !can("needs root", is_root()) {
        return;
    }
    let place = Place::new();
    object(&place, "all.o", &[ACCEPTED, REFUSED, KERNEL_ONLY]);
    let args = ["all.o", "--log-level", "0", "--against", "kernel"];
    let (status, stdout, stderr) = verify(&place, &args);
    assert_eq!(status, Some(1));
    assert_eq!(
        stderr,
        "bpftime: all.o: 2 of 3 programs not accepted: see the lines above\n"
    );
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "  PROGRAM  SECTION            TYPE        INSNS  BPFTIME   KERNEL    PROCESSED  TIME",
            "  counts   uprobe             kprobe      13     accepted  accepted  12",
            "  forgets  uprobe             kprobe      10     refused   refused   7",
            "  passes   cgroup_skb/egress  cgroup_skb  2      refused   accepted  -          -",
            "",
        ]
    );
    assert!(
        stdout.ends_with("\npasses: the kernel accepts it\n"),
        "{stdout}"
    );
    let reason = "R0 invalid mem access 'map_value_or_null'";
    assert_eq!(stdout.matches(reason).count(), 2, "{stdout}");
}

#[test]
fn without_the_right_to_load() {
    if !can("needs root and setpriv", is_root() && installed("setpriv")) {
        return;
    }
    let place = Place::new();
    object(&place, "good.o", &[ACCEPTED]);
    let state = place.path("nobody");
    fs::create_dir(&state).expect("a directory");
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).expect("chown");
    let bpftime = fs::read(env!("CARGO_BIN_EXE_bpftime")).expect("bpftime");
    let copy = place.file("bpftime", bpftime, 0o755);
    let nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&copy)
            .arg("verify")
            .args(args)
            .current_dir(place.path(""))
            .env("BPFTIME_STATE_DIR", &state);
        command
    };
    let (status, stdout, stderr) = said(&mut nobody(&["good.o"]));
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    check(
        &mut nobody(&["good.o", "--against", "kernel"]),
        2,
        "",
        "bpftime: --against kernel: loading into the kernel needs CAP_BPF and CAP_PERFMON: run it as root\n",
    );
}

#[test]
fn json_for_other_programs() {
    let place = Place::new();
    object(&place, "mixed.o", &[REFUSED]);
    let output = place
        .bpftime(["verify", "mixed.o", "--json", "--log-level=0"])
        .output()
        .expect("run bpftime");
    let mut rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let verdict = &mut rows[0]["bpftime"];
    assert!(verdict["usec"].is_u64(), "{verdict}");
    verdict["usec"] = 0.into();
    assert_eq!(
        rows,
        serde_json::json!([{
            "name": "forgets", "section": "uprobe", "type": "kprobe", "insns": 10,
            "bpftime": {
                "outcome": "refused", "errno": "EACCES",
                "reason": "R0 invalid mem access 'map_value_or_null'",
                "processed": 7, "usec": 0, "log": "",
            },
        }])
    );
}

#[test]
fn what_is_no_object() {
    let place = Place::new();
    let good = fs::read(object(&place, "good.o", &[ACCEPTED])).expect("the object");
    place.file("empty.o", "", 0o644);
    place.file("text.o", "int main;\n", 0o644);
    place.file("head.o", &good[..40], 0o644);
    object(&place, "none.o", &[]);
    place.compile("gcc", &["-c"], "x86.o", "int x;\n");
    let name = "name an object that clang -target bpf made";
    for (args, problem) in [
        (
            &["gone.o"][..],
            "gone.o: no such file: check the path".to_owned(),
        ),
        (&["."], format!(".: not a file: {name}")),
        (&["/dev/zero"], format!("/dev/zero: not a file: {name}")),
        (&["empty.o"], format!("empty.o: not an ELF file: {name}")),
        (&["text.o"], format!("text.o: not an ELF file: {name}")),
        (&["head.o"], format!("head.o: a damaged ELF file: {name}")),
        (
            &["x86.o"],
            format!("x86.o: built for another processor than eBPF: {name}"),
        ),
        (
            &["none.o"],
            "none.o: no programs in it: mark functions with SEC(\"…\")".to_owned(),
        ),
        (
            &["good.o", "--program", "x"],
            "good.o: no program x in it: leave --program out to see all".to_owned(),
        ),
    ] {
        check(
            place.bpftime(["verify"]).args(args),
            2,
            "",
            &format!("bpftime: {problem}\n"),
        );
    }
}

/// An object's names may hold any byte: none drives the terminal.
#[test]
fn names_with_control_characters() {
    let place = Place::new();
    let mut bytes = fs::read(object(&place, "good.o", &[ACCEPTED])).expect("the object");
    let name = b"counts\0";
    let places: Vec<usize> = (0..bytes.len() - name.len())
        .filter(|&at| bytes[at..].starts_with(name))
        .collect();
    for at in places {
        bytes[at..at + 2].copy_from_slice(b"\x1b[");
    }
    place.file("odd.o", &bytes, 0o644);
    let (_, stdout, stderr) = verify(&place, &["odd.o", "--log-level=0"]);
    assert!(stdout.contains("?[unts"), "{stdout}{stderr}");
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'));
}

/// Whatever libbpf makes of it: one line, or a table, and never a panic.
#[test]
fn damaged_objects() {
    let place = Place::new();
    let good = fs::read(object(&place, "good.o", &[ACCEPTED, REFUSED])).expect("the object");
    let judge = |bytes: &[u8], what: &str| {
        place.file("bad.o", bytes, 0o644);
        let (status, stdout, stderr) = verify(&place, &["bad.o", "--log-level=0"]);
        let shown = !stdout.is_empty();
        match status {
            Some(0) => assert_eq!(stderr, "", "{what}"),
            Some(1) => assert!(shown && stderr.lines().count() == 1, "{what}: {stderr}"),
            Some(2) => assert!(!shown && stderr.lines().count() == 1, "{what}: {stderr}"),
            other => panic!("{what}: exit status {other:?}\n{stdout}{stderr}"),
        }
    };
    for part in 1..32 {
        let length = good.len() * part / 32;
        judge(&good[..length], &format!("the first {length} bytes"));
    }
    for part in 0..96 {
        let at = 64 + (good.len() - 64) * part / 96;
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        judge(&bytes, &format!("byte {at}"));
    }
}
