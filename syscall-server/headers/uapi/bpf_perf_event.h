#include <linux/sched.h>
struct bpf_perf_event_data { bpf_user_pt_regs_t regs; __u64 sample_period, addr; };
