//! Pins: what is pinned outlives its tool and is seen by the user's other tools,
//! in the kernel and here. The same stories are told in both.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bpftime_tests::{Mode, Program, World, wait};

/// A directory of bpffs that this test alone uses; gone with the story.
struct Pins<'a> {
    world: &'a World,
    path: PathBuf,
}

impl<'a> Pins<'a> {
    fn new(world: &'a World) -> Pins<'a> {
        let name = world.home().file_name().expect("a name");
        let path = Path::new("/sys/fs/bpf").join(name.to_string_lossy().replace('.', "-"));
        Pins { world, path }
    }

    fn tool(&self, options: &[&str]) -> Program {
        let mut words = vec![self.world.fixture("pinned").into_os_string(), "-d".into()];
        words.push(self.path.clone().into_os_string());
        words.extend(options.iter().map(Into::into));
        words.push(self.world.fixture("puppet").into_os_string());
        words.push("puppet_step".into());
        let mut tool = Program::on_pipes(self.world.tool(&words));
        assert_eq!(tool.line(), "ready");
        tool
    }

    /// Runs a command where bpffs is as tools see it; its output and errors.
    fn shell(&self, script: &str) -> String {
        let words = [
            "exec",
            "sh",
            "-c",
            script,
            "sh",
            self.path.to_str().expect("text"),
        ];
        let command = match self.world.mode() {
            Mode::Bpftime => self.world.bpftime(&words),
            Mode::Kernel => self.world.tool(&words[1..]),
        };
        let exit = Program::on_pipes(command).finish();
        format!("{}{}", exit.stdout, exit.stderr)
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        self.shell("rm -rf \"$1\"");
    }
}

/// Tells a story here, and in the kernel where there is one.
fn as_in_the_kernel(story: impl Fn(&World) -> String) -> String {
    let ours = story(&World::new());
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, story(&kernel), "here, and in the kernel");
    }
    ours
}

#[test]
fn a_second_run_goes_on_with_the_maps_of_the_first() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut puppet = world.puppet();
        let mut lines = Vec::new();
        for calls in [5, 3, 7] {
            let mut tool = pins.tool(&[]);
            assert_eq!(puppet.ask(&format!("call {calls}")), "ok");
            lines.push(tool.ask("print"));
            tool.tell("quit");
            assert_eq!(tool.finish().code, 0);
        }
        lines.join("\n")
    });
    assert_eq!(
        told,
        "calls 5 keys 5 hash 5 percpu 5 array 5\n\
         calls 3 keys 5 hash 8 percpu 8 array 8\n\
         calls 7 keys 7 hash 15 percpu 15 array 15"
    );
}

#[test]
fn a_pinned_link_counts_on_when_its_tool_was_killed() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut puppet = world.puppet();
        let mut tool = pins.tool(&[]);
        assert_eq!(tool.ask("link here"), "ok");
        assert_eq!(tool.ask("prog here"), "File exists");
        assert_eq!(puppet.ask("call 2"), "ok");
        tool.tell("kill");
        assert_eq!(tool.finish().code, 128 + 9);
        assert_eq!(puppet.ask("call 4"), "ok");
        let mut other = pins.tool(&["-o"]);
        let mut lines = vec![other.ask("print"), other.ask("records 6")];
        // Its ring wakes readers in other processes.
        assert_eq!(puppet.ask("call 3"), "ok");
        lines.push(other.ask("records 3"));
        lines.push(other.ask("open here"));
        lines.push(other.ask("unpin here"));
        assert_eq!(puppet.ask("call 1"), "ok");
        lines.push(other.ask("print"));
        lines.push(other.ask("close"));
        // In the kernel, too, a link ends some time after its last reference.
        let gone = || {
            let before = other.ask("print");
            assert_eq!(puppet.ask("call 1"), "ok");
            (before == other.ask("print")).then_some(())
        };
        wait::until("the link's end", Duration::from_secs(20), gone);
        lines.join("\n")
    });
    assert_eq!(
        told,
        "calls 0 keys 4 hash 6 percpu 6 array 6\n6\n3\nok\nok\n\
         calls 0 keys 4 hash 10 percpu 10 array 10\nok"
    );
}

