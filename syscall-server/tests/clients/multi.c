// Generates attributes of multi links, good and bad in many ways at once, and
// prints what becomes of each: run once on the kernel and once under the
// library, the outputs must be equal.
#include <errno.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PTR(p) ((uint64_t)(uintptr_t)(p))
#define BAD 8
#define MULTI 48
#define SESSION 57
#define FILE_BYTES 8192
// Mostly what is good, in every second attribute.
#define PICK(good, array) (i % 2 && below(12) ? (good) : ONE_OF(array))
#define ONE_OF(array) (array)[below(sizeof(array) / sizeof *(array))]

struct ask {
	uint32_t prog_fd, target_fd, attach_type, flags;
	uint64_t path, offsets, ref_ctrs, cookies;
	uint32_t cnt, multi_flags, pid, pad;
};

static uint64_t state = 42;

static unsigned below(unsigned end) {
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (state >> 33) % end;
}

static long bpf(int cmd, void *attr, unsigned size) { return syscall(SYS_bpf, cmd, attr, size); }

static int program(int type, int expected) {
	static struct bpf_insn insns[] = {{.code = 0xb7}, {.code = 0x95}};
	union bpf_attr attr = {.prog_type = type, .insns = PTR(insns), .insn_cnt = 2,
			       .license = PTR("GPL"), .expected_attach_type = expected};
	return bpf(BPF_PROG_LOAD, &attr, sizeof attr);
}

static volatile int tid;

static void *thread(void *unused) {
	tid = syscall(SYS_gettid);
	pause();
	return unused;
}

// Whatever a link tells when it is asked badly.
static void infos(int link) {
	for (int i = 0; i < 40; i++) {
		char path[256];
		uint64_t words[4];
		unsigned sizes[] = {0, 1, 8, 200}, counts[] = {0, 1, 2, 4};
		uint64_t paths[] = {0, PTR(path), BAD}, arrays[] = {0, 0, PTR(words), BAD};
		struct {
			uint32_t type, id, prog_id, pad;
			uint64_t path, offsets, ref_ctrs, cookies;
			uint32_t path_size, count, flags, pid;
		} info = {.path = ONE_OF(paths), .offsets = ONE_OF(arrays), .ref_ctrs = ONE_OF(arrays),
			  .cookies = ONE_OF(arrays), .path_size = ONE_OF(sizes), .count = ONE_OF(counts)};
		struct {
			uint32_t fd, size;
			uint64_t info;
		} attr = {link, sizeof info, PTR(&info)};
		long result = bpf(BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof attr);
		printf("info %d: errno %d count %u\n", i, result ? errno : 0, result ? 0 : info.count);
	}
}

int main(void) {
	char file[] = "/tmp/multi-XXXXXX";
	int fd = mkstemp(file);
	char text[FILE_BYTES];
	memset(text, 0x90, sizeof text);
	if (fd < 0 || write(fd, text, sizeof text) != sizeof text)
		return 1;
	pthread_t other;
	pthread_create(&other, NULL, thread, NULL);
	while (!tid)
		usleep(1000);
	int progs[] = {program(BPF_PROG_TYPE_KPROBE, MULTI), program(BPF_PROG_TYPE_KPROBE, MULTI),
		       program(BPF_PROG_TYPE_KPROBE, MULTI), program(BPF_PROG_TYPE_KPROBE, SESSION),
		       program(BPF_PROG_TYPE_KPROBE, 0),     program(BPF_PROG_TYPE_SOCKET_FILTER, 0), 555};
	uint64_t offsets[2], ref_ctrs[2], cookies[2] = {1, 2};
	uint64_t places[] = {0, 16, 16, 100, 4095, FILE_BYTES, FILE_BYTES + 1, 1ull << 40, -1ull, 1ull << 63};
	uint64_t counters[] = {0, 0, 0, 2, 4096, 3, -2ull, -1ull};
	for (int i = 0; i < 400; i++) {
		int types[] = {MULTI, MULTI, MULTI, SESSION, 41, 42, 0};
		unsigned flags[] = {0, 0, 0, 0, 0, 0, 1}, multi_flags[] = {0, 0, 1, 1, 0, 2, 3};
		uint64_t paths[] = {PTR(file), PTR(file), PTR(file), PTR(file), PTR(file), PTR(file),
				    PTR("/"),  PTR(""),   PTR("/nonexistent"), 0, BAD};
		uint64_t firsts[] = {PTR(offsets), PTR(offsets), PTR(offsets), PTR(offsets), 0, BAD};
		uint64_t seconds[] = {0, PTR(ref_ctrs), PTR(ref_ctrs), BAD}, thirds[] = {0, PTR(cookies), PTR(cookies), BAD};
		unsigned counts[] = {1, 1, 2, 2, 2, 2, 0, (1 << 20) + 1};
		int pids[] = {0, 0, 0, 0, getpid(), getpid(), tid, -1, 99999999};
		for (int k = 0; k < 2; k++)
			offsets[k] = places[below(i % 3 ? 5 : 10)], ref_ctrs[k] = counters[below(i % 2 ? 3 : 8)];
		struct ask ask = {.prog_fd = PICK(progs[0], progs), .attach_type = PICK(MULTI, types),
				  .flags = PICK(0, flags), .path = PICK(PTR(file), paths),
				  .offsets = PICK(PTR(offsets), firsts), .ref_ctrs = PICK(PTR(ref_ctrs), seconds),
				  .cookies = PICK(PTR(cookies), thirds), .cnt = PICK(2, counts),
				  .multi_flags = PICK(i / 2 % 2, multi_flags), .pid = PICK(0, pids)};
		long link = bpf(BPF_LINK_CREATE, &ask, sizeof ask);
		int error = link < 0 ? errno : 0;
		int who = (int)ask.pid == getpid() ? 1 : (int)ask.pid == tid ? 2 : (int)ask.pid;
		const char *path = ask.path == PTR(file) ? "file" : ask.path > BAD ? (char *)ask.path : "none";
		printf("%d: type %u flags %u path %s arrays %d%d%d places %#lx %#lx counters %#lx %#lx count %u "
		       "flags %u pid %d: errno %d\n", i, ask.attach_type, ask.flags, path,
		       ask.offsets > BAD, ask.ref_ctrs > BAD, ask.cookies > BAD, offsets[0], offsets[1],
		       ref_ctrs[0], ref_ctrs[1], ask.cnt, ask.multi_flags, who, error);
		if (link >= 0 && i < 60)
			infos(link);
		if (link >= 0)
			close(link);
	}
	unlink(file);
	return 0;
}
