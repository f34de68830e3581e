//! Observers in this very process; each test is a process of its own.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use super::observers::{self, Call, Observer};
use super::{Syscalls, sees_all};
use crate::modules::{Image, Modules};

static BEFORE: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
static AFTER: [AtomicI64; 3] = [const { AtomicI64::new(0) }; 3];
static BLIND: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn before(call: &Call) {
    note(&BEFORE, call);
}

unsafe extern "C" fn after(call: &Call) {
    note(&AFTER, call);
}

fn note(seen: &[AtomicI64; 3], call: &Call) {
    if call.nr == libc::SYS_getpriority {
        seen[0].fetch_add(1, Ordering::Relaxed);
        seen[1].store(call.arguments[1] as i64, Ordering::Relaxed);
        seen[2].store(call.result, Ordering::Relaxed);
    }
}

fn seen(seen: &[AtomicI64; 3]) -> [i64; 3] {
    [0, 1, 2].map(|index| seen[index].load(Ordering::Relaxed))
}

unsafe extern "C" fn blind() {
    BLIND.fetch_add(1, Ordering::Relaxed);
}

static OBSERVER: Observer = Observer {
    numbers: &[libc::SYS_getpriority, libc::SYS_munmap],
    before: Some(before),
    after: Some(after),
    blind: Some(blind),
};

struct World {
    syscalls: Syscalls,
    modules: Modules,
}

impl World {
    fn new() -> World {
        // The library keeps silent about panics.
        drop(std::panic::take_hook());
        World {
            syscalls: Syscalls::default(),
            modules: Modules::default(),
        }
    }

    fn round(&mut self) {
        self.syscalls.round_begins();
        let image = Image::read().unwrap();
        let modules = &mut self.modules;
        self.syscalls
            .follow(&[], &image, modules, &mut Default::default());
    }
}

fn getpriority(who: u32) -> i32 {
    // SAFETY: reads kernel state only.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, who) }
}

#[test]
fn observed_calls_are_shown_before_and_behind() {
    let mut world = World::new();
    assert!(world.syscalls.is_empty());
    world.round();
    getpriority(0);
    assert_eq!(seen(&BEFORE), [0; 3]);
    assert!(observers::add(&OBSERVER));
    assert!(observers::add(&OBSERVER), "a second time is the first");
    world.round();
    // The kernel gives this.
    let result = 20 - i64::from(getpriority(0));
    assert_eq!((seen(&BEFORE), seen(&AFTER)), ([1, 0, 0], [1, 0, result]));
    let nobody = i32::MAX as u32;
    assert_eq!(getpriority(nobody), -1);
    let error = -i64::from(libc::ESRCH);
    assert_eq!(seen(&AFTER), [2, nobody.into(), error]);
    // SAFETY: the child ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        getpriority(0);
        let is_seen = seen(&BEFORE)[0] == 3 && seen(&AFTER)[0] == 3;
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!is_seen)) };
    }
    let mut status = -1;
    // SAFETY: `status` is ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    observers::remove(&OBSERVER);
    world.round();
    getpriority(0);
    assert_eq!(seen(&BEFORE)[0], 2);
    assert!(world.syscalls.is_empty());
}

#[test]
fn the_agents_own_thread_is_observed_and_told_apart() {
    static OWN: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn own(call: &Call) {
        OWN.fetch_add(1 + u32::from(call.is_own), Ordering::Relaxed);
    }
    static OBSERVER: Observer = Observer {
        numbers: &[libc::SYS_getpriority],
        before: None,
        after: Some(own),
        blind: None,
    };
    observers::add(&OBSERVER);
    World::new().round();
    getpriority(0);
    attach::Engine::exempted(|| getpriority(0));
    assert_eq!(OWN.load(Ordering::Relaxed), 1 + 2);
}

/// Rounds until all is seen, or not for a while.
fn comes_to_see_all(world: &mut World) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !sees_all() && std::time::Instant::now() < deadline {
        world.round();
        std::thread::yield_now();
    }
    sees_all()
}

fn map(protection: i32) -> *mut libc::c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the kernel picks free addresses.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) }
}

#[test]
fn text_that_may_change_ends_the_sight_of_everything_before_it_is_there() {
    let mut world = World::new();
    observers::add(&OBSERVER);
    assert!(!sees_all());
    assert!(comes_to_see_all(&mut world));
    assert_eq!(BLIND.load(Ordering::Relaxed), 0);
    map(libc::PROT_READ | libc::PROT_WRITE);
    assert!(sees_all());
    // Empty text makes no calls.
    map(libc::PROT_READ | libc::PROT_EXEC);
    assert_eq!((sees_all(), BLIND.load(Ordering::Relaxed)), (false, 1));
    assert!(comes_to_see_all(&mut world));
    let text = map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
    assert_eq!((sees_all(), BLIND.load(Ordering::Relaxed)), (false, 2));
    world.round();
    assert!(!sees_all());
    // SAFETY: mapped above, and nobody uses it.
    unsafe { libc::munmap(text, 4096) };
    assert!(comes_to_see_all(&mut world));
}

#[test]
fn text_that_was_made_before_is_hooked() {
    let page = map(libc::PROT_READ | libc::PROT_WRITE);
    // mov eax, getpriority; syscall; ret
    let code = [0xb8, libc::SYS_getpriority as u8, 0, 0, 0, 0x0f, 0x05, 0xc3];
    // SAFETY: the page is ours; then it is text of a C function.
    let made = unsafe {
        page.cast::<[u8; 8]>().write(code);
        let text = libc::PROT_READ | libc::PROT_EXEC;
        assert_eq!(libc::mprotect(page, 4096, text), 0);
        std::mem::transmute::<*mut libc::c_void, extern "C" fn(i32, u32) -> i64>(page)
    };
    observers::add(&OBSERVER);
    World::new().round();
    let result = made(libc::PRIO_PROCESS as i32, 0);
    assert_eq!((seen(&BEFORE), seen(&AFTER)), ([1, 0, 0], [1, 0, result]));
    // SAFETY: nobody uses it any more.
    unsafe { libc::munmap(page, 4096) };
}
