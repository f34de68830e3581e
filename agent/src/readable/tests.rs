//! What is published in this very process; each test is a process of its own.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::modules::{Image, Modules};
use crate::syscalls::Syscalls;

#[derive(Default)]
struct World {
    syscalls: Syscalls,
    modules: Modules,
    readable: Readable,
}

impl World {
    fn new() -> World {
        // The library keeps silent about panics.
        drop(std::panic::take_hook());
        find();
        let mut world = World::default();
        world.readable.want(true);
        world
    }

    fn round(&mut self) {
        self.syscalls.round_begins();
        let image = Image::read().unwrap();
        let modules = &mut self.modules;
        self.syscalls
            .follow(&[], &image, modules, &mut Default::default());
        self.readable.follow();
    }

    /// Rounds until something is published.
    fn publish(&mut self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            self.round();
            if !published().is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < end, "nothing is published");
            std::thread::yield_now();
        }
    }
}

fn published() -> Vec<Range<u64>> {
    Publisher::look().map_or_else(Vec::new, |look| look.published())
}

fn holds(address: usize) -> bool {
    let ranges = published();
    ranges.iter().any(|range| range.contains(&(address as u64)))
}

const LEN: usize = 16 << 12;

fn map(access: i32, flags: i32) -> usize {
    // SAFETY: fresh pages.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LEN,
            access,
            flags | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(at, libc::MAP_FAILED);
    at as usize
}

const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;

#[test]
fn what_lasts_is_published_and_what_goes_is_not() {
    static DATA: [AtomicBool; 1] = [AtomicBool::new(false)];
    let private = map(ACCESS, libc::MAP_PRIVATE);
    let written = map(libc::PROT_WRITE, libc::MAP_PRIVATE);
    let hidden = map(libc::PROT_NONE, libc::MAP_PRIVATE);
    let shared = map(ACCESS, libc::MAP_SHARED);
    let guarded = map(ACCESS, libc::MAP_PRIVATE);
    let guard = guarded + (3 << 12);
    // SAFETY: the test's own page. Older kernels refuse.
    let has_guard = unsafe { libc::madvise(guard as *mut _, 1 << 12, 102) } == 0;
    let mut world = World::new();
    world.publish();
    let local = 0u8;
    let heap = Box::new(0u8);
    for lasting in [
        private,
        private + LEN - 1,
        guarded,
        guard - 1,
        guard + (1 << 12),
        &raw const *heap as usize,
        "literal".as_ptr() as usize,
        &raw const DATA as usize,
        &raw const local as usize,
    ] {
        assert!(holds(lasting), "{lasting:x} is not in {:x?}", published());
    }
    let of_library = libc::getpid as *const () as usize;
    for going in [written, hidden, shared, of_library, 0, usize::MAX] {
        assert!(!holds(going), "{going:x}");
    }
    assert_eq!(holds(guard), !has_guard);
    // SAFETY: the test's own pages.
    unsafe {
        assert_eq!(libc::mprotect(private as *mut _, 4096, libc::PROT_READ), 0);
        assert!(holds(private));
        assert_eq!(libc::munmap((private + LEN / 2) as *mut _, LEN / 2), 0);
    }
    assert!(holds(private) && !holds(private + LEN / 2));
    // SAFETY: as above.
    unsafe { libc::mprotect(private as *mut _, 4096, libc::PROT_NONE) };
    assert!(!holds(private) && holds(private + 4096));
    // Text comes: nobody knows what it will do.
    // SAFETY: fresh pages that nothing runs.
    let text = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_EXEC;
        libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0)
    };
    assert_eq!(published(), []);
    // SAFETY: as above.
    unsafe { libc::munmap(text, 4096) };
    world.publish();
    assert!(!holds(private) && holds(private + 4096));
    world.readable.want(false);
    assert_eq!(published(), []);
    world.round();
    assert_eq!(published(), []);
}

#[test]
fn the_program_break_and_children_are_followed() {
    // SAFETY: the test's own part of the heap.
    let top = unsafe { libc::sbrk(1 << 20) } as usize;
    let mut world = World::new();
    world.publish();
    assert!(holds(top + (1 << 19)));
    // SAFETY: gives back what was just taken, if nobody took more.
    unsafe {
        let now = libc::sbrk(0) as usize;
        assert_eq!(libc::brk((top + (1 << 18)) as *mut _), 0);
        assert!(holds(top) && !holds(top + (1 << 19)));
        assert_eq!(libc::brk(now as *mut _), 0);
    }
    let status = Command::new("true").status().unwrap();
    assert!(status.success());
    assert!(holds(top), "a vfork child takes nothing away");
    // SAFETY: the child looks and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!published().is_empty())) };
    }
    let mut status = -1;
    // SAFETY: `status` is ours.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    assert!(holds(top));
    // SAFETY: fails, and says what the process may do from then on.
    unsafe { libc::syscall(libc::SYS_userfaultfd, -1) };
    assert_eq!(published(), []);
    (0..3).for_each(|_| world.round());
    assert_eq!(published(), []);
}

