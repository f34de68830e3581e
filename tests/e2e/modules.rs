//! `bpftime run` with Wasm modules: what guests get from their programs, in
//! user space as an ordinary user and in the kernel as root.

use bpftime_tests::{Program, World, wait};
use nix::sys::signal::Signal;

use crate::objects::{run, text};
use crate::oracle::same;

/// Starts the guest `steps` and waits until it is ready.
fn steps(world: &World, options: &[&str], words: &[&str]) -> Program {
    let module = world.fixture("steps.wasm");
    let mut all = options.to_vec();
    all.push(text(&module));
    all.extend(words);
    let mut guest = Program::on_pipes(run(world, &all));
    assert_eq!(guest.line(), format!("ready {}", words[0]));
    guest
}

/// The guest on calls of this world's copy of `tgt`.
fn on_calls(world: &World, options: &[&str]) -> Program {
    let target = format!("{}:tgt_add", world.fixture("tgt").display());
    steps(world, options, &["calls", &target])
}

/// Lets `tgt` make so many calls.
fn call(world: &World, rounds: &str) {
    let target = world.fixture("tgt");
    let exit = world.start(&[text(&target), rounds, "0"]).finish();
    assert_eq!(exit.code, 0, "{exit:?}");
}

/// Tells a guest something and returns what it says up to a line that is a
/// number or ends a list.
fn ask(guest: &mut Program, line: &str) -> String {
    guest.tell(line);
    let last = |line: &str| line.parse::<i64>().is_ok() || line.ends_with("end");
    guest.lines_until(last).join("\n")
}

#[test]
fn records_and_elements_of_calls() {
    let said = same(|world| {
        let mut guest = on_calls(world, &[]);
        call(world, "3");
        let mut said = vec![ask(&mut guest, "ring 3")];
        let perf = ask(&mut guest, "perf 3");
        // Whose processor's buffer is read first is nobody's business.
        let mut perf: Vec<&str> = perf.lines().collect();
        perf.sort_unstable();
        said.push(perf.join("\n"));
        said.push(ask(&mut guest, "counts"));
        said.push(guest.ask("sum"));
        for line in ["forget 1", "forget 1", "counts"] {
            said.push(ask(&mut guest, line));
        }
        guest.tell("exit 200");
        let exit = guest.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (200, ""));
        said.join("\n")
    });
    let expected = "\
ring 0 0 0 round-0
ring 0 1 2 round-1
ring 0 2 4 round-2
3
3
perf 0 0 0 round-0
perf 0 1 2 round-1
perf 0 2 4 round-2
0=1 1=1 2=1 end
0 3
0
-2
0=1 2=1 end";
    assert_eq!(said, expected);
}

#[test]
fn records_of_system_calls() {
    let said = same(|world| {
        let mut guest = steps(world, &[], &["sleeps"]);
        let target = world.fixture("tgt");
        let mut target = world.start(&[text(&target), "2", "1500", "wait"]);
        let pid = target.line();
        let pid = pid.strip_prefix("pid ").expect("a process id");
        assert_eq!(guest.ask(&format!("only {pid}")), "0");
        target.tell("go");
        let said = ask(&mut guest, "ring 4");
        assert_eq!(target.finish().code, 0);
        assert_eq!(guest.finish().code, 0);
        said
    });
    let expected = "\
ring 1 0 1500000 
ring 2 0 0 
ring 1 0 1500000 
ring 2 0 0 
4";
    assert_eq!(said, expected);
}

#[test]
fn records_that_a_guest_stops_at_or_cuts_off() {
    let said = same(|world| {
        let mut guest = on_calls(world, &[]);
        call(world, "4");
        let mut said = Vec::new();
        for line in ["once 2", "size 17", "once 0", "once 0"] {
            said.push(ask(&mut guest, line));
            if line == "once 0" && said.len() == 3 {
                call(world, "1");
            }
        }
        assert_eq!(guest.finish().code, 0);
        said.join("\n")
    });
    let expected = "\
once 0 0 0 round-0
once 0 1 2 round-1
-7
17
once 0 2 4 r of 17
once 0 3 6 r of 17
2
once 0 0 0 r of 17
1";
    assert_eq!(said, expected);
}

#[test]
fn a_closed_object_is_off_its_places() {
    let said = same(|world| {
        let mut guest = on_calls(world, &[]);
        call(world, "1");
        let mut said = vec![ask(&mut guest, "ring 1"), ask(&mut guest, "close")];
        call(world, "1");
        for line in ["close", "ring 1", "sum", "again"] {
            guest.tell(line);
            said.push(guest.line());
        }
        call(world, "2");
        said.push(ask(&mut guest, "ring 2"));
        said.push(ask(&mut guest, "counts"));
        assert_eq!(guest.finish().code, 0);
        said.join("\n")
    });
    let expected = "\
ring 0 0 0 round-0
1
0
-22
-9
-9 0
0
ring 0 0 0 round-0
ring 0 1 2 round-1
2
0=1 1=1 end";
    assert_eq!(said, expected);
}

#[test]
fn users_decide_where_programs_are_put() {
    let said = same(|world| {
        let target = format!("on_call={}:tgt_add", world.fixture("tgt").display());
        let elsewhere = ["calls", "/no/such:place"];
        let mut guest = steps(world, &["--attach", &target], &elsewhere);
        call(world, "1");
        let said = ask(&mut guest, "ring 1");
        assert_eq!(guest.finish().code, 0);
        said
    });
    assert_eq!(said, "ring 0 0 0 round-0\n1");
}

#[test]
fn interrupted_guests_leave_nothing() {
    let said = same(|world| {
        let mut codes = Vec::new();
        // While it waits for records, and while it waits for a line.
        for line in [Some("wait"), None] {
            for signal in [Signal::SIGINT, Signal::SIGTERM] {
                let mut guest = on_calls(world, &[]);
                if let Some(line) = line {
                    guest.tell(line);
                }
                guest.signal(signal);
                wait::until_true("its end", wait::LONG, || !guest.runs());
                codes.push(guest.finish().code);
                call(world, "1");
                world.expect_nothing_left();
            }
        }
        format!("{codes:?}")
    });
    assert_eq!(said, "[130, 143, 130, 143]");
}

#[test]
fn packages_that_older_modules_hand_over() {
    let said = same(|world| {
        let module = world.fixture("old.wasm");
        let target = format!("on_call={}:tgt_add", world.fixture("tgt").display());
        let words = ["--attach", &target, text(&module), "4", "a \"b\""];
        let mut guest = Program::on_pipes(run(world, &words));
        guest.lines_until(|line| line == "ready");
        // The first call is left out: a variable is set. Of others both buffers tell.
        call(world, "3");
        let exit = guest.finish();
        assert_eq!(exit.code, 5, "{exit:?}");
        exit.stdout
    });
    let expected = "\
,\"4\",\"a \\\"b\\\"\"] 1
-22 -22 -22
-22 -22
0 -22
0 -22
ready
0 6
";
    assert_eq!(said, expected);
}
