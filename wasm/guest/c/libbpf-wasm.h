/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * eBPF for Wasm guests in C: what skeletons (`bpftime gen skeleton --wasm`) and
 * programs use, in the names of libbpf and of the wasm-bpf SDK, whose sources
 * compile with this header unchanged. Link with -Wl,--export-table if you poll.
 *
 * Functions give 0 or more on success and a negated errno on failure, and set
 * errno. Their numbers are those of this C library (<errno.h>), whatever the
 * host's are.
 */
#ifndef _LIBBPF_WASM_H
#define _LIBBPF_WASM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An object that the host has loaded; 0 for none. */
typedef uint64_t bpf_object_skel;

/* -- What the host does ---------------------------------------------------- */

#define WASM_BPF_IMPORT(name) __attribute__((import_module("wasm_bpf"), import_name(#name))) name

bpf_object_skel WASM_BPF_IMPORT(wasm_load_bpf_object)(const void *object, int size);
int WASM_BPF_IMPORT(wasm_close_bpf_object)(bpf_object_skel object);
int WASM_BPF_IMPORT(wasm_attach_bpf_program)(bpf_object_skel object, const char *name,
					     const char *target);
/* Only modules that call bpf_set_prog_attach_target_fd() import this one. */
int WASM_BPF_IMPORT(wasm_attach_bpf_program_fd)(bpf_object_skel object, const char *name,
						int target_fd);
int WASM_BPF_IMPORT(wasm_bpf_buffer_poll)(bpf_object_skel object, int map_fd,
					  int32_t sample_func, uint32_t ctx, char *data,
					  int max_size, int timeout_ms);
int WASM_BPF_IMPORT(wasm_bpf_map_fd_by_name)(bpf_object_skel object, const char *name);
int WASM_BPF_IMPORT(wasm_bpf_map_operate)(int map_fd, int command, void *key, void *value,
					  void *next_key, uint64_t flags);

#undef WASM_BPF_IMPORT

/* The host's numbers are Linux's, those of the C library are WASI's. */
static inline int libbpf_wasm__error(int result)
{
	static const struct {
		unsigned char linux_errno;
		unsigned char here;
	} errors[] = {
		{ 1, EPERM }, { 2, ENOENT }, { 3, ESRCH }, { 4, EINTR }, { 5, EIO },
		{ 6, ENXIO }, { 7, E2BIG }, { 8, ENOEXEC }, { 9, EBADF }, { 10, ECHILD },
		{ 11, EAGAIN }, { 12, ENOMEM }, { 13, EACCES }, { 14, EFAULT }, { 16, EBUSY },
		{ 17, EEXIST }, { 18, EXDEV }, { 19, ENODEV }, { 20, ENOTDIR }, { 21, EISDIR },
		{ 22, EINVAL }, { 23, ENFILE }, { 24, EMFILE }, { 25, ENOTTY }, { 26, ETXTBSY },
		{ 27, EFBIG }, { 28, ENOSPC }, { 29, ESPIPE }, { 30, EROFS }, { 31, EMLINK },
		{ 32, EPIPE }, { 33, EDOM }, { 34, ERANGE }, { 35, EDEADLK },
		{ 36, ENAMETOOLONG }, { 38, ENOSYS }, { 40, ELOOP }, { 61, ENOTSUP },
		{ 71, EPROTO }, { 75, EOVERFLOW }, { 84, EILSEQ }, { 90, EMSGSIZE },
		{ 93, EPROTONOSUPPORT }, { 95, ENOTSUP }, { 98, EADDRINUSE },
		{ 100, ENETDOWN }, { 105, ENOBUFS }, { 110, ETIMEDOUT },
		{ 114, EALREADY }, { 115, EINPROGRESS }, { 116, ESTALE }, { 125, ECANCELED },
	};
	size_t i;

	if (result >= 0)
		return result;
	for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].linux_errno == -result) {
			errno = errors[i].here;
			return -errno;
		}
	/* No number of WASI's says it: EIO is wrong for none. */
	errno = EIO;
	return -errno;
}

/* -- Numbers of the kernel ----------------------------------------------- */

/* A guest that has the kernel's own header has them. */
#ifndef __LINUX_BPF_H__

