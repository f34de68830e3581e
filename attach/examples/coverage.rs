//! Prints where probes fit in libraries, how, and what attaching takes:
//! `coverage [entries|all|offsets|every] [SEED] [FILE...]`.
#![expect(clippy::print_stdout, reason = "it is a measurement")]

#[path = "../tests/common/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::time::Instant;

use bpftime_attach::{AttachError, Backend, Engine, Hit, Kind, Point, Probe};

unsafe extern "C" fn empty(_: *mut uapi::PtRegs, _: *const (), _: *mut Hit) -> u64 {
    0
}

fn main() {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_else(|| "entries".into());
    let seed: u64 = args.next().map_or(1, |seed| seed.parse().expect("a seed"));
    let files: Vec<String> = args.collect();
    let files = if files.is_empty() {
        image::PROMISED.map(str::to_owned).to_vec()
    } else {
        files
    };
    let engine = Engine::new().expect("an engine");
    for path in files {
        let image = image::map(&path);
        let addrs = match &*what {
            "entries" => image.module.function_entries(),
            "all" => image.starts(),
            "offsets" => image.one_instruction_each(seed),
            _ => image.instructions(),
        };
        let probe = Probe::new(empty, std::ptr::null());
        let point = |addr| Point {
            addr,
            kind: Kind::Entry,
            module: image.module.clone(),
        };
        let batch: Vec<_> = addrs.iter().map(|addr| (point(*addr), probe)).collect();
        let started = Instant::now();
        let results = engine.attach(&batch);
        let attach = started.elapsed();
        let mut tactics = BTreeMap::new();
        for site in engine.sites() {
            *tactics.entry(site.tactic).or_insert(0) += 1;
        }
        let ids: Vec<_> = results
            .iter()
            .filter_map(|r| r.as_ref().ok())
            .copied()
            .collect();
        let started = Instant::now();
        engine.detach(&ids);
        let detach = started.elapsed();
        let mut reasons = BTreeMap::new();
        for (result, addr) in results.iter().zip(&addrs) {
            if let Err(AttachError::Refused { reason, .. }) = result {
                let (n, example) = reasons.entry(format!("{reason:?}")).or_insert((0, 0));
                *n += 1;
                *example = addr - image.bias;
                if std::env::var_os("COVERAGE_DETAILS").is_some() {
                    let bytes = image.module.original(*addr as u64, 15).unwrap_or_default();
                    println!(
                        "{reason:?} {:x} {bytes:02x?} at {}",
                        addr - image.bias,
                        addr % 16
                    );
                }
            }
        }
        println!(
            "{path}: {} of {} ({:.2} %), {tactics:?}, refused {reasons:x?}, attach {attach:?}, detach {detach:?}",
            ids.len(),
            addrs.len(),
            100.0 * ids.len() as f64 / addrs.len() as f64,
        );
    }
}
