/* calls PATH:FUNCTION COUNT [LEAST]: the first COUNT calls of a function. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "calls.skel.h"

static long left;

static int on_record(void *ctx, void *data, size_t size)
{
	const struct call *call = data;

	(void)ctx;
	if (size < sizeof(*call) || left == 0)
		return 0;
	printf("%" PRIu32 " %s(%" PRId64 ", %" PRId64 ")\n", call->pid, call->comm, call->first,
	       call->second);
	left--;
	return 0;
}

int main(int argc, char **argv)
{
	struct calls_bpf *skel;
	struct bpf_buffer *buffer = NULL;
	int err;

	if (argc < 3) {
		fprintf(stderr, "usage: calls PATH:FUNCTION COUNT [LEAST]\n");
		return 2;
	}
	/* What is printed is seen at once, also through a pipe. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	left = atol(argv[2]);

	skel = calls_bpf__open();
	if (!skel)
		return 1;
	skel->rodata->least = argc > 3 ? atoll(argv[3]) : 0;
	bpf_set_prog_attach_target(skel->progs.on_call, argv[1]);
	err = calls_bpf__load(skel);
	/* Before the programs report. */
	if (!err) {
		buffer = bpf_buffer__open(skel->maps.calls, on_record, NULL);
		err = buffer ? 0 : -errno;
	}
	if (!err)
		err = calls_bpf__attach(skel);
	if (!err)
		printf("attached\n");
	while (!err && left > 0)
		err = bpf_buffer__poll(buffer, 100) < 0 ? -errno : 0;
	if (!err && !calls_bpf__read_globals(skel))
		printf("left out: %" PRIu64 "\n", skel->bss->left_out);
	if (err)
		fprintf(stderr, "calls: %s\n", strerror(-err));
	bpf_buffer__free(buffer);
	calls_bpf__destroy(skel);
	return err ? 1 : 0;
}
