//! `oracle DIR [OPTION…]`: asks our verifier and the kernel's about every
//! program of every object below DIR and shows where they agree. It fails when
//! we accept what the kernel refuses and `data/differences.txt` does not say
//! why that is right. Options:
//!
//! - `--out FILE`: all verdicts, one JSON object in a line
//! - `--kernel FILE`: the kernel's verdicts are in such a file
//! - `--mutants N`: N programs more, each an accepted one with a change;
//!   `--seed N` chooses others, `--keep DIR` keeps those that matter
//! - `--jobs N`, `--timeout SECONDS` of a program
//!
//! `verdicts` asks, `mutants` changes programs, `class` judges a pair of
//! verdicts, `report` counts.

mod class;
mod mutants;
mod report;
mod verdicts;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};

use class::{Class, Differences, class, is_user_space};
use mutants::Original;
use report::Report;
use verdicts::{Asked, Oracle};

/// What the words after `oracle` say.
struct Options {
    folder: PathBuf,
    out: Option<PathBuf>,
    /// Rows of an earlier run, whose kernel verdicts still hold.
    kernel: Option<PathBuf>,
    mutants: usize,
    seed: u64,
    keep: Option<PathBuf>,
    jobs: usize,
    timeout: u64,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Options> {
        let mut options = Options {
            folder: PathBuf::new(),
            out: None,
            kernel: None,
            mutants: 0,
            seed: 1,
            keep: None,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            timeout: 60,
        };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} needs a value"))
            };
            match word {
                "--out" => options.out = Some(value()?.into()),
                "--kernel" => options.kernel = Some(value()?.into()),
                "--mutants" => options.mutants = value()?.parse()?,
                "--seed" => options.seed = value()?.parse()?,
                "--keep" => options.keep = Some(value()?.into()),
                "--jobs" => options.jobs = value()?.parse()?,
                "--timeout" => options.timeout = value()?.parse()?,
                _ if word.starts_with("--") => bail!("unknown option {word}"),
                folder => options.folder = folder.into(),
            }
        }
        ensure!(options.folder.is_dir(), "oracle needs a folder of objects");
        Ok(options)
    }
}

/// Asks and reports.
pub fn run(words: &[&str]) -> Result<()> {
    let options = Options::parse(words)?;
    let mut objects = Vec::new();
    find_objects(&options.folder, &mut objects)?;
    objects.sort();
    ensure!(
        !objects.is_empty(),
        "no .o files below {}",
        options.folder.display()
    );
    let oracle = Oracle::new(options.timeout, options.kernel.as_deref())?;
    let differences = Differences::read()?;
    let mut asked = each(options.jobs, &objects, |object| oracle.ask(object));
    asked.sort_by(|a, b| a.object.cmp(&b.object));
    if options.mutants > 0 {
        let of_mutants = ask_mutants(&oracle, &asked, &options, &differences)?;
        asked.extend(of_mutants);
    }
    if let Some(path) = &options.out {
        write_rows(path, &asked).with_context(|| path.display().to_string())?;
    }
    let report = Report::new(&asked, &differences);
    write!(std::io::stdout(), "{report}")?;
    ensure!(
        report.unsafe_accepts() == 0,
        "{} programs that the kernel refuses are accepted",
        report.unsafe_accepts()
    );
    Ok(())
}

fn find_objects(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_objects(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "o") {
            found.push(path);
        }
    }
    Ok(())
}

/// `what` of each item, by so many threads.
fn each<T: Sync, R: Send>(jobs: usize, items: &[T], what: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = what(item);
                    // Nobody panics while holding it.
                    done.lock().unwrap_or_else(|e| e.into_inner()).push(result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(|e| e.into_inner())
}

/// Asks about changed ones of the programs that both accept, in turn.
fn ask_mutants(
    oracle: &Oracle,
    asked: &[Asked],
    options: &Options,
    differences: &Differences,
) -> Result<Vec<Asked>> {
    let (mut originals, mut accepted) = (HashMap::new(), Vec::new());
    for row in asked.iter().flat_map(|a| a.rows.iter().flatten()) {
        if is_user_space(&row.type_name) && class(row, differences) == Class::Both {
            accepted.push((&row.object, &row.name));
            if !originals.contains_key(&row.object) {
                let original = Original::parse(fs::read(&row.object)?)?;
                originals.insert(row.object.clone(), original);
            }
        }
    }
    ensure!(!accepted.is_empty(), "no program to make mutants of");
    let folder = tempfile::tempdir()?;
    let turns: Vec<usize> = (0..options.mutants).collect();
    let rows = each(options.jobs, &turns, |&turn| {
        let (object, program) = accepted[turn % accepted.len()];
        let seed = options.seed.wrapping_mul(1 << 32) + turn as u64;
        let bytes = originals.get(object)?.mutant(program, seed)?;
        let path = folder.path().join(format!("{turn}.o"));
        fs::write(&path, bytes).ok()?;
        let mut row = oracle.ask_about(&path, program).ok()??;
        row.object = format!("{object}+{seed}");
        let class = class(&row, differences);
        if let (Class::Unsafe | Class::Broken, Some(keep)) = (class, &options.keep) {
            let stem = Path::new(object).file_stem()?.to_string_lossy();
            fs::create_dir_all(keep).ok()?;
            fs::copy(&path, keep.join(format!("{stem}-{program}-{seed}.o"))).ok()?;
        }
        fs::remove_file(&path).ok()?;
        Some(row)
    });
    Ok(vec![Asked {
        object: "mutants".to_owned(),
        rows: Ok(rows.into_iter().flatten().collect()),
    }])
}

fn write_rows(path: &Path, objects: &[Asked]) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for object in objects {
        for row in object.rows.iter().flatten() {
            serde_json::to_writer(&mut file, row)?;
            file.write_all(b"\n")?;
        }
    }
    Ok(file.flush()?)
}
