//! What stands in for the kernel's BTF where it has none or shows it to nobody:
//! the structures that programs in user space can meet, with members of our own
//! choice. Loaders adapt programs to it (CO-RE), and helpers answer what lies
//! at its offsets, as they do at those of a kernel's. It
//! knows no file.

use std::collections::HashMap;
use std::sync::OnceLock;

use object::btf::build::Builder;

/// Integers: a name for the table, C's name, bytes, encoding (signed, char,
/// bool).
const INTEGERS: [(&str, &str, u32, u32); 11] = [
    ("char", "char", 1, 1),
    ("uchar", "unsigned char", 1, 0),
    ("short", "short", 2, 1),
    ("ushort", "unsigned short", 2, 0),
    ("int", "int", 4, 1),
    ("uint", "unsigned int", 4, 0),
    ("long", "long", 8, 1),
    ("ulong", "unsigned long", 8, 0),
    ("s64", "long long", 8, 1),
    ("u64", "unsigned long long", 8, 0),
    ("bool", "_Bool", 1, 4),
];

/// `NAME: MEMBER TYPE, …`: a type is an integer or an earlier structure, behind
/// `*` a pointer to any, before `[N]` an array.
const STRUCTURES: &str = "\
kuid_t: val uint
kgid_t: val uint
ns_common: inum uint
new_utsname: sysname char[65], nodename char[65], release char[65], version char[65], machine char[65], domainname char[65]
uts_namespace: name new_utsname, ns ns_common
ipc_namespace: ns ns_common
mnt_namespace: ns ns_common
pid_namespace: level uint, parent *pid_namespace, ns ns_common
net: ns ns_common
time_namespace: ns ns_common
cgroup_namespace: ns ns_common
nsproxy: uts_ns *uts_namespace, ipc_ns *ipc_namespace, mnt_ns *mnt_namespace, pid_ns_for_children *pid_namespace, \
net_ns *net, time_ns *time_namespace, time_ns_for_children *time_namespace, cgroup_ns *cgroup_namespace
upid: nr int, ns *pid_namespace
pid: level uint, numbers upid[1]
cred: uid kuid_t, gid kgid_t, suid kuid_t, sgid kgid_t, euid kuid_t, egid kgid_t, fsuid kuid_t, fsgid kgid_t
mm_struct: arg_start ulong, arg_end ulong, env_start ulong, env_end ulong
thread_info: flags ulong, syscall_work ulong, status uint
task_struct: thread_info thread_info, __state uint, flags uint, mm *mm_struct, active_mm *mm_struct, exit_state int, \
exit_code int, pid int, tgid int, real_parent *task_struct, parent *task_struct, group_leader *task_struct, \
thread_pid *pid, start_time u64, start_boottime u64, real_cred *cred, cred *cred, comm char[16], nsproxy *nsproxy
pt_regs: r15 ulong, r14 ulong, r13 ulong, r12 ulong, bp ulong, bx ulong, r11 ulong, r10 ulong, r9 ulong, r8 ulong, ax ulong, \
cx ulong, dx ulong, si ulong, di ulong, orig_ax ulong, ip ulong, cs ulong, flags ulong, sp ulong, ss ulong
bpf_perf_event_data: regs pt_regs, sample_period u64, addr u64
bpf_raw_tracepoint_args: args u64[0]
trace_entry: type ushort, flags uchar, preempt_count uchar, pid int
trace_event_raw_sys_enter: ent trace_entry, id long, args ulong[6], __data char[0]
trace_event_raw_sys_exit: ent trace_entry, id long, ret long, __data char[0]
trace_event_raw_sched_process_template: ent trace_entry, comm char[16], pid int, prio int, __data char[0]
trace_event_raw_sched_process_exit: ent trace_entry, comm char[16], pid int, prio int, group_dead bool, __data char[0]
trace_event_raw_sched_process_exec: ent trace_entry, __data_loc_filename uint, pid int, old_pid int, __data char[0]
trace_event_raw_sched_process_fork: ent trace_entry, __data_loc_parent_comm uint, parent_pid int, \
__data_loc_child_comm uint, child_pid int, __data char[0]
";

/// Bytes and alignment of a type.
type Size = (u32, u32);

/// The description, made once.
pub fn btf() -> &'static [u8] {
    static BTF: OnceLock<Vec<u8>> = OnceLock::new();
    BTF.get_or_init(make)
}

