//! System calls that links ask for: which programs run at which, and with what
//! context. It knows no session's life and no round; where `syscall`
//! instructions are hooked is the engine's.
//!
//! Two kinds of calls also concern the agent itself: those that bring new
//! text, which is hooked before the program goes on, and those that make
//! children in this memory, after which cached thread ids are wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use attach::{Engine, Hits, Module, SyscallEvent, SyscallProbe, When};
use runtime::session::LinkKind;
use runtime::thread;
use uapi::helper::BPF_FUNC_OVERRIDE_RETURN;

use crate::agent;
use crate::errno::preserved;
use crate::hit::{Hit, Tally};
use crate::hooks::Wanted;
use crate::joined::Joined;
use crate::log::debug;
use crate::modules::{Image, Modules};

/// How long a call that maps text waits for it to be hooked.
const TIMEOUT: Duration = Duration::from_secs(1);

/// One link's program at system calls. Never freed, as what it points to.
struct Traced {
    hit: Hit,
    kind: LinkKind,
    /// It may answer calls in the kernel's place.
    overrides: bool,
}

/// What is traced in this process.
#[derive(Default)]
pub struct Syscalls {
    at: BTreeMap<(u64, u32), &'static Traced>,
    refused: BTreeMap<(u64, u32), String>,
    /// Instructions that could not be hooked.
    refused_sites: u32,
    /// What the engine was told last.
    told: Option<(Vec<SyscallProbe>, Image)>,
    /// The kernel's library, once it was looked for.
    vdso: Option<Option<Arc<Module>>>,
}

impl Syscalls {
    /// Links that are in place, and what was refused: links, and instructions.
    pub fn counts(&self) -> (u32, u32) {
        let writable = u32::from(self.sees_writable());
        let refused = self.refused.len() as u32 + self.refused_sites + writable;
        (self.at.len() as u32, refused)
    }

    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    fn sees_writable(&self) -> bool {
        !self.at.is_empty() && WRITABLE.load(Ordering::Relaxed)
    }

    /// Why links and instructions were refused, and how often.
    pub fn reasons(&self) -> impl Iterator<Item = (&str, u32)> {
        let sites = "a syscall instruction cannot be hooked, its calls are not seen";
        let sites = (self.refused_sites != 0).then_some((sites, self.refused_sites));
        let links = self.refused.values().map(|reason| (reason.as_str(), 1));
        let writable = "text that is writable, too, is not hooked, its calls are not seen";
        links
            .chain(sites)
            .chain(self.sees_writable().then_some((writable, 1)))
    }

    /// Tells the sessions what the engine skipped. They are joined or rest.
    pub fn settle(&self) {
        self.at.values().for_each(|traced| traced.hit.settle());
    }

    /// Right after fork(2), in the child.
    pub fn forget_hits(&self) {
        self.at.values().for_each(|traced| traced.hit.forget());
    }

    /// Brings what is traced into line with the links, in all text of `image`.
    pub fn follow(
        &mut self,
        links: &[Wanted],
        image: &Image,
        modules: &mut Modules,
        sessions: &mut BTreeMap<u64, &mut Joined>,
    ) {
        let wanted: BTreeSet<(u64, u32)> = links.iter().map(|wanted| wanted.link).collect();
        self.forget(|link| !wanted.contains(link));
        for wanted in links {
            let is_known =
                self.at.contains_key(&wanted.link) || self.refused.contains_key(&wanted.link);
            if is_known {
                continue;
            }
            match prepare(wanted, sessions) {
                Ok(traced) => {
                    self.at.insert(wanted.link, traced);
                }
                Err(reason) => {
                    debug!("{:?}: {reason}", wanted.link);
                    self.refused.insert(wanted.link, reason);
                }
            }
        }
        let in_order = links.iter().filter_map(|wanted| {
            let traced = self.at.get(&wanted.link)?;
            Some(traced.probe(&wanted.spec))
        });
        let mut probes: Vec<SyscallProbe> = in_order.collect();
        if !probes.is_empty() {
            probes.splice(0..0, own_probes());
        }
        self.tell(probes, image, modules);
    }

    /// Drops what belongs to links that `goes` picks; [`Syscalls::follow`]
    /// takes their hooks away.
    fn forget(&mut self, goes: impl Fn(&(u64, u32)) -> bool) {
        for (_, traced) in self.at.extract_if(.., |link, _| goes(link)) {
            traced.hit.retire();
            traced.hit.settle();
        }
        self.refused.retain(|link, _| !goes(link));
    }

    /// Drops everything of a session.
    pub fn forget_session(&mut self, session: u64) {
        self.forget(|link| link.0 == session);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.forget(|_| true);
        if self.told.take().is_some()
            && let Ok(engine) = Engine::new()
        {
            engine.trace_syscalls(&[], &[]);
        }
    }

