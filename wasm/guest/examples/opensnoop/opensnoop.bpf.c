/* Tells of every openat(2) of processes with a certain name. */
#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "opensnoop.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Set by the guest before the load: whose calls; empty for all. */
const volatile char wanted[COMM_SIZE];

/* The layouts of both tracepoints, as their `format` files have them. */
struct enter {
	unsigned long long common;
	long number;
	unsigned long args[6];
};

struct leave {
	unsigned long long common;
	long number;
	long result;
};

/* Paths of calls under way, by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, unsigned int);
	__type(value, unsigned long);
} paths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(int));
	__uint(value_size, sizeof(int));
} events SEC(".maps");

const struct open_event *unused_event __attribute__((unused));

static bool is_wanted(void)
{
	char comm[COMM_SIZE];
	int i;

	bpf_get_current_comm(comm, sizeof(comm));
	for (i = 0; i < COMM_SIZE && wanted[i]; i++)
		if (comm[i] != wanted[i])
			return false;
	return true;
}

SEC("tracepoint/syscalls/sys_enter_openat")
int on_enter(struct enter *ctx)
{
	unsigned int thread = bpf_get_current_pid_tgid();
	unsigned long path = ctx->args[1];

	if (is_wanted())
		bpf_map_update_elem(&paths, &thread, &path, BPF_ANY);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_openat")
int on_leave(struct leave *ctx)
{
	unsigned long id = bpf_get_current_pid_tgid(), *path;
	unsigned int thread = id;
	struct open_event event = {};

	path = bpf_map_lookup_elem(&paths, &thread);
	if (!path)
		return 0;
	event.pid = id >> 32;
	event.result = ctx->result;
	bpf_get_current_comm(event.comm, sizeof(event.comm));
	bpf_probe_read_user_str(event.path, sizeof(event.path), (void *)*path);
	bpf_map_delete_elem(&paths, &thread);
	bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &event, sizeof(event));
	return 0;
}
