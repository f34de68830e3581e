//! What `status` tells, as data; its JSON form is its serialisation.

use std::fs;
use std::path::Path;
use std::time::Duration;

use object::ElfFile;
use runtime::session::{Dirs, Laggards, LinkSpec, ProcessId, Role, Roster, SessionView, list};
use serde::Serialize;

use super::names;
use crate::problem::Problem;

/// How long targets have to say how many hits they have had.
const ANSWER: Duration = Duration::from_millis(300);

/// Everything that runs for one user.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Tools, by process id.
    pub sessions: Vec<Session>,
    /// Processes that tools can reach, by process id.
    pub targets: Vec<Target>,
}

/// One tool and what it made.
#[derive(Debug, Serialize)]
pub struct Session {
    /// The tool's process id.
    pub pid: i32,
    /// Its command name.
    pub command: String,
    /// How long it has run.
    pub seconds: u64,
    pub programs: Vec<Program>,
    pub maps: Vec<Map>,
    pub links: Vec<Link>,
}

/// One program.
#[derive(Debug, Serialize)]
pub struct Program {
    pub id: u32,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// 64-bit slots.
    pub instructions: usize,
}

/// One map.
#[derive(Debug, Serialize)]
pub struct Map {
    pub id: u32,
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    /// Records without room; `None` for maps that are no rings.
    pub drops: Option<u64>,
}

/// One link: the places in a file at which a program runs.
#[derive(Debug, Serialize)]
pub struct Link {
    pub id: u32,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub path: String,
    /// How many places in the file.
    pub places: usize,
    /// The first of them.
    pub offset: u64,
    /// Name of the function that starts there, if the file tells.
    pub function: Option<String>,
    /// The only process meant; `None` for all.
    pub pid: Option<i32>,
    /// The program's id.
    pub program: u32,
    pub enabled: bool,
    pub hits: u64,
    pub missed: u64,
}

/// One process with an agent.
#[derive(Debug, Serialize)]
pub struct Target {
    pub pid: i32,
    pub command: String,
    /// Probe points in place.
    pub hooks: u32,
    /// Probe points that were wanted and could not be had.
    pub refused: u32,
    /// Why.
    pub reasons: Vec<String>,
}

impl Report {
    /// Looks at all sessions and the roster of a user.
    pub fn collect(dirs: &Dirs) -> Result<Self, Problem> {
        let roster = Roster::open(dirs)?;
        // Targets count in their own memory, and tell when they look around.
        roster.publish(ANSWER, &mut Laggards::default());
        // A session that ends while we look is one that is not there.
        let views = list(dirs)
            .into_iter()
            .filter_map(|path| SessionView::open(&path).ok());
        let mut sessions: Vec<Session> = views.map(|view| session(&view)).collect();
        sessions.sort_by_key(|session| session.pid);
        let members = roster.members();
        let mut targets: Vec<Target> = members
            .into_iter()
            .filter(|member| member.role == Role::Agent)
            .map(|member| Target {
                pid: member.process.pid,
                command: member.command,
                hooks: member.hooks,
                refused: member.refused,
                reasons: member.errors.lines().map(str::to_owned).collect(),
            })
            .collect();
        targets.sort_by_key(|target| target.pid);
        Ok(Self { sessions, targets })
    }
}

fn session(view: &SessionView) -> Session {
    let programs = view.programs().into_iter().map(|(id, head)| Program {
        id,
        kind: names::program_type(head.prog_type),
        instructions: view.program(id).map_or(0, |program| program.insns.len()),
        name: head.name,
    });
    let maps = view.maps().into_iter().map(|(id, spec)| Map {
        id,
        kind: names::map_type(spec.map_type),
        name: until_nul(&spec.name),
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries: spec.max_entries,
        drops: view.dropped(id),
    });
    let owner = view.owner();
    Session {
        pid: owner.pid,
        command: view.command(),
        seconds: age(owner),
        programs: programs.collect(),
        maps: maps.collect(),
        links: view
            .links()
            .into_iter()
            .map(|(id, spec)| link(view, id, spec))
            .collect(),
    }
}

fn link(view: &SessionView, id: u32, spec: LinkSpec) -> Link {
    let counts = view.counters(id).map(|counters| counters.totals());
    // A tracepoint is at no place of a file.
    let places = if spec.kind.is_of_syscalls() {
        &[][..]
    } else {
        &spec.places
    };
    let offset = places.first().map_or(0, |place| place.offset);
    Link {
        id,
        kind: names::link_kind(spec.kind),
        function: function_at(Path::new(&spec.path), offset),
        places: places.len(),
        path: spec.path,
        offset,
        pid: (spec.pid > 0).then_some(spec.pid),
        program: spec.prog,
        enabled: spec.enabled,
        hits: counts.as_ref().map_or(0, |counts| counts.hits),
        missed: counts.as_ref().map_or(0, |counts| counts.missed),
    }
}

/// Name of the function at a file offset, for people: nothing is said when
/// the file cannot be read.
fn function_at(path: &Path, offset: u64) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let elf = ElfFile::parse(&bytes).ok()?;
    let address = elf.address_of_offset(offset)?;
    // Of several names the shortest is the plain one.
    elf.symbols()
        .filter(|symbol| symbol.address == address && symbol.kind == object::SymbolKind::Function)
        .map(|symbol| symbol.name)
        .min_by_key(|name| (name.len(), *name))
        .map(str::to_owned)
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Seconds since a process started.
fn age(process: ProcessId) -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime
        .split('.')
        .next()
        .and_then(|seconds| seconds.parse::<u64>().ok())
        .unwrap_or(0);
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten();
    let ticks = ticks
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100);
    uptime.saturating_sub(process.start / ticks)
}
