//! Helpers as they answer a program that runs for a [`Sample`]: for the thread
//! that was sampled, and for the time at which it was. What is not here is the
//! same for all.

use shm::sys;
use uapi::Errno;

use super::printk;
use super::read::{
    Whose, probe_read_bytes, probe_read_either, probe_read_of_user, probe_read_text,
    probe_read_text_either,
};
use super::row::{Any, Ctx, Helper, Len, LenOrZero, Room, Task, helper};
use super::stack::{collect, stack_id, stack_of};
use super::task::put_name;
use crate::maps::{Map, bytes};
use crate::run::{NO_VCPU, RunState};
use crate::sample::Sample;
use crate::{clock, tasks};

/// The rows that take the place of others.
pub(super) static ROWS: &[&Helper] = &[
    &get_current_pid_tgid::ROW,
    &get_current_uid_gid::ROW,
    &get_current_comm::ROW,
    &get_current_task::ROW,
    &get_current_task_btf::ROW,
    &get_ns_current_pid_tgid::ROW,
    &get_smp_processor_id::ROW,
    &get_stackid::ROW,
    &get_stack::ROW,
    &ktime_get_ns::ROW,
    &ktime_get_boot_ns::ROW,
    &ktime_get_coarse_ns::ROW,
    &ktime_get_tai_ns::ROW,
    &printk::SAMPLED_PRINTK,
    &printk::SAMPLED_VPRINTK,
    &send_signal::ROW,
    &send_signal_thread::ROW,
    &probe_read::ROW,
    &probe_read_user::ROW,
    &probe_read_str::ROW,
    &probe_read_user_str::ROW,
    &copy_from_user::ROW,
];

/// The sample that a run is for.
fn sample(run: &RunState) -> &Sample<'_> {
    // SAFETY: programs are linked to these rows only to run for samples, and
    // `Here::run_for` gives such a run its sample's registers.
    unsafe { Sample::of(run) }
}

/// A clock when the sample was taken.
fn clock_then(run: &RunState, id: i32) -> u64 {
    let late = clock::ns(libc::CLOCK_MONOTONIC).saturating_sub(sample(run).time);
    clock::ns(id).saturating_sub(late)
}

helper! {
    /// bpf_get_current_pid_tgid: of the sampled thread.
    fn get_current_pid_tgid(run) -> u64 = BPF_FUNC_GET_CURRENT_PID_TGID {
        sample(run).ids.pid_tgid()
    }
}

helper! {
    /// bpf_get_current_uid_gid: of the sampled thread's process.
    fn get_current_uid_gid(run) -> u64 = BPF_FUNC_GET_CURRENT_UID_GID {
        sample(run).uid_gid
    }
}

helper! {
    /// bpf_get_current_comm: the sampled thread's name then.
    fn get_current_comm(run, to: Room, size: Len) -> i64 = BPF_FUNC_GET_CURRENT_COMM {
        put_name(&sample(run).comm, to, size);
        0
    }
}

helper! {
    /// bpf_get_current_task: of the sampled thread.
    gpl fn get_current_task(run) -> u64 = BPF_FUNC_GET_CURRENT_TASK {
        tasks::address(sample(run).ids.tid)
    }
}

helper! {
    /// bpf_get_current_task_btf: of the sampled thread.
    gpl fn get_current_task_btf(run) -> Task = BPF_FUNC_GET_CURRENT_TASK_BTF {
        Task(tasks::address(sample(run).ids.tid))
    }
}

