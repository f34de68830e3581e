//! What is found out about a file serves the next process.

use std::sync::Arc;

use bpftime_attach::syscalls::{Memo, Text};
use bpftime_attach::{Backend, Engine, When};

use crate::common;
use crate::world::*;

/// Runs `body` in a forked child; its status, 101 after a panic.
fn in_child(body: impl FnOnce()) -> i32 {
    // SAFETY: no other thread of this process holds a lock that matters.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // SAFETY: ends the child.
        unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) };
    }
    let mut status = -1;
    // SAFETY: `status` is ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    libc::WEXITSTATUS(status)
}

/// The texts of the program and libc as files: where they are mapped.
fn mapped_files() -> Vec<(usize, std::ops::Range<usize>, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let at = [
        modules as *const () as usize,
        libc::getppid as *const () as usize,
    ];
    let of = |addr: usize| {
        let lines = maps.lines().filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let hex = |text| usize::from_str_radix(text, 16).ok();
            let offset = hex(rest.split(' ').nth(1)?)?;
            Some((addr, hex(start)?..hex(end)?, offset as u64))
        });
        lines
            .into_iter()
            .find(|(_, range, _)| range.contains(&addr))
    };
    at.map(|addr| of(addr).expect("mapped")).to_vec()
}

#[test]
fn what_was_found_out_once_hooks_the_same_again() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let probes = [probe(When::Enter, None), probe(When::Exit, None)];
    let files = mapped_files();
    let text = |(_, range, offset): &(usize, std::ops::Range<usize>, u64), memo| {
        Arc::new(Text::of_file(&[(range.clone(), *offset)], memo))
    };
    let known = || format!("{:x?}", engine.syscall_sites());
    // Jumps in padding stay for ever: the first look is a child's.
    let directory = tempfile::tempdir().expect("a directory");
    let kept = |index: usize| directory.path().join(index.to_string());
    let looks = || {
        let looked: Vec<Arc<Text>> = files.iter().map(|file| text(file, None)).collect();
        let traced = engine.trace_syscalls(&looked, &probes);
        assert_eq!(traced.lacking.len(), looked.len(), "nothing is known yet");
        for (text, (addr, ..)) in looked.iter().zip(&files) {
            text.set_module(common::module_of(*addr));
        }
        let traced = engine.trace_syscalls(&looked, &probes);
        assert!(traced.lacking.is_empty() && traced.has_hooked);
        let known = known();
        engine.trace_syscalls(&[], &[]);
        for (index, text) in looked.iter().enumerate() {
            let memo = engine.syscall_memo(text).expect("a memo");
            std::fs::write(kept(index), memo.to_bytes()).expect("written");
        }
        std::fs::write(kept(2), known).expect("written");
    };
    assert_eq!(in_child(looks), 0);
    let memos: Vec<Memo> = [0, 1]
        .map(|index| std::fs::read(kept(index)).expect("kept"))
        .map(|bytes| Memo::from_bytes(&bytes).expect("whole"))
        .to_vec();
    let first = std::fs::read_to_string(kept(2)).expect("kept");
    assert!(first.matches("addr").count() > 400, "{first}");
    let forget = || {
        engine.trace_syscalls(&[], &[]);
        for (_, range, _) in &files {
            engine.forget_range(range.clone());
        }
    };

    let remembered = files
        .iter()
        .zip(&memos)
        .map(|(file, memo)| text(file, Some(memo.clone())));
    let remembered: Vec<Arc<Text>> = remembered.collect();
    let traced = engine.trace_syscalls(&remembered, &probes);
    let lacking = traced.lacking.len();
    let again = known();
    let before = counts(libc::SYS_getppid);
    // SAFETY: calls without effect.
    unsafe {
        test_constant(0, 0, 0);
        test_variable(libc::SYS_getppid, 0);
        libc::getppid();
        libc::syscall(libc::SYS_getppid);
    }
    let after = counts(libc::SYS_getppid);
    forget();
    assert_eq!((lacking, after.0 - before.0, after.1 - before.1), (0, 4, 4));
    assert_eq!(again, first);

    // Another file's memo, and one of this file mapped elsewhere, is no use.
    let swapped = files
        .iter()
        .zip(memos.iter().rev())
        .map(|(file, memo)| text(file, Some(memo.clone())));
    let shifted = files
        .iter()
        .zip(&memos)
        .map(|((addr, range, offset), memo)| {
            text(&(*addr, range.clone(), offset + 16), Some(memo.clone()))
        });
    let useless: Vec<Arc<Text>> = swapped.chain(shifted).collect();
    let traced = engine.trace_syscalls(&useless, &probes);
    let patched = engine.syscall_sites().len();
    forget();
    assert_eq!((traced.lacking.len(), patched), (4, 0));
}
