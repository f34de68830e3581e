//! What it takes to hook every function of Python's library, and what that
//! does to a workload: prints one line of JSON for `make bench-probes`.
//!
//!     library PATH
#![expect(clippy::print_stdout, reason = "it is a measurement")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::ffi::{CStr, CString, c_char, c_int};
use std::time::Instant;

use bpftime_attach::{Counter, Hit, HookId, Inline, Kind, Needs, Point, Probe};

const WORKLOAD: &CStr = c"
import json, re
def work():
    text = json.dumps([{'name': 'n%d' % i, 'value': [i, i * 2, str(i)]} for i in range(300)])
    found = sum(len(o['value']) for o in json.loads(text))
    words = re.findall(r'n(\\d+)', text)
    return found + len(words) + len(re.sub(r'[0-9]+', '#', text))
expected = work()
";
const ONE_ROUND: &CStr = c"assert work() == expected";

const ROUNDS: usize = 300;

unsafe extern "C" fn empty(_: *mut uapi::PtRegs, _: *const (), _: *mut Hit) -> u64 {
    0
}

/// What the compiler makes of a program that does nothing: `xor eax, eax; ret`.
const EMPTY: &[u8] = &[0x31, 0xc0, 0xc3];

struct Python {
    run: extern "C" fn(*const c_char) -> c_int,
    address: usize,
}

impl Python {
    fn load(path: &str) -> Python {
        let path = CString::new(path).expect("a path");
        // SAFETY: loads a library; it is never closed.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!library.is_null(), "{path:?} cannot be loaded");
        // SAFETY: looks a name up in it.
        let find = |name: &CStr| unsafe { libc::dlsym(library, name.as_ptr()) };
        let (start, run) = (find(c"Py_Initialize"), find(c"PyRun_SimpleString"));
        assert!(!start.is_null() && !run.is_null(), "no Python");
        // SAFETY: Python's API: a function without arguments.
        unsafe { std::mem::transmute::<*mut libc::c_void, extern "C" fn()>(start)() };
        Python {
            // SAFETY: Python's API: takes a string, gives a number.
            run: unsafe {
                std::mem::transmute::<*mut libc::c_void, extern "C" fn(*const c_char) -> c_int>(run)
            },
            address: run as usize,
        }
    }

    fn run(&self, code: &CStr) {
        assert_eq!((self.run)(code.as_ptr()), 0, "{code:?}");
    }

    /// Milliseconds of one round of the workload.
    fn round(&self) -> f64 {
        let started = Instant::now();
        self.run(ONE_ROUND);
        started.elapsed().as_secs_f64() * 1e3
    }

    /// The best round: others were interrupted.
    fn best(&self) -> f64 {
        (0..ROUNDS).map(|_| self.round()).fold(f64::MAX, f64::min)
    }
}

fn milliseconds<T>(body: impl FnOnce() -> T) -> (T, f64) {
    let started = Instant::now();
    let result = body();
    (result, started.elapsed().as_secs_f64() * 1e3)
}

fn main() {
    let path = std::env::args().nth(1).expect("the path of libpython");
    let python = Python::load(&path);
    python.run(WORKLOAD);
    let engine = common::engine();
    let (module, describe) = milliseconds(|| common::module_of(python.address));
    let inline = Inline::of(EMPTY).expect("short");
    let counter = Counter::new().expect("a counter");
    let plain_before = python.best();
    let mut results = Vec::new();
    let mut first_attach = None;
    for (name, kinds) in [
        ("entry", &[Kind::Entry][..]),
        ("entry_and_return", &[Kind::Entry, Kind::Return]),
    ] {
        let probe = Probe::new(empty, std::ptr::null())
            .needing(Needs::LITTLE)
            .inlined(&raw const inline)
            .counting_hits(counter.hits());
        let at = |addr: usize, kind: Kind| Point {
            addr,
            kind,
            module: module.clone(),
        };
        let entries = module.function_entries();
        let points = entries
            .iter()
            .flat_map(|addr| kinds.iter().map(|kind| (at(*addr, *kind), probe)));
        let batch: Vec<(Point, Probe)> = points.collect();
        let (attached, attach) = milliseconds(|| engine.attach(&batch));
        first_attach.get_or_insert(attach);
        let ids: Vec<HookId> = attached.into_iter().filter_map(Result::ok).collect();
        counter.take();
        python.round();
        let hits = counter.take();
        let probed = python.best();
        let ((), detach) = milliseconds(|| engine.detach(&ids));
        results.push(format!(
            r#""{name}":{{"asked":{},"attached":{},"attach_ms":{attach:.1},"detach_ms":{detach:.1},"hits":{hits},"workload_ms":{probed:.3}}}"#,
            batch.len(),
            ids.len(),
        ));
    }
    let plain = plain_before.min(python.best());
    println!(
        r#"{{"describe_ms":{describe:.1},"plain_ms":{plain:.3},{}}}"#,
        results.join(",")
    );
}
