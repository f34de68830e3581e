//! What people run: an interpreter's own regression tests, a database, a key
//! store, cryptography, a compiler, a shell.

use std::fs;
use std::process::Command;

use crate::trial::{ALL, Mode, Trial, finish, is_long};

/// CPython's own tests that are quick and touch much.
const QUICK: &[&str] = &["re", "struct", "generators", "contextlib", "list", "float"];

/// More of them, of which some start processes or take long.
const SLOW: &[&str] = &[
    "signal",
    "exceptions",
    "pickle",
    "itertools",
    "bytes",
    "threading_local",
    "abc",
    "array",
    "ast",
    "asyncgen",
    "base64",
    "bigmem",
    "binascii",
    "bisect",
    "bool",
    "bufio",
    "builtin",
    "bz2",
    "calendar",
    "call",
    "capi",
    "class",
    "cmath",
    "codecs",
    "collections",
    "compile",
    "complex",
    "copy",
    "coroutines",
    "csv",
    "ctypes",
    "datetime",
    "decimal",
    "deque",
    "descr",
    "dict",
    "difflib",
    "dis",
    "enum",
    "fcntl",
    "float",
    "fnmatch",
    "format",
    "fractions",
    "frozen",
    "fstring",
    "functools",
    "gc",
    "glob",
    "grammar",
    "gzip",
    "heapq",
    "hmac",
    "html",
    "int",
    "io",
    "iter",
    "list",
    "long",
    "lzma",
    "marshal",
    "math",
    "memoryview",
    "mmap",
    "multiprocessing_main_handling",
    "opcodes",
    "operator",
    "ordered_dict",
    "os",
    "pathlib",
    "posix",
    "poll",
    "pprint",
    "pty",
    "queue",
    "random",
    "range",
    "resource",
    "select",
    "selectors",
    "set",
    "shutil",
    "slice",
    "socket",
    "sort",
    "sqlite3",
    "ssl",
    "statistics",
    "string",
    "subprocess",
    "sys",
    "syntax",
    "tempfile",
    "thread",
    "threading",
    "time",
    "tuple",
    "types",
    "typing",
    "unicode",
    "urllib",
    "uuid",
    "weakref",
    "xml_etree",
    "yield_from",
    "zipfile",
];

/// A Python that has its own tests, or none.
fn tested_python() -> Option<String> {
    let with_tests = |python: &str| {
        let script = "import sys, test.test_re; print(sys.executable)";
        let output = Command::new(python).args(["-c", script]).output().ok()?;
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(path)
    };
    let found = ["/usr/bin/python3", "python3"]
        .into_iter()
        .find_map(with_tests);
    assert!(
        found.is_some() || std::env::var_os("CI").is_none(),
        "libpython3-testsuite is not installed; in CI nothing is left out"
    );
    found
}

/// The verdicts only: some tests tell of times and random numbers.
fn verdicts(text: String) -> String {
    let is_verdict = |line: &&str| {
        line.contains(" ... ") || line.starts_with("OK") || line.starts_with("FAILED")
    };
    text.lines()
        .filter(is_verdict)
        .collect::<Vec<_>>()
        .join("\n")
}

fn python_tests(trial: Trial, modes: &[Mode], tests: &[&str]) {
    let Some(python) = tested_python() else {
        return;
    };
    let names: Vec<String> = tests
        .iter()
        .map(|name| format!("test.test_{name}"))
        .collect();
    let mut words = vec![python.as_str(), "-m", "unittest", "-v"];
    words.extend(names.iter().map(String::as_str));
    trial
        .with_library("libcrypto.so.3")
        .with_library("libssl.so.3")
        .with_library("libsqlite3.so.0")
        .with_library("libstdc++.so.6")
        .same_as_seen_by(modes, &words, verdicts);
}

#[test]
fn python() {
    python_tests(Trial::new(), &ALL, QUICK);
}

#[test]
fn python_at_length() {
    if is_long() {
        // Some start a hundred processes, in each of which planning would take
        // longest; and it takes a while in each that is tortured.
        for some in SLOW.chunks(12) {
            python_tests(Trial::new().alone(), &ALL, some);
        }
    }
}

/// Programs of many short processes, in which planning is most of the work.
fn short_lived(trial: &Trial, words: &[&str]) {
    trial.same(&[Mode::Entry, Mode::Return], words);
    if is_long() {
        trial.same(&[Mode::Toggle], words);
    }
}

#[test]
fn cryptography() {
    let trial = Trial::new();
    let text: String = (0..60_000)
        .map(|n| format!("line {n} of a long text\n"))
        .collect();
    trial.file("text", &text);
    trial.file(
        "run",
        "set -e
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f iv=00112233445566778899aabbccddeeff
for d in sha256 sha3-512 blake2b512; do openssl dgst -$d text; done
for c in aes-256-ctr chacha20; do
  openssl enc -$c -K $key -iv $iv -in text -out sealed
  cksum < sealed
  openssl enc -d -$c -K $key -iv $iv -in sealed | cmp - text
done
openssl genpkey -algorithm ed25519 -out key
openssl pkeyutl -sign -inkey key -rawin -in text -out signature
openssl pkeyutl -verify -inkey key -rawin -in text -sigfile signature
openssl prime 1000000007 18446744073709551557
",
    );
    short_lived(&trial, &["bash", "run"]);
}

