//! Verdicts on captured programs and their mutants, ours beside the kernel's.
//! The packs in `tests/data/packs` are programs of this project's fixtures and
//! of bpftrace scripts, written by `xtask capture`; `BPFTIME_PACKS` names a
//! folder of more.

use std::path::Path;

use vm::verifier::{Keep, Log, verify};

use super::checked;
use super::generate;
use super::kernel::{self, Kernel};
use super::mutate::{Stream, mutate};
use super::pack::Pack;

fn own_packs() -> Vec<Pack> {
    let packs = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/packs"));
    assert!(!packs.is_empty());
    packs
}

fn packs() -> Vec<Pack> {
    let mut packs = own_packs();
    if let Some(folder) = std::env::var_os("BPFTIME_PACKS") {
        packs.extend(read(Path::new(&folder)));
    }
    packs.retain(|p| vm::helper::kernel::ProgTypes::ALL.contains(p.spec.prog_type));
    let mut seen = std::collections::HashSet::new();
    packs.retain(|p| seen.insert((p.spec.prog_type, p.spec.insns.clone())));
    packs
}

fn read(folder: &Path) -> Vec<Pack> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder of packs")
        .map(|e| e.expect("readable folder").path())
        .collect();
    paths.sort();
    paths.iter().filter_map(|p| Pack::read(p)).collect()
}

pub fn ours(pack: &Pack) -> (i32, String) {
    let mut log = Log::new(1, Keep::End(1 << 20));
    match verify(pack.spec.clone(), pack, Some(&mut log)) {
        Ok(_) => (0, log.text),
        Err(e) => (e.errno.0, format!("{}\n{e}", log.text)),
    }
}

#[test]
fn our_programs_are_accepted_by_both() {
    let mut kernel = kernel();
    for pack in own_packs() {
        let name = &pack.spec.name;
        let (errno, text) = ours(&pack);
        assert_eq!(errno, 0, "{name}: {text}");
        if let Some(kernel) = &mut kernel {
            let (errno, log) = kernel.explain(&pack);
            assert_eq!(errno, 0, "{name}: the kernel says {log}");
        }
    }
}

#[test]
fn captured_programs_get_the_kernels_verdict() {
    let (mut agree, mut refused, mut unsafe_ones) = (0, 0, Vec::new());
    for pack in packs() {
        let start = std::time::Instant::now();
        let (errno, text) = ours(&pack);
        if start.elapsed().as_millis() >= 5 {
            let kernel = Kernel::open().map(|mut k| k.explain(&pack).1);
            let name = &pack.spec.name;
            eprintln!("SLOW {name} {:?}: {text}{kernel:?}", start.elapsed());
        }
        if (errno == 0) == (pack.captured == 0) {
            agree += 1;
            continue;
        }
        if pack.captured == 0 {
            refused += 1;
            eprintln!(
                "REFUSED {} ({} insns): {text}",
                pack.spec.name,
                pack.spec.insns.len()
            );
        } else {
            let kernel = Kernel::open().map(|mut k| k.explain(&pack));
            eprintln!(
                "ACCEPTED {} captured {}: {kernel:?}",
                pack.spec.name, pack.captured
            );
            unsafe_ones.push(pack.spec.name);
        }
    }
    eprintln!("{agree} agree, {refused} refused by us");
    assert_eq!(unsafe_ones, Vec::<String>::new());
}

/// How often the kernel gave a reason for refusing what we accept.
#[derive(Default)]
struct Disagreements {
    by_reason: std::collections::BTreeMap<String, (usize, String)>,
}

impl Disagreements {
    fn add(&mut self, kernel: &mut Kernel, pack: &Pack) {
        let (errno, log) = kernel.explain(pack);
        let lines: Vec<&str> = log
            .lines()
            .filter(|l| !l.starts_with("processed"))
            .collect();
        let reason: String = lines
            .last()
            .unwrap_or(&"")
            .chars()
            .map(|c| if c.is_ascii_digit() { '#' } else { c })
            .collect();
        // Which helpers a program type has is our environment's to say.
        let policy = ["cannot use helper", "kernel btf_id"];
        if policy.iter().any(|p| reason.contains(p)) {
            return;
        }
        let entry = self
            .by_reason
            .entry(format!("{errno} {reason}"))
            .or_default();
        entry.0 += 1;
        if entry.0 == 1 {
            entry.1 = format!(
                "{} type {}\n{log}\n{}",
                pack.spec.name,
                pack.spec.prog_type,
                listing(pack)
            );
        }
    }
}

pub fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Both verdicts on many programs.
#[derive(Default)]
pub struct Tally {
    both: usize,
    neither: usize,
    /// What the kernel accepts and we do not, by our reason.
    stricter: std::collections::BTreeMap<String, usize>,
    /// What the kernel refuses and we accept, by its reason.
    unsound: Disagreements,
    ran: usize,
    /// Accepted programs that left their memory, with the place.
    left_memory: Vec<String>,
}

