//! What the engine refuses, survives and leaves behind.

mod common;

use std::ffi::{CStr, CString};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bpftime_attach::{AttachError, Backend, HookId, Kind, Module, Needs, Point, Probe, Refusal};
use common::{Recorder, attach, module_of, text, try_attach};

#[inline(never)]
extern "C" fn deep(n: u64) -> u64 {
    if n == 0 {
        0
    } else {
        std::hint::black_box(deep(n - 1)) + 1
    }
}

/// Sites and trampolines are used again, and lists that were replaced are freed.
#[test]
fn attaching_again_and_again_takes_no_memory() {
    let engine = common::engine();
    let addr = attached_often as *const () as usize;
    let recorder = Recorder::leaked();
    let rounds = |count: usize| {
        for i in 0..count {
            let needs = [Needs::LITTLE, Needs::VECTORS, Needs::EVERYTHING][i % 3];
            let kind = [Kind::Entry, Kind::Return][i % 2];
            let id = attach(engine, addr, kind, recorder.light_probe(needs));
            assert_eq!(attached_often(4), 9);
            engine.detach(&[id]);
        }
    };
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("own statm");
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        pages.unwrap_or(0_usize)
    };
    rounds(200);
    let before = resident();
    rounds(1500);
    assert_eq!(recorder.hits(), 1700);
    let grown = resident().saturating_sub(before);
    // A list alone would take 1500 times 300 bytes.
    assert!(grown < 60, "{grown} pages more");
}

#[inline(never)]
extern "C" fn attached_often(n: u64) -> u64 {
    std::hint::black_box(n) + 5
}

#[test]
fn frames_beyond_the_shadow_stack_are_missed_and_work() {
    const DEPTH: u64 = 1 << 16;
    let engine = common::engine();
    let recorder = Recorder::leaked();
    let id = attach(
        engine,
        deep as *const () as usize,
        Kind::Return,
        recorder.probe(),
    );
    let thread = std::thread::Builder::new().stack_size(256 << 20);
    let result = thread
        .spawn(|| (deep(DEPTH + 999), deep(10)))
        .expect("a thread")
        .join();
    assert_eq!(result.expect("no panic"), (DEPTH + 999, 10));
    assert_eq!((recorder.hits(), recorder.missed()), (DEPTH + 11, 1000));
    engine.detach(&[id]);
}

#[test]
fn an_engine_leaves_no_fd_and_no_signal_handler() {
    // Alone in a child: other tests open files.
    let fine = in_child(|| {
        let state = || {
            let fds = std::fs::read_dir("/proc/self/fd").expect("own fds").count();
            let status = std::fs::read_to_string("/proc/self/status").expect("own status");
            let signals = status
                .lines()
                // SigQ counts all of the user's processes.
                .filter(|line| line.starts_with("Sig") && !line.starts_with("SigQ"))
                .collect::<String>();
            (fds, signals)
        };
        let before = state();
        let engine = common::engine();
        let recorder = Recorder::leaked();
        let id = attach(
            engine,
            quiet as *const () as usize,
            Kind::Entry,
            recorder.probe(),
        );
        let while_attached = (quiet(1), state());
        engine.detach(&[id]);
        while_attached == (2, before.clone()) && (state(), recorder.hits()) == (before, 1)
    });
    assert!(fine);
}

