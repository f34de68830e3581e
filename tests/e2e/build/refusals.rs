//! Sources that do not compile, annotations that nobody knows, and places that
//! cannot be written: one line each, and nothing is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bpftime_tests::{Program, World};
use serde_json::json;

use super::{bpftime, directory, names, package, run};

#[test]
fn errors_are_told_and_nothing_is_left() {
    let world = World::new();
    let files = [
        ("good.bpf.c", "#include <vmlinux.h>\nint x;\n"),
        ("bad.bpf.c", "#include <vmlinux.h>\nint x = ;\n"),
        ("odd.bpf.c", "int y;\n/// @sample {interval: 1}\nint x;\n"),
        ("lone.bpf.c", "#include \"lone.h\"\n"),
        ("tool.txt", ""),
    ];
    let dir = directory(&world, "work", &files);
    let before = names(&dir);
    let compiler = ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .find_map(|dir| {
            let clang = format!("{dir}/clang-19");
            Path::new(&clang).exists().then_some(clang)
        });
    let compiler = compiler.expect("clang-19");
    for (words, expected) in [
        (
            vec!["bad.bpf.c"],
            format!(
                "bad.bpf.c:2:9: error: expected expression\n    2 | int x = ;\n      |         ^\n\
                 1 error generated.\n\
                 bpftime: bad.bpf.c: does not compile ({compiler}: exit status: 1): see what clang says\n"
            ),
        ),
        (
            vec!["lone.bpf.c"],
            format!(
                "lone.bpf.c:1:10: fatal error: 'lone.h' file not found\n    1 | #include \"lone.h\"\n      \
                 |          ^~~~~~~~\n1 error generated.\n\
                 bpftime: lone.bpf.c: does not compile ({compiler}: exit status: 1): see what clang says\n"
            ),
        ),
        (
            vec!["good.bpf.c", "none.h"],
            "bpftime: none.h: cannot be read (No such file or directory): name a header, or none\n"
                .into(),
        ),
        (
            vec!["none.bpf.c"],
            "bpftime: none.bpf.c: cannot be read (No such file or directory): name a C source\n"
                .into(),
        ),
        (
            vec!["tool.txt"],
            "bpftime: tool.txt: is no C source by its name: name a file that ends in .bpf.c\n"
                .into(),
        ),
        (
            vec!["good.bpf.c", "--btf", "tool.txt"],
            "bpftime: tool.txt: is no BTF that libbpf can read (Invalid argument): \
             name a file with BTF, such as /sys/kernel/btf/vmlinux\n"
                .into(),
        ),
        (
            vec!["good.bpf.c", "-o", "/proc/none"],
            "bpftime: /proc/none: cannot be written (No such file or directory): \
             choose another directory by -o\n"
                .into(),
        ),
    ] {
        let mut all = vec!["build"];
        all.extend(&words);
        let exit = run(&world, &dir, &all);
        assert_eq!((exit.code, exit.stderr), (1, expected), "{words:?}");
    }
    let mut command = bpftime(&world, &dir, &["build", "good.bpf.c"]);
    command.env("PATH", "/none");
    let exit = Program::on_pipes(command).finish();
    let expected = "bpftime: clang: no such compiler: \
                    install it (apt install clang), or name one by --clang\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (127, expected));

    // No more than a block may be written.
    let script = "ulimit -f 1 && exec \"$@\"";
    let binary = world.binary();
    let binary = binary.to_str().expect("a path of ours");
    let mut command = world.plain(&["sh", "-c", script, "sh", binary, "build", "good.bpf.c"]);
    command.current_dir(&dir);
    let exit = Program::on_pipes(command).finish();
    let expected = "bpftime: the object: cannot be linked by libbpf (File too large): \
                    raise the limit on file sizes (ulimit -f)\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (1, expected));

    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).expect("chmod");
    let exit = run(&world, &dir, &["build", "good.bpf.c"]);
    let expected = "bpftime: good.bpf.o: cannot be written (Permission denied): \
                    choose another directory by -o\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (1, expected));
    assert_eq!(names(&dir), before);
}

#[test]
fn annotations_that_nobody_knows_are_told() {
    let world = World::new();
    let source = "#include <vmlinux.h>\n#include <bpf/bpf_helpers.h>\n/// @limit 5\nconst volatile int x = 0;\n\
                  SEC(\"tc\") int f(struct __sk_buff *ctx) { return x; }\n";
    let bad = source.replace("@limit 5", "@cmdarg 5");
    let dir = directory(&world, "work", &[("a.bpf.c", source), ("b.bpf.c", &bad)]);
    let exit = run(&world, &dir, &["build", "a.bpf.c"]);
    let expected = "bpftime: a.bpf.c:3: @limit is no annotation of a variable, whose are @cmdarg, @description\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (0, expected));
    let variables = &package(&dir)["meta"]["bpf_skel"]["data_sections"][0]["variables"];
    assert_eq!(
        *variables,
        json!([{"name": "x", "type": "int", "limit": 5}])
    );

    let exit = run(&world, &dir, &["build", "b.bpf.c"]);
    let expected = "bpftime: b.bpf.c:3: @cmdarg takes a JSON object: \
                    write @cmdarg {\"default\": 0, \"short\": \"p\", \"long\": \"pid\"}\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (1, expected));
    assert!(!dir.join("b.bpf.o").exists());
}
