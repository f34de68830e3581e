//! System calls that links ask for: which programs run at which, and with what
//! context. It knows no session's life and no round; where `syscall`
//! instructions are hooked is the engine's.
//!
//! Some calls also concern the agent itself: those that bring new text, which
//! is hooked before the program goes on ([`text`]), those that make children in
//! this memory, after which cached thread ids are wrong, and those that its
//! other parts observe ([`observers`]). Tracepoints in a task's life are calls, too
//! ([`tasks`]).

mod files;
pub mod observers;
mod sight;
mod tasks;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use attach::syscalls::{LightCallback, LightFunction, Text};
use attach::{Engine, Module, SyscallEvent, SyscallProbe, When};
use runtime::session::{LinkKind, syscall_function};
use runtime::thread;
use uapi::PtRegs;
use uapi::helper::BPF_FUNC_OVERRIDE_RETURN;
use vm::link::Entry;

use crate::breakpoints;
use crate::dispatch;
use crate::hit::{Hit, Tally};
use crate::hooks::Wanted;
use crate::joined::Joined;
use crate::log::debug;
use crate::modules::{Image, Modules};

use files::Files;
use sight::Sight;
pub use sight::forget_calls;

/// Whether every system call of this process is seen: no instruction is left
/// out and no text can change unseen. Observers whose calls are hooked see all
/// of them as long as this is so; `Observer::blind` says when it ends.
pub fn sees_all() -> bool {
    sight::is_whole()
}

/// One link's program at system calls. Never freed, as what it points to.
struct Traced {
    hit: Hit,
    kind: LinkKind,
    /// It may answer calls in the kernel's place.
    overrides: bool,
    /// A record is all that it looks at.
    needs_record_only: bool,
}

/// What is traced in this process.
#[derive(Default)]
pub struct Syscalls {
    at: BTreeMap<(u64, u32), &'static Traced>,
    refused: BTreeMap<(u64, u32), String>,
    /// `syscall` instructions that could not be hooked.
    refused_sites: u32,
    /// Instructions of the kinds that never are.
    other_sites: u32,
    /// All text of files could be looked at.
    has_read_all: bool,
    /// Memory that was text and was hooked, or needed no hook.
    looked_at: Vec<Range<usize>>,
    sight: Sight,
    /// What the engine was told last.
    told: Option<(Vec<SyscallProbe>, Image)>,
    files: Files,
    /// Threads are to dispatch calls of text that may change.
    pub is_dispatched: bool,
    /// The kernel's library, once it was looked for.
    vdso: Option<Option<Arc<Text>>>,
}

impl Syscalls {
    /// Links that are in place, and what was refused: links, and instructions.
    pub fn counts(&self) -> (u32, u32) {
        let writable = u32::from(self.sees_writable());
        let sites = self.refused_sites + self.other_sites;
        let refused = self.refused.len() as u32 + sites + writable;
        (self.at.len() as u32, refused)
    }

    /// Whether nothing is hooked and nobody wants it.
    pub fn is_empty(&self) -> bool {
        let is_told = self.told.as_ref().is_some_and(|(told, _)| !told.is_empty());
        self.at.is_empty() && !observers::any() && !is_told
    }

    fn sees_writable(&self) -> bool {
        !self.at.is_empty() && text::is_writable_seen() && !dispatch::is_on()
    }