fn call(nr: i64, arguments: [u64; 6]) -> Effect {
    effect(&Call {
        nr,
        arguments,
        result: 0,
        is_own: false,
    })
}

#[test]
fn calls_take_what_they_touch() {
    drop(std::panic::take_hook());
    let takes = |start, end| Effect::Takes(start..end);
    let fixed = (libc::MAP_FIXED | libc::MAP_PRIVATE) as u64;
    let read = libc::PROT_READ as u64;
    assert_eq!(
        call(libc::SYS_munmap, [0x1000, 1, 0, 0, 0, 0]),
        takes(0x1000, 0x2000)
    );
    assert_eq!(
        call(libc::SYS_munmap, [0x1000, u64::MAX, 0, 0, 0, 0]),
        takes(0x1000, !0xfff)
    );
    let tagged = 0x1000 | 5 << 57;
    assert_eq!(
        call(libc::SYS_munmap, [tagged, 4096, 0, 0, 0, 0]),
        takes(0x1000, 0x2000)
    );
    assert_eq!(
        call(libc::SYS_mmap, [0x1000, 9, 0, 2, 0, 0]),
        Effect::Nothing
    );
    assert_eq!(
        call(libc::SYS_mmap, [0x1000, 9, 3, fixed, 0, 0]),
        takes(0x1000, 0x2000)
    );
    assert_eq!(
        call(libc::SYS_mprotect, [0x1000, 9, read, 0, 0, 0]),
        Effect::Nothing
    );
    assert_eq!(
        call(libc::SYS_mprotect, [0x1000, 9, 2, 0, 0, 0]),
        takes(0x1000, 0x2000)
    );
    assert_eq!(
        call(libc::SYS_mprotect, [0, 9, 1 << 24, 0, 0, 0]),
        takes(0, u64::MAX)
    );
    assert_eq!(
        call(libc::SYS_pkey_mprotect, [0, 9, read, 1, 0, 0]),
        Effect::SwitchesOff
    );
    assert_eq!(
        call(libc::SYS_pkey_mprotect, [0, 9, read, u64::MAX, 0, 0]),
        Effect::Nothing
    );
    assert_eq!(call(libc::SYS_brk, [0; 6]), Effect::Nothing);
    assert_eq!(
        call(libc::SYS_brk, [0x1001, 0, 0, 0, 0, 0]),
        takes(0x2000, BEHIND_HEAP)
    );
    for (advice, effect) in [
        (libc::MADV_DONTNEED, Effect::Nothing),
        (libc::MADV_FREE, Effect::Nothing),
        (libc::MADV_DONTFORK, Effect::Nothing),
        (libc::MADV_REMOVE, takes(0x1000, 0x2000)),
        (libc::MADV_HWPOISON, takes(0x1000, 0x2000)),
        (102, takes(0x1000, 0x2000)),
        (103, Effect::Nothing),
        (104, takes(0x1000, 0x2000)),
    ] {
        let arguments = [0x1000, 4096, advice as u64, 0, 0, 0];
        assert_eq!(call(libc::SYS_madvise, arguments), effect, "{advice}");
    }
    let vm = libc::CLONE_VM as u64;
    let thread = vm | (libc::CLONE_THREAD | libc::CLONE_SETTLS) as u64;
    let vfork = vm | libc::CLONE_VFORK as u64;
    assert_eq!(
        call(libc::SYS_clone, [thread, 0, 0, 0, 0, 0]),
        Effect::Nothing
    );
    assert_eq!(
        call(libc::SYS_clone, [vfork, 0, 0, 0, 0, 0]),
        Effect::Shares
    );
    assert_eq!(
        call(libc::SYS_clone, [vm, 0, 0, 0, 0, 0]),
        Effect::SwitchesOff
    );
    let pointer = &raw const vfork as u64;
    assert_eq!(
        call(libc::SYS_clone3, [pointer, 88, 0, 0, 0, 0]),
        Effect::Shares
    );
    assert_eq!(call(libc::SYS_clone3, [8, 88, 0, 0, 0, 0]), Effect::Nothing);
    assert_eq!(
        call(libc::SYS_ioctl, [3, 0xaa00, 0, 0, 0, 0]),
        Effect::SwitchesOff
    );
    assert_eq!(
        call(libc::SYS_ioctl, [0, 0x5401, 0, 0, 0, 0]),
        Effect::Nothing
    );
}

/// What the program's own file is published for.
#[test]
fn a_running_programs_file_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cat");
    fs::copy("/bin/cat", &path).unwrap();
    let mut cat = Command::new(&path);
    let mut cat = cat
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let busy = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
    };
    busy(fs::OpenOptions::new().write(true).open(&path).map(drop));
    busy(fs::OpenOptions::new().append(true).open(&path).map(drop));
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a zero-terminated path.
    let truncated = unsafe { libc::truncate(name.as_ptr(), 0) };
    busy(match truncated {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    });
    let mut input = cat.stdin.take().unwrap();
    input.write_all(b"unharmed").unwrap();
    drop(input);
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"unharmed");
}
