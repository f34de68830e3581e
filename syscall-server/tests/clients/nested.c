// Maps of maps: what may be in them, and what bpf(2) says to what is done with
// them. The output on the kernel and under the library must be equal.
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PTR(p) ((uint64_t)(uintptr_t)(p))
#define INNER_MAP (1U << 12)

static union bpf_attr attr;

static long bpf(int cmd) { return syscall(SYS_bpf, cmd, &attr, sizeof attr); }

static long say(const char *what, long answer) {
	printf("%s: errno %d\n", what, answer < 0 ? errno : 0);
	return answer;
}

struct shape {
	int type, key, value, max, flags;
};

static int make(struct shape s, int inner) {
	memset(&attr, 0, sizeof attr);
	attr.map_type = s.type, attr.key_size = s.key, attr.value_size = s.value;
	attr.max_entries = s.max, attr.map_flags = s.flags, attr.inner_map_fd = inner;
	return bpf(BPF_MAP_CREATE);
}

static long elem(int cmd, int fd, uint32_t key, void *value, uint64_t flags) {
	memset(&attr, 0, sizeof attr);
	attr.map_fd = fd, attr.key = PTR(&key), attr.value = PTR(value), attr.flags = flags;
	return bpf(cmd);
}

static uint32_t id_of(int fd) {
	struct bpf_map_info info = {};
	memset(&attr, 0, sizeof attr);
	attr.info.bpf_fd = fd, attr.info.info = PTR(&info), attr.info.info_len = sizeof info;
	return bpf(BPF_OBJ_GET_INFO_BY_FD) ? 0 : info.id;
}

// Which of the maps is under a key, by its place in `maps`; -1 for none.
static int under(int fd, uint32_t key, int *maps, int count) {
	uint32_t id = 0;
	if (elem(BPF_MAP_LOOKUP_ELEM, fd, key, &id, 0))
		return -errno;
	for (int i = 0; i < count; i++)
		if (id_of(maps[i]) == id)
			return i;
	return 1000;
}

static const struct shape shapes[] = {
	{BPF_MAP_TYPE_ARRAY, 4, 8, 4, 0},
	{BPF_MAP_TYPE_ARRAY, 4, 8, 5, 0},
	{BPF_MAP_TYPE_ARRAY, 4, 8, 4, INNER_MAP},
	{BPF_MAP_TYPE_ARRAY, 4, 8, 5, INNER_MAP},
	{BPF_MAP_TYPE_ARRAY, 4, 16, 4, 0},
	{BPF_MAP_TYPE_HASH, 4, 8, 4, 0},
	{BPF_MAP_TYPE_HASH, 4, 8, 5, 0},
	{BPF_MAP_TYPE_HASH, 8, 8, 4, 0},
	{BPF_MAP_TYPE_HASH, 4, 8, 4, BPF_F_NO_PREALLOC},
	{BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 4, 0},
	{BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 5, 0},
	{BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 4, 0},
	{BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0},
	{BPF_MAP_TYPE_RINGBUF, 0, 0, 8192, 0},
	{BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4, 0},
	{BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0},
	{BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 4, 0},
	{BPF_MAP_TYPE_STACK_TRACE, 4, 80, 4, 0},
	{BPF_MAP_TYPE_STACK_TRACE, 4, 80, 5, 0},
};
#define SHAPES (int)(sizeof shapes / sizeof *shapes)

// Every shape as template, every shape as element.
static void likeness(int type, int *maps) {
	char what[80];
	for (int t = 0; t < SHAPES; t++) {
		int outer = make((struct shape){type, 4, 4, 3, 0}, maps[t]);
		snprintf(what, sizeof what, "type %d of shape %d", type, t);
		if (say(what, outer) < 0)
			continue;
		for (int i = 0; i < SHAPES; i++) {
			snprintf(what, sizeof what, "type %d of shape %d takes %d", type, t, i);
			say(what, elem(BPF_MAP_UPDATE_ELEM, outer, 1, &maps[i], 0));
			printf("holds %d\n", under(outer, 1, maps, SHAPES));
		}
		close(outer);
	}
}

static void creation(int type, int inner, int program) {
	char what[80];
	const struct shape tries[] = {{type, 4, 4, 1, 0},  {type, 4, 8, 1, 0}, {type, 8, 4, 1, 0},
				      {type, 4, 4, 0, 0},  {type, 0, 4, 1, 0}, {type, 4, 0, 1, 0},
				      {type, 4, 4, 1, 1},  {type, 4, 4, 1, BPF_F_MMAPABLE},
				      {type, 4, 4, 1, INNER_MAP}, {type, 4, 4, 1, BPF_F_RDONLY_PROG},
				      {type, 4, 4, 1, BPF_F_WRONLY_PROG}, {type, 4, 4, 1, BPF_F_ZERO_SEED}};
	const int fds[] = {inner, -1, 555, program, 0};
	for (unsigned i = 0; i < sizeof tries / sizeof *tries; i++)
		for (unsigned f = 0; f < sizeof fds / sizeof *fds; f++) {
			snprintf(what, sizeof what, "type %d, try %u, template %u", type, i, f);
			int fd = say(what, make(tries[i], fds[f]));
			// No level below the second.
			if (fd >= 0) {
				say("third level", make((struct shape){type, 4, 4, 1, 0}, fd));
				close(fd);
			}
		}
}

