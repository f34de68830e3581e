//! The protocol without hooks: takers announce themselves. Each test needs a
//! process of its own (nextest), for there is one board.

mod faults;

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::helpers::read;

/// As the agent's thread finds it.
fn open_here() {
    // SAFETY: looks a name up.
    let at = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    assert!(!at.is_null(), "libc with rseq");
    // SAFETY: libc's constant.
    open(unsafe { at.cast::<isize>().read() }).unwrap();
}

const PAGE: usize = 4096;

fn map(at: usize, len: usize, access: i32) -> usize {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: fresh pages, or in place of ones of the test.
    let got = unsafe { libc::mmap(at as *mut _, len, access, flags, -1, 0) };
    assert_ne!(got, libc::MAP_FAILED);
    got as usize
}

const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn range(at: usize, len: usize) -> Range<u64> {
    at as u64..(at + len) as u64
}

fn publish(ranges: &[Range<u64>]) -> bool {
    // SAFETY: the tests take nothing away without a word.
    Publisher::look().is_some_and(|look| unsafe { look.publish(ranges) })
}

/// By the table only.
fn copied<const N: usize>(at: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: `bytes` has N bytes.
    unsafe { copy(bytes.as_mut_ptr(), at as u64, N) }.then_some(bytes)
}

fn put<T>(at: usize, value: T) {
    // SAFETY: the tests' own writable memory.
    unsafe { (at as *mut T).write_unaligned(value) }
}

#[test]
fn what_is_published_is_copied_exactly() {
    open_here();
    let at = map(0, 3 * PAGE, ACCESS);
    for offset in 0..3 * PAGE {
        put(at + offset, (offset * 7) as u8);
    }
    assert_eq!(copied::<1>(at), None, "nothing is published");
    assert!(publish(&[range(at + PAGE, PAGE)]));
    fn check<const N: usize>(at: usize, from: usize) {
        let inside = (PAGE..=2 * PAGE - N).contains(&from);
        let want = std::array::from_fn(|byte| ((from + byte) * 7) as u8);
        assert_eq!(
            copied::<N>(at + from),
            inside.then_some(want),
            "{N} at {from}"
        );
    }
    for from in (PAGE - 70..PAGE + 70).chain(2 * PAGE - 70..2 * PAGE + 2) {
        check::<1>(at, from);
        check::<2>(at, from);
        check::<3>(at, from);
        check::<7>(at, from);
        check::<8>(at, from);
        check::<13>(at, from);
        check::<16>(at, from);
        check::<64>(at, from);
    }
    for bad in [0, 1, usize::MAX, usize::MAX - 7, 1 << 63, 1 << 47] {
        assert_eq!(copied::<8>(bad), None);
    }
    take(&range(at + PAGE, PAGE / 2));
    assert!(Publisher::look().is_none(), "a call is under way");
    assert_eq!(copied::<8>(at + PAGE), None);
    assert!(copied::<8>(at + PAGE + PAGE / 2).is_some());
    taken();
    taken();
    assert!(Publisher::look().is_some());
    let before = Publisher::look().unwrap();
    take(&(0..1));
    taken();
    // SAFETY: it does not.
    assert!(!unsafe { before.publish(&[range(at, PAGE)]) });
    take_all();
    assert_eq!(copied::<8>(at + PAGE + PAGE / 2), None);
    assert!(publish(&[range(at, PAGE)]));
    assert!(copied::<8>(at).is_some());
    switch_off();
    assert_eq!(copied::<8>(at), None);
    assert!(Publisher::look().is_none());
}

#[test]
fn a_forked_child_has_an_empty_table_and_gets_its_own() {
    open_here();
    let at = map(0, PAGE, ACCESS);
    put(at, 5u64);
    assert!(publish(&[range(at, PAGE)]));
    assert!(copied::<8>(at).is_some());
    // SAFETY: the child makes raw calls and reads.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let empty = copied::<8>(at).is_none();
        open_here();
        let filled = publish(&[range(at, PAGE)]) && copied::<8>(at) == Some(5u64.to_ne_bytes());
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!(empty && filled))) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    assert!(copied::<8>(at).is_some(), "the parent's stays");
    Sharing::begins();
    assert_eq!(copied::<8>(at), None);
    Sharing::is_over();
    assert!(copied::<8>(at).is_some());
}

