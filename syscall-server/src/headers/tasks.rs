//! The kernel's structures that lead from a task, as C declares them: members
//! are where the running kernel has them, for there our helpers answer
//! (`runtime::tasks`). It knows no file.

use std::fmt::Write;

use runtime::kernel_types::{self, Places};

/// A member's name and what stands before and behind it.
type Member = (&'static str, &'static str, &'static str);

/// Structures, each behind those that are in it, and what of them is
/// declared: a member's name and what stands before and behind it. bcc's own
/// texts declare `mnt_namespace`.
const STRUCTURES: [(&str, &[Member]); 6] = [
    ("thread_info", &[("cpu", "u32 ", "")]),
    ("ns_common", &[("inum", "unsigned int ", "")]),
    (
        "pid_namespace",
        &[
            ("level", "unsigned int ", ""),
            ("ns", "struct ns_common ", ""),
        ],
    ),
    (
        "nsproxy",
        &[
            ("uts_ns", "struct uts_namespace *", ""),
            ("ipc_ns", "struct ipc_namespace *", ""),
            ("mnt_ns", "struct mnt_namespace *", ""),
            ("pid_ns_for_children", "struct pid_namespace *", ""),
            ("net_ns", "struct net *", ""),
            ("cgroup_ns", "struct cgroup_namespace *", ""),
        ],
    ),
    (
        "cred",
        &[
            ("uid", "kuid_t ", ""),
            ("gid", "kgid_t ", ""),
            ("suid", "kuid_t ", ""),
            ("sgid", "kgid_t ", ""),
            ("euid", "kuid_t ", ""),
            ("egid", "kgid_t ", ""),
            ("fsuid", "kuid_t ", ""),
            ("fsgid", "kgid_t ", ""),
        ],
    ),
    (
        "task_struct",
        &[
            ("thread_info", "struct thread_info ", ""),
            ("__state", "unsigned int ", ""),
            ("flags", "unsigned int ", ""),
            ("mm", "struct mm_struct *", ""),
            ("exit_state", "int ", ""),
            ("exit_code", "int ", ""),
            ("pid", "pid_t ", ""),
            ("tgid", "pid_t ", ""),
            ("real_parent", "struct task_struct *", ""),
            ("parent", "struct task_struct *", ""),
            ("group_leader", "struct task_struct *", ""),
            ("start_time", "u64 ", ""),
            ("start_boottime", "u64 ", ""),
            ("real_cred", "const struct cred *", ""),
            ("cred", "const struct cred *", ""),
            ("comm", "char ", "[TASK_COMM_LEN]"),
            ("nsproxy", "struct nsproxy *", ""),
        ],
    ),
];

/// Their declarations for the running kernel. Where it does not tell its
/// types nothing answers, and the members only have to be there.
pub fn declarations() -> String {
    let wanted = STRUCTURES.map(|(name, members)| {
        let names = members.iter().map(|(name, ..)| *name);
        (name, names.collect())
    });
    let mut text = String::new();
    for ((name, members), places) in STRUCTURES.iter().zip(kernel_types::places(&wanted)) {
        declare(&mut text, name, members, places);
    }
    text
}

/// Every member in a structure of its own behind what comes before it, all of
/// them in one union: so none depends on the others' sizes.
fn declare(text: &mut String, name: &str, members: &[Member], places: Option<Places>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "struct {name} {{ union {{");
    for (index, (member, before, behind)) in members.iter().enumerate() {
        let place = places
            .as_ref()
            .map_or(Some(index as u32 * 16), |places| places.members[index]);
        let Some(place) = place else { continue };
        let room = match place {
            0 => String::new(),
            _ => format!("char before_{member}[{place}]; "),
        };
        let _ = writeln!(
            text,
            "struct {{ {room}{before}{member}{behind}; }} __packed;"
        );
    }
    if let Some(places) = places {
        let _ = writeln!(text, "char all_of_it[{}];", places.bytes);
    }
    text.push_str("}; };\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_at_their_places() {
        let mut text = String::new();
        let places = Places {
            bytes: 24,
            members: vec![Some(0), Some(20), None],
        };
        declare(
            &mut text,
            "s",
            &[("a", "int ", ""), ("b", "char ", "[4]"), ("c", "int ", "")],
            Some(places),
        );
        assert_eq!(
            text,
            "struct s { union {\nstruct { int a; } __packed;\n\
             struct { char before_b[20]; char b[4]; } __packed;\nchar all_of_it[24];\n}; };\n"
        );
    }
}
