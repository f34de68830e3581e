//! Tracepoints of system calls, and of what tasks do by them: which there are, what their records look like
//! and what tracefs says of them. It knows no file and no hook.
//!
//! The table lists x86-64's calls as Linux 6.18 names them: number, name, and
//! each argument as its `format` file declares it.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use uapi::Errno;
use uapi::prog::{BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE};

use super::link::{LinkObject, Target};
use super::taskpoint::TaskPoint;
use super::{Bpf, ProgObject};
use crate::session::{LinkKind, LinkSpec, Place};

/// `NUMBER NAME`, then the arguments behind tabs.
const TABLE: &str = include_str!("../../data/syscalls-x86_64.txt");

/// Ids of ours lie above those of a kernel, which have 16 bits.
const FIRST_ID: u32 = 1 << 16;
const RAW_ENTER_ID: u32 = FIRST_ID + 0xfffe;
const RAW_EXIT_ID: u32 = FIRST_ID + 0xffff;
const FIRST_TASK_ID: u32 = FIRST_ID + 0xff00;

/// The fields that every record begins with; programs may not read them.
pub const COMMON: &str = "\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

";

/// A system call.
#[derive(Debug, PartialEq, Eq)]
pub struct Syscall {
    /// Its number.
    pub nr: u32,
    /// Its name in the kernel: `openat`, `newstat`.
    pub name: &'static str,
    /// The declarations of its arguments: `const char * filename`.
    pub args: Vec<&'static str>,
}

/// A tracepoint that programs can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracepoint {
    /// `syscalls:sys_enter_NAME`.
    Enter(&'static Syscall),
    /// `syscalls:sys_exit_NAME`.
    Exit(&'static Syscall),
    /// `raw_syscalls:sys_enter`.
    RawEnter,
    /// `raw_syscalls:sys_exit`.
    RawExit,
    /// `sched:*`.
    Task(TaskPoint),
}

/// All system calls, by number.
pub fn syscalls() -> &'static [Syscall] {
    static SYSCALLS: OnceLock<Vec<Syscall>> = OnceLock::new();
    SYSCALLS.get_or_init(|| TABLE.lines().filter_map(parse).collect())
}

fn parse(line: &'static str) -> Option<Syscall> {
    let mut fields = line.split('\t');
    let (nr, name) = fields.next()?.split_once(' ')?;
    Some(Syscall {
        nr: nr.parse().ok()?,
        name,
        args: fields.collect(),
    })
}

pub(super) fn by_name(name: &str) -> Option<&'static Syscall> {
    static BY_NAME: OnceLock<HashMap<&'static str, &'static Syscall>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| syscalls().iter().map(|s| (s.name, s)).collect());
    by_name.get(name).copied()
}

impl Tracepoint {
    /// The tracepoint of a category and a name, as tracefs has directories.
    pub fn find(category: &str, name: &str) -> Option<Tracepoint> {
        match (category, name) {
            ("raw_syscalls", "sys_enter") => Some(Tracepoint::RawEnter),
            ("raw_syscalls", "sys_exit") => Some(Tracepoint::RawExit),
            ("sched", name) => {
                let found = TaskPoint::ALL
                    .into_iter()
                    .find(|point| point.name() == name);
                found.map(Tracepoint::Task)
            }
            ("syscalls", name) => match name.strip_prefix("sys_enter_") {
                Some(call) => by_name(call).map(Tracepoint::Enter),
                None => by_name(name.strip_prefix("sys_exit_")?).map(Tracepoint::Exit),
            },
            _ => None,
        }
    }

    /// The tracepoint with an id that [`Tracepoint::id`] gave.
    pub fn by_id(id: u64) -> Option<Tracepoint> {
        match u32::try_from(id).ok()? {
            RAW_ENTER_ID => Some(Tracepoint::RawEnter),
            RAW_EXIT_ID => Some(Tracepoint::RawExit),
            id if (FIRST_TASK_ID..RAW_ENTER_ID).contains(&id) => {
                let found = TaskPoint::ALL.get((id - FIRST_TASK_ID) as usize);
                found.copied().map(Tracepoint::Task)
            }
            id => {
                let inside = id.checked_sub(FIRST_ID)?;
                let found = syscalls().binary_search_by_key(&(inside / 2), |s| s.nr);
                let syscall = syscalls().get(found.ok()?)?;
                Some(match inside % 2 {
                    0 => Tracepoint::Exit(syscall),
                    _ => Tracepoint::Enter(syscall),
                })
            }
        }
    }