#[test]
fn database() {
    let trial = Trial::new();
    trial.file(
        "script",
        "create table t(id integer primary key, name text, x real);
with recursive n(i) as (select 1 union all select i+1 from n where i<5000)
  insert into t select i, printf('name %05d', (i*7919)%5003), i*1.25 from n;
create index by_name on t(name);
select count(*), sum(x), min(name), max(name) from t;
select name, x from t order by name desc limit 5;
select substr(name, 1, 8) as part, avg(x), count(*) from t group by part order by 2 limit 7;
with recursive fib(a,b) as (values(0,1) union all select b, a+b from fib limit 80) select a from fib order by a desc limit 3;
begin; delete from t where id % 3 = 0; rollback;
update t set x = x * 2 where id % 2 = 0; select sum(x) from t;
select json_group_array(id) from (select id from t order by x desc limit 10);
select hex(zeroblob(4)), length(group_concat(name)) from t;
pragma integrity_check; vacuum; select count(*) from t a join t b on a.name < b.name where a.id < 40;
",
    );
    trial.same(
        &ALL,
        &["sqlite3", "file.db", ".read script", "drop table t"],
    );
}

#[test]
fn shell() {
    let trial = Trial::new();
    trial.file(
        "run",
        "f() { local n=$1; if ((n < 2)); then echo $n; else echo $(( $(f $((n-1))) + $(f $((n-2))) )); fi; }
echo fib $(f 7)
declare -A words
for w in $(printf '%s\\n' the quick brown fox jumps over the lazy dog the end); do words[$w]=$(( ${words[$w]:-0} + 1 )); done
for w in \"${!words[@]}\"; do echo \"$w ${words[$w]}\"; done | sort
seq 1 2000 | sort -R --random-source=/bin/ls | sort -n | awk '{s+=$1} END {print s}'
trap 'echo got usr1' USR1; kill -USR1 $$
(trap 'echo leaving; exit 3' TERM; kill -TERM $BASHPID; sleep 1); echo status $?
coproc cat; echo through >&${COPROC[1]}; read -r line <&${COPROC[0]}; echo $line; exec {COPROC[1]}>&-; wait
echo 'a b c' | sed 's/b/x/' | tr a-z A-Z | tee copy; cat copy
exec 0<&- 1>&2; echo to stderr; exec 2>&-; echo nowhere
",
    );
    short_lived(&trial, &["bash", "run"]);
}

#[test]
fn compiler() {
    let trial = Trial::new().only(if is_long() {
        ""
    } else {
        "libc.so,ld-linux,libgmp,libmpfr,libz,/as,libbfd,libstdc"
    });
    let functions: String = (0..60)
        .map(|n| {
            format!(
                "int f{n}(int a, int b) {{ int s = {n}; for (int i = a; i < b; i++) s += i * {n} ^ (s >> 3); \
                 switch (s & 7) {{ case 1: return s / 3; case 2: return -s; case 5: return b; }} return s; }}\n\
                 double g{n}(double x) {{ return x * {n}.5 + (x > {n} ? 1 / x : x * x); }}\n"
            )
        })
        .collect();
    trial.file("a.c", &functions);
    let compile = [
        "gcc",
        "-O2",
        "-g",
        "-c",
        "-frandom-seed=1",
        "a.c",
        "-o",
        "a.o",
    ];
    let object = |command: Command| {
        let output = finish(command);
        assert!(output.status.success(), "{output:?}");
        fs::read(trial.path("a.o")).expect("an object")
    };
    let plain = object(trial.plain(&compile));
    for mode in ALL {
        assert!(
            object(trial.tortured(mode, &compile)) == plain,
            "{mode:?}: another object"
        );
        trial.reports();
    }
}

#[test]
fn key_store() {
    let trial = Trial::new();
    let script = "set -e
redis-server --port 0 --unixsocket $PWD/socket --save '' --appendonly no --daemonize no --logfile log &
cli() { redis-cli -s $PWD/socket \"$@\"; }
until cli ping >/dev/null 2>&1; do sleep 0.01; done
{
for i in $(seq 1 40); do echo \"SET key:$i value-$i\"; echo \"RPUSH list $i\"; echo \"ZADD set $((i * 7 % 41)) m$i\"; echo \"HSET hash f$i $i\"; done
echo 'LRANGE list 0 -1'; echo 'ZRANGE set 0 -1 WITHSCORES'; echo 'HLEN hash'; echo 'MGET key:1 key:40 key:41'
echo 'EVAL \"local s = 0; for i = 1, 5000 do s = s + i * i % 7 end; return s\" 0'
echo 'SORT list DESC LIMIT 0 5'; echo 'OBJECT ENCODING list'; echo 'DBSIZE'; } | cli
redis-benchmark -s $PWD/socket -q -n 500 -c 5 -t set,get,lpush,zadd,mset >/dev/null
cli SHUTDOWN NOSAVE || true
wait
";
    trial.file("run", script);
    if finish(trial.plain(&["sh", "-c", "command -v redis-server"]))
        .status
        .success()
    {
        trial.same(&ALL, &["bash", "run"]);
    } else {
        assert!(
            std::env::var_os("CI").is_none(),
            "redis-server is not installed; in CI nothing is left out"
        );
    }
}
