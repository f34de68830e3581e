//! The part of the tool with libbpf-rs that puts programs on many places by
//! one link: uprobe multi, uprobe session, and static probes, with the fixture
//! `several`.

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, ObjectBuilder, UprobeMultiOpts};

use crate::find;
use crate::shared::{long, say, show};

/// Their places have these as cookies.
const FUNCTIONS: [&str; 3] = ["rounds_add", "rounds_alloc", "rounds_leak"];

/// Runs as the tool does.
pub fn run(object: &str, program: &str, pid: i32) -> Result<()> {
    let mut object = ObjectBuilder::default().open_file(object)?;
    for mut map in object.maps_mut() {
        if map.name().to_string_lossy().ends_with(".rodata") {
            let own = map
                .initial_value_mut()
                .and_then(|all| all.first_chunk_mut());
            *own.context("a variable")? = pid.to_ne_bytes();
        }
    }
    let object = object.load()?;
    let many = |retprobe| UprobeMultiOpts {
        syms: FUNCTIONS.map(str::to_owned).to_vec(),
        cookies: vec![1, 2, 3],
        retprobe,
        ..UprobeMultiOpts::default()
    };
    let _links = [
        find(&object, "on_entry")?.attach_uprobe_multi_with_opts(-1, program, "", many(false))?,
        find(&object, "on_exit")?.attach_uprobe_multi_with_opts(pid, program, "", many(true))?,
        // Every function whose name matches.
        find(&object, "on_session")?.attach_uprobe_multi(-1, program, "*_add", false, true)?,
        find(&object, "on_plain")?.attach_usdt(-1, program, "rounds", "plain")?,
    ];

    say("ready")?;
    for line in std::io::stdin().lines() {
        line?;
        let mut maps = object.maps();
        let bss = maps.find(|map| map.name().to_string_lossy().ends_with(".bss"));
        let zero = 0u32.to_ne_bytes();
        let seen = bss.context("variables")?.lookup(&zero, MapFlags::ANY)?;
        let seen: Vec<i64> = seen.context("an element")?.chunks(8).map(long).collect();
        let mut said = vec![
            format!("entries {:?}", &seen[..4]),
            format!("exits {:?}", &seen[4..8]),
            format!("sessions {:?}", &seen[8..11]),
            format!("static probes {}", seen[11]),
            format!("version {}", seen[12] != 0),
        ];
        show(&mut said)?;
    }
    Ok(())
}
