//! Which fields of a task are answered, and where the running kernel has them,
//! as its BTF says and libbpf relocates programs by. The tool finds out, once,
//! and notes it in the session; it knows no value.

use std::sync::atomic::Ordering::Relaxed;

use object::btf::{Btf, Shape};
use shm::Region;

use super::{Object, ROOM};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Zero,
    ExitCode,
    Pid,
    Tgid,
    Comm,
    Leader,
    Parent,
    /// Nanoseconds of CLOCK_MONOTONIC.
    StartTime,
    /// Nanoseconds of CLOCK_BOOTTIME.
    StartBoottime,
    /// The thread's structure of another kind.
    The(Object),
    /// Real, effective, saved, for files.
    User(usize),
    Group(usize),
    /// The number of a namespace, by its name in `/proc/PID/ns`.
    Inum(&'static str),
    /// A string of `struct new_utsname`, by its place there.
    Uts(usize),
}

/// A field: where it is and what it holds.
pub(super) struct Row {
    pub object: Object,
    /// The kernel's name of the structure.
    structure: &'static str,
    path: &'static [&'static str],
    pub value: Value,
}

const fn row(
    object: Object,
    structure: &'static str,
    path: &'static [&'static str],
    value: Value,
) -> Row {
    Row {
        object,
        structure,
        path,
        value,
    }
}

const fn task(path: &'static [&'static str], value: Value) -> Row {
    row(Object::Task, "task_struct", path, value)
}

const fn cred(path: &'static [&'static str], value: Value) -> Row {
    row(Object::Cred, "cred", path, value)
}

const fn proxy(path: &'static [&'static str], value: Value) -> Row {
    row(Object::Namespaces, "nsproxy", path, value)
}

/// All of them. Structures keep their order by object.
pub(super) static ROWS: [Row; 55] = [
    task(&["thread_info", "flags"], Value::Zero),
    task(&["thread_info", "status"], Value::Zero),
    task(&["__state"], Value::Zero),
    task(&["state"], Value::Zero),
    task(&["flags"], Value::Zero),
    task(&["mm"], Value::The(Object::Memory)),
    task(&["active_mm"], Value::The(Object::Memory)),
    task(&["exit_state"], Value::Zero),
    task(&["exit_code"], Value::ExitCode),
    task(&["pid"], Value::Pid),
    task(&["tgid"], Value::Tgid),
    task(&["real_parent"], Value::Parent),
    task(&["parent"], Value::Parent),
    task(&["group_leader"], Value::Leader),
    task(&["thread_pid"], Value::The(Object::Pid)),
    task(&["start_time"], Value::StartTime),
    task(&["start_boottime"], Value::StartBoottime),
    task(&["real_start_time"], Value::StartBoottime),
    task(&["real_cred"], Value::The(Object::Cred)),
    task(&["cred"], Value::The(Object::Cred)),
    task(&["comm"], Value::Comm),
    task(&["nsproxy"], Value::The(Object::Namespaces)),
    cred(&["uid"], Value::User(0)),
    cred(&["euid"], Value::User(1)),
    cred(&["suid"], Value::User(2)),
    cred(&["fsuid"], Value::User(3)),
    cred(&["gid"], Value::Group(0)),
    cred(&["egid"], Value::Group(1)),
    cred(&["sgid"], Value::Group(2)),
    cred(&["fsgid"], Value::Group(3)),
    row(Object::Pid, "pid", &["level"], Value::Zero),
    row(Object::Pid, "pid", &["numbers", "nr"], Value::Pid),
    row(
        Object::Pid,
        "pid",
        &["numbers", "ns"],
        Value::The(Object::PidNamespace),
    ),
    proxy(&["uts_ns"], Value::The(Object::Uts)),
    proxy(&["ipc_ns"], Value::The(Object::Ipc)),
    proxy(&["mnt_ns"], Value::The(Object::Mnt)),
    proxy(&["pid_ns_for_children"], Value::The(Object::PidNamespace)),
    proxy(&["net_ns"], Value::The(Object::Net)),
    proxy(&["time_ns"], Value::The(Object::Time)),
    proxy(&["time_ns_for_children"], Value::The(Object::Time)),
    proxy(&["cgroup_ns"], Value::The(Object::Cgroup)),
    row(
        Object::Uts,
        "uts_namespace",
        &["name", "sysname"],
        Value::Uts(0),
    ),
    row(
        Object::Uts,
        "uts_namespace",
        &["name", "nodename"],
        Value::Uts(1),
    ),
    row(
        Object::Uts,
        "uts_namespace",
        &["name", "release"],
        Value::Uts(2),
    ),
    row(
        Object::Uts,
        "uts_namespace",
        &["name", "version"],
        Value::Uts(3),
    ),
    row(
        Object::Uts,
        "uts_namespace",
        &["name", "machine"],
        Value::Uts(4),
    ),
    row(
        Object::Uts,
        "uts_namespace",
        &["name", "domainname"],
        Value::Uts(5),
    ),
    row(
        Object::Uts,
        "uts_namespace",
        &["ns", "inum"],
        Value::Inum("uts"),
    ),
    row(
        Object::Ipc,
        "ipc_namespace",
        &["ns", "inum"],
        Value::Inum("ipc"),
    ),
    row(
        Object::Mnt,
        "mnt_namespace",
        &["ns", "inum"],
        Value::Inum("mnt"),
    ),
    row(
        Object::PidNamespace,
        "pid_namespace",
        &["ns", "inum"],
        Value::Inum("pid"),
    ),
    row(
        Object::PidNamespace,
        "pid_namespace",
        &["level"],
        Value::Zero,
    ),
    row(Object::Net, "net", &["ns", "inum"], Value::Inum("net")),
    row(
        Object::Time,
        "time_namespace",
        &["ns", "inum"],
        Value::Inum("time"),
    ),
    row(
        Object::Cgroup,
        "cgroup_namespace",
        &["ns", "inum"],
        Value::Inum("cgroup"),
    ),
];

