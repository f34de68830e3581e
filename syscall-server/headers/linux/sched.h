#ifndef BPFTIME_LINUX_SCHED_H
#define BPFTIME_LINUX_SCHED_H
#include <linux/types.h>
#include <linux/limits.h>
#include <asm/ptrace.h>
#define TASK_COMM_LEN 16
