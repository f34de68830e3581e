// Makes calls whose answer the kernel decides by rules, and prints each
// answer: run once on the kernel and once under the library, the outputs must
// be equal.
#include <errno.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static union bpf_attr attr;
static char big[8192];

static long bpf(int cmd, void *a, unsigned size) { return syscall(SYS_bpf, cmd, a, size); }

static long say(const char *what, long answer) {
	int error = errno;
	if (answer < 0)
		printf("%s: errno %d\n", what, error);
	else
		printf("%s: ok\n", what);
	fflush(stdout);
	return answer;
}

#define CALL(what, cmd, ...)                                                   \
	({                                                                     \
		memset(&attr, 0, sizeof attr);                                 \
		__VA_ARGS__;                                                   \
		say(what, bpf(cmd, &attr, sizeof attr));                       \
	})

static int map_of(int type, int key, int value, int max, int flags) {
	memset(&attr, 0, sizeof attr);
	attr.map_type = type, attr.key_size = key, attr.value_size = value;
	attr.max_entries = max, attr.map_flags = flags;
	return bpf(BPF_MAP_CREATE, &attr, sizeof attr);
}

#define PTR(p) ((uint64_t)(uintptr_t)(p))

static void attributes(void) {
	say("size 0", bpf(BPF_MAP_CREATE, big, 0));
	say("size 4096 of zeros", bpf(BPF_MAP_CREATE, big, 4096));
	say("size 4097", bpf(BPF_MAP_CREATE, big, 4097));
	big[168] = 1;
	say("unknown byte", bpf(BPF_MAP_CREATE, big, 169));
	big[168] = 0;
	say("unknown command", bpf(999, big, 8));
	say("bad address", bpf(BPF_MAP_CREATE, (void *)8, 16));
	CALL("a byte of another command", BPF_MAP_FREEZE, attr.map_fd = -1; attr.key_size = 1);
}

static void map_creation(void) {
	say("no such map type", map_of(9999, 4, 4, 1, 0));
	say("array", map_of(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0));
	say("array key size", map_of(BPF_MAP_TYPE_ARRAY, 8, 4, 1, 0));
	say("array value size", map_of(BPF_MAP_TYPE_ARRAY, 4, 0, 1, 0));
	say("array without entries", map_of(BPF_MAP_TYPE_ARRAY, 4, 4, 0, 0));
	say("array flags", map_of(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 1));
	say("array mmapable", map_of(BPF_MAP_TYPE_ARRAY, 4, 4, 1, BPF_F_MMAPABLE));
	say("hash", map_of(BPF_MAP_TYPE_HASH, 4, 4, 1, 0));
	say("hash without key", map_of(BPF_MAP_TYPE_HASH, 0, 4, 1, 0));
	say("hash mmapable", map_of(BPF_MAP_TYPE_HASH, 4, 4, 1, BPF_F_MMAPABLE));
	say("ring", map_of(BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0));
	say("ring size", map_of(BPF_MAP_TYPE_RINGBUF, 0, 0, 4097, 0));
	say("ring with keys", map_of(BPF_MAP_TYPE_RINGBUF, 4, 0, 4096, 0));
	say("perf array", map_of(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2, 0));
	say("perf array value size", map_of(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 8, 2, 0));
	say("stack trace", map_of(BPF_MAP_TYPE_STACK_TRACE, 4, 127 * 8, 2, 0));
	say("stack trace value size", map_of(BPF_MAP_TYPE_STACK_TRACE, 4, 7, 2, 0));
	CALL("name", BPF_MAP_CREATE, attr.map_type = BPF_MAP_TYPE_ARRAY; attr.key_size = 4; attr.value_size = 4;
	     attr.max_entries = 1; strcpy(attr.map_name, "a.b_C9"));
	CALL("name with a space", BPF_MAP_CREATE, attr.map_type = BPF_MAP_TYPE_ARRAY; attr.key_size = 4;
	     attr.value_size = 4; attr.max_entries = 1; strcpy(attr.map_name, "a b"));
	CALL("name without end", BPF_MAP_CREATE, attr.map_type = BPF_MAP_TYPE_ARRAY; attr.key_size = 4;
	     attr.value_size = 4; attr.max_entries = 1; memset(attr.map_name, 'x', 16));
	CALL("types without a description", BPF_MAP_CREATE, attr.map_type = BPF_MAP_TYPE_ARRAY; attr.key_size = 4;
	     attr.value_size = 4; attr.max_entries = 1; attr.btf_fd = -1; attr.btf_value_type_id = 1);
}

