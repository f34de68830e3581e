//! Tracepoints in the life of a task, as far as a process sees them itself:
//! which there are, what their records look like and what tracefs says of them
//! (include/trace/events/sched.h, 6.18). It knows no file and no hook.

use crate::session::LinkKind;

/// A tracepoint of `sched` that programs can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPoint {
    /// `sched_process_exit`.
    Exit,
    /// `sched_process_exec`.
    Exec,
    /// `sched_process_fork`.
    Fork,
}

/// A field: declaration, offset, bytes, sign.
type Field = (&'static str, usize, usize, bool);

impl TaskPoint {
    /// All of them.
    pub const ALL: [TaskPoint; 3] = [TaskPoint::Exit, TaskPoint::Exec, TaskPoint::Fork];

    /// Its name, without the category.
    pub fn name(self) -> &'static str {
        match self {
            TaskPoint::Exit => "sched_process_exit",
            TaskPoint::Exec => "sched_process_exec",
            TaskPoint::Fork => "sched_process_fork",
        }
    }

    /// The kind of a session's links there.
    pub fn kind(self) -> LinkKind {
        match self {
            TaskPoint::Exit => LinkKind::TaskExit,
            TaskPoint::Exec => LinkKind::TaskExec,
            TaskPoint::Fork => LinkKind::TaskFork,
        }
    }

    /// The fields behind those that all records have.
    pub(super) fn fields(self) -> &'static [Field] {
        match self {
            TaskPoint::Exit => &[
                ("char comm[16]", 8, 16, false),
                ("pid_t pid", 24, 4, true),
                ("int prio", 28, 4, true),
                ("bool group_dead", 32, 1, false),
            ],
            TaskPoint::Exec => &[
                ("__data_loc char[] filename", 8, 4, false),
                ("pid_t pid", 12, 4, true),
                ("pid_t old_pid", 16, 4, true),
            ],
            TaskPoint::Fork => &[
                ("__data_loc char[] parent_comm", 8, 4, false),
                ("pid_t parent_pid", 12, 4, true),
                ("__data_loc char[] child_comm", 16, 4, false),
                ("pid_t child_pid", 20, 4, true),
            ],
        }
    }

    /// Bytes of its record that programs may read by plain loads.
    pub(super) fn record_bytes(self) -> u32 {
        let last = self.fields().last();
        last.map_or(0, |(_, at, size, _)| (at + size) as u32)
    }

    pub(super) fn print_format(self) -> &'static str {
        match self {
            TaskPoint::Exit => {
                "\"comm=%s pid=%d prio=%d group_dead=%s\", REC->comm, REC->pid, REC->prio, \
                 REC->group_dead ? \"true\" : \"false\""
            }
            TaskPoint::Exec => {
                "\"filename=%s pid=%d old_pid=%d\", __get_str(filename), REC->pid, REC->old_pid"
            }
            TaskPoint::Fork => {
                "\"comm=%s pid=%d child_comm=%s child_pid=%d\", __get_str(parent_comm), \
                 REC->parent_pid, __get_str(child_comm), REC->child_pid"
            }
        }
    }
}
