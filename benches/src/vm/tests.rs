//! Nothing here measures time.

use std::collections::BTreeSet;

use crate::engines::Engine;
use crate::measure;
use crate::programs::{self, CPUS, ROWS};

#[test]
fn every_engine_returns_what_native_code_returns() {
    programs::build().expect("the programs compile");
    for row in ROWS {
        for cpu in CPUS {
            let program = row.program(cpu).expect("an object file");
            let Some(program) = program else { continue };
            let subjects = measure::subjects(&Engine::HERE, row, cpu, &program);
            let subjects = subjects.unwrap_or_else(|error| panic!("{error:#}"));
            let ran = |engine: &Engine| subjects.iter().any(|s| s.engine == *engine);
            let mut ours = Engine::ALL.into_iter().filter(|engine| engine.is_ours());
            assert!(ours.all(|engine| ran(&engine)), "{}", row.name);
        }
    }
}

#[test]
fn every_source_has_a_row() {
    let files = std::fs::read_dir(programs::sources()).expect("a directory");
    let names: BTreeSet<String> = files
        .filter_map(|file| file.expect("an entry").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".c").map(str::to_owned))
        .collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.name.to_owned()).collect();
    assert_eq!(names, rows);
}
