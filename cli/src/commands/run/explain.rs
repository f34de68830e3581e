//! Where each program of a file would run, and why, without running anything:
//! what user space would refuse is found out by loading it there; what a
//! program is put on is looked at as it stands in sections and options.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use libbpf_rs::ProgramType;
use loader::open::ProgramInfo;
use loader::target::{self, Place, Target};
use loader::{Cause, Opened, Options};
use runtime::command::kprobe::Kprobe;
use runtime::command::tracepoint::Tracepoint;
use runtime::session::file;
use serde_json::json;

use super::here::Asked;
use super::object::{self, targets};
use super::whole::{self, missing};
use crate::commands::load::Runtime;
use crate::commands::verify::may_load_into_kernel;
use crate::problem::Problem;

/// A program's fate.
struct Row {
    program: ProgramInfo,
    runs_in: &'static str,
    why: String,
}

/// Prints it for each program of these objects.
pub fn run(asked: &Asked<'_>, objects: &[Vec<u8>]) -> Result<(), Problem> {
    let mut rows = Vec::new();
    for bytes in objects {
        rows.extend(rows_of(asked, bytes)?);
    }
    let text = match asked.args.json {
        true => rows.iter().map(as_json).collect(),
        false => as_table(&rows),
    };
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .map_err(|error| super::output::unwritable(&error))
}

