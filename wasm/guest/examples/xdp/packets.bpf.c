/* Counts an interface's IPv4 packets by protocol, and lets them pass. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, unsigned char);
	__type(value, unsigned long);
} packets SEC(".maps");

SEC("xdp")
int count_packets(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *link = data;
	struct iphdr *ip = (void *)(link + 1);
	unsigned long one = 1, *count;
	unsigned char protocol;

	if ((void *)(ip + 1) > end || link->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	protocol = ip->protocol;
	count = bpf_map_lookup_elem(&packets, &protocol);
	/* Somebody else may have been first with this protocol. */
	if (!count && bpf_map_update_elem(&packets, &protocol, &one, BPF_NOEXIST) == 0)
		return XDP_PASS;
	count = count ? count : bpf_map_lookup_elem(&packets, &protocol);
	if (count)
		__sync_fetch_and_add(count, 1);
	return XDP_PASS;
}