static long elem(const char *what, int cmd, int fd, void *key, void *value, uint64_t flags) {
	return CALL(what, cmd, attr.map_fd = fd; attr.key = PTR(key); attr.value = PTR(value); attr.flags = flags);
}

static void elements(const char *kind, int type) {
	uint32_t key = 1, value[16] = {7}, next = 0;
	char what[80];
	int fd = map_of(type, 4, 4, 4, 0);
#define ELEM(text, cmd, k, v, f) (snprintf(what, sizeof what, "%s: %s", kind, text), elem(what, cmd, fd, k, v, f))
	ELEM("lookup of nothing", BPF_MAP_LOOKUP_ELEM, &key, value, 0);
	ELEM("update of a key that must exist", BPF_MAP_UPDATE_ELEM, &key, value, BPF_EXIST);
	ELEM("update of a key that must not", BPF_MAP_UPDATE_ELEM, &key, value, BPF_NOEXIST);
	ELEM("update", BPF_MAP_UPDATE_ELEM, &key, value, BPF_ANY);
	ELEM("update again", BPF_MAP_UPDATE_ELEM, &key, value, BPF_NOEXIST);
	ELEM("update with unknown flags", BPF_MAP_UPDATE_ELEM, &key, value, 99);
	ELEM("update from nowhere", BPF_MAP_UPDATE_ELEM, &key, (void *)8, 0);
	ELEM("lookup", BPF_MAP_LOOKUP_ELEM, &key, value, 0);
	ELEM("lookup with unknown flags", BPF_MAP_LOOKUP_ELEM, &key, value, 99);
	ELEM("lookup of no key", BPF_MAP_LOOKUP_ELEM, NULL, value, 0);
	ELEM("lookup to nowhere", BPF_MAP_LOOKUP_ELEM, &key, (void *)8, 0);
	ELEM("first key", BPF_MAP_GET_NEXT_KEY, NULL, &next, 0);
	printf("%s: first key is %u\n", kind, next);
	ELEM("delete", BPF_MAP_DELETE_ELEM, &key, NULL, 0);
	ELEM("delete again", BPF_MAP_DELETE_ELEM, &key, NULL, 0);
	ELEM("delete with flags", BPF_MAP_DELETE_ELEM, &key, NULL, 1);
	key = 4;
	ELEM("lookup beyond", BPF_MAP_LOOKUP_ELEM, &key, value, 0);
	for (key = 10; key < 14; key++)
		ELEM("fill", BPF_MAP_UPDATE_ELEM, &key, value, 0);
	ELEM("one too many", BPF_MAP_UPDATE_ELEM, &key, value, 0);
	CALL("freeze", BPF_MAP_FREEZE, attr.map_fd = fd);
	CALL("freeze again", BPF_MAP_FREEZE, attr.map_fd = fd);
	key = 1;
	ELEM("update when frozen", BPF_MAP_UPDATE_ELEM, &key, value, 0);
	ELEM("delete when frozen", BPF_MAP_DELETE_ELEM, &key, NULL, 0);
	close(fd);
	ELEM("lookup when closed", BPF_MAP_LOOKUP_ELEM, &key, value, 0);
}