/// The objects in a Wasm module, which carries them as they are.
pub fn objects_within(file: &Path, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Problem> {
    /// Magic, 64 bits, little-endian, version.
    const HEADER: &[u8] = b"\x7fELF\x02\x01\x01";
    let starts = bytes.windows(HEADER.len()).enumerate();
    let starts = starts.filter(|(_, window)| *window == HEADER);
    let objects = starts.filter_map(|(at, _)| object_at(&bytes[at..]));
    let objects: Vec<_> = objects.collect();
    match objects.is_empty() {
        false => Ok(objects),
        true => Err(Problem::new(
            file.display(),
            "has no object in one piece",
            "what it makes while it runs cannot be explained before",
        )),
    }
}

/// An object that begins here: its last part are the headers of its sections.
fn object_at(bytes: &[u8]) -> Option<Vec<u8>> {
    let half = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let machine = half(18)?;
    let headers = u64::from_le_bytes(*bytes.get(40..)?.first_chunk()?);
    let end = usize::try_from(headers).ok()? + usize::from(half(58)?) * usize::from(half(60)?);
    (machine == super::here::MACHINE_BPF).then(|| bytes.get(..end).map(<[u8]>::to_vec))?
}

fn rows_of(asked: &Asked<'_>, bytes: &[u8]) -> Result<Vec<Row>, Problem> {
    let options = object::options(asked)?;
    let opened = Opened::read(bytes, &options).map_err(object::problem)?;
    let programs = opened.programs();
    let targets = targets(asked, &programs)?;
    let refused = match (asked.args.runtime, whole::obstacle(&opened)) {
        (Runtime::Kernel, _) => HashMap::new(),
        (_, Some((_, why))) => {
            let all = programs.iter().map(|one| (one.name.clone(), why.clone()));
            all.collect()
        }
        _ => refused(bytes, &options, &asked.args.without)?,
    };
    let rows = programs.into_iter().map(|program| {
        let (runs_in, why) = if asked.args.without.contains(&program.name) {
            ("nowhere", "left out by --without".to_owned())
        } else {
            let target = targets.get(&program.name).unwrap_or(&Target::Section);
            let place = target::place(&program.section, program.kind, target);
            fate(
                asked.args.runtime,
                &program,
                place.as_ref(),
                refused.get(&program.name),
            )
        };
        Row {
            program,
            runs_in,
            why,
        }
    });
    Ok(rows.collect())
}

/// What user space refuses to load, with its reasons: what remains when a
/// refused program is left out is tried again.
fn refused(
    bytes: &[u8],
    options: &Options,
    without: &[String],
) -> Result<HashMap<String, String>, Problem> {
    let mut refused = HashMap::new();
    loop {
        let mut opened = Opened::read(bytes, options).map_err(object::problem)?;
        let names: Vec<String> = opened
            .programs()
            .into_iter()
            .map(|known| known.name)
            .collect();
        without
            .iter()
            .chain(refused.keys())
            .for_each(|name| opened.leave_out(name));
        match opened.load() {
            Ok(_) => return Ok(refused),
            Err(error) if names.contains(&error.who) && !refused.contains_key(&error.who) => {
                let kernel_only = error.cause == Cause::KernelOnly;
                let why = match error.what.split_once("\": ") {
                    Some((_, why)) => why.to_owned(),
                    None => error.what.clone(),
                };
                // Who may ask the kernel is said below.
                let why = why.split(", which").next().unwrap_or_default().to_owned();
                let why = if kernel_only {
                    why
                } else {
                    error_line(&why, &error)
                };
                refused.insert(error.who, why);
            }
            // Something that its programs share, of which one is missing now.
            Err(_) if !refused.is_empty() => return Ok(refused),
            Err(error) => return Err(object::problem(error)),
        }
    }
}

fn error_line(why: &str, error: &loader::Error) -> String {
    match error.cause {
        Cause::Verifier => format!(
            "user space refuses it: {}",
            why.trim_start_matches("the verifier refuses it: ")
        ),
        _ => error.happened(),
    }
}

/// Who hosts a program, and why.
fn fate(
    runtime: Runtime,
    program: &ProgramInfo,
    place: Result<&Place, &String>,
    refused: Option<&String>,
) -> (&'static str, String) {
    let may_load = may_load_into_kernel();
    let obstacle = match runtime {
        Runtime::Kernel => Some("--runtime kernel".to_owned()),
        _ => refused.cloned().or_else(|| obstacle(program, place.ok()?)),
    };
    let (runs_in, why) = match (obstacle, runtime) {
        (None, _) if is_better_in_kernel(program, runtime) && may_load => {
            ("kernel", "the kernel sees more than user space".to_owned())
        }
        (None, _) => ("user space", "user space hosts it".to_owned()),
        (Some(why), Runtime::Auto | Runtime::Kernel) if may_load => ("kernel", why),
        (Some(why), _) => ("nowhere", format!("{why}, {}", missing(runtime))),
    };
    match place {
        Err(what) => (runs_in, format!("{why}; {what}")),
        Ok(Place::Nowhere) => (runs_in, format!("{why}; attached to nothing")),
        Ok(_) => (runs_in, why),
    }
}

/// Refuses a program that was loaded and would be put where only the kernel
/// runs it, which may not be asked or does not have it.
pub fn check(runtime: Runtime, program: &ProgramInfo, place: &Place) -> Result<(), Problem> {
    let obstacle = obstacle(program, place);
    let refuse = |what: String, advice: String| {
        let what = format!("section \"{}\": {what}", program.section);
        Err(Problem::new(&program.name, what, advice))
    };
    let may_ask = match runtime {
        Runtime::Kernel => true,
        Runtime::Auto => may_load_into_kernel(),
        Runtime::User => false,
    };
    match (obstacle, tracepoint(program, place)) {
        (Some(why), _) if !may_ask => refuse(
            format!("{why}, {}", missing(runtime)),
            object::kernel_only(&program.name),
        ),
        (obstacle, None)
            if (obstacle.is_some() || runtime == Runtime::Kernel)
                && is_kprobe(program, place)
                && !has_kprobes() =>
        {
            refuse(
                "this kernel has no kprobes (CONFIG_KPROBES)".to_owned(),
                format!("leave it out by --without {}", program.name),
            )
        }
        (obstacle, Some((category, name))) if obstacle.is_some() || runtime == Runtime::Kernel => {
            let Some(root) = tracefs() else {
                let advice = format!("mount -t tracefs tracefs {}", TRACEFS[0]);
                return refuse(
                    "the kernel's tracepoints are named in tracefs, which is not mounted"
                        .to_owned(),
                    advice,
                );
            };
            match Path::new(root)
                .join("events")
                .join(category)
                .join(name)
                .exists()
            {
                true => Ok(()),
                false => refuse(
                    format!("the kernel has no tracepoint {category}:{name}"),
                    format!("look below {root}/events"),
                ),
            }
        }
        _ => Ok(()),
    }
}

/// Whether a program is put on a function of the kernel's.
fn is_kprobe(program: &ProgramInfo, place: &Place) -> bool {
    let family = program.section.split('/').next().unwrap_or_default();
    let kprobes = ["kprobe", "kretprobe", "ksyscall", "kretsyscall"];
    match place {
        Place::Kprobe { .. } | Place::Ksyscall { .. } => true,
        Place::Auto => kprobes.contains(&family),
        _ => false,
    }
}

/// Whether the kernel itself has them, by perf events or by tracefs: paths of
/// ours may stand for both.
fn has_kprobes() -> bool {
    let told_by = [
        c"/sys/bus/event_source/devices/kprobe",
        c"/sys/kernel/tracing/kprobe_events",
        c"/sys/kernel/debug/tracing/kprobe_events",
    ];
    told_by.iter().any(|path| file::stat(path).is_ok())
}

/// Where the kernel names its tracepoints, in the order in which libbpf looks.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

fn tracefs() -> Option<&'static str> {
    // Trees that stand for it have no such file.
    let is_kernels = |root: &&str| Path::new(root).join("events/header_page").exists();
    TRACEFS.into_iter().find(is_kernels)
}