fn structures() -> impl Iterator<Item = (&'static str, Vec<(&'static str, &'static str)>)> {
    STRUCTURES.lines().filter_map(|line| {
        let (name, members) = line.split_once(": ")?;
        let members = members.split(", ").filter_map(|m| m.split_once(' '));
        Some((name, members.collect()))
    })
}

/// An array's element and number of elements.
fn array(name: &str) -> Option<(&str, u32)> {
    let (element, count) = name.strip_suffix(']')?.split_once('[')?;
    Some((element, count.parse().ok()?))
}

fn make() -> Vec<u8> {
    let mut builder = Builder::default();
    let mut ids: HashMap<&str, u32> = HashMap::new();
    let mut sizes: HashMap<&str, Size> = HashMap::new();
    for (name, c_name, bytes, encoding) in INTEGERS {
        const KIND_INT: u8 = 1;
        let word = (encoding << 24) | (bytes * 8);
        ids.insert(name, builder.raw(c_name, KIND_INT, 0, bytes, &[word]));
        sizes.insert(name, (bytes, bytes));
    }
    // Pointers and arrays come before the structures that they may lead to.
    let mut derived: Vec<&str> = Vec::new();
    for (_, members) in structures() {
        let types = members.iter().map(|(_, ty)| *ty);
        for ty in types.filter(|ty| ty.starts_with('*') || ty.ends_with(']')) {
            if !derived.contains(&ty) {
                derived.push(ty);
            }
        }
    }
    let first = INTEGERS.len() as u32 + derived.len() as u32 + 1;
    for (id, (name, _)) in (first..).zip(structures()) {
        ids.insert(name, id);
    }
    let id = |ids: &HashMap<&str, u32>, name: &str| ids.get(name).copied().unwrap_or(0);
    for ty in derived {
        let made = match array(ty) {
            Some((element, count)) => builder.array(id(&ids, element), id(&ids, "uint"), count),
            None => builder.ptr(id(&ids, &ty[1..])),
        };
        ids.insert(ty, made);
    }
    for (name, members) in structures() {
        let (mut end, mut align) = (0u32, 1);
        let mut placed = Vec::new();
        for (member, ty) in members {
            let (bytes, needed) = size(&sizes, ty);
            let at = end.next_multiple_of(needed);
            placed.push((member, id(&ids, ty), at));
            (end, align) = (at + bytes, align.max(needed));
        }
        let bytes = end.next_multiple_of(align);
        builder.structure(name, bytes, &placed);
        sizes.insert(name, (bytes, align));
    }
    builder.finish()
}

fn size(sizes: &HashMap<&str, Size>, ty: &str) -> Size {
    let known = |name: &str| sizes.get(name).copied().unwrap_or((0, 1));
    match array(ty) {
        Some((element, count)) => {
            let (bytes, align) = known(element);
            (bytes * count, align)
        }
        None if ty.starts_with('*') => (8, 8),
        None => known(ty),
    }
}

#[cfg(test)]
mod tests {
    use object::btf::{Btf, Shape};

    use super::*;

    #[test]
    fn structures_lie_as_c_would_have_them() {
        let btf = Btf::parse(btf()).unwrap();
        let at = |structure: &str, path: &[&'static str]| {
            let id = btf.find(structure, |shape| matches!(shape, Shape::Struct { .. }));
            btf.member(id.unwrap(), path)
                .map(|(at, ty)| (at, btf.size(ty)))
        };
        assert_eq!(at("pt_regs", &["di"]), Some((112, Some(8))));
        assert_eq!(
            at("trace_event_raw_sys_enter", &["args"]),
            Some((16, Some(48)))
        );
        assert_eq!(
            at("trace_event_raw_sched_process_exit", &["group_dead"]),
            Some((32, Some(1)))
        );
        assert_eq!(
            at("uts_namespace", &["name", "release"]),
            Some((130, Some(65)))
        );
        assert_eq!(at("pid", &["numbers", "ns"]), Some((16, Some(8))));
        assert_eq!(at("task_struct", &["nothing"]), None);
        // Fields of tasks have places, but for those that went long ago.
        let note = crate::tasks::TaskFields::of_kernel(&btf);
        let lacking = note.chunks(8).filter(|place| place[4..] == [0; 4]).count();
        assert_eq!(lacking, 2);
        for (name, members) in structures() {
            for (member, ty) in members {
                assert!(at(name, &[member]).is_some(), "{name} {member} {ty}");
            }
        }
    }
}