static void batches(void) {
	uint32_t keys[8], values[8], cursor = 0, i;
	int fd = map_of(BPF_MAP_TYPE_HASH, 4, 4, 8, 0);
	for (i = 0; i < 8; i++)
		keys[i] = values[i] = i;
	CALL("update batch", BPF_MAP_UPDATE_BATCH, attr.batch.map_fd = fd; attr.batch.keys = PTR(keys);
	     attr.batch.values = PTR(values); attr.batch.count = 5);
	printf("count %u\n", attr.batch.count);
	CALL("lookup batch", BPF_MAP_LOOKUP_BATCH, attr.batch.map_fd = fd; attr.batch.keys = PTR(keys);
	     attr.batch.values = PTR(values); attr.batch.count = 8; attr.batch.out_batch = PTR(&cursor));
	printf("count %u\n", attr.batch.count);
	CALL("batch with unknown flags", BPF_MAP_LOOKUP_BATCH, attr.batch.map_fd = fd; attr.batch.count = 8;
	     attr.batch.flags = 1);
	CALL("lookup and delete batch", BPF_MAP_LOOKUP_AND_DELETE_BATCH, attr.batch.map_fd = fd;
	     attr.batch.keys = PTR(keys); attr.batch.values = PTR(values); attr.batch.count = 8;
	     attr.batch.out_batch = PTR(&cursor));
	printf("count %u\n", attr.batch.count);
	CALL("batch of an empty map", BPF_MAP_LOOKUP_BATCH, attr.batch.map_fd = fd; attr.batch.keys = PTR(keys);
	     attr.batch.values = PTR(values); attr.batch.count = 8; attr.batch.out_batch = PTR(&cursor));
	printf("count %u\n", attr.batch.count);
	keys[0] = 99;
	CALL("delete batch of nothing", BPF_MAP_DELETE_BATCH, attr.batch.map_fd = fd; attr.batch.keys = PTR(keys);
	     attr.batch.count = 1);
	printf("count %u\n", attr.batch.count);
}

static const struct bpf_insn good[] = {
	{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0},
	{.code = BPF_JMP | BPF_EXIT},
};
static char text[4096];

static long load_as(int type, const struct bpf_insn *insns, int count, int level, char *log, int size, int expected) {
	memset(&attr, 0, sizeof attr);
	attr.prog_type = type, attr.insns = PTR(insns), attr.insn_cnt = count;
	attr.license = PTR("GPL"), attr.log_level = level, attr.log_buf = PTR(log), attr.log_size = size;
	attr.expected_attach_type = expected;
	return bpf(BPF_PROG_LOAD, &attr, sizeof attr);
}

