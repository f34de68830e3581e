/* @NAME@: names that programs look up, by a probe on a function of libc. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "@NAME@.h"

/// Names that programs look up
char LICENSE[] SEC("license") = "GPL";

/// @description Process to look at, 0 for all
/// @cmdarg {"default": 0, "short": "p", "long": "pid"}
const volatile int target_pid = 0;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

SEC("uprobe/libc.so.6:getaddrinfo")
int BPF_KPROBE(on_getaddrinfo, const char *node)
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
	bpf_probe_read_user_str(event->name, sizeof(event->name), node);
	bpf_ringbuf_submit(event, 0);
	return 0;
}
