//! Probes on everything, still or coming and going. It knows no program.

use std::arch::asm;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use attach::probe::Hit;
use attach::{AttachError, Backend, Engine, HookId, Kind, Point, Probe};
use uapi::PtRegs;

use crate::modules::{self, Loaded};
use crate::report::Report;
use crate::settings::Settings;

static HITS: AtomicU64 = AtomicU64::new(0);
static TOGGLES: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicBool = AtomicBool::new(false);

/// What was attached how, and the thread that goes on with it.
pub struct Torment {
    settings: Settings,
    modules: Vec<Loaded>,
    mapped: Vec<String>,
    asked: usize,
    work: Mutex<Option<Work>>,
    /// The process whose thread toggles: a forked child has none.
    process: AtomicI32,
}

/// The part that the toggling thread has while it runs.
struct Work {
    engine: Engine,
    batch: Vec<(Point, Probe)>,
    ids: Vec<HookId>,
    refusals: BTreeMap<String, usize>,
    thread: Option<JoinHandle<Work>>,
}

// SAFETY: the raw pointers in the batch are null.
unsafe impl Send for Work {}

impl Torment {
    /// Attaches everything before the program's first instruction.
    pub fn begin(settings: Settings) -> Option<Torment> {
        let mapped = mapped_files();
        let modules = modules::all(&settings.modules);
        let kinds: &[Kind] = match settings.returns {
            true => &[Kind::Entry, Kind::Return],
            false => &[Kind::Entry],
        };
        let mut batch = Vec::new();
        for loaded in &modules {
            for addr in &loaded.entries {
                for kind in kinds {
                    let point = Point {
                        addr: *addr,
                        kind: *kind,
                        module: loaded.module.clone(),
                    };
                    batch.push((point, Probe::new(on_hit, std::ptr::null())));
                }
            }
        }
        let mut work = Work {
            engine: Engine::new().ok()?,
            batch,
            ids: Vec::new(),
            refusals: BTreeMap::new(),
            thread: None,
        };
        let asked = work.batch.len();
        work.attach();
        if let Some(stay) = settings.toggle {
            work = work.toggle_in_thread(stay)?;
        }
        // SAFETY: takes nothing.
        let process = AtomicI32::new(unsafe { libc::getpid() });
        let work = Mutex::new(Some(work));
        Some(Torment {
            settings,
            modules,
            mapped,
            asked,
            work,
            process,
        })
    }

    /// Takes all probes off and says how it was.
    pub fn end(&self) {
        // SAFETY: takes nothing.
        let is_own = self.process.load(Ordering::Relaxed) == unsafe { libc::getpid() };
        // A child of fork(2) keeps what it inherited; its parent reports.
        if !is_own {
            return;
        }
        let Some(mut work) = self.work.lock().ok().and_then(|mut work| work.take()) else {
            return;
        };
        OVER.store(true, Ordering::Release);
        if let Some(thread) = work.thread.take() {
            match thread.join() {
                Ok(its) => work = its,
                Err(_) => return,
            }
        }
        work.engine.detach(&work.ids);
        let changed = self.modules.iter().filter(|module| !module.is_untouched());
        let now = mapped_files();
        let lost = self.mapped.iter().filter(|line| !now.contains(line));
        Report {
            asked: self.asked,
            attached: work.batch.len(),
            toggles: TOGGLES.load(Ordering::Relaxed),
            hits: HITS.load(Ordering::Relaxed),
            changed: changed
                .map(|module| module.path.display().to_string())
                .collect(),
            lost: lost.cloned().collect(),
            refusals: work.refusals.into_iter().collect(),
        }
        .write(&self.settings.report);
    }
}

impl Work {
    /// Attaches everything; what is refused once is not asked for again.
    fn attach(&mut self) {
        let results = self.engine.attach(&self.batch);
        self.ids = results.iter().flatten().copied().collect();
        let mut taken = results.iter().map(Result::is_ok);
        self.batch.retain(|_| taken.next() == Some(true));
        for error in results.into_iter().filter_map(Result::err) {
            *self.refusals.entry(reason(error)).or_default() += 1;
        }
    }

    /// Hands the work to a thread with all signals blocked.
    fn toggle_in_thread(self, stay: std::time::Duration) -> Option<Work> {
        let rest = Work {
            engine: Engine::new().ok()?,
            batch: Vec::new(),
            ids: Vec::new(),
            refusals: BTreeMap::new(),
            thread: None,
        };
        // SAFETY: an all-zero set is a valid value, and sigfillset fills it.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // SAFETY: both sets live on this stack frame.
        unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        }
        let mut work = self;
        let spawned = std::thread::Builder::new().spawn(move || {
            Engine::exempt_thread();
            while !OVER.load(Ordering::Acquire) {
                std::thread::park_timeout(stay);
                work.engine.detach(&work.ids);
                std::thread::park_timeout(stay);
                work.attach();
                TOGGLES.fetch_add(1, Ordering::Relaxed);
            }
            work
        });
        // SAFETY: puts back what the call above stored.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        }
        let thread = Some(spawned.ok()?);
        Some(Work { thread, ..rest })
    }
}

fn reason(error: AttachError) -> String {
    match error {
        AttachError::Refused { reason, .. } => reason.to_string(),
        error => error.to_string(),
    }
}

/// The lines of /proc/self/maps that are text of files.
fn mapped_files() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let is_text = |line: &&str| line.contains(" r-xp ") && line.contains('/');
    maps.lines().filter(is_text).map(str::to_owned).collect()
}

/// Counts, and leaves nothing in the registers that a callback may change.
unsafe extern "C" fn on_hit(_regs: *mut PtRegs, _data: *const (), _hit: *mut Hit) -> u64 {
    HITS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: changes registers only, all of them declared.
    unsafe {
        asm!(
            "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm2, xmm2", "pcmpeqd xmm3, xmm3",
            "pcmpeqd xmm4, xmm4", "pcmpeqd xmm5, xmm5", "pcmpeqd xmm6, xmm6", "pcmpeqd xmm7, xmm7",
            "pcmpeqd xmm8, xmm8", "pcmpeqd xmm9, xmm9", "pcmpeqd xmm10, xmm10", "pcmpeqd xmm11, xmm11",
            "pcmpeqd xmm12, xmm12", "pcmpeqd xmm13, xmm13", "pcmpeqd xmm14, xmm14", "pcmpeqd xmm15, xmm15",
            "mov rax, -1", "mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax",
            "mov r8, rax", "mov r9, rax", "mov r10, rax", "mov r11, rax", "add al, 1", "stc",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            options(nomem, nostack),
        );
    }
    0
}
