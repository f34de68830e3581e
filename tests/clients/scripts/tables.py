# tables.py PATH: counts calls of rounds_add() in PATH in tables of every kind
# that bcc has, and shows what is in them for each line on stdin.
import ctypes
import sys

from bcc import BPF

PROGRAM = r"""
struct record_t { u32 number; u64 twice; char text[16]; };
struct prefix_t { u32 length; u32 address; };

BPF_HASH(hashed, u32, u64);
BPF_PERCPU_HASH(per_cpu_hashed, u32, u64);
BPF_ARRAY(indexed, u64, 4);
BPF_PERCPU_ARRAY(per_cpu_indexed, u64, 2);
BPF_TABLE("lru_hash", u32, u64, recent, 64);
BPF_LPM_TRIE(prefixes, struct prefix_t, u64, 16);
BPF_HISTOGRAM(linear, int, 16);
BPF_HISTOGRAM(logarithmic);
BPF_QUEUE(queued, u32, 4);
BPF_STACK(stacked, u32, 4);
BPF_PROG_ARRAY(programs, 2);
BPF_HASH(inner_0, u32, u64, 16);
BPF_HASH(inner_1, u32, u64, 16);
BPF_ARRAY_OF_MAPS(outer, "inner_0", 2);
BPF_PERF_OUTPUT(events);
BPF_RINGBUF_OUTPUT(records, 1);

int tail(struct pt_regs *ctx)
{
	indexed.increment(3, 10);
	return 0;
}

int on_add(struct pt_regs *ctx, u32 number, const char *text, u64 twice)
{
	struct record_t record = { .number = number, .twice = twice };
	struct prefix_t address = { .length = 32, .address = number };
	u32 parity = number & 1;
	u64 zero = 0, *found;
	void *inner;

	bpf_probe_read_user_str(record.text, sizeof(record.text), text);
	hashed.increment(parity);
	found = per_cpu_hashed.lookup_or_try_init(&parity, &zero);
	if (found)
		*found += 2;
	indexed.atomic_increment(parity);
	per_cpu_indexed.increment(parity);
	found = recent.lookup_or_try_init(&number, &zero);
	if (found)
		*found += twice;
	found = prefixes.lookup(&address);
	if (found)
		lock_xadd(found, 1);
	linear.increment(number % 3);
	logarithmic.increment(bpf_log2l(twice));
	queued.push(&number, 0);
	stacked.push(&number, BPF_EXIST);
	inner = outer.lookup(&(int){ parity });
	if (inner)
		bpf_map_update_elem(inner, &number, &twice, BPF_ANY);
	if (number < 3)
		events.perf_submit(ctx, &record, sizeof(record));
	if (number > 7)
		records.ringbuf_output(&record, sizeof(record), 0);
	programs.call(ctx, parity);
	return 0;
}
"""

bpf = BPF(text=PROGRAM)
bpf["programs"][ctypes.c_int(1)] = ctypes.c_int(bpf.load_func("tail", BPF.KPROBE).fd)
for parity in range(2):
    inner = bpf["inner_%d" % parity]
    bpf["outer"][ctypes.c_int(parity)] = ctypes.c_int(inner.get_fd())
for length, low in (32, 4), (31, 6), (0, 0):
    prefixes = bpf["prefixes"]
    prefixes[prefixes.Key(length, low)] = prefixes.Leaf(0)
bpf.attach_uprobe(name=sys.argv[1], sym="rounds_add", fn_name="on_add")


def show(name, rows):
    print(name, *sorted(rows), flush=True)


def show_event(cpu, data, size):
    event = bpf["events"].event(data)
    print("event", event.number, event.twice, event.text.decode(), flush=True)


def show_record(ctx, data, size):
    record = bpf["records"].event(data)
    print("record", record.number, record.twice, record.text.decode(), flush=True)


def pairs(table):
    return ["%d:%d" % (key.value, value.value) for key, value in table.items()]


bpf["events"].open_perf_buffer(show_event, page_cnt=4)
bpf["records"].open_ring_buffer(show_record)
print("ready", flush=True)
for _ in sys.stdin:
    bpf.perf_buffer_poll(0)
    bpf.ring_buffer_consume()
    show("hash", pairs(bpf["hashed"]))
    sums = bpf["per_cpu_hashed"]
    show("percpu_hash", ["%d:%d" % (key.value, sums.sum(key).value) for key in sums.keys()])
    show("array", pairs(bpf["indexed"]))
    sums = bpf["per_cpu_indexed"]
    show("percpu_array", ["%d:%d" % (key.value, sums.sum(key).value) for key in sums.keys()])
    show("lru", pairs(bpf["recent"]))
    show("lpm", ["%d/%d:%d" % (k.address, k.length, v.value) for k, v in bpf["prefixes"].items()])
    show("inner", pairs(bpf["inner_0"]) + pairs(bpf["inner_1"]))
    show("queue", [str(entry.value) for entry in bpf["queued"].values()])
    show("stack", [str(entry.value) for entry in bpf["stacked"].values()])
    bpf["linear"].print_linear_hist("thirds")
    bpf["logarithmic"].print_log2_hist("twice")
    batch = bpf["hashed"].items_lookup_and_delete_batch()
    show("batch", ["%d:%d" % pair for pair in batch])
    bpf["indexed"].clear()
    bpf["recent"].clear()
    show("cleared", pairs(bpf["hashed"]) + pairs(bpf["indexed"]) + pairs(bpf["recent"]))
    print("shown", flush=True)