static void programs(void) {
	int kprobe = BPF_PROG_TYPE_KPROBE;
	struct bpf_insn no_exit[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}};
	struct bpf_insn no_r0[] = {{.code = BPF_JMP | BPF_EXIT}};
	struct bpf_insn unknown_helper[] = {{.code = BPF_JMP | BPF_CALL, .imm = 9999}, {.code = BPF_JMP | BPF_EXIT}};
	struct bpf_insn no_map[] = {{.code = BPF_LD | BPF_IMM | BPF_DW, .src_reg = BPF_PSEUDO_MAP_FD, .imm = 555},
				    {},
				    {.code = BPF_ALU64 | BPF_MOV | BPF_K},
				    {.code = BPF_JMP | BPF_EXIT}};
	say("program", load_as(kprobe, good, 2, 0, NULL, 0, 0));
	say("socket filter", load_as(BPF_PROG_TYPE_SOCKET_FILTER, good, 2, 0, NULL, 0, 0));
	say("no such program type", load_as(999, good, 2, 0, NULL, 0, 0));
	say("no instructions", load_as(kprobe, good, 0, 0, NULL, 0, 0));
	say("too many instructions", load_as(kprobe, good, 1000001, 0, NULL, 0, 0));
	say("instructions nowhere", load_as(kprobe, (void *)8, 2, 0, NULL, 0, 0));
	say("no end", load_as(kprobe, no_exit, 1, 0, NULL, 0, 0));
	say("no result", load_as(kprobe, no_r0, 1, 0, NULL, 0, 0));
	say("unknown helper", load_as(kprobe, unknown_helper, 2, 0, NULL, 0, 0));
	say("not a map", load_as(kprobe, no_map, 4, 0, NULL, 0, 0));
	say("log buffer without level", load_as(kprobe, good, 2, 0, text, sizeof text, 0));
	say("log buffer without size", load_as(kprobe, good, 2, 1, text, 0, 0));
	say("log size without buffer", load_as(kprobe, good, 2, 1, NULL, 100, 0));
	say("unknown log level", load_as(kprobe, good, 2, 64, text, sizeof text, 0));
	say("log of a good program", load_as(kprobe, good, 2, 1, text, sizeof text, 0));
	say("log too small", load_as(kprobe, good, 2, 1, text, 5, 0));
	printf("terminated: %d\n", text[4] == 0);
	say("log of a bad program", load_as(kprobe, no_r0, 1, 1, text, sizeof text, 0));
	printf("log names the register: %d\n", strstr(text, "R0 !read_ok") != NULL);
	CALL("license nowhere", BPF_PROG_LOAD, attr.prog_type = kprobe; attr.insns = PTR(good); attr.insn_cnt = 2);
	CALL("too many instructions", BPF_PROG_LOAD, attr.prog_type = kprobe; attr.insns = PTR(good); attr.insn_cnt = ~0u);
	CALL("function info without types", BPF_PROG_LOAD, attr.prog_type = kprobe; attr.insns = PTR(good);
	     attr.insn_cnt = 2; attr.license = PTR("MIT"); attr.prog_btf_fd = -1; attr.func_info_cnt = 1);
	CALL("unknown flags", BPF_PROG_LOAD, attr.prog_type = kprobe; attr.insns = PTR(good); attr.insn_cnt = 2;
	     attr.license = PTR("MIT"); attr.prog_flags = 1 << 30);
	CALL("program name with a space", BPF_PROG_LOAD, attr.prog_type = kprobe; attr.insns = PTR(good);
	     attr.insn_cnt = 2; attr.license = PTR("MIT"); strcpy(attr.prog_name, "a b"));
	int fd = load_as(BPF_PROG_TYPE_RAW_TRACEPOINT, good, 2, 0, NULL, 0, 0);
	CALL("test run", BPF_PROG_TEST_RUN, attr.test.prog_fd = fd);
	CALL("test run with data", BPF_PROG_TEST_RUN, attr.test.prog_fd = fd; attr.test.data_in = PTR(text));
	CALL("test run of no program", BPF_PROG_TEST_RUN, attr.test.prog_fd = 555);
	fd = load_as(kprobe, good, 2, 0, NULL, 0, 0);
	CALL("test run of a kprobe", BPF_PROG_TEST_RUN, attr.test.prog_fd = fd);
	int map = map_of(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0);
	CALL("bind", BPF_PROG_BIND_MAP, attr.prog_bind_map.prog_fd = fd; attr.prog_bind_map.map_fd = map);
	CALL("bind a program", BPF_PROG_BIND_MAP, attr.prog_bind_map.prog_fd = fd; attr.prog_bind_map.map_fd = fd);
	CALL("bind with flags", BPF_PROG_BIND_MAP, attr.prog_bind_map.prog_fd = fd; attr.prog_bind_map.map_fd = map;
	     attr.prog_bind_map.flags = 1);
}

static void descriptions(void) {
	unsigned char btf[] = {0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 16, 0, 0, 0, 5, 0, 0, 0,
			       1,    0,    0, 0, 0,  0, 0, 1, 4, 0, 0, 0, 32, 0, 0, 1, 0,  'i', 'n', 't', 0};
	CALL("description", BPF_BTF_LOAD, attr.btf = PTR(btf); attr.btf_size = sizeof btf);
	CALL("description cut short", BPF_BTF_LOAD, attr.btf = PTR(btf); attr.btf_size = sizeof btf - 1);
	CALL("description nowhere", BPF_BTF_LOAD, attr.btf = 8; attr.btf_size = sizeof btf);
	CALL("empty description", BPF_BTF_LOAD, attr.btf = PTR(btf); attr.btf_size = 0);
	btf[0] = 0;
	CALL("description without magic", BPF_BTF_LOAD, attr.btf = PTR(btf); attr.btf_size = sizeof btf);
	btf[0] = 0x9f, btf[31] = 31;
	CALL("description of an unknown kind", BPF_BTF_LOAD, attr.btf = PTR(btf); attr.btf_size = sizeof btf);
}

