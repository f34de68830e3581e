// Names of maps and programs in bpffs. The output on the kernel and under the
// library must be equal.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PTR(p) ((uint64_t)(uintptr_t)(p))

static union bpf_attr attr;
static char name[64];

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

static long pin(const char *what, int fd, const char *path) {
	return CALL(what, BPF_OBJ_PIN, attr.bpf_fd = fd; attr.pathname = PTR(path));
}

static long get(const char *what, const char *path, uint32_t flags) {
	return CALL(what, BPF_OBJ_GET, attr.pathname = PTR(path); attr.file_flags = flags);
}

static void use(int fd) {
	uint32_t key = 1, value = 5;
	CALL("update", BPF_MAP_UPDATE_ELEM, attr.map_fd = fd; attr.key = PTR(&key); attr.value = PTR(&value));
	CALL("lookup", BPF_MAP_LOOKUP_ELEM, attr.map_fd = fd; attr.key = PTR(&key); attr.value = PTR(&value));
	printf("value %u\n", value);
}

static void outside(int fd) {
	pin("nowhere", fd, (char *)8);
	pin("no name", fd, "");
	pin("in /tmp", fd, "/tmp/no-such-pin");
	pin("over a file", fd, "/etc/passwd");
	pin("over a directory", fd, "/tmp");
	pin("in no directory", fd, "/tmp/no-such-directory/pin");
	pin("in a file", fd, "/etc/passwd/pin");
	pin("here", fd, "no-such-pin");
	pin("over bpffs", fd, "/sys/fs/bpf");
	pin("of no fd", 555, name);
	pin("of another fd", 0, name);
	CALL("with a flag", BPF_OBJ_PIN, attr.bpf_fd = fd; attr.pathname = PTR(name); attr.file_flags = 8);
	CALL("with another fd", BPF_OBJ_PIN, attr.bpf_fd = fd; attr.pathname = PTR(name); ((uint32_t *)&attr)[4] = 3);
	get("a file", "/etc/passwd", 0);
	get("a directory", "/tmp", 0);
	get("nothing", "/tmp/no-such-pin", 0);
	get("from nowhere", (char *)8, 0);
	get("nothing in bpffs", name, 0);
}

static long at(const char *what, int cmd, int fd, int directory, const char *path, uint32_t flags) {
	return CALL(what, cmd, attr.bpf_fd = fd; attr.pathname = PTR(path); attr.file_flags = flags;
		    ((int *)&attr)[4] = directory);
}

// Directories, names with dots, and paths from open directories.
static void below(int fd) {
	char deep[96], in[128];
	int directory, tmp = open("/tmp", O_PATH);
	snprintf(deep, sizeof deep, "%s-d", name);
#define IN(rest) (snprintf(in, sizeof in, "%s%s", deep, rest), in)
	pin("in no directory of bpffs", fd, IN("/pin"));
	say("mkdir", mkdir(deep, 0700));
	say("mkdir again", mkdir(deep, 0700));
	say("mkdir of a dot", mkdir(IN("/a.b"), 0700));
	pin("a directory", fd, deep);
	pin("a dot", fd, IN("/a.b"));
	get("a dot", IN("/a.b"), 0);
	get("a directory", deep, 0);
	pin("a slash", fd, IN("/pin/"));
	pin("deep", fd, IN("/pin"));
	pin("in a pin", fd, IN("/pin/pin"));
	get("in a pin", IN("/pin/pin"), 0);
	pin("upwards", fd, IN("/../" ));
	directory = open(deep, O_RDONLY | O_DIRECTORY);
	say("open", directory);
	at("relative", BPF_OBJ_PIN, fd, directory, "relative", 1 << 14);
	at("relative again", BPF_OBJ_PIN, fd, directory, "relative", 1 << 14);
	at("relative, without the flag", BPF_OBJ_PIN, fd, directory, "other", 0);
	at("relative to /tmp", BPF_OBJ_PIN, fd, tmp, "other", 1 << 14);
	at("relative to no fd", BPF_OBJ_PIN, fd, 999, "other", 1 << 14);
	at("relative to a pin", BPF_OBJ_PIN, fd, fd, "other", 1 << 14);
	say("get relative", at("get", BPF_OBJ_GET, 0, directory, "relative", 1 << 14) >= 0 ? 0 : -1);
	at("get nothing", BPF_OBJ_GET, 0, directory, "none", 1 << 14);
	at("get, half", BPF_OBJ_GET, 0, directory, "pin", 1 << 14 | BPF_F_RDONLY);
	say("open a pin", open(IN("/pin"), O_RDWR));
	say("make a file", open(IN("/file"), O_RDWR | O_CREAT, 0600));
	say("make a pin", open(IN("/pin"), O_RDWR | O_CREAT | O_EXCL, 0600));
	say("rename", renameat(directory, "relative", directory, "pin"));
	say("renamed", access(IN("/relative"), F_OK));
	say("rmdir", rmdir(deep));
	say("unlink a directory", unlink(deep));
	say("rmdir a pin", rmdir(IN("/pin")));
	say("unlink", unlinkat(directory, "pin", 0));
	say("rmdir", rmdir(deep));
	say("rmdir again", rmdir(deep));
	close(directory), close(tmp);
}

int main(void) {
	struct stat stats;
	open("/dev/null", O_RDONLY);
	snprintf(name, sizeof name, "/sys/fs/bpf/bpftime-test-%d", getpid());
	struct bpf_insn insns[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	int prog = CALL("program", BPF_PROG_LOAD, attr.prog_type = BPF_PROG_TYPE_KPROBE; attr.insns = PTR(insns);
			attr.insn_cnt = 2; attr.license = PTR("GPL"));
	for (int turn = 0; turn < 2; turn++) {
		int fd = CALL("map", BPF_MAP_CREATE, attr.map_type = BPF_MAP_TYPE_HASH;
			      attr.key_size = attr.value_size = attr.max_entries = 4);
		outside(fd);
		below(fd);
		pin("pin", fd, name);
		pin("pin again", fd, name);
		use(fd);
		close(fd);
		say("access", access(name, F_OK));
		say("stat", stat(name, &stats));
		for (uint32_t flags = 0; flags < 32; flags += 8) {
			int again = get("get", name, flags);
			if (again >= 0)
				use(again), close(again);
		}
		CALL("get with an fd", BPF_OBJ_GET, attr.bpf_fd = 3; attr.pathname = PTR(name));
		say("unlink", unlink(name));
		say("unlink again", unlink(name));
		printf("gone: %d\n", access(name, F_OK));
		get("get what is gone", name, 0);
	}
	pin("pin a program", prog, name);
	int again = get("get a program", name, 0);
	CALL("program's info", BPF_OBJ_GET_INFO_BY_FD, attr.info.bpf_fd = again; attr.info.info = PTR(insns));
	get("get a program", name, BPF_F_RDONLY);
	say("unlink", unlinkat(AT_FDCWD, name, 0));
	return 0;
}