/// Pages that come and go, each word of which is a number below this.
const PAGES: usize = 64;
static THERE: [AtomicBool; PAGES] = [const { AtomicBool::new(false) }; PAGES];
static AREA: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static COPIES: AtomicU64 = AtomicU64::new(0);

fn set_there(first: usize, pages: usize, there: bool) {
    THERE[first..first + pages]
        .iter()
        .for_each(|page| page.store(there, SeqCst));
}

/// Maps the pages.
fn map_area() {
    open_here();
    AREA.store(map(0, PAGES * PAGE, ACCESS) as u64, Relaxed);
    set_there(0, PAGES, true);
}

fn area() -> usize {
    AREA.load(Relaxed) as usize
}

/// How long the storms blow.
fn duration() -> Duration {
    let seconds = std::env::var("TORTURE_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(3))
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

const TAKERS: usize = 3;

/// Takes some of this taker's pages away by one of several calls, and brings
/// them back empty.
fn take_away(taker: usize, random: &mut Random) {
    let own = PAGES / TAKERS;
    let first = random.below(own);
    let pages = 1 + random.below((own - first).min(8));
    let first = taker * own + first;
    let (at, len) = (area() + first * PAGE, pages * PAGE);
    let announced = |call: &dyn Fn()| {
        take(&range(at, len));
        call();
        taken();
    };
    if random.below(4) == 0 {
        // Loads fault, but find the memory.
        // SAFETY: the test's own pages, which only `read` looks at.
        unsafe { libc::madvise(at as *mut _, len, libc::MADV_DONTNEED) };
        return;
    }
    set_there(first, pages, false);
    // SAFETY: as above.
    unsafe {
        match random.below(3) {
            0 => announced(&|| assert_eq!(libc::munmap(at as *mut _, len), 0)),
            1 => announced(&|| _ = map(at, len, libc::PROT_NONE)),
            _ => announced(&|| _ = libc::mprotect(at as *mut _, len, libc::PROT_NONE)),
        }
    }
    if random.below(4) != 0 {
        announced(&|| _ = map(at, len, ACCESS));
        set_there(first, pages, true);
    }
}

fn read_all_over(random: &mut Random) {
    let at = area() + random.below(PAGES * PAGE - 16);
    let mut bytes = [1u8; 16];
    // SAFETY: `bytes` has 16 bytes.
    match unsafe { read(bytes.as_mut_ptr(), at as u64, 16) } {
        Ok(()) => assert_eq!(bytes, [0; 16]),
        Err(errno) => assert_eq!(errno, Errno::EFAULT),
    }
    let mut byte = [1u8];
    // SAFETY: one byte.
    if unsafe { copy(byte.as_mut_ptr(), at as u64, 1) } {
        assert_eq!(byte, [0]);
        COPIES.fetch_add(1, Relaxed);
    }
}

/// The pages that are mapped, as far as the takers have told.
fn readable_now() -> Vec<Range<u64>> {
    let there = THERE.iter().enumerate();
    let there = there.filter(|(_, there)| there.load(SeqCst));
    let mut found: Vec<Range<u64>> = Vec::new();
    for (page, _) in there {
        let next = range(area() + page * PAGE, PAGE);
        match found.last_mut() {
            Some(last) if last.end == next.start => last.end = next.end,
            _ => found.push(next),
        }
    }
    found
}

fn publish_until_stopped() {
    let mut published = 0;
    while !STOP.load(Relaxed) {
        if let Some(look) = Publisher::look() {
            let ranges = readable_now();
            // SAFETY: all calls on the pages are announced.
            published += u32::from(unsafe { look.publish(&ranges) });
        }
    }
    assert!(published > 0);
}

#[test]
fn no_reader_faults_whatever_others_take_away() {
    map_area();
    // A thread maps a stack for signals when it starts and unmaps it when it
    // ends: that must not lie in a hole that a taker has made.
    let start = Barrier::new(1 + 2 * TAKERS);
    let end = Instant::now() + duration();
    std::thread::scope(|scope| {
        let start = &start;
        scope.spawn(move || {
            start.wait();
            publish_until_stopped();
        });
        for taker in 0..TAKERS {
            let seed = taker as u64 + 1;
            scope.spawn(move || {
                start.wait();
                let mut random = Random(seed * 77);
                while !STOP.load(Relaxed) {
                    take_away(taker, &mut random);
                    // The publisher needs a moment of peace now and then.
                    std::thread::sleep(Duration::from_micros(random.below(500) as u64));
                }
            });
            scope.spawn(move || {
                start.wait();
                let mut random = Random(seed * 99);
                while !STOP.load(Relaxed) {
                    (0..100).for_each(|_| read_all_over(&mut random));
                }
            });
        }
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        STOP.store(true, Relaxed);
    });
    assert!(COPIES.load(Relaxed) > 1000, "{COPIES:?}");
}

/// Takes all pages away on top of whatever this thread is doing.
extern "C" fn on_signal(_: i32) {
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    let (at, len) = (area(), PAGES * PAGE);
    set_there(0, PAGES, false);
    take(&range(at, len));
    // SAFETY: the test's own pages, which only `read` looks at.
    unsafe { libc::mprotect(at as *mut _, len, libc::PROT_NONE) };
    taken();
    // A reader that went on would meet what is not there.
    if !ROUNDS.fetch_add(1, Relaxed).is_multiple_of(4) {
        map(at, len, ACCESS);
        set_there(0, PAGES, true);
    }
}

#[test]
fn no_reader_faults_behind_its_own_signal_handler() {
    map_area();
    // SAFETY: a handler that makes system calls only.
    unsafe { libc::signal(libc::SIGUSR1, on_signal as *const () as usize) };
    // SAFETY: no precondition.
    let reader = unsafe { libc::pthread_self() } as u64;
    let end = Instant::now() + duration();
    std::thread::scope(|scope| {
        scope.spawn(publish_until_stopped);
        scope.spawn(move || {
            while !STOP.load(Relaxed) {
                // SAFETY: the thread waits for this one.
                unsafe { libc::pthread_kill(reader as libc::pthread_t, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let mut random = Random(5);
        while Instant::now() < end {
            (0..1000).for_each(|_| read_all_over(&mut random));
        }
        STOP.store(true, Relaxed);
    });
    assert!(COPIES.load(Relaxed) > 1000, "{COPIES:?}");
}

proptest! {
    /// What is left after cuts was there before, is not among what was cut, and
    /// is found.
    #[test]
    fn cuts_leave_what_is_right(
        bounds in proptest::collection::btree_set(1u64..400, 0..20),
        cuts in proptest::collection::vec((0u64..400, 0u64..60), 0..8),
    ) {
        let bounds: Vec<u64> = bounds.into_iter().collect();
        let (pairs, _) = bounds.as_chunks::<2>();
        let ranges: Vec<Range<u64>> = pairs.iter().map(|[start, end]| *start..*end).collect();
        let place = map(0, size_of::<Board>().next_multiple_of(PAGE), ACCESS);
        // SAFETY: zeros are a board.
        let board = unsafe { &*(place as *const Board) };
        prop_assert!(board.publish(board.look().unwrap(), &ranges));
        let mut left: BTreeSet<u64> = ranges.iter().cloned().flatten().collect();
        for (start, len) in cuts {
            let gone = start..start + len;
            let was_there = gone.clone().any(|address| board.learn(address, 1));
            let touched = board.begin(&gone);
            prop_assert!(touched || !was_there);
            if touched {
                board.cut_is_over();
            }
            board.end();
            left.retain(|address| !gone.contains(address));
            for address in 0..500 {
                prop_assert!(!board.learn(address, 1) || left.contains(&address));
            }
        }
        for range in board.ranges() {
            prop_assert!(range.clone().all(|address| left.contains(&address)));
            prop_assert!(board.learn(range.start, range.end - range.start));
            prop_assert!(!board.learn(range.start, range.end - range.start + 1));
        }
        // SAFETY: the board is not used any more.
        unsafe { libc::munmap(place as *mut _, size_of::<Board>().next_multiple_of(PAGE)) };
    }
}
