//! Helpers about who runs: task, CPU, link.

use core::sync::atomic::{AtomicU64, Ordering};

use shm::sys;
use uapi::Errno;
use uapi::map::{BPF_LOCAL_STORAGE_GET_F_CREATE, BPF_MAP_TYPE_CGROUP_ARRAY};

use super::row::{Any, Ctx, GivenOrNull, Len, Room, Task, TaskOrNull, ValueOrNull, helper};
use crate::arch::aside::bpftime_runtime_aside;
use crate::maps::{Map, bytes};
use crate::sample::COMM;
use crate::{clock, guest, tasks, thread};

helper! {
    /// bpf_get_current_pid_tgid: process id in the upper, thread id in the
    /// lower 32 bits, as the tools see them.
    fn get_current_pid_tgid(run) -> u64 = BPF_FUNC_GET_CURRENT_PID_TGID {
        match thread::known() {
            Some(ids) => ids.pid_tgid(),
            // SAFETY: it looks at none of its arguments.
            None => unsafe { bpftime_runtime_aside(0, 0, 0, 0, 0, ask_pid_tgid) },
        }
    }
}

unsafe extern "C" fn ask_pid_tgid(_: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    thread::ids().pid_tgid()
}

helper! {
    /// bpf_get_current_uid_gid: real group id in the upper, user id in the lower half,
    /// as the tools see them.
    fn get_current_uid_gid(run) -> u64 = BPF_FUNC_GET_CURRENT_UID_GID {
        let (uid, gid) = guest::outside(sys::getuid(), sys::getgid());
        (u64::from(gid) << 32) | u64::from(uid)
    }
}

helper! {
    /// bpf_get_current_comm: the thread's name, cut to `size` and zero-padded.
    fn get_current_comm(run, to: Room, size: Len) -> i64 = BPF_FUNC_GET_CURRENT_COMM {
        let mut comm = [0u8; COMM];
        // SAFETY: PR_GET_NAME writes 16 bytes.
        let ret = unsafe {
            sys::syscall6(
                libc::SYS_prctl as usize,
                libc::PR_GET_NAME as usize,
                comm.as_mut_ptr() as usize,
                0, 0, 0, 0,
            )
        };
        if ret != 0 {
            // SAFETY: the verifier proved that `to` has `size` bytes.
            unsafe { bytes::zero(to.0, size.0) };
            return Errno::EINVAL.ret();
        }
        put_name(&comm, to, size);
        0
    }
}

/// Copies a thread's name, cut to `size` and zero-padded.
pub(super) fn put_name(comm: &[u8; COMM], to: Room, size: Len) {
    let len = size.0.min(COMM);
    // SAFETY: the verifier proved that `to` has `size` bytes, of which the
    // name takes at most what there is.
    unsafe {
        bytes::copy(to.0, comm.as_ptr(), len);
        bytes::zero(to.0.wrapping_add(len), size.0 - len);
        // The last byte ends the string, as strscpy_pad does.
        if len > 0 {
            bytes::zero(to.0.wrapping_add(len - 1), 1);
        }
    }
}

helper! {
    /// bpf_get_current_task: an address at which the helpers that read memory
    /// find fields of the thread ([`tasks`]).
    gpl fn get_current_task(run) -> u64 = BPF_FUNC_GET_CURRENT_TASK {
        tasks::address(thread::ids().tid)
    }
}

helper! {
    /// bpf_get_current_task_btf: the same, for the helpers that take tasks.
    gpl fn get_current_task_btf(run) -> Task = BPF_FUNC_GET_CURRENT_TASK_BTF {
        Task(tasks::address(thread::ids().tid))
    }
}

helper! {
    /// bpf_task_storage_get: the thread's value, or NULL; with
    /// BPF_LOCAL_STORAGE_GET_F_CREATE made of `initial`, or zeros, if there is none.
    fn task_storage_get(run, map: &'static Map, task: TaskOrNull, initial: GivenOrNull, flags: Any) -> ValueOrNull = BPF_FUNC_TASK_STORAGE_GET {
        let create = flags.0 & BPF_LOCAL_STORAGE_GET_F_CREATE != 0;
        let known = flags.0 & !BPF_LOCAL_STORAGE_GET_F_CREATE == 0;
        let storage = map.task_storage().zip(tasks::tid_at(task.0)).filter(|_| known);
        ValueOrNull(match storage {
            // SAFETY: the verifier proved that `initial` is NULL or has the
            // map's value size.
            Some((storage, tid)) => unsafe { storage.get(tid, initial.0, create) },
            None => core::ptr::null_mut(),
        })
    }
}