static void infos(void) {
	struct bpf_map_info info = {};
	int fd = map_of(BPF_MAP_TYPE_ARRAY, 4, 12, 3, 0);
	CALL("info", BPF_OBJ_GET_INFO_BY_FD, attr.info.bpf_fd = fd; attr.info.info = PTR(&info);
	     attr.info.info_len = sizeof info);
	printf("type %u key %u value %u entries %u\n", info.type, info.key_size, info.value_size, info.max_entries);
	big[4000] = 1;
	CALL("info with unknown bytes", BPF_OBJ_GET_INFO_BY_FD, attr.info.bpf_fd = fd; attr.info.info = PTR(big);
	     attr.info.info_len = 4096);
	big[4000] = 0;
	CALL("info nowhere", BPF_OBJ_GET_INFO_BY_FD, attr.info.bpf_fd = fd; attr.info.info = 8; attr.info.info_len = 80);
	CALL("info of no fd", BPF_OBJ_GET_INFO_BY_FD, attr.info.bpf_fd = 555);
	CALL("map by id", BPF_MAP_GET_FD_BY_ID, attr.map_id = info.id);
	CALL("no map by id", BPF_MAP_GET_FD_BY_ID, attr.map_id = ~0);
	CALL("no program by id", BPF_PROG_GET_FD_BY_ID, attr.prog_id = ~0);
	CALL("after the last map", BPF_MAP_GET_NEXT_ID, attr.start_id = ~0 >> 1);
}

static const char *self = "/proc/self/exe";

static int event(const char *path, uint64_t offset, int pid, int cpu, int flags, int size) {
	struct perf_event_attr perf = {.type = 8, .size = size, .config1 = PTR(path), .config2 = offset};
	FILE *type = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
	unsigned number = 8;
	if (!type || fscanf(type, "%u", &number) != 1)
		printf("no uprobe PMU\n");
	if (type)
		fclose(type);
	perf.type = number;
	return syscall(SYS_perf_event_open, &perf, pid, cpu, -1, flags);
}

