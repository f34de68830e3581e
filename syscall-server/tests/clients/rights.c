// What an fd of a map may be used for: by how it was opened, once the map is
// frozen, and while it is mapped. The output on the kernel and under the library
// must be equal.
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PTR(p) ((uint64_t)(uintptr_t)(p))

static union bpf_attr attr;

static long say(const char *what, long answer) {
	printf("%s: errno %d\n", what, answer < 0 ? errno : 0);
	return answer;
}

#define CALL(what, cmd, ...)                                                   \
	({                                                                     \
		memset(&attr, 0, sizeof attr);                                 \
		__VA_ARGS__;                                                   \
		say(what, syscall(SYS_bpf, cmd, &attr, sizeof attr));          \
	})

static int make(int type, int flags, int numa, uint64_t extra) {
	return CALL("create", BPF_MAP_CREATE, attr.map_type = type; attr.key_size = attr.value_size = 4;
		    attr.max_entries = 4; attr.map_flags = flags; attr.numa_node = numa; attr.map_extra = extra);
}

static uint32_t id_of(int fd) {
	struct bpf_map_info info = {};
	memset(&attr, 0, sizeof attr);
	attr.info.bpf_fd = fd, attr.info.info = PTR(&info), attr.info.info_len = sizeof info;
	return syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof attr) ? 0 : info.id;
}

static void map_it(const char *what, int fd, int prot) {
	void *at = mmap(NULL, 4096, prot, MAP_SHARED, fd, 0);
	printf("%s: errno %d\n", what, at == MAP_FAILED ? errno : 0);
	if (at != MAP_FAILED)
		munmap(at, 4096);
}

static void all(int fd) {
	uint32_t key = 1, cursor, keys[4] = {0, 1, 2, 3};
	static uint32_t big[4096], values[4096];
	CALL("update", BPF_MAP_UPDATE_ELEM, attr.map_fd = fd; attr.key = PTR(&key); attr.value = PTR(big));
	CALL("lookup", BPF_MAP_LOOKUP_ELEM, attr.map_fd = fd; attr.key = PTR(&key); attr.value = PTR(big));
	CALL("lookup with flags", BPF_MAP_LOOKUP_ELEM, attr.map_fd = fd; attr.flags = 1);
	CALL("lookup with the lock from nowhere", BPF_MAP_LOOKUP_ELEM, attr.map_fd = fd; attr.key = 8; attr.flags = 4);
	CALL("lookup from nowhere", BPF_MAP_LOOKUP_ELEM, attr.map_fd = fd; attr.key = 8);
	CALL("update from nowhere", BPF_MAP_UPDATE_ELEM, attr.map_fd = fd; attr.key = 8);
	CALL("update to nowhere", BPF_MAP_UPDATE_ELEM, attr.map_fd = fd; attr.key = PTR(&key); attr.value = 8);
	CALL("delete from nowhere", BPF_MAP_DELETE_ELEM, attr.map_fd = fd; attr.key = 8);
	CALL("next", BPF_MAP_GET_NEXT_KEY, attr.map_fd = fd; attr.key = PTR(&key); attr.value = PTR(big));
	CALL("next to nowhere", BPF_MAP_GET_NEXT_KEY, attr.map_fd = fd; attr.value = 8);
	CALL("take", BPF_MAP_LOOKUP_AND_DELETE_ELEM, attr.map_fd = fd; attr.key = PTR(&key); attr.value = PTR(big));
	CALL("delete", BPF_MAP_DELETE_ELEM, attr.map_fd = fd; attr.key = PTR(&key));
	for (int op = BPF_MAP_LOOKUP_BATCH; op <= BPF_MAP_DELETE_BATCH; op++)
		for (int bad = 0; bad < 5; bad++) {
			CALL("batch", op, attr.batch.map_fd = fd; attr.batch.keys = bad == 1 ? 8 : PTR(keys);
			     attr.batch.values = bad == 2 ? 8 : PTR(values);
			     attr.batch.out_batch = bad == 3 ? 8 : PTR(&cursor);
			     attr.batch.in_batch = bad == 4 ? 8 : 0; attr.batch.count = 4);
			printf("count %u\n", attr.batch.count);
		}
	map_it("read-only mapping", fd, PROT_READ);
	map_it("mapping", fd, PROT_READ | PROT_WRITE);
}

static void opened(int type, int flags) {
	int fd = make(type, flags, 0, 0);
	uint32_t id = id_of(fd);
	for (uint32_t open = 0; open < 64; open += 8) {
		int again = CALL("by id", BPF_MAP_GET_FD_BY_ID, attr.map_id = id; attr.open_flags = open);
		if (again >= 0) {
			all(again);
			if (open)
				CALL("freeze", BPF_MAP_FREEZE, attr.map_fd = again);
			close(again);
		}
	}
	CALL("freeze", BPF_MAP_FREEZE, attr.map_fd = fd);
	all(fd);
	close(fd);
}

