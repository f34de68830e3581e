//! Every function of libc at once: each is hooked or refused with a reason,
//! the process works on, and libc's functions have their bytes back.

mod common;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use bpftime_attach::{AttachError, HookId, Kind, Module, Point, Probe, Refusal};
use common::{Recorder, module_of, text};

/// Work that uses threads, memory, files, formatting and processes.
fn work() -> u64 {
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut sum = 0;
                for i in 0..200 {
                    let text = format!("{seed} {i} {:?}", vec![i; 20]);
                    sum += text.len() as u64 + text.parse::<u64>().is_err() as u64;
                }
                sum
            })
        })
        .collect();
    let sum: u64 = threads
        .into_iter()
        .map(|thread| thread.join().expect("no panic"))
        .sum();
    let output = Command::new("/bin/sh")
        .args(["-c", "echo $((6 * 7))"])
        .output()
        .expect("a shell");
    sum + output.stdout.len() as u64
        + std::fs::read("/proc/self/stat")
            .expect("own stat")
            .is_empty() as u64
}

fn refusals(results: &[Result<HookId, AttachError>]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for result in results {
        let reason = match result {
            Ok(_) => continue,
            Err(AttachError::Refused { reason, .. }) => format!("{reason:?}"),
            Err(other) => panic!("{other}"),
        };
        *counts.entry(reason).or_insert(0) += 1;
    }
    counts
}

#[test]
fn all_of_libc() {
    let engine = common::engine();
    let module = module_of(libc::getpid as *const () as usize);
    let entries = module.function_entries();
    assert!(entries.len() > 2000, "{}", entries.len());
    let recorder = Recorder::leaked();
    let expected = work();
    let before: Vec<_> = entries.iter().map(|addr| text(*addr, 1)).collect();

    for kinds in [
        &[Kind::Entry][..],
        &[Kind::Return],
        &[Kind::Entry, Kind::Return],
    ] {
        let points = entries
            .iter()
            .flat_map(|addr| kinds.iter().map(|kind| (*addr, *kind)));
        let point = |(addr, kind)| Point {
            addr,
            kind,
            module: module.clone(),
        };
        let batch: Vec<(Point, Probe)> = points.map(|at| (point(at), recorder.probe())).collect();
        let started = Instant::now();
        let results = engine.attach(&batch);
        let attach_time = started.elapsed();
        let ids: Vec<HookId> = results
            .iter()
            .filter_map(|result| result.as_ref().ok())
            .copied()
            .collect();

        let hits = recorder.hits();
        assert_eq!(work(), expected, "{kinds:?}");
        let hits = recorder.hits() - hits;
        assert!(hits > 1000, "{kinds:?}: {hits}");

        let mut tactics = BTreeMap::new();
        for site in engine.sites() {
            *tactics.entry(site.tactic).or_insert(0) += 1;
        }
        let started = Instant::now();
        engine.detach(&ids);
        let detach_time = started.elapsed();
        let after: Vec<_> = entries.iter().map(|addr| text(*addr, 1)).collect();
        assert_eq!(before, after);
        assert!(engine.sites().is_empty());
        let hits_after = recorder.hits();
        assert_eq!(work(), expected);
        assert_eq!(recorder.hits(), hits_after);

        let coverage = 100.0 * ids.len() as f64 / batch.len() as f64;
        let report = format!(
            "{kinds:?}: {} of {} ({coverage:.2} %), {tactics:?}, refused {:?}, {hits} hits, attach {attach_time:?}, detach {detach_time:?}",
            ids.len(),
            batch.len(),
            refusals(&results),
        );
        assert!(coverage > 97.0, "{report}");
        eprintln_report(&report);
    }
    functions_have_their_bytes_back(&module, &entries);
}

#[expect(
    clippy::print_stderr,
    reason = "the coverage is what one runs this test for"
)]
fn eprintln_report(report: &str) {
    eprintln!("{report}");
}

/// Function bodies are the file's; what stays is in dead padding.
fn functions_have_their_bytes_back(module: &Module, entries: &[usize]) {
    for addr in entries {
        assert!(module.is_original_function(*addr), "{addr:#x}");
    }
}

/// The mappings of files, as anyone can see them.
fn file_mappings() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let of_files = maps.lines().filter(|line| line.contains('/'));
    of_files.map(str::to_owned).collect()
}

#[test]
fn mappings_stay_as_they_were() {
    let engine = common::engine();
    // SAFETY: loads a library whose constructors only set up tables.
    let math = unsafe { libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW) };
    // SAFETY: looks a name up.
    let cos = unsafe { libc::dlsym(math, c"cos".as_ptr()) } as usize;
    let modules = [libc::getpid as *const () as usize, cos].map(module_of);
    let before = file_mappings();
    assert!(before.iter().any(|line| line.contains("r-xp")));
    let mut batch = Vec::new();
    for module in modules {
        for addr in module.function_entries() {
            let (kind, module) = (Kind::Entry, module.clone());
            batch.push((Point { addr, kind, module }, Recorder::leaked().probe()));
        }
    }
    for batch in [&batch[..], &batch[..1], &batch[1000..1100]] {
        let attached = engine.attach(batch);
        assert_eq!(file_mappings(), before, "attached");
        let ids: Vec<HookId> = attached.into_iter().filter_map(Result::ok).collect();
        engine.detach(&ids);
        assert_eq!(file_mappings(), before, "detached");
    }
}

#[test]
fn odd_functions_keep_their_return_address() {
    let engine = common::engine();
    let refused = |name: &std::ffi::CStr| {
        // SAFETY: looks a name up.
        let addr = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) } as usize;
        assert_ne!(addr, 0, "{name:?}");
        let result = common::try_attach(engine, addr, Kind::Return, Recorder::leaked().probe());
        match result {
            Err(AttachError::Refused { reason, .. }) => Some(reason),
            Err(other) => panic!("{other}"),
            Ok(id) => {
                engine.detach(&[id]);
                None
            }
        }
    };
    for name in [
        c"_setjmp",
        c"__sigsetjmp",
        c"longjmp",
        c"vfork",
        c"clone",
        c"getcontext",
        c"swapcontext",
    ] {
        assert_eq!(refused(name), Some(Refusal::OddReturn), "{name:?}");
    }
    for name in [c"dlopen", c"dlsym"] {
        assert_eq!(refused(name), Some(Refusal::LooksBack), "{name:?}");
    }
    for name in [c"malloc", c"fork", c"getaddrinfo", c"pthread_create"] {
        assert_eq!(refused(name), None, "{name:?}");
    }
}
