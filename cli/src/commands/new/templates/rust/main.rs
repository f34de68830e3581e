//! @NAME@ [COUNT]: names that programs look up, the first COUNT of them or all.

use std::error::Error;
use std::time::Duration;

use bpftime_guest::{Open, plain};

/// What the program's types are here; made by `make`.
#[allow(dead_code, unused_imports)]
mod types;
use types::event;

static PROGRAMS: &[u8] = include_bytes!("../@NAME@.bpf.o");

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1);
    let mut left = count.map_or(Ok(u64::MAX), |word| word.parse())?;

    // Variables of the program are set before it is loaded: open.set("target_pid", &1i32)?;
    let open = Open::new(PROGRAMS);
    let object = open.load()?;
    // The buffer comes before the programs that report.
    let mut events = object.map("events")?.buffer();
    object.program("on_getaddrinfo").attach()?;
    eprintln!("attached; Ctrl-C ends");
    while left > 0 {
        events.poll(Duration::from_millis(100), |record| {
            let Some(event) = plain::read::<event>(record).filter(|_| left > 0) else {
                return;
            };
            let (comm, name) = (plain::text(&event.comm), plain::text(&event.name));
            println!("{} {comm} {name}", event.pid);
            left -= 1;
        })?;
    }
    Ok(())
}