enum bpf_cmd {
	BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
	BPF_MAP_GET_NEXT_KEY, BPF_PROG_LOAD, BPF_OBJ_PIN, BPF_OBJ_GET, BPF_PROG_ATTACH,
	BPF_PROG_DETACH, BPF_PROG_TEST_RUN, BPF_PROG_RUN = 10, BPF_PROG_GET_NEXT_ID,
	BPF_MAP_GET_NEXT_ID, BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD,
	BPF_PROG_QUERY, BPF_RAW_TRACEPOINT_OPEN, BPF_BTF_LOAD, BPF_BTF_GET_FD_BY_ID,
	BPF_TASK_FD_QUERY, BPF_MAP_LOOKUP_AND_DELETE_ELEM, BPF_MAP_FREEZE, BPF_BTF_GET_NEXT_ID,
	BPF_MAP_LOOKUP_BATCH, BPF_MAP_LOOKUP_AND_DELETE_BATCH, BPF_MAP_UPDATE_BATCH,
	BPF_MAP_DELETE_BATCH, BPF_LINK_CREATE, BPF_LINK_UPDATE, BPF_LINK_GET_FD_BY_ID,
	BPF_LINK_GET_NEXT_ID, BPF_ENABLE_STATS, BPF_ITER_CREATE, BPF_LINK_DETACH,
	BPF_PROG_BIND_MAP,
};

enum bpf_map_type {
	BPF_MAP_TYPE_UNSPEC, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PROG_ARRAY,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY,
	BPF_MAP_TYPE_STACK_TRACE, BPF_MAP_TYPE_CGROUP_ARRAY, BPF_MAP_TYPE_LRU_HASH,
	BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_ARRAY_OF_MAPS,
	BPF_MAP_TYPE_HASH_OF_MAPS, BPF_MAP_TYPE_DEVMAP, BPF_MAP_TYPE_SOCKMAP, BPF_MAP_TYPE_CPUMAP,
	BPF_MAP_TYPE_XSKMAP, BPF_MAP_TYPE_SOCKHASH, BPF_MAP_TYPE_CGROUP_STORAGE,
	BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE, BPF_MAP_TYPE_QUEUE,
	BPF_MAP_TYPE_STACK, BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_DEVMAP_HASH,
	BPF_MAP_TYPE_STRUCT_OPS, BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_INODE_STORAGE,
	BPF_MAP_TYPE_TASK_STORAGE, BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_USER_RINGBUF,
};

enum bpf_prog_type {
	BPF_PROG_TYPE_UNSPEC, BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_KPROBE,
	BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SCHED_ACT, BPF_PROG_TYPE_TRACEPOINT,
	BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_PERF_EVENT, BPF_PROG_TYPE_CGROUP_SKB,
	BPF_PROG_TYPE_CGROUP_SOCK, BPF_PROG_TYPE_LWT_IN, BPF_PROG_TYPE_LWT_OUT,
	BPF_PROG_TYPE_LWT_XMIT, BPF_PROG_TYPE_SOCK_OPS, BPF_PROG_TYPE_SK_SKB,
	BPF_PROG_TYPE_CGROUP_DEVICE, BPF_PROG_TYPE_SK_MSG, BPF_PROG_TYPE_RAW_TRACEPOINT,
	BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_PROG_TYPE_LWT_SEG6LOCAL, BPF_PROG_TYPE_LIRC_MODE2,
	BPF_PROG_TYPE_SK_REUSEPORT, BPF_PROG_TYPE_FLOW_DISSECTOR, BPF_PROG_TYPE_CGROUP_SYSCTL,
	BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_PROG_TYPE_TRACING,
	BPF_PROG_TYPE_STRUCT_OPS, BPF_PROG_TYPE_EXT, BPF_PROG_TYPE_LSM, BPF_PROG_TYPE_SK_LOOKUP,
	BPF_PROG_TYPE_SYSCALL,
};