    /// What perf_event_open(2) knows it by.
    pub fn id(self) -> u32 {
        match self {
            Tracepoint::Exit(syscall) => FIRST_ID + syscall.nr * 2,
            Tracepoint::Enter(syscall) => FIRST_ID + syscall.nr * 2 + 1,
            Tracepoint::RawEnter => RAW_ENTER_ID,
            Tracepoint::RawExit => RAW_EXIT_ID,
            Tracepoint::Task(point) => FIRST_TASK_ID + point as u32,
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Tracepoint> {
        let pairs = syscalls().iter();
        let pairs = pairs.flat_map(|call| [Tracepoint::Exit(call), Tracepoint::Enter(call)]);
        let tasks = TaskPoint::ALL.map(Tracepoint::Task);
        [Tracepoint::RawExit, Tracepoint::RawEnter]
            .into_iter()
            .chain(tasks)
            .chain(pairs)
    }

    /// `syscalls`, `raw_syscalls` or `sched`.
    pub fn category(self) -> &'static str {
        match self {
            Tracepoint::Enter(_) | Tracepoint::Exit(_) => "syscalls",
            Tracepoint::RawEnter | Tracepoint::RawExit => "raw_syscalls",
            Tracepoint::Task(_) => "sched",
        }
    }

    /// `sys_enter_openat`.
    pub fn name(self) -> String {
        match self {
            Tracepoint::Enter(syscall) => format!("sys_enter_{}", syscall.name),
            Tracepoint::Exit(syscall) => format!("sys_exit_{}", syscall.name),
            Tracepoint::RawEnter => "sys_enter".to_owned(),
            Tracepoint::RawExit => "sys_exit".to_owned(),
            Tracepoint::Task(point) => point.name().to_owned(),
        }
    }

    /// Bytes of its record that programs may read.
    pub fn record_bytes(self) -> u32 {
        match self {
            Tracepoint::Enter(syscall) if syscall.args.is_empty() => 12,
            Tracepoint::Enter(syscall) => 16 + 8 * syscall.args.len() as u32,
            Tracepoint::RawEnter => 64,
            Tracepoint::Exit(_) | Tracepoint::RawExit => 24,
            Tracepoint::Task(point) => point.record_bytes(),
        }
    }

    /// What its `format` file says.
    pub fn format(self) -> String {
        let mut text = format!(
            "name: {}\nID: {}\nformat:\n{COMMON}",
            self.name(),
            self.id()
        );
        let mut field = |declaration: &str, at: usize, size: usize, signed: bool| {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "\tfield:{declaration};\toffset:{at};\tsize:{size};\tsigned:{};",
                u8::from(signed)
            );
        };
        match self {
            Tracepoint::Enter(syscall) => {
                field("int __syscall_nr", 8, 4, true);
                for (i, arg) in syscall.args.iter().enumerate() {
                    field(arg, 16 + 8 * i, 8, false);
                }
            }
            Tracepoint::Exit(_) => {
                field("int __syscall_nr", 8, 4, true);
                field("long ret", 16, 8, true);
            }
            Tracepoint::RawEnter => {
                field("long id", 8, 8, true);
                field("unsigned long args[6]", 16, 48, false);
            }
            Tracepoint::RawExit => {
                field("long id", 8, 8, true);
                field("long ret", 16, 8, true);
            }
            Tracepoint::Task(point) => {
                for &(declaration, at, size, signed) in point.fields() {
                    field(declaration, at, size, signed);
                }
            }
        }
        text.push_str("\nprint fmt: ");
        text.push_str(&self.print_format());
        text.push('\n');
        text
    }

    fn print_format(self) -> String {
        match self {
            Tracepoint::Enter(syscall) => {
                let name = |arg: &&'static str| arg.rsplit(' ').next().unwrap_or_default();
                let names: Vec<&str> = syscall.args.iter().map(name).collect();
                let shown: Vec<String> = names
                    .iter()
                    .map(|name| format!("{name}: 0x%08lx"))
                    .collect();
                let values = names
                    .iter()
                    .map(|name| format!(", ((unsigned long)(REC->{name}))"));
                format!("\"{}\"{}", shown.join(", "), values.collect::<String>())
            }
            Tracepoint::Exit(_) => "\"0x%lx\", REC->ret".to_owned(),
            Tracepoint::RawEnter => {
                let values: String = (0..6).map(|i| format!(", REC->args[{i}]")).collect();
                format!("\"NR %ld (%lx, %lx, %lx, %lx, %lx, %lx)\", REC->id{values}")
            }
            Tracepoint::RawExit => "\"NR %ld = %ld\", REC->id, REC->ret".to_owned(),
            Tracepoint::Task(point) => point.print_format().to_owned(),
        }
    }