static void events(void) {
	int good_size = sizeof(struct perf_event_attr);
	int fd = say("event", event(self, 0x1000, -1, 0, PERF_FLAG_FD_CLOEXEC, good_size));
	say("event of this process", event(self, 0x1000, getpid(), -1, 0, good_size));
	say("event of no process", event(self, 0x1000, 99999999, -1, 0, good_size));
	say("event nowhere", event(self, 0x1000, -1, -1, 0, good_size));
	say("event on no CPU", event(self, 0x1000, -1, 99999, 0, good_size));
	say("event without a path", event(NULL, 0x1000, -1, 0, 0, good_size));
	say("event with an empty path", event("", 0x1000, -1, 0, 0, good_size));
	say("event in no file", event("/nonexistent", 0, -1, 0, 0, good_size));
	say("event in a directory", event("/", 0, -1, 0, 0, good_size));
	say("event beyond the file", event(self, 1ull << 40, -1, 0, 0, good_size));
	say("event with unknown flags", event(self, 0x1000, -1, 0, 1 << 20, good_size));
	say("event attribute too small", event(self, 0x1000, -1, 0, 0, 63));
	int prog = load_as(BPF_PROG_TYPE_KPROBE, good, 2, 0, NULL, 0, 0);
	int other = load_as(BPF_PROG_TYPE_SOCKET_FILTER, good, 2, 0, NULL, 0, 0);
	int map = map_of(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0);
	say("no program on an event", ioctl(fd, PERF_EVENT_IOC_SET_BPF, 555));
	say("a map on an event", ioctl(fd, PERF_EVENT_IOC_SET_BPF, map));
	say("a socket filter on an event", ioctl(fd, PERF_EVENT_IOC_SET_BPF, other));
	say("a program on an event", ioctl(fd, PERF_EVENT_IOC_SET_BPF, prog));
	say("a second program", ioctl(fd, PERF_EVENT_IOC_SET_BPF, prog));
	say("enable", ioctl(fd, PERF_EVENT_IOC_ENABLE, 0));
	say("disable", ioctl(fd, PERF_EVENT_IOC_DISABLE, 0));
	say("no such ioctl", ioctl(fd, 0x2477, 0));
	close(fd);
	say("enable when closed", ioctl(fd, PERF_EVENT_IOC_ENABLE, 0));

	fd = event(self, 0x1000, -1, 0, 0, good_size);
	CALL("link without event", BPF_LINK_CREATE, attr.link_create.prog_fd = prog; attr.link_create.target_fd = -1;
	     attr.link_create.attach_type = BPF_PERF_EVENT);
	CALL("link without program", BPF_LINK_CREATE, attr.link_create.prog_fd = 555; attr.link_create.target_fd = fd;
	     attr.link_create.attach_type = BPF_PERF_EVENT);
	CALL("link with flags", BPF_LINK_CREATE, attr.link_create.prog_fd = prog; attr.link_create.target_fd = fd;
	     attr.link_create.attach_type = BPF_PERF_EVENT; attr.link_create.flags = 1);
	CALL("link of a socket filter", BPF_LINK_CREATE, attr.link_create.prog_fd = other;
	     attr.link_create.target_fd = fd; attr.link_create.attach_type = BPF_PERF_EVENT);
	int link = CALL("link", BPF_LINK_CREATE, attr.link_create.prog_fd = prog; attr.link_create.target_fd = fd;
			attr.link_create.attach_type = BPF_PERF_EVENT);
	CALL("second link", BPF_LINK_CREATE, attr.link_create.prog_fd = prog; attr.link_create.target_fd = fd;
	     attr.link_create.attach_type = BPF_PERF_EVENT);
	CALL("update of a link", BPF_LINK_UPDATE, attr.link_update.link_fd = link; attr.link_update.new_prog_fd = prog);
	CALL("detach of a link", BPF_LINK_DETACH, attr.link_detach.link_fd = link);
	close(link);
	link = CALL("link after close", BPF_LINK_CREATE, attr.link_create.prog_fd = prog;
		    attr.link_create.target_fd = fd; attr.link_create.attach_type = BPF_PERF_EVENT);
	close(link);

	int perf_array = map_of(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2, 0);
	uint32_t key = 0, value = fd;
	struct perf_event_attr output = {.type = PERF_TYPE_SOFTWARE, .size = sizeof output,
					 .config = PERF_COUNT_SW_BPF_OUTPUT, .sample_type = PERF_SAMPLE_RAW,
					 .sample_period = 1, .wakeup_events = 1};
	int ring = say("output event", syscall(SYS_perf_event_open, &output, -1, 0, -1, PERF_FLAG_FD_CLOEXEC));
	say("ring of three pages", mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0) == MAP_FAILED ? -1 : 0);
	say("private ring", mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, ring, 0) == MAP_FAILED ? -1 : 0);
	say("ring", mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0) == MAP_FAILED ? -1 : 0);
	value = ring;
	elem("slot", BPF_MAP_UPDATE_ELEM, perf_array, &key, &value, 0);
	elem("slot with flags", BPF_MAP_UPDATE_ELEM, perf_array, &key, &value, BPF_NOEXIST);
	elem("lookup of a slot", BPF_MAP_LOOKUP_ELEM, perf_array, &key, &value, 0);
	elem("empty slot", BPF_MAP_DELETE_ELEM, perf_array, &key, NULL, 0);
	elem("empty slot again", BPF_MAP_DELETE_ELEM, perf_array, &key, NULL, 0);
	value = 555;
	elem("slot of no fd", BPF_MAP_UPDATE_ELEM, perf_array, &key, &value, 0);
	key = 2, value = ring;
	elem("slot beyond", BPF_MAP_UPDATE_ELEM, perf_array, &key, &value, 0);
	elem("delete beyond", BPF_MAP_DELETE_ELEM, perf_array, &key, NULL, 0);

	int prog_array = map_of(BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 2, 0);
	key = 0, value = prog;
	elem("program slot", BPF_MAP_UPDATE_ELEM, prog_array, &key, &value, 0);
	elem("lookup of a program slot", BPF_MAP_LOOKUP_ELEM, prog_array, &key, &value, 0);
	value = map;
	elem("program slot of a map", BPF_MAP_UPDATE_ELEM, prog_array, &key, &value, 0);
	elem("empty program slot", BPF_MAP_DELETE_ELEM, prog_array, &key, NULL, 0);
	elem("lookup of an empty program slot", BPF_MAP_LOOKUP_ELEM, prog_array, &key, &value, 0);
}