enum bpf_attach_type {
	BPF_CGROUP_INET_INGRESS, BPF_CGROUP_INET_EGRESS, BPF_CGROUP_INET_SOCK_CREATE,
	BPF_CGROUP_SOCK_OPS, BPF_SK_SKB_STREAM_PARSER, BPF_SK_SKB_STREAM_VERDICT,
	BPF_CGROUP_DEVICE, BPF_SK_MSG_VERDICT, BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET6_BIND,
	BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT, BPF_CGROUP_INET4_POST_BIND,
	BPF_CGROUP_INET6_POST_BIND, BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_SENDMSG,
	BPF_LIRC_MODE2, BPF_FLOW_DISSECTOR, BPF_CGROUP_SYSCTL, BPF_CGROUP_UDP4_RECVMSG,
	BPF_CGROUP_UDP6_RECVMSG, BPF_CGROUP_GETSOCKOPT, BPF_CGROUP_SETSOCKOPT, BPF_TRACE_RAW_TP,
	BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_MODIFY_RETURN, BPF_LSM_MAC, BPF_TRACE_ITER,
	BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_INET4_GETSOCKNAME,
	BPF_CGROUP_INET6_GETSOCKNAME, BPF_XDP_DEVMAP, BPF_CGROUP_INET_SOCK_RELEASE, BPF_XDP_CPUMAP,
	BPF_SK_LOOKUP, BPF_XDP, BPF_SK_SKB_VERDICT, BPF_SK_REUSEPORT_SELECT,
	BPF_SK_REUSEPORT_SELECT_OR_MIGRATE, BPF_PERF_EVENT, BPF_TRACE_KPROBE_MULTI, BPF_LSM_CGROUP,
};

/* How an element is stored. */
enum {
	BPF_ANY, BPF_NOEXIST, BPF_EXIST, BPF_F_LOCK = 4,
};

#endif /* __LINUX_BPF_H__ */

/* -- Maps ------------------------------------------------------------------- */

struct bpf_map {
	bpf_object_skel obj_ptr;
	char name[64];
};

/* An fd, good for calls of this header alone, or a negated errno. */
static inline int bpf_map__fd(const struct bpf_map *map)
{
	if (!map || !map->obj_ptr) {
		errno = EINVAL;
		return -errno;
	}
	return libbpf_wasm__error(wasm_bpf_map_fd_by_name(map->obj_ptr, map->name));
}

static inline const char *bpf_map__name(const struct bpf_map *map)
{
	return map->name;
}

static inline int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
{
	return libbpf_wasm__error(wasm_bpf_map_operate(fd, BPF_MAP_UPDATE_ELEM, (void *)key,
						       (void *)value, NULL, flags));
}

/* Maps of each processor want room for as many values as the host has
 * processors, each rounded up to 8 bytes. */
static inline int bpf_map_lookup_elem_flags(int fd, const void *key, void *value, uint64_t flags)
{
	return libbpf_wasm__error(wasm_bpf_map_operate(fd, BPF_MAP_LOOKUP_ELEM, (void *)key, value,
						       NULL, flags));
}

static inline int bpf_map_lookup_elem(int fd, const void *key, void *value)
{
	return bpf_map_lookup_elem_flags(fd, key, value, 0);
}

static inline int bpf_map_delete_elem_flags(int fd, const void *key, uint64_t flags)
{
	return libbpf_wasm__error(wasm_bpf_map_operate(fd, BPF_MAP_DELETE_ELEM, (void *)key, NULL,
						       NULL, flags));
}

static inline int bpf_map_delete_elem(int fd, const void *key)
{
	return bpf_map_delete_elem_flags(fd, key, 0);
}

/* The key behind `key`; the first one with NULL. -ENOENT when there is none. */
static inline int bpf_map_get_next_key(int fd, const void *key, void *next_key)
{
	return libbpf_wasm__error(wasm_bpf_map_operate(fd, BPF_MAP_GET_NEXT_KEY, (void *)key, NULL,
						       next_key, 0));
}

/* -- Programs --------------------------------------------------------------- */

struct bpf_program {
	bpf_object_skel obj_ptr;
	char name[64];
	char attach_target[128];
	bool autoattach;
	/* A directory that the guest was given (`--dir`); negative for none. */
	int attach_target_fd;
	/* wasm_attach_bpf_program_fd, where it is used. */
	int (*attach_fd)(bpf_object_skel, const char *, int);
	/* Why the target cannot be kept, or 0. */
	int target_error;
};

static inline const char *bpf_program__name(const struct bpf_program *prog)
{
	return prog->name;
}

/* Attaches a program somewhere else than its section says: an interface, a
 * control group's directory, PATH:FUNCTION, CATEGORY:NAME; see docs/guests.md.
 * NULL and "" stand for the section. A target that is too long is refused here
 * and when the program is attached, never cut. */
