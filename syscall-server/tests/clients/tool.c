// A tool as libbpf's users write them, without a compiled object: maps, a
// program in assembly, an uprobe on a function of its own, and a ring buffer
// polled together with a pipe. Prints what it got; argument "wait" makes it
// wait for that many records from the probe.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define INSN(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MAP(reg, fd) INSN(BPF_LD | BPF_IMM | BPF_DW, reg, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)

static int fail(const char *what)
{
	printf("FAIL %s: errno %d\n", what, errno);
	exit(1);
}

static int on_record(void *context, void *data, size_t size)
{
	(void)data;
	*(int *)context += size == 8;
	return 0;
}

// The offset in its file of a function of this program.
static unsigned long file_offset(void *function)
{
	unsigned long start, end, offset;
	char line[512], flags[8];
	FILE *maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%lx-%lx %7s %lx", &start, &end, flags, &offset) == 4 &&
		    (unsigned long)function >= start && (unsigned long)function < end) {
			fclose(maps);
			return (unsigned long)function - start + offset;
		}
	exit(fail("maps"));
}

__attribute__((noinline)) int probed(int x)
{
	__asm__ volatile("" ::: "memory");
	return x + 1;
}

int main(int argc, char **argv)
{
	int expected = argc > 1 ? atoi(argv[1]) : 0;
	// Maps: an array that is mmapped, and a ring buffer.
	LIBBPF_OPTS(bpf_map_create_opts, mmapable, .map_flags = BPF_F_MMAPABLE);
	int counts = bpf_map_create(BPF_MAP_TYPE_ARRAY, "counts", 4, 8, 4, &mmapable);
	int ring = bpf_map_create(BPF_MAP_TYPE_RINGBUF, "records", 0, 0, 64 * 1024, NULL);
	if (counts < 0 || ring < 0)
		fail("map create");
	volatile uint64_t *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, counts, 0);
	if (mapped == MAP_FAILED)
		fail("mmap of the array");
	uint32_t key = 1;
	uint64_t value = 42;
	if (bpf_map_update_elem(counts, &key, &value, BPF_ANY))
		fail("update");
	printf("mapped value: %lu\n", (unsigned long)mapped[1]);

	struct bpf_insn insns[] = {
		MAP(BPF_REG_1, ring),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_2, 0, 0, 8),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, 0),
		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ringbuf_reserve),
		INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 4, 0),
		INSN(BPF_ST | BPF_MEM | BPF_DW, BPF_REG_0, 0, 0, 7),
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_0, 0, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_2, 0, 0, 0),
		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ringbuf_submit),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	static char log[65536];
	LIBBPF_OPTS(bpf_prog_load_opts, load, .log_level = 1, .log_buf = log, .log_size = sizeof log);
	int prog = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "records", "GPL", insns, sizeof insns / sizeof *insns, &load);
	if (prog < 0) {
		printf("%s\n", log);
		fail("prog load");
	}
	struct bpf_prog_info info = {};
	uint32_t length = sizeof info, map_ids[4] = {};
	info.nr_map_ids = 4, info.map_ids = (uintptr_t)map_ids;
	if (bpf_obj_get_info_by_fd(prog, &info, &length))
		fail("prog info");
	printf("program \"%s\" of type %u uses %u map\n", info.name, info.type, info.nr_map_ids);

	// An uprobe by perf event and link.
	struct perf_event_attr event = {.size = sizeof event, .config1 = (uintptr_t)"/proc/self/exe"};
	FILE *type = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
	if (!type || fscanf(type, "%u", &event.type) != 1)
		fail("uprobe PMU");
	fclose(type);
	event.config2 = file_offset(probed);
	int pfd = syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (pfd < 0)
		fail("perf_event_open");
	LIBBPF_OPTS(bpf_link_create_opts, cookie, .perf_event.bpf_cookie = 5);
	int link = bpf_link_create(prog, pfd, BPF_PERF_EVENT, &cookie);
	if (link < 0)
		fail("link");
	ioctl(pfd, PERF_EVENT_IOC_ENABLE, 0);

	// fds move around as libbpf and shells move them.
	int moved = syscall(SYS_dup3, ring, 40, O_CLOEXEC);
	close(ring);
	if (moved != 40)
		fail("dup3");

	// One event loop for the ring and a pipe.
	int records = 0, pipes[2];
	struct ring_buffer *buffer = ring_buffer__new(moved, on_record, &records, NULL);
	if (!buffer || pipe(pipes))
		fail("ring_buffer__new");
	int loop = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event wanted = {.events = EPOLLIN, .data.fd = pipes[0]};
	epoll_ctl(loop, EPOLL_CTL_ADD, pipes[0], &wanted);
	wanted.data.fd = moved;
	epoll_ctl(loop, EPOLL_CTL_ADD, moved, &wanted);
	struct epoll_event got[4];
	int ready = epoll_wait(loop, got, 4, 0);
	printf("ready before anything: %d\n", ready);
	if (write(pipes[1], "x", 1) != 1)
		fail("write");
	ready = epoll_wait(loop, got, 4, 1000);
	printf("ready after the pipe: %d, the pipe: %d\n", ready, got[0].data.fd == pipes[0]);
	char byte;
	if (read(pipes[0], &byte, 1) != 1)
		fail("read");

	// A child that closes its copies takes nothing away.
	pid_t child = fork();
	if (child == 0) {
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	key = 1, value = 0;
	if (bpf_map_lookup_elem(counts, &key, &value))
		fail("lookup after a child");
	printf("value after a child: %lu\n", (unsigned long)value);

	// Hits, when somebody probes this very process.
	for (int i = 0; i < expected; i++)
		probed(i);
	while (records < expected) {
		ready = epoll_wait(loop, got, 4, 5000);
		if (ready <= 0 || got[0].data.fd != moved)
			fail("wait for records");
		ring_buffer__consume(buffer);
	}
	ready = epoll_wait(loop, got, 4, 0);
	printf("records: %d, ready after all were read: %d\n", records, ready);
	close(link);
	close(pfd);
	for (int i = 0; i < expected; i++)
		probed(i);
	ring_buffer__consume(buffer);
	printf("records after detach: %d\n", records);
	ring_buffer__free(buffer);
	return 0;
}
