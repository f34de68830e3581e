/* @NAME@ [COUNT]: names that programs look up, the first COUNT of them or all. */
#include <stdio.h>
#include <stdlib.h>

#include "@NAME@.h"
#include "@NAME@.skel.h"

static long left;

static int on_event(void *ctx, void *data, size_t size)
{
	const struct event *event = data;

	(void)ctx;
	if (size < sizeof(*event) || left == 0)
		return 0;
	printf("%d %s %s\n", event->pid, event->comm, event->name);
	left--;
	return 0;
}

int main(int argc, char **argv)
{
	struct @OBJECT@ *skel;
	struct bpf_buffer *events = NULL;
	int err;

	/* Each line is seen at once, also through a pipe. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	left = argc > 1 ? atol(argv[1]) : -1;

	skel = @OBJECT@__open();
	if (!skel)
		return 1;
	/* Variables of the program are set before it is loaded: skel->rodata->target_pid = 1; */
	err = @OBJECT@__load(skel);
	/* The buffer comes before the programs that report. */
	if (!err) {
		events = bpf_buffer__open(skel->maps.events, on_event, NULL);
		err = events ? 0 : -errno;
	}
	if (!err)
		err = @OBJECT@__attach(skel);
	if (!err)
		fprintf(stderr, "attached; Ctrl-C ends\n");
	while (!err && left != 0)
		err = bpf_buffer__poll(events, 100) < 0 ? -errno : 0;
	if (err)
		fprintf(stderr, "@NAME@: %s\n", strerror(-err));
	bpf_buffer__free(events);
	@OBJECT@__destroy(skel);
	return err ? 1 : 0;
}
