//! Text that is moved, left and written anew under its probes.
#![cfg(target_arch = "x86_64")]

mod common;

use std::ops::Range;
use std::sync::Arc;

use bpftime_attach::{Backend, Engine, Kind, Module, Point};
use common::{Recorder, text};

const PAGE: usize = 4096;
/// `lea rax, [rdi + rdi*4 + 3]; nop; ret`. Both jumps lie across words.
const CODE: [u8; 14] = [
    0x48, 0x8d, 0x84, 0xbf, 3, 0, 0, 0, 0x0f, 0x1f, 0x44, 0, 0, 0xc3,
];
const AT: usize = 0x106;

fn map() -> usize {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: the kernel picks free addresses.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    page as usize
}

/// A page of text with a function, and its module.
fn page() -> (usize, Arc<Module>) {
    let start = map();
    // SAFETY: the page is ours.
    let bytes = unsafe {
        ((start + AT) as *mut [u8; 14]).write(CODE);
        let text = libc::PROT_READ | libc::PROT_EXEC;
        assert_eq!(libc::mprotect(start as *mut _, PAGE, text), 0);
        std::slice::from_raw_parts(start as *const u8, PAGE)
    };
    (start, Arc::new(Module::of_memory(start, bytes)))
}

fn call(start: usize, number: u64) -> u64 {
    // SAFETY: the function is there.
    let function: extern "C" fn(u64) -> u64 = unsafe { std::mem::transmute(start + AT) };
    function(number)
}

fn range(start: usize) -> Range<u64> {
    start as u64..(start + PAGE) as u64
}

fn moved(start: usize) -> usize {
    let to = map() as *mut libc::c_void;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both pages are ours.
    let now = unsafe { libc::mremap(start as *mut _, PAGE, PAGE, flags, to) };
    assert_eq!(now, to);
    now as usize
}

fn attach(engine: &Engine, start: usize, module: &Arc<Module>) -> &'static Recorder {
    let recorder = Recorder::leaked();
    let points = [0, 8].map(|offset| {
        let point = Point {
            addr: start + AT + offset,
            kind: Kind::Entry,
            module: Arc::clone(module),
        };
        (point, recorder.probe())
    });
    let results = engine.attach(&points);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    recorder
}

#[test]
fn text_that_moves_is_as_it_was() {
    let engine = Engine::new().expect("an engine");
    let (start, module) = page();
    let recorder = attach(&engine, start, &module);
    assert_eq!((call(start, 7), recorder.hits()), (38, 2));
    assert_ne!(text(start + AT, CODE.len()), CODE);
    // It does not move after all.
    assert!(Engine::text_moves(&range(start)));
    assert_eq!(text(start + AT, CODE.len()), CODE);
    assert_eq!((call(start, 7), recorder.hits()), (38, 2));
    assert!(Engine::text_has_moved(&range(start), true));
    assert_eq!((call(start, 8), recorder.hits()), (43, 4));
    // It does.
    assert!(Engine::text_moves(&range(start)));
    let to = moved(start);
    assert!(Engine::text_has_moved(&range(start), false));
    assert_eq!(text(to + AT, CODE.len()), CODE);
    assert_eq!((call(to, 9), recorder.hits()), (48, 4));
    engine.forget_range(start..start + PAGE);
    // Memory that nobody hooked.
    let other = range(map());
    assert!(!Engine::text_moves(&other));
    assert!(!Engine::text_has_moved(&other, true));
}

#[test]
fn text_that_is_forgotten_runs_no_probe() {
    let engine = Engine::new().expect("an engine");
    let (start, module) = page();
    let recorder = attach(&engine, start, &module);
    assert_eq!((call(start, 1), recorder.hits()), (8, 2));
    // A copy of what is there takes its place, as programs do that want large
    // pages for their text.
    let copy = map();
    // SAFETY: both pages are ours.
    unsafe {
        std::ptr::copy_nonoverlapping(start as *const u8, copy as *mut u8, PAGE);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let now = libc::mremap(
            copy as *mut _,
            PAGE,
            PAGE,
            flags,
            start as *mut libc::c_void,
        );
        assert_eq!(now as usize, start);
        let text = libc::PROT_READ | libc::PROT_EXEC;
        assert_eq!(libc::mprotect(now, PAGE, text), 0);
    }
    assert_eq!((call(start, 2), recorder.hits()), (13, 4));
    engine.forget_range(start..start + PAGE);
    assert_eq!((call(start, 3), recorder.hits()), (18, 4));
    assert_eq!(text(start + AT, CODE.len()), CODE);
    let recorder = attach(&engine, start, &module);
    assert_eq!((call(start, 4), recorder.hits()), (23, 2));
}