#[test]
fn a_pinned_program_is_attached_by_another_tool() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut puppet = world.puppet();
        let mut tool = pins.tool(&[]);
        assert_eq!(tool.ask("prog it"), "ok");
        assert_eq!(tool.ask("drop"), "ok");
        tool.tell("kill");
        assert_eq!(tool.finish().code, 128 + 9);
        assert_eq!(puppet.ask("call 2"), "ok");
        let mut other = pins.tool(&["-o"]);
        let mut lines = vec![other.ask("print"), other.ask("get it")];
        assert_eq!(puppet.ask("call 3"), "ok");
        lines.push(other.ask("print"));
        lines.join("\n")
    });
    assert_eq!(
        told,
        "calls 0 keys 0 hash 0 percpu 0 array 0\nok\ncalls 0 keys 3 hash 3 percpu 3 array 3"
    );
}

#[test]
fn pins_are_files_to_every_command() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut tool = pins.tool(&[]);
        assert_eq!(tool.ask("prog it"), "ok");
        tool.tell("quit");
        assert_eq!(tool.finish().code, 0);
        pins.shell(
            "cd / ; exec 2>&1
             ls \"$1\"
             mkdir \"$1/deep\" \"$1/deep/er\" && mv \"$1/it\" \"$1/deep/er/moved\" && ls -R \"$1/deep\" | tail -1
             stat -c '%F %a %s' \"$1/kept_hash\"
             stat -c '%F %a' \"$1/deep\"
             stat -c %h \"$1/kept_hash\"
             stat -f -c %T \"$1\"
             cat \"$1/kept_ring\" 2>&1 | grep -o 'Input/output error'
             echo x 2>/dev/null >\"$1/new\" || echo not made
             mkdir \"$1/a.b\" 2>&1 | grep -o 'Operation not permitted'
             rmdir \"$1/deep\" 2>&1 | grep -o 'Directory not empty'
             rm \"$1/deep\" 2>&1 | grep -o 'Is a directory'
             rm \"$1/none\" 2>&1 | grep -o 'No such file or directory'
             test -e \"$1/kept_ring\" && echo there
             rm \"$1/deep/er/moved\" && rmdir \"$1/deep/er\" \"$1/deep\" && ls \"$1\" | wc -l
             mv \"$1/kept_ring\" /tmp/ 2>/dev/null || echo not moved out",
        )
    });
    assert_eq!(
        told,
        "it\nkept_array\nkept_hash\nkept_percpu\nkept_ring\nmoved\n\
         regular empty file 600 0\ndirectory 755\n1\nbpf_fs\nInput/output error\nnot made\n\
         Operation not permitted\nDirectory not empty\nIs a directory\nNo such file or directory\n\
         there\n4\nnot moved out\n"
    );
}

/// What bpftool says of an object, without what is the machine's: ids, times,
/// memory, machine code, processes.
fn without_ids(text: &str) -> String {
    let mut told = String::new();
    for line in text.lines().filter(|line| !line.starts_with("\tpids")) {
        let mut words = line.split_whitespace().peekable();
        let mut kept = Vec::new();
        while let Some(word) = words.next() {
            let names = [
                "btf_id",
                "map_ids",
                "prog",
                "memlock",
                "loaded_at",
                "tag",
                "jited",
                "uid",
                "xlated",
            ];
            let number = |word: &str| word.trim_end_matches(':').parse::<u32>().is_ok();
            match word {
                "not" | "jited" | "memlock" if line.contains("xlated") => {
                    if word != "not" && words.peek().is_some_and(|next| next.ends_with('B')) {
                        words.next();
                    }
                }
                word if names.contains(&word) => {
                    words.next();
                    kept.push(word);
                }
                word if word.ends_with(':') && number(word) && kept.is_empty() => kept.push("ID:"),
                word => kept.push(word),
            }
        }
        told.push_str(&kept.join(" "));
        told.push('\n');
    }
    told
}

