//! What stands between a failure and its user: which program it is about, and
//! why, out of what libbpf, the verifier and the syscall server said. It knows
//! their words and nothing else.

use crate::open::ProgramInfo;
use crate::rights;

/// What a user could do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cause {
    /// The system's own reason.
    #[default]
    System,
    /// The file is not an object that can be used.
    File,
    /// The file is an object of a form that libbpf does not know, or that only
    /// its own tool completes.
    Form,
    /// Only the kernel runs such a program, and may not be asked.
    KernelOnly,
    /// The kernel does not let this process load it.
    NoRight,
    /// The kernel lets nobody load it.
    Kernel,
    /// The verifier refuses a program.
    Verifier,
    /// It is to be fitted to the types of a kernel that are not found.
    NoTypes,
    /// Nobody knows programs of its section.
    Section,
    /// Others than loaders put such programs in place.
    Elsewhere,
    /// It asks for what this kernel does not have.
    NotThere,
    /// The user's words, or the lack of them.
    Target,
}

/// Why an object was not loaded, as far as it was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reason {
    pub program: Option<String>,
    pub cause: Cause,
    /// Complete without an errno.
    pub text: Option<String>,
}

impl Reason {
    /// It, or what keeps this process from loading these programs.
    pub(crate) fn or_of_rights(self, programs: Vec<&ProgramInfo>) -> Reason {
        match rights::why(&programs) {
            Some((text, cause)) => Reason {
                text: Some(text),
                cause,
                ..self
            },
            None => self,
        }
    }
}

/// What loaders are told of programs that only the kernel hosts.
const KERNEL_ONLY: &str = "only the kernel hosts ";
/// What libbpf says of a function or tracepoint that the kernel's types lack.
const NO_SUCH_TYPE: &str = "failed to find kernel BTF type ID of '";
const LOG_BEGINS: &str = "-- BEGIN PROG LOAD LOG --";
const LOG_ENDS: &str = "-- END PROG LOAD LOG --";

/// Why an object could not be read.
pub(crate) fn of_reading(messages: &[String]) -> Option<&'static str> {
    let mut lines = messages.iter().flat_map(|text| text.lines());
    let legacy = lines.any(|line| line.contains("legacy map definitions"));
    legacy.then_some("has maps in section \"maps\", which libbpf does not know since 1.0")
}

/// Why loading failed. These maps have no size in the object.
pub(crate) fn of_load(messages: &[String], unsized_maps: &[String]) -> Reason {
    let lines: Vec<&str> = messages.iter().flat_map(|text| text.lines()).collect();
    let program = lines.iter().find_map(|line| failed_program(line));
    let log = log(&lines);
    let says = |words: &str| lines.iter().any(|line| line.contains(words));
    let first = |words: &str| lines.iter().find(|line| line.contains(words)).copied();

    if let Some(line) = first(KERNEL_ONLY) {
        let at = line.find(KERNEL_ONLY).unwrap_or(0);
        return Reason {
            program,
            cause: Cause::KernelOnly,
            text: Some(line[at..].to_owned()),
        };
    }
    if says("probe_loading()") || says("permission error while running as root") {
        return Reason {
            program,
            cause: Cause::NoRight,
            text: None,
        };
    }
    if let Some(name) = first(NO_SUCH_TYPE).and_then(|line| line.split('\'').rev().nth(1)) {
        return Reason {
            program,
            cause: Cause::Kernel,
            text: Some(format!(
                "this kernel has no {} that programs are put on",
                name.trim_start_matches("btf_trace_")
            )),
        };
    }
    let no_types = match (
        says("target BTF"),
        says("vmlinux BTF") || says("kernel BTF"),
    ) {
        (true, _) => Some("is to use types that cannot be read"),
        (_, true) => Some("needs the kernel's types, which are not there"),
        _ => None,
    };
    if let Some(text) = no_types {
        return Reason {
            program,
            cause: Cause::NoTypes,
            text: Some(text.to_owned()),
        };
    }
    if says("missing BPF prog type") {
        return Reason {
            program,
            cause: Cause::Section,
            text: Some("names no type of program".to_owned()),
        };
    }
    let missing = ["in vmlinux", "extern", "not found in kernel"];
    if let Some(line) = missing
        .iter()
        .find_map(|words| first(words))
        .filter(|_| log.is_empty())
    {
        return Reason {
            program,
            cause: Cause::NotThere,
            text: Some(without_program(line)),
        };
    }
    match verdict(&log) {
        Some(text) => Reason {
            program,
            cause: Cause::Verifier,
            text: Some(format!("the verifier refuses it: {text}")),
        },
        None => about_map(&lines, unsized_maps),
    }
}

/// What libbpf said first of an attachment that failed.
pub(crate) fn of_attachment(messages: &[String]) -> Option<String> {
    let line = messages.iter().flat_map(|text| text.lines()).next()?;
    Some(without_program(line).trim_start_matches("elf: ").to_owned())
}

/// `prog 'NAME': failed to load: -EINVAL`
fn failed_program(line: &str) -> Option<String> {
    let rest = line.strip_prefix("prog '")?;
    let (name, rest) = rest.split_once("': ")?;
    let failed = [
        "failed to load",
        "BPF program load failed",
        "failed to find",
        "failed to prepare",
    ];
    failed
        .iter()
        .any(|words| rest.starts_with(words))
        .then(|| name.to_owned())
}

