//! `bpftime map` on a tool's maps, beside bpftool on the kernel's: the same
//! tool runs in both.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::common::{Place, can, check, is_root};

/// The tool, waiting, and the ids of its maps.
struct Tool {
    child: Child,
    ids: HashMap<String, u32>,
}

impl Tool {
    fn start(mut command: Command) -> Tool {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start");
        let mut ids = HashMap::new();
        for line in BufReader::new(child.stdout.as_mut().expect("a pipe")).lines() {
            let line = line.expect("its output");
            let Some((name, id)) = line.split_once(' ') else {
                assert_eq!(line, "ready");
                break;
            };
            ids.insert(name.to_owned(), id.parse().expect("an id"));
        }
        assert_eq!(ids.len(), 11, "{ids:?}");
        Tool { child, ids }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("its status").success());
    }
}

fn hosted(place: &Place) -> Tool {
    let tool = build(place);
    Tool::start(place.bpftime([OsStr::new("load"), tool.as_os_str()]))
}

fn build(place: &Place) -> std::path::PathBuf {
    let source = include_str!("maps.c");
    place.compile("gcc", &["-Wl,--no-as-needed", "-lbpf"], "maps", source)
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// All that can be read, in all forms, is letter for letter what bpftool says
/// of the kernel's maps.
#[test]
fn reads_as_bpftool_does() {
    if !can("maps of the kernel are root's to see", is_root()) {
        return;
    }
    let place = Place::new();
    let ours = hosted(&place);
    let theirs = Tool::start(Command::new(build(&place)));
    let commands = [
        ("typed", "dump", ""),
        ("odd", "dump", ""),
        ("percpu", "dump", ""),
        ("percpu_bytes", "dump", ""),
        ("bytes", "dump", ""),
        ("long_bytes", "dump", ""),
        ("middle_bytes", "dump", ""),
        ("empty", "dump", ""),
        ("hists", "dump", ""),
        ("typed", "lookup", "key 3 0 0 0"),
        ("percpu", "lookup", "key 1 0 0 0"),
        ("bytes", "lookup", "key hex 03 00 00 00"),
        ("percpu_bytes", "lookup", "key 2 1"),
    ];
    for (map, verb, words) in commands {
        for format in ["", "-j", "-p"] {
            let run = |mut command: Command, tool: &Tool| {
                command.args(["map", verb, "id", &tool.ids[map].to_string()]);
                command.args(words.split_whitespace());
                command.args(Some(format).filter(|format| !format.is_empty()));
                output(&mut command)
            };
            let expected = run(Command::new("bpftool"), &theirs);
            let bpftime = |args: [&str; 0]| place.bpftime(args);
            assert_eq!(run(bpftime([]), &ours), expected, "{format} {verb} {map}");
        }
    }
}

#[test]
fn elements_are_changed_as_asked() {
    let place = Place::new();
    let tool = hosted(&place);
    let run = |args: &str| place.bpftime(args.split_whitespace());
    let done = |args: &str| check(&mut run(args), 0, "", "");
    let shows = |args: &str, text: &str| check(&mut run(args), 0, text, "");
    let fails =
        |args: &str, text: &str| check(&mut run(args), 1, "", &format!("bpftime: {text}\n"));
    let id = tool.ids["bytes"];

    done("map update bytes key 9 value -2");
    shows(
        "map lookup bytes key 9",
        "key: 09 00 00 00  value: fe ff ff ff ff ff ff ff\n",
    );
    done("map update name bytes key 9 value 1 exist");
    done(&format!("map delete id {id} key 3 0 0 0"));
    shows(
        "map dump bytes",
        "key: 09 00 00 00  value: 01 00 00 00 00 00 00 00\nFound 1 element\n",
    );
    done("map update percpu key 0 value 5");
    shows(
        "map export percpu",
        "key,cpu,value\n0,0,5\n0,1,5\n1,0,10\n1,1,11\n"
            .split_inclusive('\n')
            .take(1 + 2 * cpus())
            .collect::<String>()
            .as_str(),
    );
    shows(
        "map dump --hist hists",
        "key 3\n     value               : count    distribution
         0 -> 1          : 2        |**********                              |
         2 -> 3          : 0        |                                        |
         4 -> 7          : 8        |****************************************|
",
    );
    let odd = "key,value.count,value.delta,value.text,value.raw,value.yes,value.letter,value.color,value.pointer,value.low,\
               value.high,value.pair,value.inside.a,value.inside.b,value.either,value.wide
0,0,0,\"[0x1,0x0,0x0,0x0,0x0,0x0,0x0,0x0,0x0,0x0,0x0,0x0,0x0,0x0,0x0,0x0]\",,false,0xa,12,(nil),0,0,\"[0,0]\",0,0,\
               \"{\"\"whole\"\":0,\"\"part\"\":0}\",0x0\n";
    shows("map export odd", odd);

    let named = format!("map {id} (bytes)");
    fails(
        "map lookup bytes key 3",
        &format!("{named}: has no key 03 00 00 00: bpftime map dump prints those it has"),
    );
    fails(
        "map delete bytes key 3",
        &format!("{named}: has no key 03 00 00 00: bpftime map dump prints those it has"),
    );
    fails(
        "map update bytes key 9 value 1 noexist",
        &format!("{named}: has the key already: leave out noexist"),
    );
    fails(
        "map update bytes key 8 value 1 exist",
        &format!("{named}: does not have the key: leave out exist"),
    );
    fails(
        "map update bytes key 8",
        &format!("{named}: no value was given: add value DATA"),
    );
    fails(
        "map update frozen key 8 value 1",
        &format!(
            "map {} (frozen): is frozen: the tool promised not to change it",
            tool.ids["frozen"]
        ),
    );
    fails(
        "map dump events",
        &format!(
            "map {} (events): a map of type ringbuf has no elements to read: its data goes to the tool",
            tool.ids["events"]
        ),
    );
    fails(
        "map dump nothing",
        "map nothing: no such map: bpftime map list lists them",
    );
    fails(
        "map dump id x",
        "id x: is not a number: bpftime map list shows ids",
    );
    fails(
        "map dump --hist long_bytes",
        &format!(
            "map {} (long_bytes): holds no histogram: its values must have an array of integers named slots, or it must \
             be an array of up to 64 integers",
            tool.ids["long_bytes"]
        ),
    );
}

fn cpus() -> usize {
    std::fs::read_to_string("/sys/devices/system/cpu/possible")
        .map_or(1, |range| if range.trim() == "0" { 1 } else { 2 })
}

#[test]
fn lists_maps_with_their_tools() {
    let place = Place::new();
    let none = "bpftime: map bytes: no tool runs that has maps: start one with bpftime load\n";
    check(&mut place.bpftime(["map", "dump", "bytes"]), 1, "", none);
    check(&mut place.bpftime(["map", "list"]), 0, "", "");
    let tool = hosted(&place);
    let (id, pid) = (tool.ids["frozen"], tool.pid());
    let text = output(&mut place.bpftime(["map", "list", "frozen"]));
    let head =
        format!("{id}: hash  name frozen  flags 0x0\n\tkey 4B  value 8B  max_entries 10  memlock ");
    let tail = format!("B\n\tfrozen\n\tpids maps({pid})\n");
    let bytes = text
        .strip_prefix(&head)
        .and_then(|text| text.strip_suffix(&tail));
    assert!(
        bytes.is_some_and(|bytes| bytes.parse::<u64>().is_ok()),
        "{text}"
    );

    let all = output(&mut place.bpftime(["map", "list", "-j"]));
    let all: serde_json::Value = serde_json::from_str(&all).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(11));

    let other = hosted(&place);
    let one_of = |tool: &Tool| format!("id {} --session {}", tool.ids["frozen"], tool.pid());
    let mut orders = [(&tool, &other), (&other, &tool)].map(|(a, b)| {
        format!(
            "bpftime: map frozen: there are several: choose one by {} or {}\n",
            one_of(a),
            one_of(b)
        )
    });
    let seen = place
        .bpftime(["map", "dump", "frozen"])
        .output()
        .expect("run");
    let seen = String::from_utf8_lossy(&seen.stderr).into_owned();
    assert!(orders.iter_mut().any(|order| *order == seen), "{seen}");
    let session = other.pid().to_string();
    let one = ["map", "dump", "frozen", "--session", &session];
    check(&mut place.bpftime(one), 0, "Found 0 elements\n", "");
}
