//! What bpftrace makes of arguments and memory: numbers, strings, structures.

use super::{check, lines, told};
use crate::table::both;

#[test]
fn bpftrace_prints_numbers_of_all_widths() {
    check(
        "uprobe:{home}/rounds:rounds_add /arg0 == 2/ { \
         printf(\"%d|%5d|%-3d|%x|%lx|%u|%c|%d|%d\\n\", arg0, arg0, arg0, arg2 + 250, arg2, arg0, 65, \
         (int8)255, (uint8)(arg0 - 3)); \
         printf(\"%d|%d|%d|%d\\n\", (int64)arg0 - 3, -arg0, arg0 << 4 | 1, arg2 / 2 % 2); } \
         uretprobe:{home}/rounds:rounds_add /retval == 13/ { printf(\"%d %s\\n\", retval, probe); }",
        "3",
        &[
            "-1|-2|33|0",
            "13 uretprobe:~/rounds:rounds_add",
            "2|    2|2  |fe|4|2|A|-1|255",
        ],
    );
}

#[test]
fn bpftrace_reads_strings_and_structures() {
    check(
        "struct inner { char head[5]; char dash; }; struct text { struct inner in; char digit; }; \
         uprobe:{home}/rounds:rounds_add { $t = (struct text *)arg1; \
         printf(\"%s|%s|%r|%s%c%c|%d\\n\", str(arg1), str(arg1, 3), buf(arg1, 4), $t->in.head, \
         $t->in.dash, $t->digit, sizeof(struct text)); \
         @[strncmp(str(arg1), \"round-1\", 7) == 0, $t->digit] = count(); }",
        "2",
        &[
            "@[0, 48]: 1",
            "@[1, 49]: 1",
            "round-0|rou|roun|round-0|7",
            "round-1|rou|roun|round-1|7",
        ],
    );
}

#[test]
fn bpftrace_knows_who_calls() {
    check(
        "uprobe:{home}/rounds:rounds_add { @[comm, probe, pid == tid, uid == gid] = count(); \
         @frames[ustack(perf, 1)] = count(); \
         @later = (nsecs > @then) ? 1 : 0; @then = nsecs; } END { clear(@then); clear(@frames); }",
        "2",
        &[
            "@[rounds, uprobe:~/rounds:rounds_add, 1, 1]: 2",
            "@later: 1",
        ],
    );
}

#[test]
fn bpftrace_takes_parameters_and_writes_json() {
    let script = "BEGIN { @n[$1, str($2)] = $#; @h = hist(5); @t = (1, \"x\"); \
                  printf(\"%s\\n\", ntop(2, 0x0100007f)); print(\"a\\tb\"); exit(); }";
    both(|world| {
        let exit = told(world, &["-f", "json", "-e", script, "7", "word"]);
        let expected = [
            "{\"type\": \"attached_probes\", \"data\": {\"probes\": 1}}",
            "{\"type\": \"printf\", \"data\": \"127.0.0.1\\n\"}",
            "{\"type\": \"value\", \"data\": \"a\\tb\"}",
            "{\"type\": \"hist\", \"data\": {\"@h\": [{\"min\": 4, \"max\": 7, \"count\": 1}]}}",
            "{\"type\": \"map\", \"data\": {\"@n\": {\"7,word\": 2}}}",
            "{\"type\": \"map\", \"data\": {\"@t\": [1,\"x\"]}}",
        ];
        let shown = lines(world, &exit.stdout);
        assert_eq!(shown, expected, "{:?}: {exit:?}", world.mode());
    });
}