    /// Why links and instructions were refused, and how often.
    pub fn reasons(&self) -> impl Iterator<Item = (&str, u32)> {
        let sites = [
            (
                "a syscall instruction cannot be hooked, its calls are not seen",
                self.refused_sites,
            ),
            (
                "int 0x80 and sysenter are not hooked, their calls are not seen",
                self.other_sites,
            ),
            (
                "text that is writable, too, is not hooked, its calls are not seen",
                u32::from(self.sees_writable()),
            ),
        ];
        let links = self.refused.values().map(|reason| (reason.as_str(), 1));
        links.chain(sites.into_iter().filter(|(_, count)| *count != 0))
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
        let mut in_order: Vec<&Wanted> = links.iter().collect();
        in_order.sort_by_key(|wanted| in_kernels_order(wanted, links));
        let in_order = in_order.into_iter().filter_map(|wanted| {
            let traced = self.at.get(&wanted.link)?;
            Some(tasks::probes(traced).unwrap_or_else(|| vec![traced.probe(&wanted.spec)]))
        });
        let mut probes: Vec<SyscallProbe> = in_order.flatten().collect();
        let is_observed = observers::any();
        if !probes.is_empty() || is_observed {
            let observers = observers::probes();
            let own = text::probes(is_observed).chain(child_probes());
            probes.splice(0..0, observers.into_iter().chain(own));
        }
        if observers::observe(libc::SYS_rt_sigprocmask) && breakpoints::are_wanted() {
            attach::breakpoints::surround(&mut probes);
            if self.is_dispatched {
                attach::syscalls::dispatch::surround(&mut probes);
            }
        }
        self.tell(probes, image, modules);
        if is_observed {
            let is_whole = self.is_whole();
            self.sight.round_ends(is_whole);
        } else {
            self.sight.rest();
        }
    }

    /// What is found out about files is kept here.
    pub fn set_state(&mut self, state: &Path) {
        self.files.set_state(state);
    }

    /// To be called before a round looks at the process.
    pub fn round_begins(&mut self) {
        self.sight.round_begins();
    }

    /// Whether all text that there is now is hooked where it has to be.
    pub fn is_whole(&self) -> bool {
        if sees_all() {
            // Nothing has brought text since this was found out.
            return true;
        }
        self.is_hooked(false)
    }

    /// Whether all text is, but for what may change; and every thread has left
    /// what was not.
    pub fn is_whole_but_changing(&self) -> bool {
        self.sight.is_settled() && self.is_hooked(true)
    }

    /// Whether programs trace calls that text which may change can make.
    pub fn wants_changing(&self) -> bool {
        !self.at.is_empty() && Engine::new().is_ok_and(|e| text::has_changing(&e.own_text()))
    }

    fn is_hooked(&self, but_changing: bool) -> bool {
        let Ok(engine) = Engine::new() else {
            return false;
        };
        self.has_read_all
            && self.refused_sites == 0
            && self.other_sites == 0
            && engine.syscall_doubts() == 0
            && text::is_known(&self.looked_at, &engine.own_text(), but_changing)
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
        self.sight.rest();
    }

    fn tell(&mut self, probes: Vec<SyscallProbe>, image: &Image, modules: &mut Modules) {
        let was_empty = self.told.as_ref().is_none_or(|(told, _)| told.is_empty());
        let mut memory = text::new_text();
        let is_told = |(told, seen): &(Vec<SyscallProbe>, Image)| {
            *told == probes && memory.is_empty() && (probes.is_empty() || seen == image)
        };
        if probes.is_empty() && was_empty || self.told.as_ref().is_some_and(is_told) {
            return;
        }
        let Ok(engine) = Engine::new() else { return };
        if was_empty {
            memory.extend(text::text_before(&engine.own_text()));
        }
        let looked_at = memory.iter().flat_map(|module| module.ranges());
        self.looked_at.extend(looked_at);
        let mut texts: Vec<Arc<Text>> = memory.into_iter().map(of_module).collect();
        if !probes.is_empty() {
            let vdso = || text::vdso_module().map(of_module);
            texts.extend(self.vdso.get_or_insert_with(vdso).clone());
        }
        texts.extend(self.files.follow(image));
        let mut traced = engine.trace_syscalls(&texts, &probes);
        self.has_read_all = matches!(self.vdso, Some(Some(_)));
        if !traced.lacking.is_empty() {
            let lacking = std::mem::take(&mut traced.lacking);
            self.has_read_all &= self.files.supply(&lacking, image, modules);
            let again = engine.trace_syscalls(&lacking, &probes);
            traced.has_hooked |= again.has_hooked;
            self.files.keep(&lacking, &engine);
        }
        if traced.has_hooked {
            self.sight.hooked();
        }
        let refused = engine.syscall_sites();
        let refused = refused.iter().filter(|site| site.tactic.is_err());
        let refused = refused.inspect(|site| debug!("{site:x?}")).count();
        self.refused_sites = refused as u32;
        self.other_sites = engine.other_syscalls() as u32;
        self.told = Some((probes, image.clone()));
    }
}

