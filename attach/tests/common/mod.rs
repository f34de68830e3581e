//! What all suites need: the module that an address of this process is in,
//! and probes that count.

#![allow(
    dead_code,
    reason = "each suite uses a part, expect would fail in the others"
)]

use std::arch::naked_asm;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bpftime_attach::{Backend, Hit, HookId, Kind, Module, Needs, Point, Probe};
use uapi::PtRegs;

static KNOWN: Mutex<Vec<(u64, Arc<Module>)>> = Mutex::new(Vec::new());

/// Describes modules anew from now on: addresses have been reused.
pub fn forget_modules() {
    KNOWN.lock().expect("no test fails here").clear();
}

/// The back end that the suites run on: the one that `BPFTIME_HOOK` names.
pub fn engine() -> &'static dyn Backend {
    let name = std::env::var("BPFTIME_HOOK").unwrap_or_default();
    Box::leak(bpftime_attach::open(&name).expect("the back end"))
}

/// The module that holds `addr`, described once.
pub fn module_of(addr: usize) -> Arc<Module> {
    let mut known = KNOWN.lock().expect("no test fails here");
    let bias = bias_of(addr);
    if let Some((_, module)) = known.iter().find(|(its_bias, _)| *its_bias == bias) {
        return module.clone();
    }
    let module = describe(addr, bias);
    known.push((bias, module.clone()));
    module
}

/// The module that holds `addr`, as an agent would describe it.
fn describe(addr: usize, bias: u64) -> Arc<Module> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let parsed: Vec<(Range<usize>, bool, &str)> = maps.lines().filter_map(parse).collect();
    let (_, _, path) = parsed
        .iter()
        .find(|(range, ..)| range.contains(&addr))
        .expect("mapped");
    let ranges: Vec<_> = parsed
        .iter()
        .filter(|(_, text, p)| *text && p == path)
        .map(|(r, ..)| r.clone())
        .collect();
    let bytes = std::fs::read(path).expect("module file");
    Arc::new(Module::new(&bytes, bias, &ranges).expect("a module"))
}

fn parse(line: &str) -> Option<(Range<usize>, bool, &str)> {
    let (start, rest) = line.split_once('-')?;
    let (end, rest) = rest.split_once(' ')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    Some((range, rest.as_bytes().get(2) == Some(&b'x'), path))
}

fn bias_of(addr: usize) -> u64 {
    struct Search {
        addr: u64,
        bias: u64,
    }
    unsafe extern "C" fn visit(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        search: *mut c_void,
    ) -> i32 {
        // SAFETY: dl_iterate_phdr(3) gives a valid entry and our pointer.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
        // SAFETY: as above.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        for header in headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD)
        {
            let start = info.dlpi_addr + header.p_vaddr;
            if (start..start + header.p_memsz).contains(&search.addr) {
                search.bias = info.dlpi_addr;
            }
        }
        0
    }
    let mut search = Search {
        addr: addr as u64,
        bias: 0,
    };
    // SAFETY: `search` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.bias
}

/// Counts hits and keeps the last registers.
#[repr(C)]
#[derive(Default)]
pub struct Recorder {
    pub hits: AtomicU64,
    pub missed: AtomicU64,
    pub last: std::cell::UnsafeCell<PtRegs>,
    pub func_ip: AtomicU64,
}

// SAFETY: `last` is read by the test after the only writer returned.
unsafe impl Sync for Recorder {}

impl Recorder {
    /// One that lives for ever, as probes want.
    pub fn leaked() -> &'static Recorder {
        Box::leak(Box::default())
    }

    pub fn probe(&'static self) -> Probe {
        Probe::new(record, (&raw const *self).cast()).counting_misses(&raw const self.missed)
    }

    /// Counts only, and is known to need little.
    pub fn light_probe(&'static self, needs: Needs) -> Probe {
        Probe::new(count, (&raw const *self).cast())
            .counting_misses(&raw const self.missed)
            .needing(needs)
    }

    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    pub fn last(&self) -> PtRegs {
        // SAFETY: no hit runs while the test looks.
        unsafe { *self.last.get() }
    }
}

/// Counts in the first word of a recorder.
#[unsafe(naked)]
unsafe extern "C" fn count(_: *mut PtRegs, _: *const (), _: *mut Hit) -> u64 {
    naked_asm!("lock inc qword ptr [rsi]", "xor eax, eax", "ret")
}

unsafe extern "C" fn record(regs: *mut PtRegs, data: *const (), hit: *mut Hit) -> u64 {
    // SAFETY: `data` is the leaked recorder.
    let recorder = unsafe { &*data.cast::<Recorder>() };
    // SAFETY: `regs` is valid during the hit; suites with threads ignore `last`.
    unsafe { *recorder.last.get() = *regs };
    // SAFETY: valid during the call.
    let func_ip = unsafe { (*hit).func_ip };
    recorder.func_ip.store(func_ip, Ordering::Relaxed);
    recorder.hits.fetch_add(1, Ordering::Relaxed);
    0
}

/// Attaches one probe.
pub fn attach(engine: &dyn Backend, addr: usize, kind: Kind, probe: Probe) -> HookId {
    try_attach(engine, addr, kind, probe).expect("attached")
}

/// Attaches one probe or says why not.
pub fn try_attach(
    engine: &dyn Backend,
    addr: usize,
    kind: Kind,
    probe: Probe,
) -> Result<HookId, bpftime_attach::AttachError> {
    let point = Point {
        addr,
        kind,
        module: module_of(addr),
    };
    engine.attach(&[(point, probe)]).remove(0)
}

/// Bytes of text as they are now.
pub fn text(addr: usize, len: usize) -> Vec<u8> {
    // SAFETY: callers name functions of this process.
    (0..len)
        .map(|i| unsafe { ((addr + i) as *const u8).read_volatile() })
        .collect()
}
