//! Sessions, and many probes of one point: which run, in which order, and what
//! a session keeps between entry and return.

mod common;

use std::hint::black_box;
use std::sync::Mutex;

use bpftime_attach::{Backend, Hit, HookId, Kind, Probe};
use common::attach;
use uapi::PtRegs;

/// What happened, in order.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A probe's name; what its callback gives at entry.
struct Named {
    name: &'static str,
    /// Which arguments a session declines the return of.
    declines: fn(u64) -> bool,
}

/// Runs outside of any lock's holder: these tests have one thread.
unsafe extern "C" fn note(regs: *mut PtRegs, data: *const (), hit: *mut Hit) -> u64 {
    // SAFETY: valid during the call; `data` is a leaked `Named`.
    let (regs, named, hit) = unsafe { (&*regs, &*data.cast::<Named>(), &*hit) };
    // SAFETY: null or valid during the call.
    let cookie = unsafe { hit.session_cookie.as_mut() };
    let kept = cookie
        .as_ref()
        .map_or(String::new(), |kept| format!("[{kept}]"));
    let mut log = LOG.lock().unwrap();
    if hit.at_return == 1 {
        log.push(format!("{}={}{kept}", named.name, regs.ax));
        return 0;
    }
    log.push(format!("{}({}){kept}", named.name, regs.di));
    if let Some(cookie) = cookie {
        *cookie = 100 + regs.di;
    }
    u64::from((named.declines)(regs.di))
}

fn probe(name: &'static str, declines: fn(u64) -> bool) -> Probe {
    let named: &'static Named = Box::leak(Box::new(Named { name, declines }));
    Probe::new(note, (&raw const *named).cast()).before_others()
}

fn put(engine: &dyn Backend, addr: usize, kind: Kind, name: &'static str) -> HookId {
    attach(engine, addr, kind, probe(name, |_| false))
}

fn taken() -> String {
    std::mem::take(&mut *LOG.lock().unwrap()).join(" ")
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_leaf(n: u64) -> u64 {
    black_box(n) * 2
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_recurses(n: u64) -> u64 {
    if n == 0 {
        7
    } else {
        black_box(session_recurses(n - 1)) + 1
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn session_shared(n: u64) -> u64 {
    black_box(n) + 1
}

fn leaf(n: u64) -> u64 {
    black_box(session_leaf as extern "C" fn(u64) -> u64)(n)
}

#[test]
fn all_about_sessions() {
    let engine = common::engine();
    let at = session_leaf as *const () as usize;

    // The newest first, at entry and at return, sessions among the others.
    let mut ids = vec![
        put(engine, at, Kind::Entry, "e1"),
        put(engine, at, Kind::Return, "r1"),
        put(engine, at, Kind::Session, "s1"),
        put(engine, at, Kind::Return, "r2"),
        put(engine, at, Kind::Entry, "e2"),
    ];
    let declines = probe("s2", |n| n % 2 == 1);
    ids.push(attach(engine, at, Kind::Session, declines));
    assert_eq!((leaf(4), leaf(5)), (8, 10));
    assert_eq!(
        taken(),
        "s2(4)[0] e2(4) s1(4)[0] e1(4) s2=8[104] r2=8 s1=8[104] r1=8 \
         s2(5)[0] e2(5) s1(5)[0] e1(5) r2=10 s1=10[105] r1=10"
    );
    engine.detach(&[ids[2], ids[4]]);
    assert_eq!(leaf(4), 8);
    assert_eq!(taken(), "s2(4)[0] e1(4) s2=8[104] r2=8 r1=8");
    engine.detach(&ids);
    assert_eq!((leaf(4), taken()), (8, String::new()));

    // A session that declines leaves the return address alone.
    let never = attach(engine, at, Kind::Session, probe("s", |_| true));
    assert_eq!(leaf(1), 2);
    assert_eq!(taken(), "s(1)[0]");
    engine.detach(&[never]);

    // Each level of a recursion has its own cookie.
    let at = session_recurses as *const () as usize;
    let declines = attach(engine, at, Kind::Session, probe("a", |n| n == 1));
    let session = put(engine, at, Kind::Session, "b");
    assert_eq!(
        black_box(session_recurses as extern "C" fn(u64) -> u64)(2),
        9
    );
    assert_eq!(
        taken(),
        "b(2)[0] a(2)[0] b(1)[0] a(1)[0] b(0)[0] a(0)[0] \
         b=7[100] a=7[100] b=8[101] b=9[102] a=9[102]"
    );
    engine.detach(&[declines, session]);

    // More sessions than a call can keep: the others are content with the entry.
    let at = session_shared as *const () as usize;
    let many: Vec<HookId> = (0..20)
        .map(|_| put(engine, at, Kind::Session, "m"))
        .collect();
    assert_eq!(black_box(session_shared as extern "C" fn(u64) -> u64)(1), 2);
    let log = taken();
    assert_eq!(log.matches("m(1)[0]").count(), 20);
    assert_eq!(log.matches("m=2[101]").count(), 16);
    engine.detach(&many);
    assert!(engine.sites().is_empty());
}