/// Runs a check in a forked child.
fn in_child(check: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child has this thread only, runs the check and exits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        // SAFETY: ends the child.
        unsafe { libc::_exit(if checked.unwrap_or(false) { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: `status` is valid to write.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status == 0
}

#[inline(never)]
extern "C" fn quiet(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

#[test]
fn a_forked_child_attaches_and_detaches() {
    let engine = common::engine();
    let addr = forked as *const () as usize;
    let (before, module) = (text(addr, 16), module_of(addr));
    let recorder = Recorder::leaked();
    let inherited = attach(engine, addr, Kind::Return, recorder.probe());
    let fine = in_child(|| {
        let kind = Kind::Entry;
        let own = engine
            .attach(&[(Point { addr, kind, module }, recorder.probe())])
            .remove(0);
        let doubled = forked(2);
        engine.detach(&[inherited]);
        engine.detach(&own.into_iter().collect::<Vec<_>>());
        doubled == 4 && recorder.hits() == 2 && text(addr, 16) == before
    });
    assert!(fine);
    assert_eq!((forked(3), recorder.hits()), (6, 1));
    engine.detach(&[inherited]);
}

#[inline(never)]
extern "C" fn forked(n: u64) -> u64 {
    std::hint::black_box(n) * 2
}

/// A library of one function, compiled and loaded.
struct Library {
    handle: *mut libc::c_void,
    module: Arc<Module>,
    addr: usize,
    directory: tempfile::TempDir,
}

// SAFETY: a dlopen(3) handle may be used from any thread.
unsafe impl Sync for Library {}

impl Library {
    fn build(source: &str, name: &CStr) -> Library {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (input, output) = (directory.path().join("a.c"), directory.path().join("a.so"));
        std::fs::write(&input, source).expect("write source");
        let compiler = Command::new("gcc")
            .args(["-O1", "-fPIC", "-shared", "-o"])
            .arg(&output)
            .arg(&input)
            .status();
        assert!(compiler.expect("gcc runs").success());
        let path = CString::new(output.as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: the library has no constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null());
        // SAFETY: the handle is open.
        let addr = unsafe { libc::dlsym(handle, name.as_ptr()) } as usize;
        Library {
            handle,
            module: module_of(addr),
            addr,
            directory,
        }
    }

    fn call(&self, n: u64) -> u64 {
        // SAFETY: the sources below define functions of one word.
        unsafe { std::mem::transmute::<usize, extern "C" fn(u64) -> u64>(self.addr)(n) }
    }

    fn attach(
        &self,
        engine: &dyn Backend,
        kind: Kind,
        probe: Probe,
    ) -> Result<bpftime_attach::HookId, AttachError> {
        let (addr, module) = (self.addr, self.module.clone());
        engine
            .attach(&[(Point { addr, kind, module }, probe)])
            .remove(0)
    }
}

#[test]
fn an_unmapped_module_is_forgotten() {
    let engine = common::engine();
    for round in 0..5 {
        let library = Library::build("long f(long n) { return n * 3; }", c"f");
        let recorder = Recorder::leaked();
        let id = library
            .attach(engine, Kind::Entry, recorder.probe())
            .expect("attached");
        assert_eq!((library.call(5), recorder.hits()), (15, 1), "round {round}");
        // SAFETY: nothing of the library is used any more.
        assert_eq!(unsafe { libc::dlclose(library.handle) }, 0);
        engine.forget_range(library.addr & !0xfff..(library.addr & !0xfff) + 4096);
        engine.detach(&[id]);
        assert!(engine.sites().iter().all(|site| site.addr != library.addr));
        common::forget_modules();
    }
}

#[test]
fn a_library_may_be_closed_in_the_middle_of_a_change() {
    let engine = common::engine();
    let library = Library::build("long f(long n) { return n * 3; }", c"f");
    let path = library.directory.path().join("a.so");
    let path = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
    let (addr, module) = (library.addr, library.module.clone());
    let page = addr & !0xfff..(addr & !0xfff) + 4096;
    let done = AtomicBool::new(false);
    let mut attached = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let library = &library;
            // The thread has its stack: nothing takes the library's place.
            // SAFETY: nothing of the library is used any more.
            assert_eq!(unsafe { libc::dlclose(library.handle) }, 0);
            while !done.load(Ordering::Relaxed) {
                // SAFETY: the library has no constructors, and nobody calls it.
                let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
                assert!(!handle.is_null());
                // SAFETY: just opened.
                assert_eq!(unsafe { libc::dlclose(handle) }, 0);
            }
        });
        for _ in 0..3000 {
            let point = Point {
                addr,
                kind: Kind::Entry,
                module: module.clone(),
            };
            engine.forget_range(page.clone());
            let probe = Recorder::leaked().probe();
            let ids = engine.attach(&[(point, probe)]);
            let ids: Vec<HookId> = ids.into_iter().filter_map(Result::ok).collect();
            attached += ids.len();
            engine.detach(&ids);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(attached > 0, "never found the library open");
    common::forget_modules();
}

#[test]
fn a_library_may_be_closed_while_its_hooks_are_forgotten() {
    let engine = common::engine();
    let library = Library::build("long f(long n) { return n * 3; }", c"f");
    let path = library.directory.path().join("a.so");
    let path = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
    let page = library.addr & !0xfff..(library.addr & !0xfff) + 4096;
    let done = AtomicBool::new(false);
    let mut attached = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let library = &library;
            // SAFETY: nothing of the library is used any more.
            assert_eq!(unsafe { libc::dlclose(library.handle) }, 0);
            while !done.load(Ordering::Relaxed) {
                // SAFETY: the library has no constructors, and nobody calls it.
                let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
                assert!(!handle.is_null());
                // SAFETY: just opened.
                assert_eq!(unsafe { libc::dlclose(handle) }, 0);
            }
        });
        for _ in 0..3000 {
            let probe = Recorder::leaked().probe();
            attached += usize::from(library.attach(engine, Kind::Entry, probe).is_ok());
            // Its jump is there, if the library still is.
            engine.forget_range(page.clone());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(attached > 0, "never found the library open");
    common::forget_modules();
}

#[test]
fn bytes_that_someone_changed_are_left_alone() {
    let engine = common::engine();
    let addr = patched as *const () as usize;
    let original = text(addr, 1);
    write_text(addr, &[0xcc]);
    let refused = try_attach(engine, addr, Kind::Entry, Recorder::leaked().probe());
    let reason = Refusal::Patched;
    assert_eq!(refused, Err(AttachError::Refused { addr, reason }));
    assert_eq!(text(addr, 1), [0xcc]);
    write_text(addr, &original);
    let id = attach(engine, addr, Kind::Entry, Recorder::leaked().probe());
    assert_eq!(patched(7), 8);
    engine.detach(&[id]);
    assert_eq!(patched(7), 8);
}

#[inline(never)]
extern "C" fn patched(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

fn write_text(addr: usize, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/mem")
        .expect("own memory");
    memory.write_all_at(bytes, addr as u64).expect("written");
}

#[test]
fn addresses_that_are_no_functions() {
    let engine = common::engine();
    let data = Box::leak(Box::new(0_u64));
    let addr = quiet as *const () as usize;
    let module = module_of(addr);
    let at = |addr: usize, kind| {
        let module = module.clone();
        match engine
            .attach(&[(Point { addr, kind, module }, Recorder::leaked().probe())])
            .remove(0)
        {
            Ok(id) => {
                engine.detach(&[id]);
                None
            }
            Err(AttachError::Refused { reason, .. }) => Some(reason),
            Err(other) => panic!("{other}"),
        }
    };
    let outside = &raw mut *data as usize;
    assert_eq!(at(outside, Kind::Entry), Some(Refusal::OutsideText));
    assert_eq!(at(addr + 1, Kind::Return), Some(Refusal::NotFunction));
    assert_eq!(at(addr, Kind::Return), None);
}
