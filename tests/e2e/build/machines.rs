//! `bpftime build` on machines without headers, without BTF, without room.

use std::fs;
use std::path::Path;

use bpftime_tests::{Exit, Program, World};

use super::{HEADER, SOURCE, directory, done, package};

/// Builds as root in a mount namespace that a script changes first.
fn elsewhere(world: &World, dir: &Path, script: &str, words: &[&str]) -> Exit {
    let script = format!("{script} && exec \"$@\"");
    let binary = world.binary();
    let mut all = vec!["unshare", "-m", "sh", "-c", &script, "sh"];
    all.push(binary.to_str().expect("a path of ours"));
    all.extend(words);
    let mut command = world.plain(&all);
    command.current_dir(dir);
    Program::on_pipes(command).finish()
}

#[test]
fn neither_headers_nor_types_of_the_kernel_are_needed() {
    let Some(world) = World::privileged() else {
        return;
    };
    let plain = "#include <stdbool.h>\n#include <linux/bpf.h>\n#include <linux/ptrace.h>\n\
                 #include <bpf/bpf_helpers.h>\n#include <bpf/bpf_tracing.h>\n#include <bpf/usdt.bpf.h>\nbool seen = false;\n\
                 SEC(\"uprobe\") int BPF_KPROBE(f, __u32 x) { seen = x == BPF_ANY; return 0; }\n";
    let files = [
        ("plain.bpf.c", plain),
        ("tool.bpf.c", SOURCE),
        ("tool.h", HEADER),
    ];
    let dir = directory(&world, "work", &files);
    let hidden = "mount -t tmpfs none /usr/include";
    for words in [
        vec!["build", "plain.bpf.c"],
        vec!["build", "tool.bpf.c", "tool.h"],
    ] {
        let exit = elsewhere(&world, &dir, hidden, &words);
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{words:?}");
    }
    done(&world, &dir, &["new", "first", "--template", "histogram"]);
    let hidden = "mount -t tmpfs none /usr/include && mount -t tmpfs none /sys/kernel/btf";
    let exit = elsewhere(
        &world,
        &dir.join("first"),
        hidden,
        &["build", "first.bpf.c", "first.h"],
    );
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
}

#[test]
fn a_full_disk_is_told() {
    let Some(world) = World::privileged() else {
        return;
    };
    let dir = directory(
        &world,
        "work",
        &[("tool.bpf.c", SOURCE), ("tool.h", HEADER)],
    );
    fs::create_dir(dir.join("full")).expect("a directory");
    let words = ["build", "tool.bpf.c", "tool.h", "-o", "full"];
    let exit = elsewhere(&world, &dir, "mount -t tmpfs -o size=4k none full", &words);
    let expected = "bpftime: full/tool.bpf.o: cannot be written (No space left on device): \
                    free some space, or choose another directory by -o\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (1, expected));
}

/// Whichever of Debian's compilers a machine has.
#[test]
fn every_compiler_makes_the_same_package() {
    let world = World::new();
    // A path that a shell, a compiler and a directive of C would like to split.
    let name = "it's \"a\" d\u{fc}r \\ $x";
    let files = [("my tool.bpf.c", SOURCE), ("tool.h", HEADER)];
    let dir = directory(&world, name, &files);
    let known = (13..=19).map(|version| format!("clang-{version}"));
    let known = known.filter(|name| Path::new("/usr/bin").join(name).exists());
    let known: Vec<String> = known.collect();
    assert!(known.iter().any(|name| name == "clang-19"), "{known:?}");
    let mut skeletons = Vec::new();
    for clang in &known {
        let words = [
            "build",
            "my tool.bpf.c",
            "tool.h",
            "-o",
            clang,
            "--clang",
            clang,
        ];
        let said = done(&world, &dir, &words);
        assert_eq!(
            said,
            format!("{clang}/my tool.bpf.o\n{clang}/package.json\n")
        );
        let package = package(&dir.join(clang));
        skeletons.push(package["meta"]["bpf_skel"].clone());
        let words = ["run", "--explain", &format!("{clang}/package.json")];
        let exit = super::run(&world, &dir, &words);
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{clang}");
    }
    for (clang, skeleton) in known.iter().zip(&skeletons) {
        assert_eq!(*skeleton, skeletons[0], "{clang}");
    }
}