static inline int bpf_set_prog_attach_target(struct bpf_program *prog, const char *attach_target)
{
	size_t length = attach_target ? strlen(attach_target) : 0;

	prog->attach_target[0] = '\0';
	prog->attach_target_fd = -1;
	prog->target_error = 0;
	if (length >= sizeof(prog->attach_target)) {
		errno = ENAMETOOLONG;
		prog->target_error = -ENAMETOOLONG;
		return prog->target_error;
	}
	if (length)
		memcpy(prog->attach_target, attach_target, length + 1);
	return 0;
}

/* Attaches a program to the control group that a directory of the guest's is. */
static inline int bpf_set_prog_attach_target_fd(struct bpf_program *prog, int fd)
{
	prog->attach_target[0] = '\0';
	prog->attach_target_fd = fd;
	prog->attach_fd = wasm_attach_bpf_program_fd;
	prog->target_error = 0;
	return 0;
}

/* Whether NAME__attach() attaches it. */
static inline void bpf_program__set_autoattach(struct bpf_program *prog, bool autoattach)
{
	prog->autoattach = autoattach;
}

/* The host loads all programs of an object: one that is not wanted is loaded,
 * but not attached. */
static inline int bpf_program__set_autoload(struct bpf_program *prog, bool autoload)
{
	prog->autoattach = autoload;
	return 0;
}

/* Attaches one program; its end is that of the object. */
static inline int bpf_program__attach_to(const struct bpf_program *prog)
{
	int err;

	if (prog->target_error) {
		errno = -prog->target_error;
		return prog->target_error;
	}
	if (prog->attach_target_fd >= 0 && prog->attach_fd)
		err = prog->attach_fd(prog->obj_ptr, prog->name, prog->attach_target_fd);
	else
		err = wasm_attach_bpf_program(prog->obj_ptr, prog->name,
					      prog->attach_target[0] ? prog->attach_target : NULL);
	err = libbpf_wasm__error(err);
	return err < 0 ? err : 0;
}

/* -- Skeletons -------------------------------------------------------------- */

struct bpf_map_skeleton {
	const char *name;
	struct bpf_map **map;
	/* Where the skeleton keeps the pointer to the variables, if it is a map of such. */
	void **mmaped;
	/* Where they lie in the object's bytes, and how many they are; a .bss lies
	 * nowhere. Older skeletons have neither. */
	size_t data_offset;
	size_t data_sz;
};

struct bpf_prog_skeleton {
	const char *name;
	struct bpf_program **prog;
};

struct bpf_object_skeleton {
	size_t sz;
	const char *name;
	void *data;
	size_t data_sz;
	size_t rodata_offset;
	size_t bss_offset;
	bpf_object_skel obj;
	int map_cnt;
	int map_skel_sz;
	struct bpf_map_skeleton *maps;
	int prog_cnt;
	int prog_skel_sz;
	struct bpf_prog_skeleton *progs;
	/* This object's own copy of `data`, in which variables are set. */
	void *bytes;
};

struct bpf_object_open_opts;

static inline struct bpf_map_skeleton *libbpf_wasm__map(const struct bpf_object_skeleton *s, int i)
{
	return (struct bpf_map_skeleton *)((char *)s->maps + (size_t)i * (size_t)s->map_skel_sz);
}

static inline struct bpf_prog_skeleton *libbpf_wasm__prog(const struct bpf_object_skeleton *s, int i)
{
	return (struct bpf_prog_skeleton *)((char *)s->progs + (size_t)i * (size_t)s->prog_skel_sz);
}

static inline int libbpf_wasm__name(char to[64], const char *name)
{
	size_t length = strlen(name);

	if (length >= 64)
		return -(errno = ENAMETOOLONG);
	memcpy(to, name, length + 1);
	return 0;
}

/* Points the skeleton at a map's variables, as they are before the load. */
static inline int libbpf_wasm__variables(const struct bpf_object_skeleton *s,
					 const struct bpf_map_skeleton *map)
{
	static const char rodata[] = ".rodata";
	size_t length = strlen(map->name), suffix = sizeof(rodata) - 1;

	if (!map->mmaped)
		return 0;
	if (map->data_offset)
		*map->mmaped = (char *)s->bytes + map->data_offset;
	else if (map->data_sz)
		*map->mmaped = calloc(1, map->data_sz);
	else if (s->rodata_offset && length >= suffix && !strcmp(map->name + length - suffix, rodata))
		*map->mmaped = (char *)s->bytes + s->rodata_offset;
	else
		return 0;
	return *map->mmaped ? 0 : -(errno = ENOMEM);
}

