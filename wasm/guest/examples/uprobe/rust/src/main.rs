//! calls-rust PATH:FUNCTION COUNT [LEAST]: the first COUNT calls of a function,
//! by the program that the guest in C has, too.

use std::error::Error;
use std::time::Duration;

use bpftime_guest::{Open, plain};

mod types {
    include!(concat!(env!("GUEST_OUT"), "/calls.types.rs"));
}
use types::{bss, call};

static PROGRAMS: &[u8] = include_bytes!(concat!(env!("GUEST_OUT"), "/calls.bpf.o"));

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, count, rest @ ..] = arguments.as_slice() else {
        return Err("usage: calls-rust PATH:FUNCTION COUNT [LEAST]".into());
    };
    let least: i64 = rest.first().map_or(Ok(0), |word| word.parse())?;
    let mut left: u64 = count.parse()?;

    let mut open = Open::new(PROGRAMS);
    open.set("least", &least)?;
    let object = open.load()?;
    // Before the programs report.
    let mut calls = object.map("calls")?.buffer();
    object.program("on_call").attach_to(target)?;
    println!("attached");
    while left > 0 {
        calls.poll(Duration::from_millis(100), |record| {
            let Some(call) = plain::read::<call>(record).filter(|_| left > 0) else {
                return;
            };
            let comm = plain::text(&call.comm);
            println!("{} {comm}({}, {})", call.pid, call.first, call.second);
            left -= 1;
        })?;
    }
    // SAFETY: .bss has one element, whose number has 4 bytes, and is laid out so.
    let globals = unsafe { object.map(".bss")?.typed::<u32, bss>() };
    if let Some(bss { left_out, .. }) = globals.lookup(&0)? {
        println!("left out: {left_out}");
    }
    Ok(())
}