    /// The session's link for a program there.
    pub fn link(self, prog: u32, cookie: u64) -> LinkSpec {
        let (kind, offset) = match self {
            Tracepoint::Enter(syscall) => (LinkKind::SyscallEnter, u64::from(syscall.nr)),
            Tracepoint::Exit(syscall) => (LinkKind::SyscallExit, u64::from(syscall.nr)),
            Tracepoint::RawEnter => (LinkKind::AnySyscallEnter, 0),
            Tracepoint::RawExit => (LinkKind::AnySyscallExit, 0),
            Tracepoint::Task(point) => (point.kind(), 0),
        };
        let name = format!("{}:{}", self.category(), self.name());
        syscall_link(kind, prog, name, offset, cookie)
    }
}

pub(super) fn syscall_link(
    kind: LinkKind,
    prog: u32,
    name: String,
    offset: u64,
    cookie: u64,
) -> LinkSpec {
    LinkSpec {
        kind,
        prog,
        dev: 0,
        ino: 0,
        path: name,
        // As the kernel, where programs on a tracepoint run in every process.
        pid: -1,
        enabled: true,
        places: vec![Place {
            offset,
            cookie,
            ref_ctr_offset: 0,
        }],
    }
}

impl Bpf {
    /// `BPF_RAW_TRACEPOINT_OPEN`, and the link of such a program. The program
    /// runs in every process when this returns.
    ///
    /// # Errors
    /// EINVAL for a program of another type, ENOENT for a tracepoint that is
    /// not one of system calls.
    pub fn raw_tracepoint(
        &self,
        prog: &Arc<ProgObject>,
        name: &str,
        cookie: u64,
    ) -> Result<Arc<LinkObject>, Errno> {
        let raw = [
            BPF_PROG_TYPE_RAW_TRACEPOINT,
            BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
        ];
        if !raw.contains(&prog.spec().prog_type) {
            return Err(Errno::EINVAL);
        }
        let (kind, args) = match name {
            "sys_enter" => (LinkKind::RawSyscallEnter, 2),
            "sys_exit" => (LinkKind::RawSyscallExit, 2),
            _ => return Err(Errno::ENOENT),
        };
        // More words than the tracepoint has (`bpf_probe_register`).
        if prog.ctx_bytes() > args * 8 {
            return Err(Errno::EINVAL);
        }
        let spec = syscall_link(kind, prog.id(), name.to_owned(), 0, cookie);
        self.link_in_session(prog, spec, |spec, id| Target::RawTracepoint { spec, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_libc() {
        let nr = |name| by_name(name).map(|s| i64::from(s.nr));
        assert_eq!(nr("openat"), Some(libc::SYS_openat));
        assert_eq!(nr("newstat"), Some(libc::SYS_stat));
        assert_eq!(nr("umount"), Some(libc::SYS_umount2));
        assert_eq!(nr("clone3"), Some(libc::SYS_clone3));
        assert_eq!(nr("read"), Some(0));
        assert!(syscalls().is_sorted_by_key(|s| s.nr));
        assert!(syscalls().len() > 360);
    }

    #[test]
    fn ids_and_names_lead_back() {
        for tracepoint in Tracepoint::all() {
            assert_eq!(Tracepoint::by_id(tracepoint.id().into()), Some(tracepoint));
            let found = Tracepoint::find(tracepoint.category(), &tracepoint.name());
            assert_eq!(found, Some(tracepoint));
        }
        assert_eq!(Tracepoint::by_id(782), None);
        assert_eq!(Tracepoint::find("sched", "sched_switch"), None);
    }

    /// The kernel's own files, which only root can see; ids differ.
    #[test]
    fn formats_are_the_kernels() {
        // A mount namespace of its own: tracefs may not be mounted here, and
        // is not mounted again where it is.
        let script = "cd /sys/kernel/tracing && { [ -d events ] || mount -t tracefs tracefs .; } \
                      && cd /sys/kernel/tracing/events && exec tail -v -n +1 syscalls/*/format raw_syscalls/*/format sched/sched_process_e*/format sched/sched_process_fork/format";
        let shown = std::process::Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .output()
            .unwrap();
        if !shown.status.success() {
            // Only root can mount it.
            assert!(
                std::env::var_os("CI").is_none(),
                "in CI nothing is left out"
            );
            return;
        }
        let shown = String::from_utf8(shown.stdout).unwrap();
        let mut compared = 0;
        for file in shown.split("==> ").skip(1) {
            let (path, theirs) = file.split_once(" <==\n").unwrap();
            let mut words = path.split('/');
            let (category, name) = (words.next().unwrap(), words.next().unwrap());
            let tracepoint = Tracepoint::find(category, name)
                .unwrap_or_else(|| panic!("{path}: the table does not have it"));
            let without_id = |text: &str| -> Vec<String> {
                let lines = text.trim_end().lines();
                let kept = lines.filter(|line| !line.starts_with("ID: "));
                kept.map(str::to_owned).collect()
            };
            assert_eq!(
                without_id(&tracepoint.format()),
                without_id(theirs),
                "{path}"
            );
            compared += 1;
        }
        assert!(compared > 700, "{compared}");
    }
}
