//! User stacks: as backtrace(3) sees them in the target itself, and as the
//! kernel tells them where frame pointers are enough.

use bpftime_tests::{Program, World};

const COMMANDS: [&str; 7] = [
    "plain", "sort", "signal", "altstack", "thread", "aligned", "deep",
];

/// A target and the tool that follows it.
struct Frames {
    tool: Program,
    target: Program,
}

/// What was seen of one command.
#[derive(Debug)]
struct Seen {
    /// By backtrace(3) in the probed function, without that function.
    by_target: Vec<String>,
    /// At the call and at the return of its caller.
    at_entry: Vec<String>,
    at_return: Vec<String>,
    /// As places in files.
    places: Vec<String>,
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

impl Frames {
    fn start(world: &World, name: &str) -> Frames {
        let path = world.fixture(name);
        let stacks = world.fixture("stacks").into_os_string();
        let words = [
            stacks,
            path.clone().into(),
            "stack_here".into(),
            "middle".into(),
        ];
        let mut tool = Program::on_pipes(world.tool(&words));
        assert_eq!(tool.line(), "ready");
        let mut target = world.start(&[path]);
        assert_eq!(target.line(), format!("pid {}", target.pid()));
        Frames { tool, target }
    }

    fn see(&mut self, command: &str) -> Seen {
        let by_target = words(&self.target.ask(command));
        // The return follows what the target prints.
        let mut lines = Vec::new();
        while lines.len() < 4 {
            self.tool.tell("print");
            lines.extend(self.tool.lines_until(|line| line == "."));
            lines.retain(|line| line != ".");
        }
        assert_eq!(lines.len(), 4, "{command}: {lines:#?}");
        let mut stacks = lines.iter().map(|line| words(line));
        let mut next = |what: &str| {
            let mut stack = stacks.next().unwrap_or_default();
            assert_eq!(stack.remove(0), what, "{command}: {lines:#?}");
            stack
        };
        let (at_entry, places) = (next("entry"), next("places"));
        let (at_return, _) = (next("return"), next("places"));
        Seen {
            by_target,
            at_entry,
            at_return,
            places,
        }
    }
}

/// What backtrace(3) says, without the frame that stands for a return that is
/// probed: the address behind it is one less for its sake.
fn without_ours(frames: &[String]) -> Vec<String> {
    let mut frames = frames.to_vec();
    frames.remove(1);
    let address = u64::from_str_radix(&frames[1], 16).expect("an address");
    frames[1] = format!("{:x}", address + 1);
    frames
}

fn agrees_with_backtrace(name: &str, commands: &[&str]) {
    let world = World::new();
    let mut frames = Frames::start(&world, name);
    for command in commands {
        let seen = frames.see(command);
        let callers = without_ours(&seen.by_target);
        // That one stops at 128 frames, with one of the function's own and one
        // of ours.
        let known = callers.len().min(125);
        assert!(
            known == 125 || seen.at_entry.len() == known + 1,
            "{seen:#?}"
        );
        assert_eq!(
            seen.at_entry[1..=known],
            callers[..known],
            "{name} {command}"
        );
        assert_eq!(
            seen.at_return[..known - 1],
            callers[1..known],
            "{name} {command}"
        );
    }
}

#[test]
fn without_frame_pointers() {
    agrees_with_backtrace("frames", &COMMANDS);
}

#[test]
fn with_frame_pointers() {
    agrees_with_backtrace("frames_fp", &COMMANDS);
}

#[test]
fn without_symbols() {
    agrees_with_backtrace("frames_stripped", &COMMANDS);
}

#[test]
fn where_there_are_no_tables_it_ends() {
    let world = World::new();
    let mut frames = Frames::start(&world, "frames");
    for command in ["context", "jit"] {
        let seen = frames.see(command);
        assert_eq!(
            seen.at_entry[1..],
            without_ours(&seen.by_target),
            "{command}"
        );
    }
}

/// Places in the program itself, which come first.
fn own(places: &[String]) -> Vec<&String> {
    let id = |place: &String| place.split(':').nth(1).map(str::to_owned);
    let first = places.first().and_then(id);
    places
        .iter()
        .take_while(|place| id(place) == first)
        .collect()
}

#[test]
fn frame_pointers_lead_where_the_kernel_goes() {
    let Some(kernel) = World::kernel() else {
        return;
    };
    let world = World::new();
    let (mut ours, mut theirs) = (
        Frames::start(&world, "frames_fp"),
        Frames::start(&kernel, "frames_fp"),
    );
    for command in ["plain", "deep"] {
        let (ours, theirs) = (ours.see(command), theirs.see(command));
        let own = own(&ours.places);
        assert!(own.len() >= 4 && own[0].starts_with("1:"), "{own:?}");
        assert_eq!(own, self::own(&theirs.places), "{command}");
    }
}