static void uprobe_multi(void) {
	unsigned long offset = 0x1000;
	int multi = 48;
	int prog = load_as(BPF_PROG_TYPE_KPROBE, good, 2, 0, NULL, 0, multi);
	struct {
		uint32_t prog_fd, target_fd, attach_type, flags;
		uint64_t path, offsets, ref_ctrs, cookies;
		uint32_t cnt, multi_flags, pid, pad;
	} ask = {.prog_fd = prog, .attach_type = multi, .path = PTR("/"), .offsets = PTR(&offset), .cnt = 1};
	say("multi link in a directory", bpf(BPF_LINK_CREATE, &ask, sizeof ask));
	ask.pid = -1;
	say("multi link of pid -1", bpf(BPF_LINK_CREATE, &ask, sizeof ask));
	ask.pid = 0, ask.path = PTR("/nonexistent");
	say("multi link in no file", bpf(BPF_LINK_CREATE, &ask, sizeof ask));
	ask.path = PTR(self), ask.cnt = 0;
	say("multi link of nothing", bpf(BPF_LINK_CREATE, &ask, sizeof ask));
	ask.cnt = (1 << 20) + 1;
	say("multi link of too much", bpf(BPF_LINK_CREATE, &ask, sizeof ask));
	ask.cnt = 1, ask.multi_flags = 8;
	say("multi link with unknown flags", bpf(BPF_LINK_CREATE, &ask, sizeof ask));
	ask.multi_flags = 0, ask.pid = 99999999;
	say("multi link of no process", bpf(BPF_LINK_CREATE, &ask, sizeof ask));
	ask.pid = 0;
	say("multi link", bpf(BPF_LINK_CREATE, &ask, sizeof ask));
}

static void ring_maps(void) {
	int fd = map_of(BPF_MAP_TYPE_RINGBUF, 0, 0, 8192, 0);
#define MAP(what, len, prot, offset) say(what, mmap(NULL, len, prot, MAP_SHARED, fd, offset) == MAP_FAILED ? -1 : 0)
	MAP("consumer page", 4096, PROT_READ | PROT_WRITE, 0);
	MAP("producer pages", 4096 + 2 * 8192, PROT_READ, 4096);
	MAP("producer pages to write", 4096 + 2 * 8192, PROT_READ | PROT_WRITE, 4096);
	MAP("consumer page and more to write", 8192, PROT_READ | PROT_WRITE, 0);
	MAP("beyond the ring", 8192, PROT_READ, 5 * 8192);
	fd = map_of(BPF_MAP_TYPE_ARRAY, 4, 5000, 1, BPF_F_MMAPABLE);
	MAP("array", 8192, PROT_READ | PROT_WRITE, 0);
	MAP("beyond the array", 3 * 4096, PROT_READ, 0);
	fd = map_of(BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0);
	MAP("array that is not for it", 4096, PROT_READ, 0);
	fd = map_of(BPF_MAP_TYPE_ARRAY, 4, 4, 1, BPF_F_MMAPABLE);
	memset(&attr, 0, sizeof attr);
	attr.map_fd = fd;
	bpf(BPF_MAP_FREEZE, &attr, sizeof attr);
	MAP("frozen array to write", 4096, PROT_READ | PROT_WRITE, 0);
	MAP("frozen array", 4096, PROT_READ, 0);
	uint32_t key = 0, value = 0;
	fd = map_of(BPF_MAP_TYPE_RINGBUF, 0, 0, 8192, 0);
	elem("lookup in a ring", BPF_MAP_LOOKUP_ELEM, fd, NULL, &value, 0);
	elem("update of a ring", BPF_MAP_UPDATE_ELEM, fd, NULL, &value, 0);
	elem("key of a ring", BPF_MAP_UPDATE_ELEM, fd, &key, &value, 0);
	elem("next key of a ring", BPF_MAP_GET_NEXT_KEY, fd, NULL, &key, 0);
}