static void frozen(void) {
	int fd = make(BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, 0, 0);
	void *first = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CALL("freeze what is mapped", BPF_MAP_FREEZE, attr.map_fd = fd);
	void *second = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	munmap(first, 4096);
	CALL("freeze what is mapped for reading", BPF_MAP_FREEZE, attr.map_fd = fd);
	CALL("freeze again", BPF_MAP_FREEZE, attr.map_fd = fd);
	munmap(second, 4096);
	map_it("map what is frozen", fd, PROT_READ | PROT_WRITE);
	map_it("for reading", fd, PROT_READ);
	close(fd);
}

// Maps without keys.
static void keyless(int type) {
	uint32_t key = 1, value;
	int fd = CALL("keyless", BPF_MAP_CREATE, attr.map_type = type; attr.value_size = 4; attr.max_entries = 4;
		      attr.map_flags = type == BPF_MAP_TYPE_BLOOM_FILTER ? BPF_F_ZERO_SEED : 0);
	for (value = 100; value < 106; value++)
		CALL("push", BPF_MAP_UPDATE_ELEM, attr.map_fd = fd; attr.value = PTR(&value));
	CALL("push with a key", BPF_MAP_UPDATE_ELEM, attr.map_fd = fd; attr.key = PTR(&key); attr.value = PTR(&value));
	CALL("push from nowhere", BPF_MAP_UPDATE_ELEM, attr.map_fd = fd; attr.value = 8);
	for (int i = 0; i < 6; i++) {
		value = 98 + i;
		CALL("look", BPF_MAP_LOOKUP_ELEM, attr.map_fd = fd; attr.value = PTR(&value));
		printf("value %u\n", value);
		CALL("take", BPF_MAP_LOOKUP_AND_DELETE_ELEM, attr.map_fd = fd; attr.value = PTR(&value));
		printf("value %u\n", value);
	}
	CALL("look nowhere", BPF_MAP_LOOKUP_ELEM, attr.map_fd = fd; attr.value = 8);
	CALL("take with flags", BPF_MAP_LOOKUP_AND_DELETE_ELEM, attr.map_fd = fd; attr.value = PTR(&value);
	     attr.flags = BPF_F_LOCK);
	CALL("next", BPF_MAP_GET_NEXT_KEY, attr.map_fd = fd; attr.value = PTR(&value));
	CALL("delete", BPF_MAP_DELETE_ELEM, attr.map_fd = fd);
	close(fd);
}

int main(void) {
	keyless(BPF_MAP_TYPE_QUEUE);
	keyless(BPF_MAP_TYPE_STACK);
	keyless(BPF_MAP_TYPE_BLOOM_FILTER);
	int types[] = {BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_ARRAY};
	for (int t = 0; t < 3; t++)
		opened(types[t], 0);
	opened(BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE);
	frozen();
	make(BPF_MAP_TYPE_HASH, BPF_F_NUMA_NODE, 0, 0);
	make(BPF_MAP_TYPE_HASH, BPF_F_NUMA_NODE, 1000, 0);
	make(BPF_MAP_TYPE_HASH, 0, 1000, 0);
	make(BPF_MAP_TYPE_HASH, 0, 0, 7);
	make(BPF_MAP_TYPE_HASH, BPF_F_RDONLY | BPF_F_WRONLY, 0, 0);
	CALL("kernel type", BPF_MAP_CREATE, attr.map_type = BPF_MAP_TYPE_HASH; attr.key_size = attr.value_size = 4;
	     attr.max_entries = 4; attr.btf_vmlinux_value_type_id = 1);
	CALL("on no device", BPF_MAP_CREATE, attr.map_type = BPF_MAP_TYPE_HASH; attr.key_size = attr.value_size = 4;
	     attr.max_entries = 4; attr.map_ifindex = 123456);
	uint32_t words[64] = {BPF_MAP_TYPE_HASH, 4, 4, 4};
	words[20] = 8; // excl_prog_hash, without and with a size
	say("exclusive", syscall(SYS_bpf, BPF_MAP_CREATE, words, 96));
	words[22] = 32;
	say("exclusive", syscall(SYS_bpf, BPF_MAP_CREATE, words, 96));
	words[20] = 0;
	say("exclusive", syscall(SYS_bpf, BPF_MAP_CREATE, words, 96));
	for (uint32_t flags = 0; flags < 16; flags += 8) {
		CALL("program by id", BPF_PROG_GET_FD_BY_ID, attr.prog_id = ~0; attr.open_flags = flags);
		CALL("link by id", BPF_LINK_GET_FD_BY_ID, attr.link_id = ~0; attr.open_flags = flags);
		CALL("types by id", BPF_BTF_GET_FD_BY_ID, attr.btf_id = ~0; attr.open_flags = flags);
	}
	return 0;
}