fn of_module(module: Arc<Module>) -> Arc<Text> {
    Arc::new(Text::of_module(module))
}

/// Runs the exit programs of execve(2), whose enter ran in the program before
/// this one: on the thread that starts this program.
pub fn executed() {
    Engine::syscall_returned(libc::SYS_execve, 0);
}

/// When the kernel would have begun to run a link's program and those that it
/// runs with it: all programs of perf events of one kind, of whatever number,
/// are behind one callback of the tracepoint, which comes with the first.
/// Of programs that have gone since nothing is known.
fn begun(wanted: &Wanted, links: &[Wanted]) -> u64 {
    let is_alone = matches!(
        wanted.spec.kind,
        LinkKind::RawSyscallEnter | LinkKind::RawSyscallExit
    );
    let kind = |other: &&Wanted| other.spec.kind == wanted.spec.kind;
    let others = links.iter().filter(kind).map(|other| other.made);
    let first = others.min().filter(|_| !is_alone);
    first.unwrap_or(wanted.made)
}

/// Where in the kernel's order a link's program runs. Tracepoints lie around
/// the call's function; of kprobes at one place the newest goes first, of
/// kretprobes the eldest.
fn in_kernels_order(wanted: &Wanted, links: &[Wanted]) -> (u32, u64) {
    match wanted.spec.kind {
        LinkKind::SyscallKretprobe => (0, wanted.made),
        LinkKind::SyscallKprobe => (2, !wanted.made),
        _ => (1, begun(wanted, links)),
    }
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
        LinkKind::SyscallExit
            | LinkKind::AnySyscallExit
            | LinkKind::RawSyscallExit
            | LinkKind::SyscallKretprobe
            | LinkKind::TaskExec
            | LinkKind::TaskFork
            | LinkKind::TaskExit
    );
    if overrides && is_exit {
        return Err("bpf_override_return works when a system call begins only".to_owned());
    }
    let counters = joined
        .view
        .counters(wanted.link.1)
        .ok_or("the session's data is too short")?;
    let place = wanted.spec.places.first().copied().unwrap_or_default();
    let tally = Arc::new(Tally::new(counters));
    let function = match is_kprobe(wanted.spec.kind) {
        true => syscall_function(place.offset),
        false => 0,
    };
    let cookie = place.cookie;
    let hit = Hit::new(
        &program,
        &joined.env,
        &tally,
        cookie,
        function as usize,
        false,
    );
    let is_raw = matches!(
        wanted.spec.kind,
        LinkKind::RawSyscallEnter | LinkKind::RawSyscallExit
    );
    Ok(Box::leak(Box::new(Traced {
        hit,
        kind: wanted.spec.kind,
        overrides,
        needs_record_only: !is_kprobe(wanted.spec.kind) && program.needs_record_only(is_raw),
    })))
}

impl Traced {
    /// What the engine is told of it.
    fn probe(&'static self, spec: &runtime::session::LinkSpec) -> SyscallProbe {
        let number = spec.places.first().map(|place| place.offset as u32);
        let (when, nr) = match self.kind {
            LinkKind::SyscallExit | LinkKind::SyscallKretprobe => (When::Exit, number),
            LinkKind::AnySyscallEnter | LinkKind::RawSyscallEnter => (When::Enter, None),
            LinkKind::AnySyscallExit | LinkKind::RawSyscallExit => (When::Exit, None),
            _ => (When::Enter, number),
        };
        SyscallProbe {
            when,
            nr,
            callback: match is_kprobe(self.kind) {
                true => on_function,
                false => on_syscall,
            },
            data: std::ptr::from_ref(self).cast(),
            hits: self.hit.hits(),
            missed: self.hit.missed(),
            observes: false,
            light: self.light(),
        }
    }
}