static void without_keys(const char *kind, int type) {
	static const uint64_t constant = 7;
	uint64_t value = 7, key = 1;
	char what[80];
	int fd = map_of(type, 0, 8, 2, 0);
	ELEM("lookup of nothing", BPF_MAP_LOOKUP_ELEM, NULL, &value, 0);
	ELEM("lookup from nowhere", BPF_MAP_LOOKUP_ELEM, NULL, (void *)8, 0);
	ELEM("removal of nothing", BPF_MAP_LOOKUP_AND_DELETE_ELEM, NULL, &value, 0);
	ELEM("update", BPF_MAP_UPDATE_ELEM, NULL, &value, 0);
	ELEM("update with a key", BPF_MAP_UPDATE_ELEM, &key, &value, 0);
	ELEM("update that must not exist", BPF_MAP_UPDATE_ELEM, NULL, &value, BPF_NOEXIST);
	ELEM("update that must exist", BPF_MAP_UPDATE_ELEM, NULL, &value, BPF_EXIST);
	ELEM("update", BPF_MAP_UPDATE_ELEM, NULL, &value, 0);
	ELEM("update of a full map", BPF_MAP_UPDATE_ELEM, NULL, &value, 0);
	ELEM("lookup", BPF_MAP_LOOKUP_ELEM, NULL, &value, 0);
	ELEM("lookup with a key", BPF_MAP_LOOKUP_ELEM, &key, &value, 0);
	ELEM("lookup with flags", BPF_MAP_LOOKUP_ELEM, NULL, &value, BPF_F_LOCK);
	ELEM("lookup to a constant", BPF_MAP_LOOKUP_ELEM, NULL, (void *)&constant, 0);
	ELEM("removal with flags", BPF_MAP_LOOKUP_AND_DELETE_ELEM, NULL, &value, BPF_F_LOCK);
	ELEM("removal", BPF_MAP_LOOKUP_AND_DELETE_ELEM, NULL, &value, 0);
	ELEM("delete", BPF_MAP_DELETE_ELEM, NULL, NULL, 0);
	ELEM("first key", BPF_MAP_GET_NEXT_KEY, NULL, &value, 0);
	ELEM("next key", BPF_MAP_GET_NEXT_KEY, &key, &value, 0);
	CALL("batch without keys", BPF_MAP_LOOKUP_BATCH, attr.batch.map_fd = fd; attr.batch.count = 1);
	close(fd);
}

int main(void) {
	attributes();
	map_creation();
	elements("array", BPF_MAP_TYPE_ARRAY);
	elements("hash", BPF_MAP_TYPE_HASH);
	elements("per-CPU array", BPF_MAP_TYPE_PERCPU_ARRAY);
	elements("per-CPU hash", BPF_MAP_TYPE_PERCPU_HASH);
	without_keys("queue", BPF_MAP_TYPE_QUEUE);
	without_keys("stack", BPF_MAP_TYPE_STACK);
	without_keys("bloom filter", BPF_MAP_TYPE_BLOOM_FILTER);
	batches();
	programs();
	descriptions();
	infos();
	events();
	uprobe_multi();
	ring_maps();
	return 0;
}
