// A tool that makes maps of described types, fills them, says "ready" and
// waits for the end of its input.
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(what) check((what), #what)

static int check(int result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(errno));
		exit(1);
	}
	return result;
}

enum color { RED, GREEN = 7, BLUE = -1 };

struct value {
	uint32_t count;
	int64_t delta;
	char text[16];
	char raw[4];
	bool yes;
	char letter;
	enum color color;
	void *pointer;
	uint32_t low : 3, high : 9;
	int16_t pair[2];
	struct { uint8_t a; uint16_t b; } inside;
	union { uint32_t whole; uint8_t part; } either;
	unsigned __int128 wide;
};

struct hist { uint32_t slots[5]; };

static int count_id, value_id, hist_id;

static void describe(struct btf *btf)
{
	int u32 = CHECK(btf__add_int(btf, "unsigned int", 4, 0));
	int s64 = CHECK(btf__add_int(btf, "long", 8, BTF_INT_SIGNED));
	int chr = CHECK(btf__add_int(btf, "char", 1, BTF_INT_CHAR));
	int boolean = CHECK(btf__add_int(btf, "_Bool", 1, BTF_INT_BOOL));
	int u8 = CHECK(btf__add_int(btf, "unsigned char", 1, 0));
	int u16 = CHECK(btf__add_int(btf, "unsigned short", 2, 0));
	int s16 = CHECK(btf__add_int(btf, "short", 2, BTF_INT_SIGNED));
	int u128 = CHECK(btf__add_int(btf, "unsigned __int128", 16, 0));
	int text = CHECK(btf__add_array(btf, u32, chr, 16));
	int raw = CHECK(btf__add_array(btf, u32, chr, 4));
	int pair = CHECK(btf__add_array(btf, u32, s16, 2));
	int slots = CHECK(btf__add_array(btf, u32, u32, 5));
	int pointer = CHECK(btf__add_ptr(btf, 0));
	int color = CHECK(btf__add_enum(btf, "color", 4));
	CHECK(btf__add_enum_value(btf, "RED", RED));
	CHECK(btf__add_enum_value(btf, "GREEN", GREEN));
	CHECK(btf__add_enum_value(btf, "BLUE", BLUE));
	int inside = CHECK(btf__add_struct(btf, "inside", 4));
	CHECK(btf__add_field(btf, "a", u8, 0, 0));
	CHECK(btf__add_field(btf, "b", u16, 16, 0));
	int either = CHECK(btf__add_union(btf, "either", 4));
	CHECK(btf__add_field(btf, "whole", u32, 0, 0));
	CHECK(btf__add_field(btf, "part", u8, 0, 0));
	value_id = CHECK(btf__add_struct(btf, "value", sizeof(struct value)));
#define FIELD(name, type) \
	CHECK(btf__add_field(btf, #name, type, 8 * offsetof(struct value, name), 0))
	FIELD(count, u32);
	FIELD(delta, s64);
	FIELD(text, text);
	FIELD(raw, raw);
	FIELD(yes, boolean);
	FIELD(letter, chr);
	FIELD(color, color);
	FIELD(pointer, pointer);
	int bits = 8 * (offsetof(struct value, pointer) + 8);
	CHECK(btf__add_field(btf, "low", u32, bits, 3));
	CHECK(btf__add_field(btf, "high", u32, bits + 3, 9));
	FIELD(pair, pair);
	FIELD(inside, inside);
	FIELD(either, either);
	FIELD(wide, u128);
	hist_id = CHECK(btf__add_struct(btf, "hist", sizeof(struct hist)));
	CHECK(btf__add_field(btf, "slots", slots, 0, 0));
	count_id = CHECK(btf__add_typedef(btf, "count_t", u32));
	CHECK(btf__load_into_kernel(btf));
}

static int make(enum bpf_map_type type, const char *name, uint32_t key, uint32_t value,
		uint32_t most, int btf, uint32_t key_id, uint32_t value_id)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .btf_fd = btf, .btf_key_type_id = key_id,
		    .btf_value_type_id = value_id);
	int fd = CHECK(bpf_map_create(type, name, key, value, most, btf ? &opts : NULL));
	struct bpf_map_info info = {};
	CHECK(bpf_obj_get_info_by_fd(fd, &info, &(uint32_t){ sizeof(info) }));
	printf("%s %u\n", name, info.id);
	return fd;
}