impl Traced {
    /// A program that needs the record only; if it calls nothing, it looks at no
    /// run either.
    fn light(&'static self) -> Option<LightCallback> {
        if self.overrides || !self.needs_record_only {
            return None;
        }
        let alone = self.hit.alone();
        let data = match alone {
            Some(_) => std::ptr::null(),
            None => std::ptr::from_ref(&self.hit).cast(),
        };
        let itself = alone.or_else(|| self.hit.quiet());
        Some(LightCallback {
            function: match itself {
                // SAFETY: both take two pointers and give a word; a quiet
                // program takes its hit for its run.
                Some(entry) => unsafe { std::mem::transmute::<Entry, LightFunction>(entry) },
                None => on_record,
            },
            data,
            needs_vectors: itself.is_none(),
            is_raw: self.kind == LinkKind::RawSyscallExit,
        })
    }
}

/// Runs a link's program with the record that the engine made.
unsafe extern "C" fn on_record(record: *mut u8, data: *mut ()) -> u64 {
    // SAFETY: `data` is what `light` gave: never freed.
    let hit = unsafe { &*data.cast::<Hit>() };
    // SAFETY: the record is what the program was verified for, and it looks at
    // no registers.
    unsafe { hit.run(record.cast(), std::ptr::null()) }
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
    // SAFETY: the record is what the program was verified for.
    unsafe { run(traced, event, record.as_mut_ptr().cast()) };
}

fn is_kprobe(kind: LinkKind) -> bool {
    matches!(kind, LinkKind::SyscallKprobe | LinkKind::SyscallKretprobe)
}

/// Runs a link's program with the registers that the kernel's function for the
/// call would be entered with, and left: the function's argument is the address
/// of the caller's registers (arch/x86/include/asm/syscall_wrapper.h, 6.18).
/// What the function has in the others is nobody's business and 0 here.
unsafe extern "C" fn on_function(event: *mut SyscallEvent, data: *const ()) {
    // SAFETY: `data` is what `probe` gave: never freed.
    let traced = unsafe { &*data.cast::<Traced>() };
    // SAFETY: the engine's event and registers, valid during the call.
    let regs = unsafe { (*event).regs };
    let mut function = PtRegs {
        ip: traced.hit.func_ip(),
        ..PtRegs::default()
    };
    match traced.kind {
        // SAFETY: as above.
        LinkKind::SyscallKretprobe => function.ax = unsafe { (*regs).ax },
        _ => function.di = regs as u64,
    }
    // SAFETY: the program was verified for registers.
    unsafe { run(traced, event, (&raw mut function).cast()) };
}

/// Runs a link's program with its context.
///
/// # Safety
/// `event` is the engine's, valid during the call, and the context what the
/// program was verified for.
unsafe fn run(traced: &Traced, event: *mut SyscallEvent, ctx: *mut ()) {
    // SAFETY: the caller's contract; the registers are the calling thread's.
    unsafe {
        let regs = (*event).regs;
        if !traced.overrides && !traced.hit.sends_signals() {
            traced.hit.run(ctx, regs);
        } else if let Some(answer) = traced.hit.run_acting(ctx, regs, traced.overrides) {
            (*event).is_answered = true;
            (*event).answer = answer as i64;
        }
    }
}

/// What keeps ids right, before any program runs.
fn child_probes() -> impl Iterator<Item = SyscallProbe> {
    let children = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_vfork];
    let probe = |nr| observers::probe(When::Exit, nr, on_child, std::ptr::null());
    children.into_iter().map(probe)
}

/// In a child, or in a parent whose child had its memory until now: ids are
/// asked for anew.
unsafe extern "C" fn on_child(_event: *mut SyscallEvent, _data: *const ()) {
    thread::forget();
}
