/* @NAME@: how many bytes programs write at a time, as a histogram. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include "@NAME@.h"

/// Sizes of writes
char LICENSE[] SEC("license") = "GPL";

/// @description Process to look at, 0 for all
/// @cmdarg {"default": 0, "short": "p", "long": "pid"}
const volatile int target_pid = 0;

/// @sample {"interval": 1000, "type": "log2_hist", "unit": "bytes"}
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct hist);
} sizes SEC(".maps");

static struct hist zero;

static __always_inline u32 log2(u64 value)
{
	u32 slot = 0;

	for (int i = 0; i < MAX_SLOTS - 1 && value > 1; i++) {
		value >>= 1;
		slot++;
	}
	return slot;
}

SEC("tracepoint/syscalls/sys_enter_write")
int on_write(struct trace_event_raw_sys_enter *ctx)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32, slot;
	struct hist *hist;

	if (target_pid && target_pid != pid)
		return 0;
	bpf_map_update_elem(&sizes, &pid, &zero, BPF_NOEXIST);
	hist = bpf_map_lookup_elem(&sizes, &pid);
	if (!hist)
		return 0;
	slot = log2(ctx->args[2]);
	if (slot < MAX_SLOTS)
		__sync_fetch_and_add(&hist->slots[slot], 1);
	bpf_get_current_comm(hist->comm, sizeof(hist->comm));
	return 0;
}