#[test]
fn bpftool_in_another_process_answers_as_on_the_kernel() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut puppet = world.puppet();
        let mut tool = pins.tool(&[]);
        assert_eq!(tool.ask("prog p"), "ok");
        assert_eq!(tool.ask("link l"), "ok");
        assert_eq!(puppet.ask("call 3"), "ok");
        let mut told = String::new();
        for command in [
            "map show pinned $1/kept_hash",
            "map lookup pinned $1/kept_hash key 2 0 0 0 0 0 0 0",
            "map update pinned $1/kept_hash key 9 0 0 0 0 0 0 0 value 7 0 0 0 0 0 0 0",
            "map update pinned $1/kept_hash key 9 0 0 0 0 0 0 0 value 7 0 0 0 0 0 0 0 noexist",
            "map delete pinned $1/kept_hash key 1 0 0 0 0 0 0 0",
            "map delete pinned $1/kept_hash key 1 0 0 0 0 0 0 0",
            "-j map dump pinned $1/kept_percpu | grep -o '\"value\":[0-9]*' | sort",
            "map pin pinned $1/kept_ring $1/again",
            "map show pinned $1/again",
            "map pin pinned $1/kept_ring $1/again",
            "prog show pinned $1/p",
            "link show pinned $1/l",
            "link detach pinned $1/l",
            "map show pinned $1/p",
            "map show pinned $1/none",
            "map create $1/made type lpm_trie key 8 value 4 entries 5 name made flags 1",
            "map show pinned $1/made",
            "map freeze pinned $1/made",
            "map update pinned $1/made key 8 0 0 0 1 2 3 4 value 1 0 0 0",
            "map show id $(bpftool -j map show pinned $1/kept_hash | grep -o '\"id\":[0-9]*' | cut -d: -f2)",
        ] {
            let bpftool = pins.shell(&format!("bpftool {command} 2>&1"));
            let path = pins.path.to_str().expect("text");
            told += &format!("# {command}\n{}", without_ids(&bpftool.replace(path, "$1")));
        }
        told + &tool.ask("print")
    });
    assert!(told.contains("ID: hash name kept_hash flags 0x0"), "{told}");
    assert!(
        told.ends_with("calls 3 keys 3 hash 9 percpu 3 array 3"),
        "{told}"
    );
}

#[test]
fn ids_lead_to_all_tools_or_to_the_one_that_was_chosen() {
    let world = World::new();
    let hot = world.fixture("hot");
    let one = world.fixture_tool("counter", &[], &hot, "hot_call");
    let other = world.fixture_tool("ringtrace", &[], &world.fixture("tgt"), "tgt_add");
    let maps = |options: &[&str]| {
        let words = [&["exec"], options, &["bpftool", "-j", "map", "list"]].concat();
        let exit = world.run(&words);
        let maps: Vec<serde_json::Value> = serde_json::from_str(&exit.stdout).expect("JSON");
        let name = |map: &serde_json::Value| map["name"].as_str().unwrap_or("").to_owned();
        maps.iter().map(name).collect::<Vec<String>>()
    };
    let all = maps(&[]);
    assert!(
        all.iter().any(|name| name == "by_key") && all.iter().any(|name| name == "events"),
        "{all:?}"
    );
    let pid = one.pid().to_string();
    let chosen = maps(&["--session", &pid, "--"]);
    assert!(chosen.iter().any(|name| name == "by_key"), "{chosen:?}");
    assert!(!chosen.iter().any(|name| name == "events"), "{chosen:?}");
    let nobody = world.run(&["exec", "--session", "1", "true"]);
    assert_eq!(nobody.code, 1);
    let known = format!(
        "bpftime: session 1: there is none: choose one of {pid} (counter), {} (ringtrace)\n",
        other.pid()
    );
    assert_eq!(sorted(&nobody.stderr), sorted(&known));
}

fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split([' ', ',', '\n']).collect();
    words.sort_unstable();
    words
}