static inline int bpf_object__open_skeleton(struct bpf_object_skeleton *s,
					    const struct bpf_object_open_opts *opts)
{
	int i, err;

	(void)opts;
	if (!s || !s->data || !s->data_sz)
		return -(errno = EINVAL);
	s->bytes = malloc(s->data_sz);
	if (!s->bytes)
		return -(errno = ENOMEM);
	memcpy(s->bytes, s->data, s->data_sz);
	for (i = 0; i < s->map_cnt; i++) {
		struct bpf_map_skeleton *map = libbpf_wasm__map(s, i);

		*map->map = (struct bpf_map *)calloc(1, sizeof(struct bpf_map));
		if (!*map->map)
			return -(errno = ENOMEM);
		err = libbpf_wasm__name((*map->map)->name, map->name);
		err = err ? err : libbpf_wasm__variables(s, map);
		if (err)
			return err;
	}
	for (i = 0; i < s->prog_cnt; i++) {
		struct bpf_prog_skeleton *prog = libbpf_wasm__prog(s, i);

		*prog->prog = (struct bpf_program *)calloc(1, sizeof(struct bpf_program));
		if (!*prog->prog)
			return -(errno = ENOMEM);
		(*prog->prog)->autoattach = true;
		(*prog->prog)->attach_target_fd = -1;
		err = libbpf_wasm__name((*prog->prog)->name, prog->name);
		if (err)
			return err;
	}
	return 0;
}

/* Whether a map holds variables that programs may change. */
static inline bool libbpf_wasm__shared(const struct bpf_map_skeleton *map)
{
	return map->mmaped && *map->mmaped && map->data_sz && strncmp(map->name, ".rodata", 7);
}

/* Copies .data and .bss as programs left them into what the skeleton points to
 * (`write` false), or what it points to into them. */
static inline int libbpf_wasm__copy_globals(const struct bpf_object_skeleton *s, bool write)
{
	uint32_t zero = 0;
	int i, fd, err;

	for (i = 0; i < s->map_cnt; i++) {
		const struct bpf_map_skeleton *map = libbpf_wasm__map(s, i);

		if (s->map_skel_sz < (int)sizeof(*map) || !libbpf_wasm__shared(map))
			continue;
		fd = bpf_map__fd(*map->map);
		if (fd < 0)
			return fd;
		err = write ? bpf_map_update_elem(fd, &zero, *map->mmaped, BPF_ANY)
			    : bpf_map_lookup_elem(fd, &zero, *map->mmaped);
		if (err < 0)
			return err;
	}
	return 0;
}

static inline int bpf_object__load_skeleton(struct bpf_object_skeleton *s)
{
	int i;
	size_t byte;

	if (!s || !s->bytes || s->obj)
		return -(errno = EINVAL);
	s->obj = wasm_load_bpf_object(s->bytes, (int)s->data_sz);
	/* The host has told the user why. */
	if (!s->obj)
		return -(errno = EINVAL);
	for (i = 0; i < s->prog_cnt; i++)
		(*libbpf_wasm__prog(s, i)->prog)->obj_ptr = s->obj;
	for (i = 0; i < s->map_cnt; i++)
		(*libbpf_wasm__map(s, i)->map)->obj_ptr = s->obj;
	/* What was set in .bss is not in the object's bytes. */
	for (i = 0; i < s->map_cnt; i++) {
		const struct bpf_map_skeleton *map = libbpf_wasm__map(s, i);

		if (s->map_skel_sz < (int)sizeof(*map) || map->data_offset || !libbpf_wasm__shared(map))
			continue;
		for (byte = 0; byte < map->data_sz; byte++)
			if (((const char *)*map->mmaped)[byte])
				return libbpf_wasm__copy_globals(s, true);
	}
	return 0;
}

/* Attaches all programs but those that were excepted; ends at the first that
 * cannot be attached. */
static inline int bpf_object__attach_skeleton(struct bpf_object_skeleton *s)
{
	int i, err;

	if (!s || !s->obj)
		return -(errno = EINVAL);
	for (i = 0; i < s->prog_cnt; i++) {
		const struct bpf_program *prog = *libbpf_wasm__prog(s, i)->prog;

		err = prog->autoattach ? bpf_program__attach_to(prog) : 0;
		if (err)
			return err;
	}
	return 0;
}