/// Category and name of the tracepoint that a program is put on.
fn tracepoint<'a>(program: &'a ProgramInfo, place: &'a Place) -> Option<(&'a str, &'a str)> {
    match (program.kind, place) {
        (_, Place::Nowhere) => None,
        (_, Place::Tracepoint { category, name }) => Some((category, name)),
        (ProgramType::Tracepoint, _) => program.section.split_once('/')?.1.split_once('/'),
        _ => None,
    }
}

/// What user space has against the place of a program that it can load.
fn obstacle(program: &ProgramInfo, place: &Place) -> Option<String> {
    let only = |what: String| Some(format!("only the kernel hosts {what}"));
    let (family, rest) = program
        .section
        .split_once('/')
        .unwrap_or((&program.section, ""));
    match (program.kind, place) {
        (_, Place::Nowhere) => None,
        (ProgramType::SocketFilter, _) => only("what is put on sockets".to_owned()),
        (ProgramType::Tracepoint, place) => {
            let (category, name) = tracepoint(program, place)?;
            match Tracepoint::find(category, name) {
                Some(_) => None,
                None => only(format!("tracepoint {category}:{name}")),
            }
        }
        (ProgramType::RawTracepoint, place) => {
            let name = match place {
                Place::RawTracepoint { name } => name,
                _ => rest,
            };
            match name {
                "sys_enter" | "sys_exit" => None,
                name => only(format!("raw tracepoint {name}")),
            }
        }
        (ProgramType::Kprobe, place) => {
            let function = match (place, family) {
                (Place::Kprobe { function, .. }, _) => function,
                (Place::Auto, "kprobe" | "kretprobe") => rest,
                (Place::Auto, family) if family.starts_with("kprobe.") => {
                    return only(format!("{family} links"));
                }
                _ => return None,
            };
            match Kprobe::find(function, false) {
                Some(_) => None,
                None => only(format!("a kprobe at {function}")),
            }
        }
        _ => None,
    }
}

/// Whether the kernel is asked first by who may ask it.
fn is_better_in_kernel(program: &ProgramInfo, runtime: Runtime) -> bool {
    runtime == Runtime::Auto && program.kind == ProgramType::PerfEvent
}

fn as_json(row: &Row) -> String {
    let row = json!({
        "program": row.program.name,
        "section": row.program.section,
        "runs_in": row.runs_in,
        "why": row.why,
    });
    format!("{row}\n")
}

fn as_table(rows: &[Row]) -> String {
    let titles = ["PROGRAM", "SECTION", "RUNS IN"];
    let cells = |row: &Row| {
        [
            row.program.name.clone(),
            row.program.section.clone(),
            row.runs_in.to_owned(),
        ]
    };
    let mut widths = titles.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(cells(row)) {
            *width = cell.len().max(*width);
        }
    }
    let [a, b, c] = widths;
    let line = |[x, y, z]: [String; 3], why: &str| format!("{x:a$}  {y:b$}  {z:c$}  {why}\n");
    let mut text = line(titles.map(str::to_owned), "WHY");
    for row in rows {
        text += &line(cells(row), &row.why);
    }
    text
}