/// `map 'NAME': failed to create: -E2BIG(-7)`
fn about_map(lines: &[&str], unsized_maps: &[String]) -> Reason {
    let line = lines.iter().find(|line| line.starts_with("map '"));
    let parts = line.and_then(|line| line[5..].split_once("': "));
    let Some((name, rest)) = parts else {
        return Reason {
            program: lines.iter().find_map(|line| failed_program(line)),
            ..Reason::default()
        };
    };
    let what = rest.split(": -").next().unwrap_or(rest);
    let (cause, text) = match unsized_maps.iter().any(|map| map == name) {
        true => (
            Cause::Form,
            format!("map {name} has no size in the object: the tool that it belongs to sets it"),
        ),
        false => (Cause::System, format!("map {name} {what}")),
    };
    Reason {
        cause,
        text: Some(text),
        program: None,
    }
}

fn without_program(line: &str) -> String {
    let behind = line
        .strip_prefix("prog '")
        .and_then(|rest| rest.split_once("': "));
    let text = behind.map_or(line, |(_, text)| text);
    // A number that libbpf repeats from errno.
    let text = text.trim_end_matches('.');
    text.rsplit_once(": -")
        .map_or(text, |(text, _)| text)
        .to_owned()
}

/// The verifier's log.
fn log<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let begins = lines.iter().position(|line| line.ends_with(LOG_BEGINS));
    let behind = begins.map_or(&[][..], |at| &lines[at + 1..]);
    let ends = behind.iter().position(|line| line.ends_with(LOG_ENDS));
    behind[..ends.unwrap_or(behind.len())].to_vec()
}

/// The line of a log that says why: ours stands before what it is about, the
/// kernel's before the counts that end a log.
fn verdict(log: &[&str]) -> Option<String> {
    let ours = log
        .iter()
        .position(|line| line.starts_with("  source: ") || line.starts_with("  code: "));
    let ends = ours.or_else(|| log.iter().rposition(|line| line.starts_with("processed ")));
    let before = &log[..ends.unwrap_or(log.len())];
    let said = |line: &&&str| !line.trim().is_empty();
    before
        .iter()
        .rev()
        .find(said)
        .map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Reason {
        of_load(&[text.to_owned()], &["stacks".to_owned()])
    }

    #[test]
    fn what_only_its_tool_completes() {
        let reason = of("map 'stacks': failed to create: -EINVAL
failed to load object 'x'");
        assert_eq!(reason.cause, Cause::Form);
        let text = "map stacks has no size in the object: the tool that it belongs to sets it";
        assert_eq!(reason.text.as_deref(), Some(text));
        let reason = of("map 'm': failed to create: -E2BIG");
        assert_eq!(reason.cause, Cause::System);
        assert_eq!(reason.text.as_deref(), Some("map m failed to create"));
        let legacy =
            "elf: legacy map definitions in 'maps' section are not supported by libbpf v1.0+";
        assert!(of_reading(&[legacy.to_owned()]).is_some());
        assert_eq!(of_reading(&["elf: something else".to_owned()]), None);
    }

    #[test]
    fn what_only_the_kernel_hosts() {
        let reason = of("prog 'on_packet': BPF program load failed: -EINVAL
prog 'on_packet': -- BEGIN PROG LOAD LOG --
program \"on_packet\": only the kernel hosts xdp programs, which takes CAP_BPF and CAP_PERFMON, as root has
hint: user space hosts others
-- END PROG LOAD LOG --
prog 'on_packet': failed to load: -EINVAL");
        let text =
            "only the kernel hosts xdp programs, which takes CAP_BPF and CAP_PERFMON, as root has";
        assert_eq!(
            reason,
            Reason {
                program: Some("on_packet".to_owned()),
                cause: Cause::KernelOnly,
                text: Some(text.to_owned()),
            }
        );
    }

    #[test]
    fn a_verdict_in_either_form() {
        let kernels = of("prog 'f': BPF program load failed: -EACCES
prog 'f': -- BEGIN PROG LOAD LOG --
0: R1=ctx() R10=fp0
1: (79) r0 = *(u64 *)(r0 +0)
R0 invalid mem access 'scalar'
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
-- END PROG LOAD LOG --
prog 'f': failed to load: -EACCES");
        let ours = of("prog 'f': BPF program load failed: -EACCES
prog 'f': -- BEGIN PROG LOAD LOG --
1: (79) r0 = *(u64 *)(r0 +0)
R0 invalid mem access 'scalar'
  source:   f.bpf.c:1:1: *p;
  code:     (79) r0 = *(u64 *)(r0 +0) in f(), instruction 1
processed 2 insns
-- END PROG LOAD LOG --");
        for reason in [kernels, ours] {
            assert_eq!(reason.cause, Cause::Verifier);
            let text = "the verifier refuses it: R0 invalid mem access 'scalar'";
            assert_eq!(reason.text.as_deref(), Some(text));
        }
    }

    #[test]
    fn what_the_kernel_does_not_have() {
        let reason = of(
            "prog 'f': failed to find kernel BTF type ID of 'btf_trace_gone': -ESRCH
prog 'f': failed to prepare load attributes: -ESRCH
prog 'f': failed to load: -ESRCH",
        );
        assert_eq!(
            (reason.program.as_deref(), reason.cause),
            (Some("f"), Cause::Kernel)
        );
        let text = "this kernel has no gone that programs are put on";
        assert_eq!(reason.text.as_deref(), Some(text));
    }

    #[test]
    fn nothing_known() {
        assert_eq!(of("failed to load object 'x'"), Reason::default());
    }
}
