/* @NAME@: files that programs open, by a tracepoint of a system call. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include "@NAME@.h"

/// Files that programs open
char LICENSE[] SEC("license") = "GPL";

/// @description Process to look at, 0 for all
/// @cmdarg {"default": 0, "short": "p", "long": "pid"}
const volatile int target_pid = 0;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_openat")
int on_openat(struct trace_event_raw_sys_enter *ctx)
{
	int pid = bpf_get_current_pid_tgid() >> 32;
	struct event *event;

	if (target_pid && target_pid != pid)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->pid = pid;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_probe_read_user_str(event->path, sizeof(event->path), (const void *)ctx->args[1]);
	bpf_ringbuf_submit(event, 0);
	return 0;
}