static void elements(int type, int *maps, int program) {
	const uint64_t flags[] = {BPF_ANY, BPF_NOEXIST, BPF_EXIST, 3, BPF_F_LOCK, 8, 1ULL << 40};
	int fds[] = {maps[0], maps[5], -1, 555, program, 0};
	uint32_t keys[8], values[8], cursor = 0, next;
	char what[80];
	int outer = make((struct shape){type, 4, 4, 2, 0}, maps[0]);
	for (uint32_t key = 0; key < 4; key++)
		for (unsigned f = 0; f < sizeof flags / sizeof *flags; f++)
			for (unsigned v = 0; v < sizeof fds / sizeof *fds; v++) {
				snprintf(what, sizeof what, "type %d: key %u flags %u value %u", type, key, f, v);
				say(what, elem(BPF_MAP_UPDATE_ELEM, outer, key, &fds[v], flags[f]));
				printf("holds %d\n", under(outer, key, maps, SHAPES));
			}
	for (uint32_t key = 0; key < 4; key++) {
		say("lookup with a flag", elem(BPF_MAP_LOOKUP_ELEM, outer, key, values, 1));
		say("lookup with the lock", elem(BPF_MAP_LOOKUP_ELEM, outer, key, values, BPF_F_LOCK));
		say("lookup and delete", elem(BPF_MAP_LOOKUP_AND_DELETE_ELEM, outer, key, values, 0));
		say("delete", elem(BPF_MAP_DELETE_ELEM, outer, key, NULL, 0));
		say("delete again", elem(BPF_MAP_DELETE_ELEM, outer, key, NULL, 0));
		say("next", elem(BPF_MAP_GET_NEXT_KEY, outer, key, &next, 0));
	}
	int sizes[] = {1, 2, 3};
	for (int i = 0; i < 3; i++) {
		for (int k = 0; k < 3; k++)
			keys[k] = k, values[k] = maps[0];
		memset(&attr, 0, sizeof attr);
		attr.batch.map_fd = outer, attr.batch.keys = PTR(keys), attr.batch.values = PTR(values);
		attr.batch.count = sizes[i];
		say("update batch", bpf(BPF_MAP_UPDATE_BATCH));
		printf("count %u\n", attr.batch.count);
	}
	for (int i = 0; i < 2; i++) {
		memset(&attr, 0, sizeof attr);
		attr.batch.map_fd = outer, attr.batch.keys = PTR(keys), attr.batch.values = PTR(values);
		attr.batch.out_batch = PTR(&cursor), attr.batch.count = 8;
		say("lookup batch", bpf(i ? BPF_MAP_LOOKUP_AND_DELETE_BATCH : BPF_MAP_LOOKUP_BATCH));
		printf("count %u, the id is the map's: %d\n", attr.batch.count, values[0] == id_of(maps[0]));
	}
	memset(&attr, 0, sizeof attr);
	attr.batch.map_fd = outer, attr.batch.keys = PTR(keys), attr.batch.count = 1;
	say("delete batch", bpf(BPF_MAP_DELETE_BATCH));
	memset(&attr, 0, sizeof attr);
	attr.map_fd = outer;
	say("freeze", bpf(BPF_MAP_FREEZE));
	say("update when frozen", elem(BPF_MAP_UPDATE_ELEM, outer, 0, &fds[2], 99));
	say("delete when frozen", elem(BPF_MAP_DELETE_ELEM, outer, 9, NULL, 0));
	close(outer);
}

// An element lives without an fd of its own, and goes with its last holder.
static void lives(int type, struct shape shape) {
	uint32_t id, other;
	int inner = make(shape, 0), outer = make((struct shape){type, 4, 4, 2, 0}, inner);
	say("put", elem(BPF_MAP_UPDATE_ELEM, outer, 0, &inner, 0));
	say("put twice", elem(BPF_MAP_UPDATE_ELEM, outer, 1, &inner, 0));
	uint32_t key = 2, value[2] = {42, 43};
	say("fill", elem(BPF_MAP_UPDATE_ELEM, inner, key, value, 0));
	close(inner);
	for (int i = 0; i < 2; i++) {
		say("find", elem(BPF_MAP_LOOKUP_ELEM, outer, 1 - i, &id, 0));
		memset(&attr, 0, sizeof attr);
		attr.map_id = id;
		int again = say("open", bpf(BPF_MAP_GET_FD_BY_ID));
		memset(value, 0, sizeof value);
		say("look", elem(BPF_MAP_LOOKUP_ELEM, again, key, value, 0));
		printf("%u %u\n", value[0], value[1]);
		close(again);
		say("take out", elem(BPF_MAP_DELETE_ELEM, outer, i, NULL, 0));
	}
	other = id;
	// The kernel frees it a little later.
	for (int i = 0; i < 1000; i++) {
		memset(&attr, 0, sizeof attr);
		attr.map_id = other;
		int again = bpf(BPF_MAP_GET_FD_BY_ID);
		if (again < 0)
			break;
		close(again);
		usleep(1000);
	}
	memset(&attr, 0, sizeof attr);
	attr.map_id = other;
	say("open what is gone", bpf(BPF_MAP_GET_FD_BY_ID));
	close(outer);
}

int main(void) {
	int maps[SHAPES], types[] = {BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS};
	struct bpf_insn insns[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	attr.prog_type = BPF_PROG_TYPE_KPROBE, attr.insns = PTR(insns), attr.insn_cnt = 2, attr.license = PTR("GPL");
	int program = bpf(BPF_PROG_LOAD);
	for (int i = 0; i < SHAPES; i++)
		maps[i] = make(shapes[i], 0);
	for (int i = 0; i < 2; i++) {
		likeness(types[i], maps);
		creation(types[i], maps[0], program);
		elements(types[i], maps, program);
		lives(types[i], shapes[0]);
		lives(types[i], shapes[5]);
	}
	return 0;
}