/* There is no call for it: programs are detached when the object is destroyed. */
static inline int bpf_object__detach_skeleton(struct bpf_object_skeleton *s)
{
	(void)s;
	return 0;
}

static inline void bpf_object__destroy_skeleton(struct bpf_object_skeleton *s)
{
	int i;

	if (!s)
		return;
	if (s->obj)
		wasm_close_bpf_object(s->obj);
	for (i = 0; s->maps && i < s->map_cnt; i++) {
		struct bpf_map_skeleton *map = libbpf_wasm__map(s, i);

		if (s->map_skel_sz >= (int)sizeof(*map) && map->mmaped && !map->data_offset &&
		    map->data_sz)
			free(*map->mmaped);
		if (map->map)
			free(*map->map);
	}
	for (i = 0; s->progs && i < s->prog_cnt; i++)
		if (libbpf_wasm__prog(s, i)->prog)
			free(*libbpf_wasm__prog(s, i)->prog);
	free(s->bytes);
	free(s->maps);
	free(s->progs);
	free(s);
}

/* -- Ring buffers and perf buffers ------------------------------------------ */

/* Longer records are cut off. */
#ifndef BPF_BUFFER_MAX_RECORD
#define BPF_BUFFER_MAX_RECORD 65536
#endif

/* Milliseconds, where none are given. */
#define POLL_TIMEOUT_MS 100

typedef int (*bpf_buffer_sample_fn)(void *ctx, void *data, size_t size);

/* One for each map; an object may have several. */
struct bpf_buffer {
	struct bpf_map *events;
	int fd;
	void *ctx;
	bpf_buffer_sample_fn sample_fn;
	char *data;
	int last;
};

static inline struct bpf_buffer *bpf_buffer__new(struct bpf_map *events)
{
	struct bpf_buffer *buffer = (struct bpf_buffer *)calloc(1, sizeof(*buffer));

	if (!buffer)
		return NULL;
	buffer->events = events;
	buffer->fd = bpf_map__fd(events);
	buffer->data = (char *)malloc(BPF_BUFFER_MAX_RECORD);
	if (buffer->fd < 0 || !buffer->data) {
		int err = buffer->fd < 0 ? -buffer->fd : ENOMEM;

		free(buffer->data);
		free(buffer);
		errno = err;
		return NULL;
	}
	return buffer;
}

static inline struct bpf_buffer *bpf_buffer__open(struct bpf_map *events,
						  bpf_buffer_sample_fn sample_cb, void *ctx)
{
	struct bpf_buffer *buffer = bpf_buffer__new(events);

	if (buffer) {
		buffer->sample_fn = sample_cb;
		buffer->ctx = ctx;
	}
	return buffer;
}

/* Called by the host through the table of functions. */
static int libbpf_wasm__sample(void *ctx, void *data, size_t size)
{
	struct bpf_buffer *buffer = (struct bpf_buffer *)ctx;

	buffer->last = buffer->sample_fn(buffer->ctx, data, size);
	return buffer->last;
}

/* How many records there were, or what the function gave for the last one if
 * that is negative. A timeout of 0 or less stands for POLL_TIMEOUT_MS. */
static inline int bpf_buffer__poll(struct bpf_buffer *buffer, int timeout_ms)
{
	int result;

	if (!buffer || !buffer->sample_fn)
		return -(errno = EINVAL);
	buffer->last = 0;
	result = wasm_bpf_buffer_poll(buffer->events->obj_ptr, buffer->fd,
				      (int32_t)(uintptr_t)libbpf_wasm__sample,
				      (uint32_t)(uintptr_t)buffer, buffer->data,
				      BPF_BUFFER_MAX_RECORD,
				      timeout_ms > 0 ? timeout_ms : POLL_TIMEOUT_MS);
	return result < 0 && result == buffer->last ? result : libbpf_wasm__error(result);
}

static inline void bpf_buffer__free(struct bpf_buffer *buffer)
{
	if (!buffer)
		return;
	free(buffer->data);
	free(buffer);
}

#ifdef __cplusplus
}
#endif

#endif /* _LIBBPF_WASM_H */
