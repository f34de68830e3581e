//! bpftrace's maps, and what prints and changes them.

use super::check;

#[test]
fn bpftrace_aggregates() {
    check(
        "uprobe:{home}/rounds:rounds_add { @a = avg(arg0); @c = count(); @m = min(arg2); \
         @n = max(arg2); @s = sum((int32)arg0 - 6); @t = stats(arg0); @last = arg0; \
         @odd[arg0 & 1, arg0 > 8] = sum(arg0); @pair[arg0 % 3, \"x\"] = count(); @tuple = (1, (\"y\", 2)); }",
        "11",
        &[
            "@a: 5",
            "@c: 11",
            "@last: 10",
            "@m: 0",
            "@n: 20",
            "@odd[0, 0]: 20",
            "@odd[0, 1]: 10",
            "@odd[1, 0]: 16",
            "@odd[1, 1]: 9",
            "@pair[0, x]: 4",
            "@pair[1, x]: 4",
            "@pair[2, x]: 3",
            "@s: -11",
            "@t: count 11, average 5, total 55",
            "@tuple: (1, (y, 2))",
        ],
    );
}

#[test]
fn bpftrace_draws_histograms() {
    check(
        "uprobe:{home}/rounds:rounds_add { @h = hist(arg0 - 1); @l = lhist(arg0, 2, 8, 3); \
         @k[arg0 < 9] = hist(1); }",
        "10",
        &[
            "(..., 0)               1 |@@@@@@@@@@@@@                                       |",
            "(..., 2)               2 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@                  |",
            "@h: ",
            "@k[0]: ",
            "@k[1]: ",
            "@l: ",
            "[0]                    1 |@@@@@@@@@@@@@                                       |",
            "[1]                    1 |@@@@@@@@@@@@@                                       |",
            "[1]                    1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
            "[1]                    9 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
            "[2, 4)                 2 |@@@@@@@@@@@@@@@@@@@@@@@@@@                          |",
            "[2, 5)                 3 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
            "[4, 8)                 4 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
            "[5, 8)                 3 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|",
            "[8, ...)               2 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@                  |",
            "[8, 16)                1 |@@@@@@@@@@@@@                                       |",
        ],
    );
}

#[test]
fn bpftrace_prints_clears_and_deletes() {
    check(
        "uprobe:{home}/rounds:rounds_add { @c[arg0] = sum(arg0 * 1000); @z = count(); @d[arg0] = 1; \
         @g = arg0; if (arg0 != 2) { delete(@d[arg0]); } } \
         END { print(@c, 2, 100); clear(@c); zero(@z); print(@z); print(@d); clear(@d); delete(@g); \
         print((1, \"two\")); }",
        "5",
        &[
            "(1, two)",
            "@c[3]: 30",
            "@c[4]: 40",
            "@d[2]: 1",
            "@z: 0",
            "@z: 0",
        ],
    );
}

/// Counts are exact, whatever runs at once.
#[test]
fn bpftrace_measures_between_probes() {
    check(
        "uprobe:{home}/rounds:rounds_add { @start[tid] = nsecs; } \
         uretprobe:{home}/rounds:rounds_add /@start[tid]/ { $took = nsecs - @start[tid]; \
         @timed = count(); @ran = min($took > 0 ? 1 : 0); delete(@start[tid]); }",
        "500",
        &["@ran: 1", "@timed: 500"],
    );
}
