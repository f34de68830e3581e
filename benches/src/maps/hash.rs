//! Programs that change hash maps, and what eight processes get done that run
//! one of them at a time.

use std::io::Write;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// Processes that update at a time.
pub const PROCESSES: u32 = 8;

/// The key that the row for many processes is known by.
pub const CROWD: &str = "hash update, a hundred keys";

/// Stores a value of `words` words under `key`, a register or a number.
fn update(map: u32, key: &str, words: u32) -> String {
    let value: String = (0..words)
        .map(|word| format!("*(u64 *)(r10 - {}) = 1\n", 32 + 8 * word))
        .collect();
    format!(
        "*(u64 *)(r10 - 24) = {key}\n{value}r1 = map[{map}]\nr2 = r10\nr2 += -24\n\
         r3 = r10\nr3 += -{}\nr4 = 0\ncall 2",
        32 + 8 * (words - 1)
    )
}

/// Deletes the key of [`update`].
fn delete(map: u32) -> String {
    format!("r1 = map[{map}]\nr2 = r10\nr2 += -24\ncall 3")
}

/// A number in r7 that was never there before.
const NEW_NUMBER: &str = "r7 = 0\n*(u64 *)(r10 - 8) = 0\nr1 = map[6]\nr2 = r10\nr2 += -8\ncall 1\n\
     if r0 == 0 goto gone\nr7 = *(u64 *)(r0 + 0)\nr7 += 1\n*(u64 *)(r0 + 0) = r7\ngone:\n";

/// Rows on `map[1]` and `map[2]`, of 4 and 8 bytes, and `large`, with values
/// of 64 bytes.
pub fn rows(large: u32) -> Vec<(&'static str, String)> {
    vec![
        ("hash update", update(1, "7", 1)),
        ("hash update, 64-byte value", update(large, "7", 8)),
        (CROWD, update(2, "r6", 1)),
        (
            "hash insert + delete",
            format!("{}\n{}", update(2, "777", 1), delete(2)),
        ),
        (
            "hash insert + delete, new keys",
            format!("{NEW_NUMBER}{}\n{}", update(2, "r7", 1), delete(2)),
        ),
    ]
}

/// Nanoseconds from when `processes` children begin with `body` until all have
/// ended.
pub fn in_processes(processes: u32, body: &dyn Fn() -> Result<()>) -> Result<f64> {
    let flag = super::segment(shm::PAGE)?;
    let word = flag.u64_at(0).context("a word")?;
    let children: Vec<i32> = (0..processes)
        .map(|_| {
            // SAFETY: the child runs a program that is loaded, and ends.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                while word.load(Acquire) == 0 {
                    std::thread::yield_now();
                }
                let failed = body().is_err();
                // SAFETY: ends the child without the parent's destructors.
                unsafe { libc::_exit(i32::from(failed)) };
            }
            pid
        })
        .collect();
    let start = Instant::now();
    word.store(1, Release);
    for pid in children {
        let mut status = -1;
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        ensure!(status == 0, "a process ended with {status:#x}");
    }
    Ok(start.elapsed().as_nanos() as f64)
}

/// Prints what an operation costs when `PROCESSES` do it, for all of them
/// together, and when one does.
pub fn print(time: &dyn Fn(u32) -> Result<(f64, Option<f64>)>) -> Result<()> {
    for processes in [1, PROCESSES] {
        let name = format!("{CROWD}, in {processes}");
        let (ours, theirs) = time(processes)?;
        let theirs = theirs.map_or("-".into(), |ns| format!("{ns:.1}"));
        writeln!(std::io::stdout(), "{name:<42}{ours:>10.1}{theirs:>10}")?;
    }
    Ok(())
}
