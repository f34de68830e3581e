// Values with spin locks and other parts that are more than bytes: what bpf(2)
// copies of them, and what BPF_F_LOCK does. The output on the kernel and under
// the library must be equal.
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PTR(p) ((uint64_t)(uintptr_t)(p))
#define WORDS 30

// The lock in the middle.
struct value {
	uint32_t first, lock;
	uint64_t words[WORDS];
};

static int btf_fd, int_id, value_id, timer_id;
static union bpf_attr attr;

static long say(const char *what, long answer) {
	printf("%s: errno %d\n", what, answer < 0 ? errno : 0);
	return answer;
}

static void types(void) {
	struct btf *btf = btf__new_empty();
	int_id = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
	int word = btf__add_int(btf, "word", 8, 0);
	int words = btf__add_array(btf, int_id, word, WORDS);
	int lock = btf__add_struct(btf, "bpf_spin_lock", 4);
	btf__add_field(btf, "val", int_id, 0, 0);
	value_id = btf__add_struct(btf, "value", sizeof(struct value));
	btf__add_field(btf, "first", int_id, 0, 0);
	btf__add_field(btf, "lock", lock, 32, 0);
	btf__add_field(btf, "words", words, 64, 0);
	int half = btf__add_array(btf, int_id, word, 2);
	int timer = btf__add_struct(btf, "bpf_timer", 16);
	btf__add_field(btf, "opaque", half, 0, 0);
	int rest = btf__add_array(btf, int_id, word, WORDS - 2);
	timer_id = btf__add_struct(btf, "timed", sizeof(struct value));
	btf__add_field(btf, "first", word, 0, 0);
	btf__add_field(btf, "timer", timer, 64, 0);
	btf__add_field(btf, "rest", rest, 64 + 128, 0);
	if (btf__load_into_kernel(btf))
		exit(1);
	btf_fd = btf__fd(btf);
}

static int make(int type, int value, int flags) {
	memset(&attr, 0, sizeof attr);
	attr.map_type = type, attr.key_size = 4, attr.value_size = sizeof(struct value);
	attr.max_entries = 4, attr.map_flags = flags;
	if (value)
		attr.btf_fd = btf_fd, attr.btf_key_type_id = int_id, attr.btf_value_type_id = value;
	return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr);
}

static long elem(int cmd, int fd, uint32_t key, void *value, uint64_t flags) {
	memset(&attr, 0, sizeof attr);
	attr.map_fd = fd, attr.key = PTR(&key), attr.value = PTR(value), attr.flags = flags;
	return syscall(SYS_bpf, cmd, &attr, sizeof attr);
}

static void creation(void) {
	char what[80];
	for (int type = 1; type <= 33; type++)
		for (int i = 0; i < 2; i++) {
			// Of other sizes, of the kernel's own, or with a tool's leave.
			if (type >= 14 && type <= 21)
				continue;
			if (type == 26 || type == 33 || type == 11 || type == 7 || type == 24 ||
			    type == 28 || type == 29 || type == 32)
				continue;
			int fd = make(type, i ? timer_id : value_id, 0);
			snprintf(what, sizeof what, "type %d with %s", type, i ? "a timer" : "a lock");
			say(what, fd);
			if (fd >= 0)
				close(fd);
		}
	say("read by programs only", make(BPF_MAP_TYPE_ARRAY, value_id, BPF_F_RDONLY_PROG));
	say("written by programs only", make(BPF_MAP_TYPE_HASH, value_id, BPF_F_WRONLY_PROG));
}

static void show(const char *what, const struct value *value) {
	printf("%s: %x %x %llx %llx %llx %llx\n", what, value->first, value->lock,
	       (unsigned long long)value->words[0], (unsigned long long)value->words[1],
	       (unsigned long long)value->words[2], (unsigned long long)value->words[WORDS - 1]);
}

