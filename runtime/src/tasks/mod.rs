//! Tasks as programs read them: user space has no `task_struct`, so a task is
//! an address where the kernel's memory is, and reads of it are answered field
//! by field, from what a process can find out about itself and others. It
//! knows no helper and no session.
//!
//! Reading order: this file (addresses), `fields` (which are answered, and
//! where the kernel has them), `answer` (what they hold), `proc` (files that
//! tell), `cgroup`, `types` (what stands in for the kernel's types). All but
//! [`TaskFields::of_kernel`] and `types` is callable from trampolines: no
//! allocation, no lock, no libc, no panic; what only a file tells costs
//! microseconds.
//!
//! What no field here says, -EFAULT answers. It does not know what a process
//! cannot see: a time of start to more than 10 ms, which thread of the parent
//! forked, and nothing of others in a container.

mod answer;
mod cgroup;
mod fields;
mod proc;
mod types;

pub(crate) use cgroup::id as cgroup_id;
pub(crate) use fields::NOTE;
pub use fields::TaskFields;

pub use answer::threads;
pub(crate) use answer::{of_pidfd, own_start, read, start_of, tid_at};
pub use types::btf as types;

/// Where the kernel maps all memory, so that no field is in the program's.
const BASE: u64 = 0xffff_8880_0000_0000;
/// Bytes of addresses for one structure of a thread.
const ROOM: u64 = 1 << 14;
/// More than there are threads (`PID_MAX_LIMIT`).
const THREADS: u64 = 1 << 22;

/// A structure of the kernel that a thread has, or leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Object {
    Task = 0,
    Cred,
    Pid,
    Memory,
    Namespaces,
    Uts,
    Ipc,
    Mnt,
    PidNamespace,
    Net,
    Time,
    Cgroup,
}

impl Object {
    const ALL: [Object; 12] = [
        Object::Task,
        Object::Cred,
        Object::Pid,
        Object::Memory,
        Object::Namespaces,
        Object::Uts,
        Object::Ipc,
        Object::Mnt,
        Object::PidNamespace,
        Object::Net,
        Object::Time,
        Object::Cgroup,
    ];

    /// Where that of a thread is.
    fn address(self, tid: i32) -> u64 {
        BASE + (self as u64 * THREADS + u64::from(tid as u32) % THREADS) * ROOM
    }

    /// Whose an address is, of which thread, and which byte of it.
    fn at(address: u64) -> Option<(Object, i32, u64)> {
        let from_base = address.wrapping_sub(BASE);
        let number = from_base / ROOM;
        let object = *Object::ALL.get((number / THREADS) as usize)?;
        Some((object, (number % THREADS) as i32, from_base % ROOM))
    }
}

/// The task of a thread.
pub(crate) fn address(tid: i32) -> u64 {
    Object::Task.address(tid)
}

/// Whether an address is in something that is answered here.
#[inline]
pub(crate) fn holds(address: u64) -> bool {
    address.wrapping_sub(BASE) < Object::ALL.len() as u64 * THREADS * ROOM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_back() {
        for object in Object::ALL {
            for tid in [0, 1, 4095, (1 << 22) - 1] {
                for byte in [0, 2500, ROOM - 1] {
                    let at = object.address(tid) + byte;
                    assert!(holds(at));
                    assert_eq!(Object::at(at), Some((object, tid, byte)));
                }
            }
        }
        let end = Object::Cgroup.address((1 << 22) - 1) + ROOM;
        for beyond in [0, BASE - 1, end, u64::MAX] {
            assert!(!holds(beyond));
            assert_eq!(Object::at(beyond), None);
        }
    }
}