    fn tell(&mut self, probes: Vec<SyscallProbe>, image: &Image, modules: &mut Modules) {
        let was_empty = self.told.as_ref().is_none_or(|(told, _)| told.is_empty());
        let memory = new_text();
        let is_told = |(told, seen): &(Vec<SyscallProbe>, Image)| {
            *told == probes && memory.is_empty() && (probes.is_empty() || seen == image)
        };
        if probes.is_empty() && was_empty || self.told.as_ref().is_some_and(is_told) {
            return;
        }
        let Ok(engine) = Engine::new() else { return };
        let mut all = memory;
        if !probes.is_empty() {
            all.extend(self.vdso.get_or_insert_with(vdso_module).clone());
        }
        all.extend(image.texts().filter_map(|mapping| {
            let module = modules.of(mapping, image);
            let module = module.inspect_err(|error| debug!("not hooked: {error}"));
            module.ok()
        }));
        engine.trace_syscalls(&all, &probes);
        let refused = engine.syscall_sites();
        let refused = refused.iter().filter(|site| site.tactic.is_err());
        self.refused_sites = refused.inspect(|site| debug!("{site:x?}")).count() as u32;
        self.told = Some((probes, image.clone()));
    }
}

/// Runs the exit programs of execve(2), whose enter ran in the program before
/// this one: on the thread that starts this program.
pub fn executed() {
    Engine::syscall_returned(libc::SYS_execve, 0);
}

fn prepare(
    wanted: &Wanted,
    sessions: &mut BTreeMap<u64, &mut Joined>,
) -> Result<&'static Traced, String> {
    let joined = sessions
        .get_mut(&wanted.link.0)
        .ok_or("the session has ended")?;
    let program = joined.program(wanted.spec.prog)?;
    let overrides = program.facts().helpers.contains(&BPF_FUNC_OVERRIDE_RETURN);
    let is_exit = matches!(
        wanted.spec.kind,
        LinkKind::SyscallExit | LinkKind::AnySyscallExit | LinkKind::RawSyscallExit
    );
    if overrides && is_exit {
        return Err(
            "bpf_override_return works when a system call begins (sys_enter) only".to_owned(),
        );
    }
    let counters = joined
        .view
        .counters(wanted.link.1)
        .ok_or("the session's data is too short")?;
    let place = wanted.spec.places.first().copied().unwrap_or_default();
    let tally = Arc::new(Tally::new(counters));
    let hit = Hit::new(&program, &joined.env, &tally, place.cookie, 0, false);
    Ok(Box::leak(Box::new(Traced {
        hit,
        kind: wanted.spec.kind,
        overrides,
    })))
}

impl Traced {
    /// What the engine is told of it.
    fn probe(&'static self, spec: &runtime::session::LinkSpec) -> SyscallProbe {
        let number = spec.places.first().map(|place| place.offset as u32);
        let (when, nr) = match self.kind {
            LinkKind::SyscallExit => (When::Exit, number),
            LinkKind::AnySyscallEnter | LinkKind::RawSyscallEnter => (When::Enter, None),
            LinkKind::AnySyscallExit | LinkKind::RawSyscallExit => (When::Exit, None),
            _ => (When::Enter, number),
        };
        SyscallProbe {
            when,
            nr,
            callback: on_syscall,
            data: std::ptr::from_ref(self).cast(),
            hits: self.hit.hits(),
            missed: self.hit.missed(),
        }
    }
}

/// Runs a link's program with the record that its tracepoint has: a header,
/// the number, arguments or result (kernel/trace/trace_syscalls.c and
/// include/trace/events/syscalls.h, 6.18). Programs read no further than that.
unsafe extern "C" fn on_syscall(event: *mut SyscallEvent, data: *const ()) {
    // SAFETY: `data` is what `probe` gave: never freed.
    let traced = unsafe { &*data.cast::<Traced>() };
    // SAFETY: the engine's event and registers, valid during the call.
    let (nr, regs) = unsafe { ((*event).nr, &*(*event).regs) };
    let [mut second, mut third] = [nr as u64, regs.di];
    match traced.kind {
        LinkKind::SyscallExit | LinkKind::AnySyscallExit => third = regs.ax,
        LinkKind::RawSyscallExit => second = regs.ax,
        _ => {}
    }
    // The kernel too has the registers' address where the header was.
    let header = std::ptr::from_ref(regs) as u64;
    let mut record = [
        header, second, third, regs.si, regs.dx, regs.r10, regs.r8, regs.r9,
    ];
    let record = record.as_mut_ptr().cast();
    if !traced.overrides {
        // SAFETY: the record is what the program was verified for; the
        // registers are the calling thread's.
        unsafe { traced.hit.run(record, regs) };
        return;
    }
    // SAFETY: as above.
    if let Some(answer) = unsafe { traced.hit.run_override(record, regs) } {
        // SAFETY: the engine's event, ours during the call.
        let event = unsafe { &mut *event };
        event.is_answered = true;
        event.answer = answer as i64;
    }
}

