//! The fixture tools under the kernel and under bpftime: the same commands
//! must give the same text.

use bpftime_tests::{Counted, Program, World};

/// Runs a story in both worlds and compares what it says.
pub fn same(story: impl Fn(&World) -> String) -> String {
    let ours = story(&World::new());
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, story(&kernel), "left: bpftime, right: kernel");
    }
    ours
}

/// All that `counter` has counted.
fn print(counter: &mut Program) -> String {
    Counted::by(counter).text()
}

/// Tells the puppet each line; all must go well.
fn play(puppet: &mut Program, lines: &[&str]) {
    for line in lines {
        assert_eq!(puppet.ask(line), "ok", "{line}");
    }
}

#[test]
fn hash_percpu_and_globals() {
    let said = same(|world| {
        let path = world.fixture("puppet");
        let mut counter =
            world.fixture_tool("counter", &["-m", "5", "-w", "3"], &path, "puppet_step");
        let mut puppet = world.puppet();
        play(&mut puppet, &["call 12", "threads 2 1000"]);
        let first = print(&mut counter);
        assert_eq!(counter.ask("clear"), "cleared");
        assert_eq!(counter.ask("weight 7"), "weight set");
        play(&mut puppet, &["call 3"]);
        let second = print(&mut counter);
        assert_eq!(counter.ask("detach"), "detached");
        play(&mut puppet, &["call 5"]);
        assert_eq!(counter.ask("attach"), "ready");
        play(&mut puppet, &["call 6"]);
        let third = print(&mut counter);
        counter.tell("quit");
        assert_eq!(counter.finish().code, 0);
        assert_eq!(puppet.finish().code, 0);
        format!("{first}\n{second}\n{third}")
    });
    assert!(
        said.starts_with("calls 2012\nweighed 6036\nrefused 0\ncomm puppet\nhash 0 403\n"),
        "{said}"
    );
}

#[test]
fn results_of_returns() {
    let said = same(|world| {
        let path = world.fixture("puppet");
        let mut counter = world.fixture_tool("counter", &["-r", "-m", "0"], &path, "puppet_step");
        let mut puppet = world.puppet();
        play(&mut puppet, &["call 8", "threads 4 4"]);
        print(&mut counter)
    });
    assert!(
        said.contains("\nhash 1 5\n") && said.contains("\nhash 22 1\n"),
        "{said}"
    );
}

#[test]
fn recursion_returns_once_a_level() {
    let said = same(|world| {
        let path = world.fixture("puppet");
        let mut counter =
            world.fixture_tool("counter", &["-r", "-m", "0"], &path, "puppet_recurse");
        let mut puppet = world.puppet();
        play(&mut puppet, &["recurse 40"]);
        print(&mut counter)
    });
    assert!(said.starts_with("calls 41\n"), "{said}");
}

#[test]
fn a_full_hash_refuses_as_the_kernel_does() {
    let said = same(|world| {
        let path = world.fixture("puppet");
        let mut counter = world.fixture_tool("counter", &["-m", "0"], &path, "puppet_step");
        let mut puppet = world.puppet();
        play(&mut puppet, &["call 100"]);
        print(&mut counter)
    });
    assert!(
        said.starts_with("calls 100\nweighed 100\nrefused 36\n"),
        "{said}"
    );
}

#[test]
fn filters_by_process() {
    same(|world| {
        let path = world.fixture("puppet");
        let (mut wanted, mut other) = (world.puppet(), world.puppet());
        let pid = wanted.pid().to_string();
        let mut by_link = world.fixture_tool("counter", &["-p", &pid], &path, "puppet_step");
        let mut by_program = world.fixture_tool("counter", &["-f", &pid], &path, "puppet_step");
        play(&mut wanted, &["call 10"]);
        play(&mut other, &["call 1000"]);
        let said = [print(&mut by_link), print(&mut by_program)];
        assert!(
            said.iter().all(|text| text.starts_with("calls 10\n")),
            "{said:?}"
        );
        said.join("\n")
    });
}

#[test]
fn ring_buffer_events() {
    let said = same(|world| {
        let path = world.fixture("tgt");
        let mut tool = world.fixture_tool("ringtrace", &["-s"], &path, "tgt_add");
        let exit = world.start(&[path.as_os_str(), "30".as_ref()]).finish();
        assert_eq!(
            (exit.code, exit.stdout.as_str(), exit.stderr.as_str()),
            (0, "sum 1535 right\n", "")
        );
        // They come without being asked for: a wake-up, no polling interval.
        let mut lines: Vec<_> = (0..30).map(|_| tool.line()).collect();
        tool.tell("quit");
        lines.extend(tool.lines_until(|line| line.starts_with("dropped")));
        assert_eq!(tool.finish().code, 0);
        lines.join("\n")
    });
    assert!(
        said.starts_with("comm=tgt first=0 text=round-0 length=8 third=0 result=7\n")
            && said.ends_with("\nentered 30\nreturned 30\ndropped 0"),
        "{said}"
    );
}

#[test]
fn loops_and_records_of_any_length() {
    let said = same(|world| {
        let path = world.fixture("tgt");
        let mut tool = world.fixture_tool("loops", &[], &path, "tgt_add");
        let exit = world.start(&[path.as_os_str(), "40".as_ref()]).finish();
        assert_eq!(exit.code, 0);
        tool.tell("quit");
        let lines = tool.lines_until(|line| line.starts_with("dropped"));
        assert_eq!(tool.finish().code, 0);
        lines.join("\n")
    });
    // Calls with 0, 1, … 39: what the program must make of 5 and of 39.
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 41, "{said}");
    let five = "count=5 bits=2 goes=10 sum=10: 0 1 4 9 16";
    assert_eq!((lines[5], lines[40]), (five, "dropped 0"));
    let last = "count=39 bits=4 goes=741 sum=741: 0 1 4 ";
    assert!(
        lines[39].starts_with(last) && lines[39].ends_with(" 1369 1444"),
        "{said}"
    );
}

#[test]
fn ring_buffer_of_many_targets_loses_nothing() {
    let world = World::new();
    let path = world.fixture("tgt");
    let mut tool = world.fixture_tool("ringtrace", &[], &path, "tgt_add");
    // 3 x 100 records of about 100 bytes fit the ring of 64 KiB whatever the reader does.
    let targets: Vec<_> = (0..3)
        .map(|_| world.start(&[path.as_os_str(), "100".as_ref()]))
        .collect();
    let mut pids: Vec<_> = targets.iter().map(Program::pid).collect();
    for target in targets {
        assert_eq!(target.finish().stdout, "sum 15640 right\n");
    }
    let mut rows: Vec<_> = (0..300).map(|_| tool.line()).collect();
    pids.sort_unstable();
    for pid in pids {
        let prefix = format!("pid={pid} tid={pid} ");
        let of_pid: Vec<_> = rows
            .extract_if(.., |row| row.starts_with(&prefix))
            .collect();
        let firsts = of_pid.iter().map(|row| {
            row.split(" first=")
                .nth(1)
                .and_then(|rest| rest.split(' ').next())
        });
        let expected: Vec<_> = (0..100).map(|i| Some(i.to_string())).collect();
        assert_eq!(
            firsts
                .map(|first| first.map(str::to_owned))
                .collect::<Vec<_>>(),
            expected
        );
    }
    assert!(rows.is_empty(), "{rows:?}");
    tool.tell("quit");
    assert!(
        tool.finish()
            .stdout
            .ends_with("entered 300\nreturned 300\ndropped 0\n")
    );
}
