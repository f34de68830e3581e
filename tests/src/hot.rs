//! The fixture `hot`: a target under load whose own tally says how many calls
//! it made, even after `kill -9`.

use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::program::{Exit, Program};
use crate::world::World;

/// Threads that call.
pub const THREADS: usize = 2;

/// A running `hot`.
pub struct Hot {
    program: Program,
    file: PathBuf,
}

impl Hot {
    /// Starts it as a target; every thread has called at least once when this returns.
    ///
    /// # Panics
    /// If it does not get so far.
    pub fn start(world: &World, tally: &str) -> Hot {
        let file = world.home().join(tally);
        let words = [
            world.fixture("hot").into_os_string(),
            THREADS.to_string().into(),
            file.clone().into(),
        ];
        let mut program = world.start(&words);
        assert_eq!(program.line(), format!("pid {}", program.pid()));
        Hot { program, file }
    }

    /// How many calls there were: from all that ended to all that began.
    ///
    /// # Panics
    /// If the tally cannot be read.
    pub fn calls(&self) -> RangeInclusive<u64> {
        calls(&self.file)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.program.runs()
    }

    /// Kills it by SIGKILL; returns how it ended and the calls that it made.
    ///
    /// # Panics
    /// If it does not end.
    pub fn kill(self) -> (Exit, RangeInclusive<u64>) {
        let exit = self.program.kill();
        (exit, calls(&self.file))
    }
}

fn calls(file: &PathBuf) -> RangeInclusive<u64> {
    let bytes = fs::read(file).expect("the tally");
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")))
        .collect();
    assert_eq!(words.len(), 2 * THREADS);
    // `ended` is raised after `begun`: read as one copy, each pair is at most one apart.
    let sum = |first: usize| words.iter().skip(first).step_by(2).sum();
    sum(1)..=sum(0)
}
