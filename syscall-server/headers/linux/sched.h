#ifndef BPFTIME_LINUX_SCHED_H
#define BPFTIME_LINUX_SCHED_H
#include <linux/types.h>
#include <linux/limits.h>
#include <asm/ptrace.h>
#define TASK_COMM_LEN 16
struct ns_common { unsigned int inum; };
struct pid_namespace { struct ns_common ns; };
struct mnt_namespace;
struct nsproxy { struct mnt_namespace *mnt_ns; struct pid_namespace *pid_ns_for_children; };
struct task_struct {
	unsigned int __state;
	int exit_code;
	pid_t pid, tgid;
	u64 start_time, start_boottime;
	struct task_struct *real_parent, *parent, *group_leader;
	struct nsproxy *nsproxy;
	char comm[TASK_COMM_LEN];
};
#endif
