//! A tool with libbpf-rs: loads the fixture `traced` or `several` and shows
//! what it saw.
//!
//!     libbpf_rs OBJECT PROGRAM PID
//!
//! Prints `ready`, and for each line on stdin what came since, then `end`.

#[path = "several.rs"]
mod several;
#[path = "shared.rs"]
mod shared;

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result};
use libbpf_rs::{
    MapCore, MapFlags, Object, ObjectBuilder, PerfBufferBuilder, ProgramMut, RingBufferBuilder,
    TracepointCategory, UprobeOpts,
};

use shared::{arguments, entry, int, long, result, say, show};

/// What the uretprobe's program finds.
const COOKIE: u64 = 77;

fn main() -> Result<()> {
    let [object, program, pid] = arguments()?;
    let pid: i32 = pid.parse()?;
    if object.contains("several") {
        return several::run(&object, &program, pid);
    }
    let object = ObjectBuilder::default().open_file(object)?.load()?;
    let map = |name: &str| {
        let mut maps = object.maps();
        maps.find(|map| map.name() == name).context("a map")
    };
    let zero = 0u32.to_ne_bytes();
    map("process")?.update(&zero, &pid.to_ne_bytes(), MapFlags::ANY)?;

    let probe = |retprobe, cookie| UprobeOpts {
        func_name: Some("rounds_add".to_owned()),
        retprobe,
        cookie,
        ..UprobeOpts::default()
    };
    let _links = [
        find(&object, "on_add")?.attach_uprobe_with_opts(pid, &program, 0, probe(false, 0))?,
        find(&object, "on_added")?.attach_uprobe_with_opts(-1, &program, 0, probe(true, COOKIE))?,
        find(&object, "on_sleep")?
            .attach_tracepoint(TracepointCategory::Syscalls, "sys_enter_clock_nanosleep")?,
    ];

    let said = RefCell::new(Vec::new());
    let entries = map("entries")?;
    let mut ring = RingBufferBuilder::new();
    ring.add(&entries, |bytes| {
        said.borrow_mut().push(entry(bytes));
        0
    })?;
    let ring = ring.build()?;
    let results = map("results")?;
    let results = PerfBufferBuilder::new(&results)
        .sample_cb(|_cpu, bytes: &[u8]| said.borrow_mut().push(result(bytes)))
        .lost_cb(|_cpu, lost| said.borrow_mut().push(format!("lost {lost}")))
        .build()?;

    say("ready")?;
    for line in std::io::stdin().lines() {
        line?;
        ring.poll(Duration::from_millis(10))?;
        results.poll(Duration::from_millis(10))?;
        results.consume()?;
        let values = map("calls")?.lookup_percpu(&zero, MapFlags::ANY)?;
        let calls: i64 = values.iter().flatten().map(|value| long(value)).sum();
        let lengths = map("lengths")?;
        for key in lengths.keys() {
            let value = lengths
                .lookup(&key, MapFlags::ANY)?
                .context("a key's value")?;
            said.borrow_mut()
                .push(format!("length {}: {}", int(&key), long(&value)));
        }
        let sleeps = map("sleeps")?
            .lookup(&zero, MapFlags::ANY)?
            .context("an element")?;
        said.borrow_mut()
            .push(format!("calls {calls}, sleeps {}", long(&sleeps)));
        show(&mut said.borrow_mut())?;
    }
    Ok(())
}

fn find<'obj>(object: &'obj Object, name: &str) -> Result<ProgramMut<'obj>> {
    let mut programs = object.progs_mut();
    let found = programs.find(|program| program.name() == name);
    found.with_context(|| format!("no program {name}"))
}
