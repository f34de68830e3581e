//! What is known of a program of an object, and what a verifier said of it.
//! These are also the lines between `bpftime verify` and its children, and
//! what `--json` prints.

use serde::{Deserialize, Serialize};

/// A program of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its function.
    pub name: String,
    /// The ELF section it stands in.
    pub section: String,
    /// libbpf's name of its type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its instructions.
    pub insns: usize,
}

/// How far a load came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The verifier accepted the program.
    Accepted,
    /// The verifier, or what stands before it in `BPF_PROG_LOAD`, refused it.
    Refused,
    /// The load failed before that: maps, types, relocations, attach target.
    Unloadable,
    /// The verifier did not come to an end in time.
    Timeout,
    /// The process that loaded it died.
    Crashed,
}

/// What a verifier said of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How far it came.
    pub outcome: Outcome,
    /// Name of the errno; empty when accepted.
    pub errno: String,
    /// The line that says why; empty when accepted.
    pub reason: String,
    /// Instructions that the verifier walked through.
    pub processed: Option<u64>,
    /// Microseconds that this took.
    pub usec: Option<u64>,
    /// The log at the level that was asked for.
    pub log: String,
}

impl Verdict {
    /// A verdict that no verifier spoke.
    pub fn without(outcome: Outcome, reason: impl Into<String>) -> Verdict {
        Verdict {
            outcome,
            errno: String::new(),
            reason: reason.into(),
            processed: None,
            usec: None,
            log: String::new(),
        }
    }

    /// From what the load of program `name` returned: `errno` (0: accepted),
    /// libbpf's warnings, the verifier's log with statistics.
    pub fn of(name: &str, errno: i32, warnings: &[String], log: &str) -> Verdict {
        let warned = |words: &str| warnings.iter().any(|w| w.contains(words));
        let outcome = match errno {
            0 => Outcome::Accepted,
            _ if warned(&format!("prog '{name}': {TRIED}")) => Outcome::Refused,
            _ if warned(OTHERS_MISSING.0) && warned(OTHERS_MISSING.1) => Outcome::Accepted,
            _ => Outcome::Unloadable,
        };
        let reason = match outcome {
            Outcome::Accepted => String::new(),
            Outcome::Refused => last_message(log).to_owned(),
            _ => warnings
                .iter()
                .find(|w| !w.contains(TRIED_AGAIN))
                .cloned()
                .unwrap_or_default(),
        };
        Verdict {
            outcome,
            errno: match outcome {
                Outcome::Accepted => String::new(),
                _ => errno_name(errno),
            },
            reason,
            processed: number_after(log, "processed "),
            usec: number_after(log, "verification time "),
            log: String::new(),
        }
    }
}

/// libbpf's warning when `BPF_PROG_LOAD` failed (`bpf_object_load_prog`).
const TRIED: &str = "BPF program load failed";

/// libbpf's warning when it tries again in another way.
const TRIED_AGAIN: &str = "Retrying without";

/// libbpf's warning when all programs are loaded, and one that was left out
/// should enter a program array (`init_prog_array_slots`).
const OTHERS_MISSING: (&str, &str) = ("failed to initialize slot", "to prog '");

/// The lines of a log that are statistics, advice, or follow a message.
const NO_MESSAGE: [&str; 6] = [
    "verification time ",
    "stack depth ",
    "processed ",
    "hint: ",
    "-- BEGIN",
    "-- END",
];

fn last_message(log: &str) -> &str {
    log.lines()
        .rfind(|line| !line.is_empty() && !NO_MESSAGE.iter().any(|head| line.starts_with(head)))
        .unwrap_or_default()
}

fn number_after(log: &str, head: &str) -> Option<u64> {
    let line = log.lines().rev().find_map(|line| line.strip_prefix(head))?;
    line.split(' ').next()?.parse().ok()
}

/// The kernel's name of an errno. `ENOTSUPP` is not for user space, and yet
/// bpf(2) returns it.
fn errno_name(errno: i32) -> String {
    const ENOTSUPP: i32 = 524;
    match nix::errno::Errno::from_raw(errno) {
        _ if errno == ENOTSUPP => "ENOTSUPP".into(),
        nix::errno::Errno::UnknownErrno => format!("errno {errno}"),
        known => format!("{known:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_and_its_reason() {
        let log = "R0 !read_ok\nhint: set r0\nverification time 12 usec\nprocessed 7 insns (limit 1000000) x\n";
        let verdict = Verdict::of(
            "f",
            libc::EACCES,
            &[format!("prog 'f': {TRIED}: -EACCES")],
            log,
        );
        assert_eq!(
            verdict,
            Verdict {
                outcome: Outcome::Refused,
                errno: "EACCES".into(),
                reason: "R0 !read_ok".into(),
                processed: Some(7),
                usec: Some(12),
                log: String::new(),
            }
        );
    }

    #[test]
    fn a_program_array_that_lacks_the_other_programs() {
        let warning = "map 'm': failed to initialize slot [0] to prog 'f' fd=-9: -EBADF";
        let verdict = Verdict::of("f", libc::EBADF, &[warning.to_owned()], "processed 2 insns");
        assert_eq!(
            (verdict.outcome, verdict.errno.as_str(), verdict.processed),
            (Outcome::Accepted, "", Some(2))
        );
    }

    #[test]
    fn a_failure_before_the_verifier() {
        let warnings = [
            "Error in bpf_create_map_xattr(m): -524. Retrying without BTF.".to_owned(),
            "map 'm': failed to create: -EINVAL".to_owned(),
        ];
        let verdict = Verdict::of("f", 524, &warnings, "");
        assert_eq!(
            (
                verdict.outcome,
                verdict.errno.as_str(),
                verdict.reason.as_str()
            ),
            (
                Outcome::Unloadable,
                "ENOTSUPP",
                "map 'm': failed to create: -EINVAL"
            )
        );
    }
}
