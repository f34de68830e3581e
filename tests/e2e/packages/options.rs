//! Options by annotations, and records of every type.

use bpftime_tests::{Program, World};
use serde_json::json;

use super::{called, events, exported, parcel, run, without_time, write};
use crate::oracle::same;

#[test]
fn options_and_records_of_every_type() {
    let package = parcel(&["on_call"], &events(), &exported("event"));
    let usual = same(|world| without_time(&called(world, &["--json"], &package, &[], "2")));
    assert_eq!(
        usual,
        "{\"exact\":0.0,\"given\":{\"__EUNOMIA_TYPE\":\"struct\",\"__EUNOMIA_TYPE_NAME\":\"given\",\
         \"flag\":true,\"small\":0,\"tiny\":200},\"huge\":0,\"kept\":true,\"letter\":97,\"loud\":false,\
         \"name\":\"none\",\"number\":1,\"pid\":0,\"quiet\":true,\"scale\":1.5,\"text\":\"round-1\",\"twice\":-2}\n"
    );
    let said = same(|world| {
        let options = [
            "-l",
            "2",
            "--tiny",
            "255",
            "--small",
            "65535",
            "--gross",
            "18446744073709551615",
            "--scale",
            "-0.25",
            "--exact",
            "1e300",
            "--letter",
            "z",
            "--name",
            "sevenxx",
            "--enable-loud",
            "--disable-quiet",
            "--pid_target",
            "-3",
        ];
        without_time(&called(world, &[], &package, &options, "3"))
    });
    assert_eq!(
        said,
        "TIME     PID    NUMBER TWICE  SCALE  EXACT  LOUD   QUIET  KEPT   LETTER GIVEN  HUGE   NAME   TEXT   \n  \
         -3    2      -4     -0.25  1e+300 true   false  true   122    {\"__EUNOMIA_TYPE\":\"struct\",\
         \"__EUNOMIA_TYPE_NAME\":\"given\",\"flag\":true,\"small\":65535,\"tiny\":255} 18446744073709551615 sevenxx round-2\n"
    );
}

#[test]
fn help_is_the_packages() {
    let world = World::new();
    let package = parcel(&["on_call"], &events(), &exported("event"));
    let file = write(&world, "package.json", package.to_string().as_bytes());
    let exit = world.run(&["run", &file, "--help"]);
    assert_eq!(exit.code, 0, "{exit:?}");
    let head: Vec<&str> = exit.stdout.lines().take(4).collect();
    let usage = format!("Usage: bpftime run {file} [OPTIONS]");
    assert_eq!(head, ["Shows calls.", "", usage.as_str(), ""]);
    for option in [
        "--pid_target <pid_target>  Process to look at",
        "-l, --least <least>            Set value of `unsigned int` variable least [default: 1]",
        "--gross <gross>            Set value of `__u64` variable huge",
        "--enable-loud              Set value of `bool` variable loud [default: false]",
        "--disable-quiet            Set value of `bool` variable quiet [default: true]",
        "--kept                     Set value of `bool` variable kept",
        "--name <name>              What to call it [default: none]",
    ] {
        assert!(exit.stdout.contains(option), "{option}\n{}", exit.stdout);
    }
    assert!(!exit.stdout.contains("__eunomia"), "{}", exit.stdout);
    assert!(exit.stdout.ends_with("\n\nAll of it.\n"), "{}", exit.stdout);
    let version = world.run(&["run", &file, "-V"]);
    assert_eq!(
        (version.code, version.stdout.as_str()),
        (0, "parcel_bpf 1.2.3\n")
    );
    for (words, line) in [
        (
            ["--least", "-1"],
            "bpftime: --least -1: a number from 0 to 4294967295 is wanted: see the list by --help",
        ),
        (
            ["--tiny", "256"],
            "bpftime: --tiny 256: a number from 0 to 255 is wanted: see the list by --help",
        ),
        (
            ["--name", "eightxxx"],
            "bpftime: --name eightxxx: at most 7 bytes fit: see the list by --help",
        ),
    ] {
        let exit = world.run(&["run", &file, words[0], words[1]]);
        assert_eq!((exit.code, exit.stderr.trim_end()), (2, line));
    }
}

#[test]
fn system_calls_of_one_process() {
    let said = same(|world| {
        let maps = json!([{"name": "opens", "ident": "opens"}]);
        let package = parcel(&["on_open"], &maps, &exported("opened"));
        let file = write(world, "package.json", package.to_string().as_bytes());
        let mut puppet = world.bare_puppet();
        let mut other = world.bare_puppet();
        let pid = puppet.pid().to_string();
        let words = [
            "--pid",
            &pid,
            &file,
            "--pid_target",
            &pid,
            "--prefix",
            "/no/su",
        ];
        let tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        for puppet in [&mut other, &mut puppet] {
            assert_eq!(puppet.ask("open /no/such/file"), "WRONG");
        }
        let exit = tool.interrupt();
        assert_eq!((puppet.finish().code, other.finish().code), (0, 0));
        without_time(&exit)
    });
    assert_eq!(said, "TIME     FLAGS  PATH   \n  0     /no/such/file\n");
}
