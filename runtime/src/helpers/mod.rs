//! The functions that programs call: one file per family, one row per helper.
//! They know maps and the run they serve; no hook and no bpf(2) command.
//!
//! They run inside the functions of a target: no allocation, no lock that
//! blocks, no call of libc, no panic, system calls only through [`shm::sys`].
//!
//! To add a helper, copy a row in its family's file and name it in [`lookup`].

mod callback;
mod dynptr;
mod kfunc;
mod map;
mod perf;
mod printk;
pub mod quiet;
mod read;
mod ringbuf;
mod row;
mod sampled;
mod signal;
mod stack;
mod task;
mod text;
mod time;

pub use kfunc::function as kfunc_function;
pub use map::tail_call_target;
pub(crate) use read::read;
pub use row::Helper;
pub use signal::Pending;

/// The rows there are.
static ROWS: &[&Helper] = &[
    &callback::r#loop::ROW,
    &callback::for_each_map_elem::ROW,
    &dynptr::dynptr_from_mem::ROW,
    &dynptr::ringbuf_reserve_dynptr::ROW,
    &dynptr::ringbuf_submit_dynptr::ROW,
    &dynptr::ringbuf_discard_dynptr::ROW,
    &dynptr::dynptr_read::ROW,
    &dynptr::dynptr_write::ROW,
    &dynptr::dynptr_data::ROW,
    &map::map_lookup_elem::ROW,
    &map::map_update_elem::ROW,
    &map::map_delete_elem::ROW,
    &map::map_lookup_percpu_elem::ROW,
    &map::map_push_elem::ROW,
    &map::map_pop_elem::ROW,
    &map::map_peek_elem::ROW,
    &map::spin_lock::ROW,
    &map::spin_unlock::ROW,
    &map::tail_call::ROW,
    &perf::perf_event_output::ROW,
    &printk::TRACE_PRINTK,
    &printk::TRACE_VPRINTK,
    &read::probe_read::ROW,
    &read::probe_read_user::ROW,
    &read::probe_read_kernel::ROW,
    &read::probe_read_str::ROW,
    &read::probe_read_user_str::ROW,
    &read::probe_read_kernel_str::ROW,
    &read::copy_from_user::ROW,
    &ringbuf::ringbuf_output::ROW,
    &ringbuf::ringbuf_reserve::ROW,
    &ringbuf::ringbuf_submit::ROW,
    &ringbuf::ringbuf_discard::ROW,
    &ringbuf::ringbuf_query::ROW,
    &ringbuf::user_ringbuf_drain::ROW,
    &signal::send_signal::ROW,
    &signal::send_signal_thread::ROW,
    &stack::get_stackid::ROW,
    &stack::get_stack::ROW,
    &task::get_current_pid_tgid::ROW,
    &task::get_current_uid_gid::ROW,
    &task::get_current_comm::ROW,
    &task::get_current_task::ROW,
    &task::get_current_task_btf::ROW,
    &task::task_storage_get::ROW,
    &task::task_storage_delete::ROW,
    &task::get_current_cgroup_id::ROW,
    &task::current_task_under_cgroup::ROW,
    &task::get_ns_current_pid_tgid::ROW,
    &task::get_smp_processor_id::ROW,
    &task::get_numa_node_id::ROW,
    &task::get_prandom_u32::ROW,
    &task::get_func_ip::ROW,
    &task::get_attach_cookie::ROW,
    &task::override_return::ROW,
    &text::strncmp::ROW,
    &time::ktime_get_ns::ROW,
    &time::ktime_get_boot_ns::ROW,
    &time::ktime_get_coarse_ns::ROW,
    &time::ktime_get_tai_ns::ROW,
];

/// The helper with number `id` (`BPF_FUNC_*`).
pub fn lookup(id: u32) -> Option<&'static Helper> {
    ROWS.iter().find(|row| row.proto.id == id).copied()
}

/// The same where the program runs for a [`crate::sample::Sample`].
pub fn lookup_sampled(id: u32) -> Option<&'static Helper> {
    let own = sampled::ROWS.iter().find(|row| row.proto.id == id).copied();
    own.or_else(|| lookup(id))
}

/// All helpers, in no particular order.
pub fn all() -> impl Iterator<Item = &'static Helper> {
    ROWS.iter().copied()
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_number_is_taken_twice() {
        let mut ids: Vec<u32> = super::all().map(|row| row.proto.id).collect();
        let rows = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows);
    }

    /// Helpers whose contract here is not the kernel's, each with the reason.
    const OTHERWISE: [(&str, &str); 0] = [];

    #[test]
    fn prototypes_are_the_kernels() {
        for row in super::all() {
            let ours = &row.proto;
            let mut theirs = vm::helper::kernel::all().filter(|k| k.proto.id == ours.id);
            let same = theirs.any(|k| {
                (k.proto.name, k.proto.args, k.proto.ret, k.proto.gpl_only)
                    == (ours.name, ours.args, ours.ret, ours.gpl_only)
            });
            let excused = OTHERWISE.iter().any(|(name, _)| *name == ours.name);
            assert_eq!(same, !excused, "{ours:?}");
        }
    }
}
