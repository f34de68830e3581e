/* opensnoop [COMM [PATH]]: files that processes open; ends when PATH is. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "opensnoop.skel.h"

static const char *last;
static bool seen;

static int on_record(void *ctx, void *data, size_t size)
{
	const struct open_event *event = data;

	(void)ctx;
	if (size < sizeof(*event) || seen)
		return 0;
	printf("%-8" PRIu32 " %-16s %4" PRId32 " %s\n", event->pid, event->comm, event->result,
	       event->path);
	seen = last && strcmp(event->path, last) == 0;
	return 0;
}

int main(int argc, char **argv)
{
	struct opensnoop_bpf *skel;
	struct bpf_buffer *buffer = NULL;
	int err;

	setvbuf(stdout, NULL, _IOLBF, 0);
	skel = opensnoop_bpf__open();
	if (!skel)
		return 1;
	if (argc > 1)
		snprintf(skel->rodata->wanted, sizeof(skel->rodata->wanted), "%s", argv[1]);
	last = argc > 2 ? argv[2] : NULL;
	err = opensnoop_bpf__load(skel);
	/* Before the programs report. */
	if (!err) {
		buffer = bpf_buffer__open(skel->maps.events, on_record, NULL);
		err = buffer ? 0 : -errno;
	}
	if (!err)
		err = opensnoop_bpf__attach(skel);
	if (!err)
		printf("%-8s %-16s %4s %s\n", "PID", "COMM", "RET", "PATH");
	while (!err && !seen)
		err = bpf_buffer__poll(buffer, 100) < 0 ? -errno : 0;
	if (err)
		fprintf(stderr, "opensnoop: %s\n", strerror(-err));
	bpf_buffer__free(buffer);
	opensnoop_bpf__destroy(skel);
	return err ? 1 : 0;
}
