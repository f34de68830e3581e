/* What every program here begins with. A program is compiled twice: to eBPF
 * and to a shared object of this machine. `run` gets the same memory in both
 * and returns a number that depends on all its work. A program may write to
 * the memory, but a second run must do as much work as the first. */
#pragma once

typedef __UINT8_TYPE__ u8;
typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;
typedef __INT8_TYPE__ s8;
typedef __INT16_TYPE__ s16;
typedef __INT32_TYPE__ s32;
typedef __INT64_TYPE__ s64;

#define noinline __attribute__((noinline))

/* A map, read from the object file by the harness. At most one a program. */
struct bench_map {
	u32 type, key_size, value_size, max_entries;
};

enum { ARRAY = 2, HASH = 1, PERCPU_ARRAY = 6, PERCPU_HASH = 5 };

#ifdef __bpf__

#define RUN __attribute__((section("bench"), used)) u64 run
#define MAP __attribute__((section("maps"), used)) struct bench_map

static void *(*map_lookup)(const void *map, const void *key) = (void *)1;
static long (*map_update)(const void *map, const void *key, const void *value,
			  u64 flags) = (void *)2;
static long (*map_delete)(const void *map, const void *key) = (void *)3;

#else

#define RUN u64 run
#define MAP static const struct bench_map

/* The very functions that eBPF programs call, the map and the run that they
 * take, and memory for an array; set by the harness. */
typedef u64 helper(u64, u64, u64, u64, u64, void *);
helper *bench_lookup, *bench_update, *bench_delete;
u64 bench_handle;
void *bench_run;

/* Arrays are what C has for them. */
u8 *bench_values;

static inline void *map_lookup(const struct bench_map *map, const void *key)
{
	if (map->type == ARRAY || map->type == PERCPU_ARRAY) {
		u32 index = *(const u32 *)key;

		return index < map->max_entries ? bench_values + index * map->value_size : 0;
	}
	return (void *)bench_lookup(bench_handle, (u64)key, 0, 0, 0, bench_run);
}

static inline long map_update(const struct bench_map *map, const void *key,
			      const void *value, u64 flags)
{
	(void)map;
	return bench_update(bench_handle, (u64)key, (u64)value, flags, 0, bench_run);
}

static inline long map_delete(const struct bench_map *map, const void *key)
{
	(void)map;
	return bench_delete(bench_handle, (u64)key, 0, 0, 0, bench_run);
}

#endif

static inline u32 rol32(u32 x, u32 by)
{
	return x << by | x >> (32 - by);
}

static inline u64 rol64(u64 x, u32 by)
{
	return x << by | x >> (64 - by);
}

/* Numbers from bytes at any address. */
static inline u32 get32(const u8 *p)
{
	return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

static inline u64 get64(const u8 *p)
{
	return get32(p) | (u64)get32(p + 4) << 32;
}

static inline u32 get32be(const u8 *p)
{
	return p[3] | (u32)p[2] << 8 | (u32)p[1] << 16 | (u32)p[0] << 24;
}

static inline u16 get16be(const u8 *p)
{
	return p[1] | p[0] << 8;
}