static void elements(int type, int value_type) {
	static const uint64_t flags[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 1ULL << 33};
	struct value value;
	char what[80];
	int fd = make(type, value_type, 0), plain = make(type, 0, 0);
	for (int round = 0; round < 2; round++)
		for (uint32_t key = 0; key < 6; key++)
			for (unsigned f = 0; f < sizeof flags / sizeof *flags; f++) {
				snprintf(what, sizeof what, "type %d key %u flags %llx", type, key,
					 (unsigned long long)flags[f]);
				memset(&value, 16 * round + key + 1, sizeof value);
				say(what, elem(BPF_MAP_UPDATE_ELEM, fd, key, &value, flags[f]));
				say("without a lock", elem(BPF_MAP_UPDATE_ELEM, plain, key, &value, flags[f]));
				memset(&value, 0xee, sizeof value);
				say("lookup", elem(BPF_MAP_LOOKUP_ELEM, fd, key, &value, flags[f]));
				show("lookup", &value);
				say("lookup", elem(BPF_MAP_LOOKUP_ELEM, fd, key, &value, 0));
				show("lookup", &value);
			}
	for (uint32_t key = 0; key < 4; key++)
		for (int flag = 0; flag < 9; flag += 4) {
			memset(&value, 0xdd, sizeof value);
			say("take", elem(BPF_MAP_LOOKUP_AND_DELETE_ELEM, fd, key, &value, flag));
			show("taken", &value);
		}
	static struct value values[8];
	uint32_t keys[8] = {3, 2, 1, 0}, cursor;
	for (int op = 0; op < 12; op++) {
		static const int cmds[] = {BPF_MAP_UPDATE_BATCH, BPF_MAP_LOOKUP_BATCH, BPF_MAP_LOOKUP_AND_DELETE_BATCH,
					   BPF_MAP_DELETE_BATCH};
		memset(values, op + 1, sizeof values);
		memset(&attr, 0, sizeof attr);
		attr.batch.map_fd = op / 4 == 2 ? plain : fd;
		attr.batch.keys = PTR(keys), attr.batch.values = PTR(values), attr.batch.count = 4;
		attr.batch.out_batch = PTR(&cursor), attr.batch.elem_flags = op / 4 ? BPF_F_LOCK : 0;
		snprintf(what, sizeof what, "batch %d", op);
		say(what, syscall(SYS_bpf, cmds[op % 4], &attr, sizeof attr));
		printf("count %u\n", attr.batch.count);
		show("first", values);
		for (int i = 0; i < 4; i++)
			keys[i] = i;
	}
	close(fd), close(plain);
}

static const char *const names[] = {"kprobe", "tracepoint", "perf event", "raw tracepoint", "socket filter"};

// Who may name such a map at all.
static void programs(void) {
	static const int types[] = {BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_TRACEPOINT, BPF_PROG_TYPE_PERF_EVENT,
				    BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_SOCKET_FILTER};
	static char log[4096];
	for (unsigned t = 0; t < 5; t++)
		for (int i = 0; i < 2; i++) {
			int fd = make(BPF_MAP_TYPE_ARRAY, i ? timer_id : value_id, 0);
			struct bpf_insn insns[] = {
				{.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = fd},
				{},
				{.code = BPF_ALU64 | BPF_MOV | BPF_K},
				{.code = BPF_JMP | BPF_EXIT}};
			memset(&attr, 0, sizeof attr);
			attr.prog_type = types[t], attr.insns = PTR(insns), attr.insn_cnt = 4;
			attr.license = PTR("GPL"), attr.log_buf = PTR(log), attr.log_size = sizeof log, attr.log_level = 1;
			say(names[t], syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr));
			const char *why = strstr(log, "progs cannot use");
			printf("%.*s\n", why ? (int)strcspn(why, "\n") : 0, why);
			memset(log, 0, sizeof log);
			close(fd);
		}
}

static int shared;
static volatile int stop;

static void *change(void *number) {
	struct value value = {};
	for (int turn = 0; turn < 20000; turn++) {
		uint64_t word = (uint64_t)(uintptr_t)number << 32 | turn;
		value.first = turn;
		for (int i = 0; i < WORDS; i++)
			value.words[i] = word;
		uint32_t key = 1;
		union bpf_attr own = {};
		own.map_fd = shared, own.key = PTR(&key), own.value = PTR(&value), own.flags = BPF_F_LOCK;
		if (syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &own, sizeof own))
			return "failed";
	}
	return NULL;
}

static void *look(void *number) {
	struct value value;
	(void)number;
	while (!stop) {
		uint32_t key = 1;
		union bpf_attr own = {};
		own.map_fd = shared, own.key = PTR(&key), own.value = PTR(&value), own.flags = BPF_F_LOCK;
		if (syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &own, sizeof own))
			return "failed";
		for (int i = 1; i < WORDS; i++)
			if (value.words[i] != value.words[0] || value.lock)
				return "torn";
	}
	return NULL;
}

// Under the lock nobody sees half a value.
static void whole(int type) {
	pthread_t threads[4];
	struct value value = {};
	void *answer;
	shared = make(type, value_id, 0);
	elem(BPF_MAP_UPDATE_ELEM, shared, 1, &value, 0);
	stop = 0;
	for (long i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, i < 2 ? change : look, (void *)i);
	for (int i = 0; i < 4; i++) {
		if (i == 2)
			stop = 1;
		pthread_join(threads[i], &answer);
		printf("thread %d: %s\n", i, answer ? (char *)answer : "fine");
	}
	close(shared);
}

int main(void) {
	types();
	creation();
	programs();
	int of[] = {BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH};
	for (int i = 0; i < 2; i++) {
		elements(of[i], value_id);
		elements(of[i], timer_id);
		whole(of[i]);
	}
	return 0;
}