/// What the agent itself has to know, before any program runs.
fn own_probes() -> impl Iterator<Item = SyscallProbe> {
    let children = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_vfork];
    let text = [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect];
    let probe = |nr: i64, callback| SyscallProbe {
        when: When::Exit,
        nr: Some(nr as u32),
        callback,
        data: std::ptr::null(),
        hits: Hits::UNCOUNTED,
        missed: std::ptr::null(),
    };
    let children = children.map(|nr| probe(nr, on_child as attach::SyscallCallback));
    let text = text.map(|nr| probe(nr, on_text as attach::SyscallCallback));
    children.into_iter().chain(text)
}

/// In a child, or in a parent whose child had its memory until now: ids are
/// asked for anew.
unsafe extern "C" fn on_child(_event: *mut SyscallEvent, _data: *const ()) {
    thread::forget();
}

/// Memory that has become text in calls that wait for a round; an empty place
/// has length 0.
static NEW_TEXT: [[AtomicU64; 2]; 16] = [const { [const { AtomicU64::new(0) }; 2] }; 16];
/// Text that is writable, too, was seen: its bytes may change at any time.
static WRITABLE: AtomicBool = AtomicBool::new(false);

/// Longest memory that is looked at for system calls.
const LONGEST_TEXT: u64 = 64 << 20;

/// Notes memory for the next round; false without a place for it.
fn note_text(start: u64, len: u64) -> bool {
    NEW_TEXT.iter().any(|[at, length]| {
        // A place is taken by its address and ready with its length.
        let taken = at.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            length.store(len, Ordering::Release);
        }
        taken.is_ok()
    })
}

/// The memory that was noted, as it is now.
fn new_text() -> Vec<Arc<Module>> {
    let mut modules = Vec::new();
    for [at, length] in &NEW_TEXT {
        let len = length.swap(0, Ordering::Acquire);
        if len == 0 {
            continue;
        }
        let start = at.swap(0, Ordering::Relaxed);
        let mut bytes = vec![0; len as usize];
        if read(start, &mut bytes) {
            modules.push(Arc::new(Module::of_memory(start as usize, &bytes)));
        }
    }
    modules
}

/// Copies this process's memory; false where there is none.
fn read(from: u64, to: &mut [u8]) -> bool {
    let local = [to.as_mut_ptr() as usize, to.len()];
    let remote = [from as usize, to.len()];
    // SAFETY: the kernel writes to `to` only and checks the other side.
    let copied = unsafe {
        shm::sys::syscall6(
            libc::SYS_process_vm_readv as usize,
            shm::sys::getpid() as usize,
            local.as_ptr() as usize,
            1,
            remote.as_ptr() as usize,
            1,
            0,
        )
    };
    copied as usize == to.len()
}

/// Whether memory that has become text may make system calls.
fn may_hold_calls(start: u64, len: u64) -> bool {
    /// What an instruction may lie across.
    const OVERLAP: u64 = 16;
    const CHUNK: u64 = 1024;
    let mut bytes = [0; (CHUNK + OVERLAP) as usize];
    let mut at = 0;
    while at < len {
        let size = (len - at).min(CHUNK + OVERLAP) as usize;
        let Some(bytes) = bytes.get_mut(..size) else {
            return false;
        };
        if read(start + at, bytes) && attach::syscalls::may_hold(bytes) {
            return true;
        }
        at += CHUNK;
    }
    false
}

/// Text was mapped, or made of memory.
unsafe extern "C" fn on_text(event: *mut SyscallEvent, _data: *const ()) {
    const MAX_ERRNO: i64 = 4095;
    // SAFETY: the engine's event and registers, valid during the call.
    let regs = unsafe { &*(*event).regs };
    let is_text = regs.dx & libc::PROT_EXEC as u64 != 0;
    let failed = (-MAX_ERRNO..0).contains(&(regs.ax as i64));
    if !is_text || failed {
        return;
    }
    // SAFETY: as above.
    let of_file = unsafe { (*event).nr } == libc::SYS_mmap && regs.r8 as i32 >= 0;
    if !of_file {
        // SAFETY: as above.
        let is_mmap = unsafe { (*event).nr } == libc::SYS_mmap;
        let start = if is_mmap { regs.ax } else { regs.di };
        if regs.dx & libc::PROT_WRITE as u64 != 0 {
            WRITABLE.store(true, Ordering::Relaxed);
            return;
        }
        let len = regs.si.min(LONGEST_TEXT);
        if !may_hold_calls(start, len) || !note_text(start, len) {
            return;
        }
    }
    if let Some(agent) = agent::get() {
        preserved(|| agent.follow_now(TIMEOUT));
    }
}

/// The kernel's own library in every process, whose calls fall back to real
/// ones.
fn vdso_module() -> Option<Arc<Module>> {
    // SAFETY: reads what the kernel handed to the process.
    let start = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let maps = std::fs::read_to_string("/proc/thread-self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (from, rest) = line.split_once('-')?;
    let (to, _) = rest.split_once(' ')?;
    let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
    if range.start as u64 != start {
        return None;
    }
    // SAFETY: the whole mapping, readable for the life of the process.
    let image = unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) };
    let text = std::slice::from_ref(&range);
    let module = Module::new(image, start, text);
    module
        .inspect_err(|error| debug!("vdso: {error}"))
        .ok()
        .map(Arc::new)
}
