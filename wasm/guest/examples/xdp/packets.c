/* packets INTERFACE [PROTOCOL COUNT]: packets by protocol, as long as
 * there are new ones; ends when there were COUNT of one protocol. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "packets.skel.h"

/* All packets of which there is a count, printed if they have become more. */
static uint64_t show(int fd, uint64_t before)
{
	uint64_t counts[256] = { 0 }, all = 0;
	uint8_t protocol, *last = NULL, next;
	int i;

	while (bpf_map_get_next_key(fd, last, &next) == 0) {
		bpf_map_lookup_elem(fd, &next, &counts[next]);
		all += counts[next];
		protocol = next;
		last = &protocol;
	}
	for (i = 0; i < 256 && all != before; i++)
		if (counts[i])
			printf("protocol %d: %" PRIu64 "\n", i, counts[i]);
	return all;
}

/* Whether there were `count` packets of a protocol. */
static bool reached(int fd, uint8_t protocol, uint64_t count)
{
	uint64_t seen = 0;

	bpf_map_lookup_elem(fd, &protocol, &seen);
	return count && seen >= count;
}

int main(int argc, char **argv)
{
	uint8_t protocol = argc > 3 ? atoi(argv[2]) : 0;
	uint64_t count = argc > 3 ? strtoull(argv[3], NULL, 10) : 0, all = 0;
	struct packets_bpf *skel;
	int err, fd = -1;

	if (argc < 2) {
		fprintf(stderr, "usage: packets INTERFACE [PROTOCOL COUNT]\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	skel = packets_bpf__open_and_load();
	if (!skel)
		return 1;
	bpf_set_prog_attach_target(skel->progs.count_packets, argv[1]);
	err = packets_bpf__attach(skel);
	if (!err) {
		fd = bpf_map__fd(skel->maps.packets);
		err = fd < 0 ? fd : 0;
	}
	if (!err)
		printf("counting\n");
	while (!err) {
		bool last = reached(fd, protocol, count);

		all = show(fd, all);
		if (last)
			break;
		usleep(100000);
	}
	if (err)
		fprintf(stderr, "packets: %s\n", strerror(-err));
	packets_bpf__destroy(skel);
	return err ? 1 : 0;
}
