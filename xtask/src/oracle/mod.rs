//! `oracle DIR [--out FILE] [--kernel FILE] [--jobs N] [--timeout SECONDS]`: asks our verifier
//! and the kernel's about every program of every object below DIR and shows
//! where they agree. It fails when we accept what the kernel refuses and
//! `data/differences.txt` does not say why that is right.
//!
//! `verdicts` asks, `class` judges a pair of verdicts, `report` counts.

mod class;
mod report;
mod verdicts;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};

use class::Differences;
use report::Report;
use verdicts::{Asked, Oracle};

/// What the words after `oracle` say.
struct Options {
    folder: PathBuf,
    out: Option<PathBuf>,
    /// Rows of an earlier run, whose kernel verdicts still hold.
    kernel: Option<PathBuf>,
    jobs: usize,
    timeout: u64,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Options> {
        let mut options = Options {
            folder: PathBuf::new(),
            out: None,
            kernel: None,
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
    let mut rows = ask_all(&oracle, &objects, options.jobs.max(1));
    rows.sort_by(|a, b| a.object.cmp(&b.object));
    if let Some(path) = &options.out {
        write_rows(path, &rows).with_context(|| path.display().to_string())?;
    }
    let report = Report::new(&rows, &Differences::read()?);
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

fn ask_all(oracle: &Oracle, objects: &[PathBuf], jobs: usize) -> Vec<Asked> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let asked = oracle.ask(object);
                    // Nobody panics while holding it.
                    done.lock().unwrap_or_else(|e| e.into_inner()).push(asked);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(|e| e.into_inner())
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
