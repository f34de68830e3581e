//! Ending a path at a proven state must not change the verdict: each program
//! is verified with it and without, and what was accepted runs between
//! watched regions.

use uapi::Errno;
use uapi::prog::BPF_F_TEST_STATE_FREQ;
use vm::verifier::{verify, verify_every_path};

use super::mutate::{Stream, mutate};
use super::pack::Pack;
use super::{checked, generate};

/// Instructions on all paths of a program; more are not worth the wait.
const MOST: u32 = 20_000;

#[derive(Default, Debug)]
struct Tally {
    accepted: usize,
    refused: usize,
    /// Too many paths to walk them all.
    unknown: usize,
}

impl Tally {
    fn ask(&mut self, pack: &Pack) {
        let every = match verify_every_path(pack.spec.clone(), pack, MOST) {
            Ok(_) => true,
            Err(e) if e.errno == Errno::E2BIG => {
                self.unknown += 1;
                return;
            }
            Err(_) => false,
        };
        for flags in [0, BPF_F_TEST_STATE_FREQ] {
            let mut spec = pack.spec.clone();
            spec.prog_flags = flags;
            let pruned = verify(spec, pack, None);
            let why = format!("{pruned:?}\n{:#?}", pack.spec.insns);
            assert_eq!(pruned.is_ok(), every, "flags {flags}: {why}");
        }
        if !every {
            self.refused += 1;
            return;
        }
        self.accepted += 1;
        for seed in 0..4 {
            let ran = checked::run(pack, &Stream::new(0x5eed ^ (seed << 32)));
            assert_eq!(ran, Ok(()), "{:#?}", pack.spec.insns);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn pruning_does_not_change_the_verdict() {
    let stream = Stream::new(0x7a11_79b9_7f4a_7c15 ^ number("BPFTIME_SEED", 1));
    let mut tally = Tally::default();
    for _ in 0..number("BPFTIME_GENERATED", 400) {
        let pack = generate::program(&stream);
        tally.ask(&pack);
        let mut mutant = pack.clone();
        mutate(&stream, &mut mutant.spec.insns);
        tally.ask(&mutant);
    }
    eprintln!("{tally:?}");
    assert!(tally.accepted > 20 && tally.refused > 20, "{tally:?}");
}