impl Tally {
    pub fn ask(&mut self, kernel: &mut Kernel, pack: &Pack) {
        let (errno, text) = ours(pack);
        let theirs = kernel.verdict(pack);
        if theirs >= kernel::NO_MAP {
            return;
        }
        if errno == 0 {
            // The kernel knows less than could be known: a refusal for bounds
            // is no proof. Running what we accept is the second judge.
            for seed in 0..16 {
                let ran = checked::run(pack, &Stream::new(0x5eed ^ (seed << 32)));
                self.ran += 1;
                if let Err(reason) = ran {
                    let example = format!("{reason}\n{}", listing(pack));
                    self.left_memory.push(example);
                    break;
                }
            }
        }
        match (errno == 0, theirs == 0) {
            (true, true) => self.both += 1,
            (false, false) => self.neither += 1,
            (true, false) => self.unsound.add(kernel, pack),
            (false, true) => {
                let line = text.lines().rfind(|l| !l.is_empty()).unwrap_or_default();
                let line = line
                    .chars()
                    .map(|c| if c.is_ascii_digit() { '#' } else { c });
                let count = self.stricter.entry(line.collect()).or_default();
                *count += 1;
                if *count == 1 && std::env::var_os("BPFTIME_SHOW").is_some() {
                    eprintln!("kernel only: {text}\n{}", listing(pack));
                }
            }
        }
    }

    pub fn finish(self) {
        let stricter: usize = self.stricter.values().sum();
        eprintln!(
            "{} accepted by both, {} by neither, {stricter} by the kernel only",
            self.both, self.neither
        );
        let mut why: Vec<_> = self.stricter.into_iter().collect();
        why.sort_by_key(|w| std::cmp::Reverse(w.1));
        for (line, n) in why.iter().take(25) {
            eprintln!("  kernel only {n}: {line}");
        }
        for example in self.left_memory.iter().take(3) {
            eprintln!("LEFT ITS MEMORY {example}");
        }
        let mut unexplained = 0;
        for (reason, (count, example)) in &self.unsound.by_reason {
            eprintln!("== {count} x {reason}\n{example}");
            if !BOUNDS.iter().any(|b| reason.contains(b.0)) {
                unexplained += count;
            }
        }
        eprintln!(
            "{} runs, {} left their memory",
            self.ran,
            self.left_memory.len()
        );
        assert_eq!((self.left_memory.len(), unexplained), (0, 0));
    }
}

/// Refusals that only say that the kernel knows too little of a number: what
/// it says, and what we know that it does not. Each accepted program is run,
/// too, which is the proof.
const BOUNDS: [(&str, &str); 3] = [
    (
        "min value is negative",
        "32-bit shifts by unknown amounts and divisions clear the upper half",
    ),
    (
        "unbounded min value",
        "as before, where the number is added to a pointer",
    ),
    (
        "unbounded memory access",
        "as before, where only the sign was checked by the program",
    ),
];

fn listing(pack: &Pack) -> String {
    let lines = pack.spec.insns.iter().enumerate().map(|(n, i)| {
        format!(
            "{n}: {:02x} r{} r{} {} {}",
            i.code,
            i.dst(),
            i.src(),
            i.off,
            i.imm
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub fn kernel() -> Option<Kernel> {
    let kernel = Kernel::open();
    if kernel.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "in CI nothing is left out"
        );
        eprintln!("skipped: loading programs into the kernel needs root or CAP_BPF");
    }
    kernel
}

#[test]
fn no_mutant_that_the_kernel_refuses_is_accepted() {
    let Some(mut kernel) = kernel() else { return };
    let stream = Stream::new(0x9e37_79b9_7f4a_7c15 ^ number("BPFTIME_SEED", 1));
    let start = std::time::Instant::now();
    let mut tally = Tally::default();
    for pack in packs() {
        let began = std::time::Instant::now();
        let accepted = ours(&pack).0 == 0;
        // Mutants of what is slow are slower.
        if !accepted || began.elapsed().as_millis() > 10 {
            continue;
        }
        if start.elapsed().as_secs() > number("BPFTIME_SECONDS", 60) {
            eprintln!("stopped by BPFTIME_SECONDS");
            break;
        }
        for _ in 0..number("BPFTIME_MUTANTS", 200) {
            let mut mutant = pack.clone();
            mutate(&stream, &mut mutant.spec.insns);
            tally.ask(&mut kernel, &mutant);
        }
    }
    tally.finish();
}

#[test]
fn no_generated_program_that_the_kernel_refuses_is_accepted() {
    let Some(mut kernel) = kernel() else { return };
    let stream = Stream::new(0x0dd0_79b9_7f4a_7c15 ^ number("BPFTIME_SEED", 1));
    let mut tally = Tally::default();
    for _ in 0..number("BPFTIME_GENERATED", 1000) {
        let pack = generate::program(&stream);
        tally.ask(&mut kernel, &pack);
        let mut mutant = pack.clone();
        mutate(&stream, &mut mutant.spec.insns);
        tally.ask(&mut kernel, &mutant);
    }
    tally.finish();
}
