//! One session that this process follows: its objects as they run here. It
//! knows no hook.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use runtime::command::trace::is_trace_ring;
use runtime::maps::{Map, MapSpec};
use runtime::program::LoadedProgram;
use runtime::run::ProcessEnv;
use runtime::session::SessionView;
use uapi::helper::{
    BPF_FUNC_COPY_FROM_USER, BPF_FUNC_GET_STACK, BPF_FUNC_GET_STACKID, BPF_FUNC_PROBE_READ,
    BPF_FUNC_PROBE_READ_KERNEL, BPF_FUNC_PROBE_READ_KERNEL_STR, BPF_FUNC_PROBE_READ_STR,
    BPF_FUNC_PROBE_READ_USER, BPF_FUNC_PROBE_READ_USER_STR,
};
use uapi::insn::{BPF_CALL, BPF_JMP};
use uapi::map::BPF_MAP_TYPE_PROG_ARRAY;
use vm::ProgramSpec;

use crate::hooks::Wanted;

/// A session, its maps and its programs in this process.
pub struct Joined {
    /// Tells it from all other sessions that this process followed.
    pub number: u64,
    /// The session's files.
    pub view: SessionView,
    /// What its programs' runs carry with them.
    pub env: Box<ProcessEnv>,
    /// Loaded once each; one that did not load is not tried again.
    programs: HashMap<u32, Result<Arc<LoadedProgram>, String>>,
    rings: HashSet<u32>,
    /// Some program asks for stacks.
    pub walks_stacks: bool,
    /// Some program read memory of the process at addresses that it was given.
    pub reads_memory: bool,
    /// Links, read once each: they never change.
    links: HashMap<u32, Option<Wanted>>,
    /// What `view.changes` was at the last look at the objects.
    seen: Option<u32>,
    /// Programs whose maps went to the kernel: they are loaded again.
    outdated: Vec<Arc<LoadedProgram>>,
}

impl Joined {
    /// Follows the session in `path` from now on.
    pub fn open(path: &Path, number: u64) -> Result<Joined, String> {
        let view = SessionView::open(path).map_err(|error| error.to_string())?;
        let env = view
            .vcpus()
            .zip(view.doorbell())
            .and_then(|(vcpus, doorbell)| ProcessEnv::new(vcpus, doorbell))
            .map(|env| env.with_return_addresses(attach::true_return_address))
            .map(|env| env.with_tasks(view.tasks()))
            .ok_or("its data is too short")?;
        Ok(Joined {
            number,
            view,
            env: Box::new(env),
            programs: HashMap::new(),
            rings: HashSet::new(),
            walks_stacks: false,
            reads_memory: false,
            links: HashMap::new(),
            seen: None,
            outdated: Vec::new(),
        })
    }

    /// A program, loaded when it is first needed.
    pub fn program(&mut self, id: u32) -> Result<Arc<LoadedProgram>, String> {
        let view = &self.view;
        self.programs
            .entry(id)
            .or_insert_with(|| {
                LoadedProgram::load(view, id)
                    .map(Arc::new)
                    .map_err(|error| format!("program {id}: {error}"))
            })
            .clone()
    }

    /// The links that concern a process.
    pub fn links_of(&mut self, pid: i32) -> Vec<Wanted> {
        let Joined { view, links, .. } = self;
        let (present, enabled): (HashSet<u32>, Vec<Option<u32>>) = view
            .link_ids()
            .into_iter()
            .map(|(id, enabled)| (id, enabled.then_some(id)))
            .unzip();
        links.retain(|id, _| present.contains(id));
        let read = |id| {
            let (made, spec) = view.link(id)?;
            Some(Wanted {
                link: (self.number, id),
                made,
                spec: Arc::new(spec),
            })
        };
        enabled
            .into_iter()
            .flatten()
            .filter_map(|id| links.entry(id).or_insert_with(|| read(id)).clone())
            .filter(|wanted| wanted.spec.pid == -1 || wanted.spec.pid == pid)
            .collect()
    }