/// Bytes of the note.
pub(crate) const NOTE: u64 = ROWS.len() as u64 * 8;

/// Where the fields are: offset and size of each row, as a session notes them.
pub struct TaskFields {
    note: Region,
}

impl TaskFields {
    /// Where the session notes them; `None` when it is too short.
    pub(crate) fn new(note: Region) -> Option<TaskFields> {
        (note.len() >= NOTE).then_some(TaskFields { note })
    }

    /// The note for the running kernel.
    pub(crate) fn of_kernel(btf: &Btf) -> Vec<u8> {
        let mut known: Option<(&str, Option<u32>)> = None;
        let places = ROWS.iter().map(|row| {
            let id = match known {
                Some((name, id)) if name == row.structure => id,
                _ => btf.find(row.structure, |shape| matches!(shape, Shape::Struct { .. })),
            };
            known = Some((row.structure, id));
            let (at, ty) = btf.member(id?, row.path)?;
            Some((at, btf.size(ty)?))
        });
        let words = places.flat_map(|place| {
            let (at, size) = place.unwrap_or((0, 0));
            [at, size]
        });
        words.flat_map(u32::to_ne_bytes).collect()
    }

    /// First byte and bytes of a row's field; `None` where the kernel has none.
    pub(super) fn place(&self, row: usize) -> Option<(u64, u64)> {
        let word = |at| Some(u64::from(self.note.u32_at(at)?.load(Relaxed)));
        let at = row as u64 * 8;
        let (at, size) = (word(at)?, word(at + 4)?);
        (size != 0 && at + size <= ROOM).then_some((at, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_types::KernelBtf;

    #[test]
    fn the_running_kernel_has_the_fields() {
        // Renamed long ago.
        const GONE: [&str; 2] = ["state", "real_start_time"];
        let Some(btf) = KernelBtf::read() else {
            return;
        };
        let note = TaskFields::of_kernel(btf.types());
        assert_eq!(note.len() as u64, NOTE);
        for (row, place) in ROWS.iter().zip(note.chunks(8)) {
            let size = place[4] as usize;
            let gone = row.path.len() == 1 && GONE.contains(&row.path[0]);
            assert_eq!(size == 0, gone, "{} {:?}", row.structure, row.path);
            let expected = match row.value {
                Value::The(_) | Value::Leader | Value::Parent => 8..=8,
                Value::StartTime | Value::StartBoottime => 0..=8,
                Value::Comm => 16..=16,
                Value::Uts(_) => 65..=65,
                _ => 0..=8,
            };
            assert!(expected.contains(&size), "{} {:?}", row.structure, row.path);
        }
    }
}