#[test]
fn what_is_no_pin_is_refused() {
    let world = World::new();
    let pins = Pins::new(&world);
    let mut tool = pins.tool(&[]);
    assert_eq!(tool.ask("prog p"), "ok");
    let tree = world
        .sessions()
        .join("bpffs")
        .join(pins.path.file_name().expect("a name"));
    let plain = |script: &str| {
        let words = ["sh", "-c", script, "sh", tree.to_str().expect("text")];
        assert_eq!(
            Program::on_pipes(world.plain(&words)).finish().code,
            0,
            "{script}"
        );
    };
    plain(
        "cd \"$1\" && cp p copy && echo garbage >garbage && : >empty && mkfifo pipe && mkdir directory",
    );
    plain(
        "cd \"$1\" && ln -s /dev/zero device && ln -s loop loop && ln -s p second && ln -s /etc/passwd link",
    );
    plain(
        "cd \"$1\" && head -c 100000 /dev/urandom >noise && printf 'bpftime object\\n1-0\\nmap 1\\n' >dead",
    );
    plain("cd \"$1\" && sed 's/prog/map/' p >lie && sed 's/[0-9]*-0/..\\/..\\/x/' p >path");
    let mut told = Vec::new();
    for name in [
        "copy",
        "garbage",
        "empty",
        "pipe",
        "directory",
        "device",
        "loop",
        "link",
        "noise",
        "dead",
        "lie",
        "path",
        "none",
        "second",
    ] {
        told.push(format!("{name}: {}", tool.ask(&format!("open {name}"))));
    }
    let refused = "Permission denied";
    let gone = "No such file or directory";
    assert_eq!(
        told.join("\n"),
        format!(
            "copy: {refused}\ngarbage: {refused}\nempty: {refused}\npipe: {refused}\n\
             directory: {refused}\ndevice: {refused}\nloop: Too many levels of symbolic links\nlink: {refused}\n\
             noise: {refused}\ndead: {gone}\nlie: {refused}\npath: {refused}\nnone: {gone}\nsecond: ok"
        )
    );
    plain(
        "cd \"$1\" && rm -rf copy garbage empty pipe directory device loop second link noise lie path",
    );
}

#[test]
fn a_tool_killed_while_it_pins_leaves_whole_pins_or_none() {
    let world = World::new();
    let pins = Pins::new(&world);
    let mut puppet = world.puppet();
    for round in 0..6u64 {
        let mut tool = pins.tool(&[]);
        tool.tell("link l");
        std::thread::park_timeout(Duration::from_micros(round * 150));
        tool.kill();
        let mut other = pins.tool(&["-o"]);
        let opened = other.ask("open l");
        assert!(
            ["ok", "No such file or directory"].contains(&&*opened),
            "round {round}: {opened}"
        );
        assert_eq!(
            other.ask("unpin l") == "ok",
            opened == "ok",
            "round {round}"
        );
        other.tell("quit");
        assert_eq!(other.finish().code, 0);
    }
    assert_eq!(puppet.ask("call 1"), "ok");
    let mode = |path: &Path| path.metadata().expect("the tree").permissions().mode() & 0o777;
    assert_eq!(
        (
            mode(world.sessions()),
            mode(&world.sessions().join("bpffs"))
        ),
        (0o700, 0o700)
    );
}

#[test]
fn pins_from_the_command_line_keep_what_the_tool_lets_go_of() {
    let world = World::new();
    let pins = Pins::new(&world);
    let mut puppet = world.puppet();
    let mut tool = pins.tool(&[]);
    let path = |name: &str| pins.path.join(name).to_string_lossy().into_owned();
    let links = world.run(&["link", "list", "-j"]).stdout;
    let links: serde_json::Value = serde_json::from_str(&links).expect("JSON");
    let link = links[0]["id"].to_string();
    for words in [
        ["link", "pin", &link, &path("l")],
        ["prog", "pin", "on_entry", &path("p")],
        ["map", "pin", "kept_hash", &path("h")],
    ] {
        let exit = world.run(&words);
        assert_eq!((exit.code, &*exit.stderr), (0, ""), "{words:?}");
        assert!(
            world
                .run(&words)
                .stderr
                .contains("there is such a name already")
        );
    }
    let refused = world.run(&["map", "pin", "kept_hash", "/tmp/h"]).stderr;
    assert_eq!(
        refused,
        "bpftime: /tmp/h: is no place for a pin: name a file below /sys/fs/bpf, without dots\n"
    );
    // The tool lives and lets go of the link, and then of all.
    assert_eq!(tool.ask("drop"), "ok");
    assert_eq!(puppet.ask("call 2"), "ok");
    assert_eq!(tool.ask("print"), "calls 2 keys 2 hash 2 percpu 2 array 2");
    tool.tell("quit");
    assert_eq!(tool.finish().code, 0);
    assert_eq!(puppet.ask("call 3"), "ok");
    let mut other = pins.tool(&["-o"]);
    assert_eq!(other.ask("print"), "calls 0 keys 3 hash 5 percpu 5 array 5");
    let refused = world.run(&["link", "detach", &link]);
    assert!(
        refused.stderr.contains("cannot be detached"),
        "{}",
        refused.stderr
    );
}