int main(void)
{
	struct btf *btf = btf__new_empty();
	describe(btf);
	int fd = btf__fd(btf);

	struct value value = {
		.count = 4000000000u, .delta = -5, .text = "tab\" end", .raw = { 'a', 'b', 'c', 'd' },
		.yes = true, .letter = 'x', .color = GREEN, .pointer = (void *)0xdeadbeefcafeULL,
		.low = 5, .high = 300, .pair = { -1, 32767 }, .inside = { 200, 60000 },
		.either = { .whole = 0x01020304 }, .wide = ((unsigned __int128)1 << 100) + 7,
	};
	uint32_t key = 3;
	int typed = make(BPF_MAP_TYPE_HASH, "typed", 4, sizeof(value), 8, fd, count_id, value_id);
	CHECK(bpf_map_update_elem(typed, &key, &value, BPF_ANY));

	value = (struct value){ .letter = '\n', .color = 12, .text = "\x01" };
	int plain = make(BPF_MAP_TYPE_ARRAY, "odd", 4, sizeof(value), 1, fd, count_id, value_id);
	CHECK(bpf_map_update_elem(plain, &(uint32_t){ 0 }, &value, BPF_ANY));

	int cpus = CHECK(libbpf_num_possible_cpus());
	uint64_t *each = calloc(cpus, 8);
	for (int cpu = 0; cpu < cpus; cpu++)
		each[cpu] = 10 + cpu;
	int percpu = make(BPF_MAP_TYPE_PERCPU_ARRAY, "percpu", 4, 4, 2, fd, count_id, count_id);
	CHECK(bpf_map_update_elem(percpu, &(uint32_t){ 1 }, each, BPF_ANY));
	int untyped = make(BPF_MAP_TYPE_PERCPU_HASH, "percpu_bytes", 2, 8, 2, 0, 0, 0);
	CHECK(bpf_map_update_elem(untyped, &(uint16_t){ 0x0102 }, each, BPF_ANY));

	int bytes = make(BPF_MAP_TYPE_HASH, "bytes", 4, 8, 10, 0, 0, 0);
	CHECK(bpf_map_update_elem(bytes, &key, &(uint64_t){ 0x1122334455667788 }, BPF_ANY));
	int words = make(BPF_MAP_TYPE_ARRAY, "long_bytes", 4, 24, 1, 0, 0, 0);
	CHECK(bpf_map_update_elem(words, &(uint32_t){ 0 }, "abcdefghijklmnopqrstuvw", BPF_ANY));
	int middle = make(BPF_MAP_TYPE_HASH, "middle_bytes", 12, 16, 1, 0, 0, 0);
	CHECK(bpf_map_update_elem(middle, "abcdefghijkl", "0123456789abcde", BPF_ANY));
	int empty = make(BPF_MAP_TYPE_HASH, "empty", 4, 8, 10, 0, 0, 0);
	int frozen = make(BPF_MAP_TYPE_HASH, "frozen", 4, 8, 10, 0, 0, 0);
	CHECK(bpf_map_freeze(frozen));
	int events = make(BPF_MAP_TYPE_RINGBUF, "events", 0, 0, 4096, 0, 0, 0);
	int hists = make(BPF_MAP_TYPE_HASH, "hists", 4, sizeof(struct hist), 4, fd, count_id, hist_id);
	CHECK(bpf_map_update_elem(hists, &key, &(struct hist){ { 2, 0, 8 } }, BPF_ANY));

	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return empty + events < 0;
}
