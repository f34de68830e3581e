//! Probes at any instruction: what runs through them computes what it did
//! before, wherever in a function they are and however many at once.

mod common;
#[path = "common/image.rs"]
mod image;

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::process::Command;

use bpftime_attach::{AttachError, Backend, Engine, HookId, Kind, Point, Refusal};
use common::{Recorder, module_of};
use image::Image;

/// A library that this process has loaded, to be run.
fn loaded(library: &CStr, function: &CStr) -> (Image, *mut c_void) {
    // SAFETY: loads a library whose constructors only set up tables.
    let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null(), "{library:?}");
    let addr = address(handle, function);
    let module = module_of(addr);
    (image::of_loaded(addr, module), handle)
}

fn address(handle: *mut c_void, function: &CStr) -> usize {
    // SAFETY: looks a name up.
    let addr = unsafe { libc::dlsym(handle, function.as_ptr()) } as usize;
    assert_ne!(addr, 0, "{function:?}");
    addr
}

/// Probes these addresses with a callback that copies memory (inside functions
/// the upper halves of vector registers are live), runs `work`, and takes the probes away again. Gives
/// how many of a thousand could be probed, of those at which the kernel probes,
/// and how often they were hit.
fn check(image: &Image, addrs: &[usize], work: impl Fn()) -> (usize, u64) {
    let touched = |function: &&Range<usize>| {
        let from = addrs.partition_point(|addr| *addr < function.start);
        addrs[from..]
            .first()
            .is_some_and(|addr| function.contains(addr))
    };
    let functions: Vec<_> = image.functions.iter().filter(touched).step_by(5).collect();
    let engine = Engine::new().expect("an engine");
    let recorder = Recorder::leaked();
    let point = |addr| Point {
        addr,
        kind: Kind::Entry,
        module: image.module.clone(),
    };
    let batch: Vec<_> = addrs
        .iter()
        .map(|addr| (point(*addr), recorder.probe()))
        .collect();
    let results = engine.attach(&batch);
    let is_supported = |result: &&Result<HookId, AttachError>| {
        let unsupported = Refusal::NotSupported;
        !matches!(result, Err(AttachError::Refused { reason, .. }) if *reason == unsupported)
    };
    let asked = results.iter().filter(is_supported).count();
    let ids: Vec<HookId> = results.into_iter().filter_map(Result::ok).collect();
    work();
    engine.detach(&ids);
    let hits = recorder.hits();
    work();
    assert_eq!(recorder.hits(), hits, "detached");
    // What stays is in padding that nothing runs.
    for function in functions {
        for (addr, instruction) in image.code(function) {
            let now = common::text(addr, instruction.len());
            assert_eq!(now, instruction, "{addr:x}");
        }
    }
    (ids.len() * 1000 / asked, hits)
}

/// Formatting, sorting, files, threads, a process.
fn libc_work() -> String {
    let threads: Vec<_> = (0..3_u64)
        .map(|n| {
            std::thread::spawn(move || (0..50).map(|i| format!("{n:x}{i:o}").len()).sum::<usize>())
        })
        .collect();
    let lengths: Vec<_> = threads
        .into_iter()
        .map(|t| t.join().expect("no panic"))
        .collect();
    let output = Command::new("/bin/sh")
        .args(["-c", "echo $((6 * 7))"])
        .output();
    let mut text = [0_u8; 64];
    // SAFETY: room for what is written, and a format for its arguments.
    let len = unsafe {
        libc::snprintf(
            text.as_mut_ptr().cast(),
            text.len(),
            c"%08.3f %s %lld %x".as_ptr(),
            355.0_f64 / 113.0,
            c"text".as_ptr(),
            -1_234_567_890_123_i64,
            0xbeef_u32,
        )
    };
    let mut numbers: Vec<i32> = (0..200).map(|i| i * 7919 % 1009).collect();
    unsafe extern "C" fn compare(a: *const c_void, b: *const c_void) -> i32 {
        // SAFETY: qsort(3) gives elements.
        unsafe { *a.cast::<i32>() - *b.cast::<i32>() }
    }
    // SAFETY: elements and their number.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), 4, Some(compare)) };
    format!("{lengths:?} {output:?} {len} {text:?} {numbers:?}")
}

#[test]
fn one_instruction_in_each_function_of_libc() {
    let (image, _) = loaded(c"libc.so.6", c"getpid");
    let expected = libc_work();
    for seed in 1..=2 {
        let addrs = image.one_instruction_each(seed);
        let (probed, hits) = check(&image, &addrs, || {
            assert_eq!(libc_work(), expected, "seed {seed}")
        });
        // Jumps in padding stay, so that each round finds less of it.
        let least = if seed == 1 { 995 } else { 975 };
        assert!(probed >= least, "{probed} of a thousand");
        assert!(hits > 100, "{hits}");
    }
}

type Digest = unsafe extern "C" fn(*const u8, usize, *mut u8) -> *mut u8;

fn digests(functions: &[Digest]) -> Vec<[u8; 64]> {
    let text: Vec<u8> = (0..5000_u32).map(|i| (i * i) as u8).collect();
    let digest = |function: &Digest| {
        let mut digest = [0; 64];
        // SAFETY: the functions read the text and write at most 64 bytes.
        unsafe { function(text.as_ptr(), text.len(), digest.as_mut_ptr()) };
        digest
    };
    functions.iter().map(digest).collect()
}

#[test]
fn one_instruction_in_each_function_of_libcrypto() {
    let (image, handle) = loaded(c"libcrypto.so.3", c"SHA256");
    let names = [c"SHA1", c"SHA224", c"SHA256", c"SHA384", c"SHA512", c"MD5"];
    let functions = names.map(|name| {
        // SAFETY: these have this type.
        unsafe { std::mem::transmute::<usize, Digest>(address(handle, name)) }
    });
    let expected = digests(&functions);
    let addrs = image.one_instruction_each(1);
    let (probed, hits) = check(&image, &addrs, || assert_eq!(digests(&functions), expected));
    assert!(probed >= 995, "{probed} of a thousand");
    assert!(hits > 10, "{hits}");
}

#[test]
fn every_instruction_of_functions_at_once() {
    let (image, _) = loaded(c"libc.so.6", c"getpid");
    let expected = libc_work();
    for part in 0..2 {
        let functions = image.functions.iter().skip(part).step_by(60);
        let addrs: Vec<_> = functions.flat_map(|f| image.instructions_of(f)).collect();
        let (probed, hits) = check(&image, &addrs, || assert_eq!(libc_work(), expected));
        assert!(probed >= 940, "{probed} of a thousand");
        assert!(hits > 100, "{hits}");
    }
}

#[test]
fn the_middle_of_an_instruction_is_refused() {
    let (image, _) = loaded(c"libc.so.6", c"getpid");
    let engine = Engine::new().expect("an engine");
    let mut refused = 0;
    for function in image.functions.iter().step_by(50) {
        let starts = image.instructions_of(function);
        let Some([start, next]) = starts.array_windows().find(|[a, b]| b - a > 2) else {
            continue;
        };
        assert!(next - start > 2);
        let probe = Recorder::leaked().probe();
        let result = common::try_attach(&engine, start + 2, Kind::Entry, probe);
        let reason = match result {
            Err(AttachError::Refused { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(
            matches!(reason, Refusal::NotInstruction | Refusal::NotSupported),
            "{start:x}: {reason}"
        );
        refused += 1;
    }
    assert!(refused > 20, "{refused}");
}