helper! {
    /// bpf_task_storage_delete: removes it. Errors: EINVAL no task, ENOENT.
    fn task_storage_delete(run, map: &'static Map, task: TaskOrNull) -> i64 = BPF_FUNC_TASK_STORAGE_DELETE {
        let storage = map.task_storage().zip(tasks::tid_at(task.0));
        match storage.map_or(Err(Errno::EINVAL), |(storage, tid)| storage.remove(tid)) {
            Ok(()) => 0,
            Err(errno) => errno.ret(),
        }
    }
}

helper! {
    /// bpf_get_current_cgroup_id: of version 2; 0 where the process cannot see
    /// its directory.
    fn get_current_cgroup_id(run) -> u64 = BPF_FUNC_GET_CURRENT_CGROUP_ID {
        tasks::cgroup_id().unwrap_or(0)
    }
}

helper! {
    /// bpf_current_task_under_cgroup: what the kernel says of a slot that was
    /// never filled; a process cannot see who is below a cgroup.
    /// Errors: EINVAL no cgroup array or no such slot, EAGAIN else.
    fn current_task_under_cgroup(run, map: &'static Map, index: Any) -> i64 = BPF_FUNC_CURRENT_TASK_UNDER_CGROUP {
        let spec = map.spec();
        match spec.map_type == BPF_MAP_TYPE_CGROUP_ARRAY && (index.0 as u32) < spec.max_entries {
            true => Errno::EAGAIN.ret(),
            false => Errno::EINVAL.ret(),
        }
    }
}

helper! {
    /// bpf_get_ns_current_pid_tgid: {u32 pid, u32 tgid}. The namespace asked
    /// for is taken to be the process's own. EINVAL unless `size` is 8.
    fn get_ns_current_pid_tgid(run, _dev: Any, _ino: Any, to: Room, size: Len) -> i64 = BPF_FUNC_GET_NS_CURRENT_PID_TGID {
        let ids = if guest::is_guest() { thread::own_ids() } else { thread::ids() };
        let pair = [ids.tid, ids.pid];
        // SAFETY: the verifier proved that `to` has `size` bytes.
        unsafe {
            if size.0 != size_of_val(&pair) {
                bytes::zero(to.0, size.0);
                return Errno::EINVAL.ret();
            }
            bytes::copy(to.0, pair.as_ptr().cast(), size.0);
        }
        0
    }
}

helper! {
    /// bpf_get_smp_processor_id: the vCPU that the run holds, else the CPU.
    fn get_smp_processor_id(run) -> u64 = BPF_FUNC_GET_SMP_PROCESSOR_ID {
        u64::from(run.cpu())
    }
}

helper! {
    /// bpf_get_numa_node_id: 0; the node is not ours to tell apart.
    fn get_numa_node_id(run) -> u64 = BPF_FUNC_GET_NUMA_NODE_ID {
        0
    }
}

helper! {
    /// bpf_get_prandom_u32: not for secrets. SplitMix64 (Steele, Lea, Flood,
    /// OOPSLA 2014) over a counter shared by the process's threads.
    fn get_prandom_u32(run) -> u64 = BPF_FUNC_GET_PRANDOM_U32 {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let step = COUNTER.fetch_add(GAMMA, Ordering::Relaxed);
        let mut z = step ^ clock::ns(libc::CLOCK_MONOTONIC);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 32
    }
}

helper! {
    /// bpf_get_func_ip: address of the probed function or instruction.
    gpl fn get_func_ip(run, _ctx: Ctx) -> u64 = BPF_FUNC_GET_FUNC_IP {
        run.func_ip
    }
}

helper! {
    /// bpf_get_attach_cookie: the link's cookie.
    fn get_attach_cookie(run, _ctx: Ctx) -> u64 = BPF_FUNC_GET_ATTACH_COOKIE {
        run.cookie
    }
}

helper! {
    /// bpf_override_return: the probed function does not run, its caller gets
    /// `rc`; the last call counts. EINVAL where that cannot be: such a program
    /// was reached by a tail call from one that was not attached for it.
    gpl fn override_return(run, _ctx: Ctx, rc: Any) -> u64 = BPF_FUNC_OVERRIDE_RETURN {
        if !run.may_override {
            return Errno::EINVAL.ret() as u64;
        }
        run.overridden.set(Some(rc.0));
        0
    }
}