    /// Makes new rings and tail-called programs known to running programs.
    pub fn meet_objects(&mut self) {
        // Read first: what changes from here on is for the next round.
        let changes = self.view.changes();
        if self.seen == Some(changes) {
            return;
        }
        self.seen = Some(changes);
        self.part_from_outdated();
        let programs = self.view.programs();
        let any_calls = |helpers: &[u32]| {
            let specs = programs.iter().filter_map(|(id, _)| self.view.program(*id));
            specs.into_iter().any(|spec| calls(&spec, helpers))
        };
        self.reads_memory = self.reads_memory || any_calls(&READ_MEMORY);
        self.walks_stacks = self.walks_stacks || any_calls(&WALK_STACKS);
        self.view.meet_inner_maps();
        for id in self.view.perf_rings() {
            if !self.rings.contains(&id)
                && let Some(ring) = self.view.perf_ring(id)
            {
                self.env.add_perf_ring(id, ring);
                self.rings.insert(id);
            }
        }
        let prints = |(_, spec): &&(u32, MapSpec)| is_trace_ring(spec);
        if let Some((id, _)) = self.view.maps().iter().find(prints)
            && let Some(ring) = self.view.map(*id)
        {
            self.env.set_trace_ring(ring);
        }
        let tail_calls = |(_, spec): &(u32, MapSpec)| spec.map_type == BPF_MAP_TYPE_PROG_ARRAY;
        if self.view.maps().iter().any(tail_calls) {
            // Any program may be put into the array later, without a word to us.
            for (id, _) in programs {
                if let Ok(program) = self.program(id) {
                    self.env.add_program(id, program.tail_target());
                }
            }
        }
    }

    /// Whether programs were forgotten that hooks may still run.
    pub fn has_outdated(&self) -> bool {
        !self.outdated.is_empty()
    }

    /// Forgets programs that use a map which has gone to the kernel since. No
    /// hook runs them, for links rest while maps go, unless nobody waited for
    /// this process.
    fn part_from_outdated(&mut self) {
        let Joined { view, env, .. } = self;
        let has_moved = |program: &LoadedProgram| {
            let mut maps = program.maps();
            maps.any(|(id, map)| view.has_moved(id, map))
        };
        let outdated = |_: &u32, program: &mut Result<Arc<LoadedProgram>, String>| {
            program.as_ref().is_ok_and(|program| has_moved(program))
        };
        for (id, program) in self.programs.extract_if(outdated) {
            env.remove_program(id);
            self.outdated.extend(program.ok());
        }
    }

    /// Forgets what the tool has removed. The programs and maps returned may
    /// still be in use: keep them for a while.
    pub fn part_from_objects(&mut self) -> (Vec<Arc<LoadedProgram>>, Vec<Arc<Map>>) {
        let Joined { view, env, .. } = self;
        let mut gone = std::mem::take(&mut self.outdated);
        self.programs.retain(|&id, program| {
            let stays = view.has_program(id);
            if !stays {
                env.remove_program(id);
                gone.extend(program.as_ref().ok().cloned());
            }
            stays
        });
        if !self.rings.is_empty() {
            let present: HashSet<u32> = view.perf_rings().into_iter().collect();
            self.rings.retain(|id| {
                let stays = present.contains(id);
                if !stays {
                    env.remove_perf_ring(*id);
                }
                stays
            });
        }
        // Programs that are kept keep their maps.
        let maps = view.forget_removed();
        (gone, maps)
    }
}

/// Helpers that walk the stack.
const WALK_STACKS: [u32; 2] = [BPF_FUNC_GET_STACKID, BPF_FUNC_GET_STACK];
/// Helpers that read the process's memory.
const READ_MEMORY: [u32; 7] = [
    BPF_FUNC_PROBE_READ,
    BPF_FUNC_PROBE_READ_STR,
    BPF_FUNC_PROBE_READ_USER,
    BPF_FUNC_PROBE_READ_KERNEL,
    BPF_FUNC_PROBE_READ_USER_STR,
    BPF_FUNC_PROBE_READ_KERNEL_STR,
    BPF_FUNC_COPY_FROM_USER,
];

/// Does a program call one of these helpers?
fn calls(spec: &ProgramSpec, helpers: &[u32]) -> bool {
    const CALL: u8 = BPF_JMP | BPF_CALL;
    spec.insns.iter().any(|insn| {
        let helper = insn.imm as u32;
        insn.code == CALL && insn.src() == 0 && helpers.contains(&helper)
    })
}
