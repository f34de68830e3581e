//! Return probes on functions that leave by exceptions, jumps, thread exit,
//! fork and coroutine switches; with the probes still, and toggling.

mod common;

use std::ffi::{CString, c_int, c_void};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bpftime_attach::{Backend, Engine, HookId, Kind, Needs, Point, Probe};
use common::{Recorder, module_of};

const VICTIMS: &[&str] = &[
    "v_leaf",
    "v_middle",
    "v_catch",
    "v_rethrow",
    "v_tail",
    "v_deep",
    "v_deep_throw",
    "v_jump",
    "v_frames",
    "v_nest",
    "v_float",
    "v_big",
    "v_many",
    "v_varargs",
    "v_x87",
    "v_sleep",
    "v_exit",
    "v_fork",
    "v_signal",
    "v_setjmp",
    "v_yield",
    "v_move",
];

/// The compiled fixture, loaded.
struct Library(*mut c_void);

// SAFETY: a dlopen(3) handle may be used from any thread.
unsafe impl Sync for Library {}
// SAFETY: as above.
unsafe impl Send for Library {}

impl Library {
    fn build() -> Library {
        let directory = tempfile::tempdir().expect("temporary directory");
        let output = directory.path().join("torture.so");
        let compiled = Command::new("g++")
            .args(["-O2", "-g", "-fPIC", "-shared", "-pthread", "-o"])
            .arg(&output)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture.cpp"))
            .status()
            .expect("g++ runs");
        assert!(compiled.success());
        let path = CString::new(output.as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: the fixture's constructors do nothing.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        let library = Library(handle);
        // The file is read while it exists.
        module_of(library.address("v_leaf"));
        library
    }

    fn address(&self, name: &str) -> usize {
        let name = CString::new(name).expect("a name");
        // SAFETY: the handle is open.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null(), "{name:?}");
        address as usize
    }

    fn run(&self, scenario: &str) {
        let address = self.address(scenario);
        // SAFETY: scenarios take nothing and give an int.
        let scenario_fn: extern "C" fn() -> c_int = unsafe { std::mem::transmute(address) };
        // Deep recursion needs more than a test thread's stack.
        let thread = std::thread::Builder::new().stack_size(256 << 20);
        let result = thread
            .spawn(move || scenario_fn())
            .expect("a thread")
            .join();
        assert_eq!(result.expect("no panic"), 0, "{scenario}");
    }

    fn batch(&self, probe: Probe) -> Vec<(Point, Probe)> {
        let kinds = [Kind::Entry, Kind::Return];
        let points = VICTIMS
            .iter()
            .flat_map(|name| kinds.map(|kind| (self.address(name), kind)));
        let point = |(addr, kind)| Point {
            addr,
            kind,
            module: module_of(addr),
        };
        points.map(|at| (point(at), probe)).collect()
    }
}

/// One scenario at a time: they share signals and static stacks.
static ONE_AT_A_TIME: Mutex<Option<Library>> = Mutex::new(None);

/// Attaches what can be: where jumps can land depends on what lies near by.
fn attach_all(engine: &dyn Backend, library: &Library, probe: Probe) -> Vec<HookId> {
    let attached = engine.attach(&library.batch(probe));
    let asked = attached.len();
    let ids: Vec<HookId> = attached.into_iter().filter_map(Result::ok).collect();
    assert!(ids.len() >= asked - 4, "{} of {asked}", ids.len());
    ids
}

fn check(scenario: &str) {
    let mut library = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let library = &*library.get_or_insert_with(Library::build);
    let engine = common::engine();
    let recorder = Recorder::leaked();
    library.run(scenario);

    // Each shape has code of its own on the way in and out.
    let probes = || {
        [
            recorder.probe(),
            recorder.light_probe(Needs::LITTLE),
            recorder.light_probe(Needs::VECTORS),
        ]
    };
    for probe in probes() {
        let before = recorder.hits();
        let ids = attach_all(engine, library, probe);
        library.run(scenario);
        assert_ne!(recorder.hits(), before, "{scenario} hits its victims");
        engine.detach(&ids);
    }
    let hits = recorder.hits();
    library.run(scenario);
    assert_eq!(
        recorder.hits(),
        hits,
        "{scenario} is left alone after detach"
    );

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            Engine::exempt_thread();
            for probe in probes().iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let ids = attach_all(engine, library, *probe);
                engine.detach(&ids);
            }
        });
        let toggled = std::panic::catch_unwind(|| {
            for _ in 0..3 {
                library.run(scenario);
            }
        });
        done.store(true, Ordering::Relaxed);
        toggled.expect("the scenario under toggling probes");
    });
}

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { check(concat!("scenario_", stringify!($name))); })*
    };
}

scenarios! {
    exceptions, deep_exceptions, longjmp, recursion, backtrace, values, thread_end, contexts, moving_coroutine,
    threads, signals, signals_on_their_own_stack, jumping_out_of_signals, fork,
}
