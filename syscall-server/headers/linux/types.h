#ifndef BPFTIME_LINUX_TYPES_H
#define BPFTIME_LINUX_TYPES_H
typedef signed char __s8, s8, int8_t;
typedef unsigned char __u8, u8, uint8_t, u_char, unchar;
typedef short __s16, s16, int16_t;
typedef unsigned short __u16, u16, uint16_t, ushort, u_short, umode_t;
typedef int __s32, s32, int32_t;
typedef unsigned int __u32, u32, uint32_t, uint, u_int, gfp_t, fmode_t;
typedef long long __s64, s64, int64_t;
typedef unsigned long long __u64, u64, uint64_t;
typedef __u16 __le16, __be16, __sum16;
typedef __u32 __le32, __be32, __wsum, __poll_t;
typedef __u64 __le64, __be64, sector_t, blkcnt_t;
typedef long __kernel_long_t, __kernel_ssize_t, __kernel_off_t, __kernel_old_time_t;
typedef long __kernel_clock_t, __kernel_suseconds_t, ssize_t, intptr_t, ptrdiff_t;
typedef unsigned long __kernel_ulong_t, __kernel_size_t, size_t, uintptr_t, ulong, u_long;
typedef long long __kernel_loff_t, __kernel_time64_t, loff_t, off_t, time64_t, ktime_t;
typedef int __kernel_pid_t, __kernel_timer_t, __kernel_clockid_t, pid_t, clockid_t, key_t;
typedef unsigned int __kernel_uid32_t, __kernel_gid32_t, uid_t, gid_t, dev_t;
typedef struct { uid_t val; } kuid_t;
typedef struct { gid_t val; } kgid_t;
typedef _Bool bool;
enum { false, true };
#define NULL ((void *)0)
#define __user
#define __kernel
#define __force
#define __bitwise
#define __rcu
#define __percpu
#define __randomize_layout
#define __packed __attribute__((packed))
#define __aligned(bytes) __attribute__((aligned(bytes)))
#define __aligned_u64 __u64 __aligned(8)
#define __maybe_unused __attribute__((unused))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define offsetof(type, member) __builtin_offsetof(type, member)
#define container_of(to, type, member) ((type *)((char *)(to) - offsetof(type, member)))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define BPFTIME_CHOOSE(type_a, a, op, type_b, b) ({ \
	type_a chosen_a = (a); \
	type_b chosen_b = (b); \
	chosen_a op chosen_b ? chosen_a : chosen_b; \
})
#define min(a, b) BPFTIME_CHOOSE(__typeof__(a), a, <, __typeof__(b), b)
#define max(a, b) BPFTIME_CHOOSE(__typeof__(a), a, >, __typeof__(b), b)
#define min_t(type, a, b) BPFTIME_CHOOSE(type, a, <, type, b)
#define max_t(type, a, b) BPFTIME_CHOOSE(type, a, >, type, b)
#endif