helper! {
    /// bpf_get_ns_current_pid_tgid: of the sampled thread, in the tool's
    /// namespace. EINVAL unless `size` is 8.
    fn get_ns_current_pid_tgid(run, _dev: Any, _ino: Any, to: Room, size: Len) -> i64 = BPF_FUNC_GET_NS_CURRENT_PID_TGID {
        let ids = sample(run).ids;
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
    /// bpf_get_smp_processor_id: the vCPU that the run holds, else the CPU
    /// that the sampled thread ran on.
    fn get_smp_processor_id(run) -> u64 = BPF_FUNC_GET_SMP_PROCESSOR_ID {
        u64::from(match run.vcpu {
            NO_VCPU => sample(run).cpu,
            vcpu => vcpu,
        })
    }
}

helper! {
    /// bpf_get_stackid: of the sampled thread's stack.
    gpl fn get_stackid(run, _ctx: Ctx, map: &'static Map, flags: Any) -> i64 = BPF_FUNC_GET_STACKID {
        let sample = sample(run);
        let walk = |frames: &mut [_]| collect(frames, |put| sample.walk(put));
        stack_id(walk, map, flags.0, &|ip| sample.frame(ip))
    }
}

helper! {
    /// bpf_get_stack: the sampled thread's stack.
    gpl fn get_stack(run, _ctx: Ctx, to: Room, len: LenOrZero, flags: Any) -> i64 = BPF_FUNC_GET_STACK {
        let sample = sample(run);
        let walk = |frames: &mut [_]| collect(frames, |put| sample.walk(put));
        stack_of(walk, to, len.0, flags.0, &|ip| sample.frame(ip))
    }
}

helper! {
    /// bpf_ktime_get_ns: when the sample was taken.
    fn ktime_get_ns(run) -> u64 = BPF_FUNC_KTIME_GET_NS {
        clock_then(run, libc::CLOCK_MONOTONIC)
    }
}

helper! {
    /// bpf_ktime_get_boot_ns: when the sample was taken.
    fn ktime_get_boot_ns(run) -> u64 = BPF_FUNC_KTIME_GET_BOOT_NS {
        clock_then(run, libc::CLOCK_BOOTTIME)
    }
}

helper! {
    /// bpf_ktime_get_coarse_ns: when the sample was taken.
    fn ktime_get_coarse_ns(run) -> u64 = BPF_FUNC_KTIME_GET_COARSE_NS {
        clock_then(run, libc::CLOCK_MONOTONIC_COARSE)
    }
}

helper! {
    /// bpf_ktime_get_tai_ns: when the sample was taken.
    fn ktime_get_tai_ns(run) -> u64 = BPF_FUNC_KTIME_GET_TAI_NS {
        clock_then(run, libc::CLOCK_TAI)
    }
}

/// Sends a signal by a system call of the kind of kill(2).
fn signal(number: libc::c_long, to: &[i32], signal: u32) -> i64 {
    /// `_NSIG`.
    const LAST: u32 = 64;
    match signal {
        0 => 0,
        1..=LAST => {
            let mut words = [0; 3];
            let values = to.iter().copied().chain([signal as i32]);
            for (word, value) in words.iter_mut().zip(values) {
                *word = value as usize;
            }
            let [a, b, c] = words;
            // SAFETY: takes numbers only; a signal is what the tool asked for.
            unsafe { sys::syscall6(number as usize, a, b, c, 0, 0, 0) as i64 }
        }
        _ => Errno::EINVAL.ret(),
    }
}

helper! {
    /// bpf_send_signal: a signal for the sampled process, when the program runs.
    /// Errors: EINVAL no such signal, EPERM not the tool's to send.
    fn send_signal(run, number: Any) -> i64 = BPF_FUNC_SEND_SIGNAL {
        signal(libc::SYS_kill, &[sample(run).ids.pid], number.0 as u32)
    }
}

helper! {
    /// bpf_send_signal_thread: the same for the sampled thread.
    fn send_signal_thread(run, number: Any) -> i64 = BPF_FUNC_SEND_SIGNAL_THREAD {
        let ids = sample(run).ids;
        signal(libc::SYS_tgkill, &[ids.pid, ids.tid], number.0 as u32)
    }
}

helper! {
    /// bpf_probe_read: user addresses are the sampled process's.
    gpl fn probe_read(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ {
        probe_read_either(run, Whose::Sampled(sample(run)), to, len, from)
    }
}

helper! {
    /// bpf_probe_read_user: memory of the sampled process.
    gpl fn probe_read_user(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ_USER {
        probe_read_of_user(Whose::Sampled(sample(run)), to, len, from)
    }
}

helper! {
    /// bpf_probe_read_str: user addresses are the sampled process's.
    gpl fn probe_read_str(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ_STR {
        probe_read_text_either(run, Whose::Sampled(sample(run)), to, len, from)
    }
}

helper! {
    /// bpf_probe_read_user_str: memory of the sampled process.
    gpl fn probe_read_user_str(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ_USER_STR {
        probe_read_text(Whose::Sampled(sample(run)), to, len, from)
    }
}

helper! {
    /// bpf_copy_from_user: memory of the sampled process.
    fn copy_from_user(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_COPY_FROM_USER {
        probe_read_bytes(Whose::Sampled(sample(run)), to, len, from)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_take_the_place_of_others() {
        for row in super::ROWS {
            let other = crate::helpers::lookup(row.proto.id).expect("a helper of that number");
            assert_eq!(format!("{:?}", row.proto), format!("{:?}", other.proto));
        }
    }
}
