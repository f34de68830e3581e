//! Sessions from creation to removal, with both sides in one or two processes.

use shm::sync::{AtomicBool, Ordering};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use uapi::{Errno, Insn};
use vm::ProgramSpec;

use super::objects::Objects;
use super::*;
use crate::maps::MapSpec;

fn dirs(root: &Path) -> Dirs {
    Dirs {
        state: root.join("state"),
        sessions: root.join("sessions"),
    }
}

fn map_spec(map_type: u32, entries: u32, flags: u32) -> MapSpec {
    MapSpec {
        map_type,
        key_size: 4,
        value_size: 8,
        max_entries: entries,
        map_flags: flags,
        ..MapSpec::default()
    }
}

fn program_spec(insns: usize) -> ProgramSpec {
    ProgramSpec {
        name: "probe".into(),
        prog_type: 2,
        gpl: true,
        insns: vec![Insn::new(0xb7, 0, 0, 0, 7); insns],
        ..ProgramSpec::default()
    }
}

fn link_spec(prog: u32) -> LinkSpec {
    LinkSpec {
        kind: LinkKind::Uretprobe,
        prog,
        dev: 1,
        ino: 2,
        path: "/bin/é".into(),
        pid: -1,
        enabled: true,
        places: vec![Place {
            offset: 0x1234,
            cookie: 9,
            ref_ctr_offset: 0,
        }],
    }
}

/// Waits for a condition; panics with `what` after five seconds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_view_sees_what_the_tool_made_and_unmade() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::create(&dirs(root.path())).unwrap();
    let map = session.create_map(map_spec(2, 4, 0)).unwrap().0;
    let mmapable = map_spec(2, 4, uapi::map::BPF_F_MMAPABLE);
    let (array, _, fd) = session.create_map(mmapable).unwrap();
    assert_eq!(
        fd.unwrap().metadata_ino(),
        std::fs::metadata(session.path().join(format!("array-{array}")))
            .unwrap()
            .ino()
    );
    let prog = session.create_program(&program_spec(3)).unwrap();
    let (ring, _) = session.create_perf_ring(2, 1).unwrap();
    let link = session.create_link(&link_spec(prog)).unwrap();
    assert_eq!(session.create_link(&link_spec(map)), Err(Errno::ENOENT));

    let view = SessionView::open(session.path()).unwrap();
    assert!(view.alive());
    assert_eq!(view.owner(), ProcessId::current().unwrap());
    assert_eq!(view.nr_cpus(), possible_cpus());
    assert_eq!(view.links(), [(link, link_spec(prog))]);
    let read = view.program(prog).unwrap();
    assert_eq!(read.insns, program_spec(3).insns);
    assert_eq!(
        (read.name.as_str(), read.prog_type, read.gpl),
        ("probe", 2, true)
    );
    let read = view.map_spec(map).unwrap();
    assert_ne!(read.seed, 0);
    assert_eq!(MapSpec { seed: 0, ..read }, map_spec(2, 4, 0));
    assert!(view.map(map).is_some() && view.map(array).is_some());
    assert!(view.perf_ring(ring).is_some());
    assert!(view.map(prog).is_none() && view.program(map).is_none());

    let counters = view.counters(link).unwrap();
    // SAFETY: `counters` lives on, and the lines are atomics.
    let lines = unsafe { &*counters.lines() };
    lines[0].hits.fetch_add(2, Ordering::Relaxed);
    lines[15].hits.fetch_add(3, Ordering::Relaxed);
    lines[7].missed.fetch_add(1, Ordering::Relaxed);
    assert_eq!(
        session.counters(link).unwrap().totals(),
        Counts { hits: 5, missed: 1 }
    );

    let changes = view.changes();
    session.set_link_enabled(link, false);
    assert!(!view.links()[0].1.enabled);
    assert_ne!(view.changes(), changes);
    for id in [link, prog, ring, map, array] {
        session.remove(id).unwrap();
        assert_eq!(session.remove(id), Err(Errno::ENOENT));
    }
    assert!(view.links().is_empty() && view.program(prog).is_none());
    assert!(view.map(map).is_none() && view.map(array).is_none());
    view.forget_removed();

    let path = session.path().to_owned();
    session.close();
    assert!(!view.alive() && !path.exists());
    assert!(!root.path().join("sessions").exists());
    assert!(matches!(
        SessionView::open(&path),
        Err(SessionError::File {
            errno: Errno::ENOENT,
            ..
        })
    ));
}

trait MetadataIno {
    fn metadata_ino(self) -> u64;
}

impl MetadataIno for std::os::fd::OwnedFd {
    fn metadata_ino(self) -> u64 {
        std::fs::File::from(self).metadata().unwrap().ino()
    }
}

#[test]
fn what_was_frozen_no_target_can_change() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::create(&dirs(root.path())).unwrap();
    let key = 0u32.to_ne_bytes();
    let flags = uapi::map::BPF_F_MMAPABLE | uapi::map::BPF_F_RDONLY_PROG;
    let (id, map, _fd) = session.create_map(map_spec(2, 1, flags)).unwrap();
    map.update(&key, b"constant", 0).unwrap();
    let view = SessionView::open(session.path()).unwrap();
    assert_eq!(view.map(id).unwrap().rodata(), None);

    session.freeze_map(id).unwrap();
    assert_eq!(session.freeze_map(id), Err(Errno::EPERM));
    assert_eq!(map.update(&key, b"changed!", 0), Err(Errno::EPERM));
    let array = session.path().join(format!("array-{id}"));
    std::fs::write(array, b"tampered").unwrap();
    let seen = view.map(id).unwrap();
    assert_eq!(seen.rodata().unwrap(), b"constant");
    // SAFETY: direct values of an array are readable for the value size.
    let direct = unsafe { seen.direct_value(0).unwrap().cast::<[u8; 8]>().read() };
    assert_eq!(&direct, b"constant");
    session.remove(id).unwrap();
    assert!(view.map(id).is_none());
}

/// exec(2) keeps pid and start time, and nothing of the old program can leave.
#[test]
fn a_process_that_executed_another_program_has_one_slot() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    dirs.ensure_state().unwrap();
    let roster = Roster::open(&dirs).unwrap();
    let roles = || -> Vec<Role> { roster.members().iter().map(|member| member.role).collect() };
    std::mem::forget(roster.join(Role::Agent).unwrap());
    let tool = roster.join(Role::Tool).unwrap();
    assert_eq!(roles(), [Role::Agent, Role::Tool]);
    let agent = roster.join(Role::Agent).unwrap();
    assert_eq!(roles(), [Role::Agent, Role::Tool]);
    agent.leave();
    tool.leave();
    assert_eq!(roles(), []);
}

#[test]
fn ids_never_come_back() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::create(&dirs(root.path())).unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..1000 {
        let id = session.create_program(&program_spec(1)).unwrap();
        assert!(seen.insert(id));
        session.remove(id).unwrap();
    }
    // And the table did not grow beyond what rests.
    assert!(seen.iter().all(|id| id & 0xffff <= 65));
}

#[test]
fn a_removed_maps_storage_is_zero_for_the_next() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::create(&dirs(root.path())).unwrap();
    let (id, ..) = session.create_map(map_spec(2, 512, 0)).unwrap();
    let storage = session.map_storage(id).unwrap();
    let blocks = |fd: &std::os::fd::OwnedFd| {
        std::fs::File::from(fd.try_clone().unwrap())
            .metadata()
            .unwrap()
            .blocks()
    };
    let with = blocks(&storage.fd);
    session.remove(id).unwrap();
    assert_eq!(with - blocks(&storage.fd), storage.len / 512);
}

#[test]
fn publish_returns_when_agents_have_followed() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    let session = Session::create(&dirs).unwrap();
    let prog = session.create_program(&program_spec(1)).unwrap();
    let stop = AtomicBool::new(false);
    let joined = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let roster = Roster::open(&dirs).unwrap();
            let slot = roster.join(Role::Agent).unwrap();
            joined.store(true, Ordering::Release);
            while !stop.load(Ordering::Acquire) {
                let seen = slot.wake_word().load(Ordering::Acquire);
                let generation = roster.generation();
                let hooks = list(&dirs)
                    .iter()
                    .map(|path| SessionView::open(path).unwrap().links().len())
                    .sum::<usize>();
                slot.ack(generation, hooks as u32, 1, "because");
                slot.sleep(seen, Some(Duration::from_millis(100)));
            }
            slot.leave();
        });
        until("the agent joins", || joined.load(Ordering::Acquire));
        for hooks in 1..=20 {
            session.create_link(&link_spec(prog)).unwrap();
            session.publish();
            let members = session.roster().members();
            let agent = members.iter().find(|m| m.role == Role::Agent).unwrap();
            assert_eq!((agent.hooks, agent.refused), (hooks, 1));
            assert_eq!(agent.errors, "because");
        }
        stop.store(true, Ordering::Release);
    });
    assert_eq!(session.roster().members().len(), 1);
}

#[test]
fn publish_waits_once_for_an_agent_that_does_not_answer() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    let roster = Roster::open(&dirs).unwrap();
    let slot = roster.join(Role::Agent).unwrap();
    let mut laggards = Laggards::default();
    let wait = Duration::from_millis(60);
    let start = Instant::now();
    roster.publish(wait, &mut laggards);
    assert!(start.elapsed() >= wait);
    let start = Instant::now();
    roster.publish(Duration::from_secs(60), &mut laggards);
    assert!(start.elapsed() < Duration::from_secs(30));
    // Once it has caught up it is waited for again.
    slot.ack(roster.generation().wrapping_add(1), 0, 0, "");
    roster.publish(wait, &mut laggards);
    let start = Instant::now();
    roster.publish(wait, &mut laggards);
    assert!(start.elapsed() >= wait);
}

#[test]
fn detach_reaches_the_agent_and_waits() {
    let root = tempfile::tempdir().unwrap();
    let roster = Roster::open(&dirs(root.path())).unwrap();
    let me = std::process::id() as i32;
    assert!(!roster.detach(me, Duration::from_secs(5)));
    let slot = roster.join(Role::Agent).unwrap();
    let seen = roster.generation();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            roster.wait(seen, Some(Duration::from_secs(5)));
            assert!(slot.detach_requested());
            slot.leave();
        });
        assert!(roster.detach(me, Duration::from_secs(5)));
    });
    assert!(roster.members().is_empty());
}

/// Started by the tests below as a process of its own: a tool with a session
/// and a sweeper that says where it is and then does nothing.
#[test]
fn child_tool() {
    let Ok(root) = std::env::var("BPFTIME_TEST_ROOT") else {
        return;
    };
    let session = Session::create(&dirs(Path::new(&root))).unwrap();
    session.create_map(map_spec(2, 1 << 16, 0)).unwrap();
    spawn_sweeper(&session).unwrap();
    let mut raw = 0;
    // SAFETY: waits for any child with a valid status.
    let waited = unsafe { libc::waitpid(-1, &raw mut raw, libc::WNOHANG) };
    assert_eq!(waited, -1, "the sweeper is no child of the tool");
    let path = session.path().join("data");
    std::fs::write(Path::new(&root).join("ready"), path.to_str().unwrap()).unwrap();
    loop {
        std::thread::park();
    }
}

fn start_tool(root: &Path) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "session::tests::child_tool", "--nocapture"])
        .env("BPFTIME_TEST_ROOT", root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    until("the tool is ready", || root.join("ready").exists());
    child
}

#[test]
fn a_killed_tool_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    let roster = Roster::open(&dirs).unwrap();
    let mut child = start_tool(root.path());
    let found = list(&dirs);
    assert_eq!(found.len(), 1);
    let view = SessionView::open(&found[0]).unwrap();
    // A sweep by anyone does not touch a living session.
    sweep(&dirs);
    assert!(view.alive());
    let generation = roster.generation();
    child.kill().unwrap();
    // Its end of the pipe must not live on in the sweeper.
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {}
    child.wait().unwrap();
    let start = Instant::now();
    until("the sweeper removes the session", || {
        !dirs.sessions.exists()
    });
    assert!(start.elapsed() < Duration::from_secs(1));
    until("the sweeper bumps the roster", || {
        roster.generation() != generation
    });
    assert!(
        roster.is_empty(),
        "slots of tools that ended are woken by all others"
    );
    assert!(!view.alive());
}

#[test]
fn without_sweeper_anyone_sweeps() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    let session = Session::create(&dirs).unwrap();
    // As a tool leaves it that dies without a sweeper: unlocked, half removed,
    // and half made by a process that is gone.
    let dead = dirs.sessions.join("4194305-0");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("objects"), "x").unwrap();
    std::fs::write(dead.join("array-3"), "x").unwrap();
    std::fs::create_dir(dirs.sessions.join("4194305-1")).unwrap();
    std::fs::create_dir(dirs.sessions.join(".new-4194305-2")).unwrap();
    let foreign = dirs.sessions.join("notes");
    std::fs::write(&foreign, "x").unwrap();
    sweep(&dirs);
    let mut left: Vec<_> = std::fs::read_dir(&dirs.sessions)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    left.sort();
    let mut wanted = [session.path().to_owned(), foreign];
    wanted.sort();
    assert_eq!(left, wanted);
}

#[test]
fn a_forked_child_does_not_take_the_session_away() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::create(&dirs(root.path())).unwrap();
    // SAFETY: the child only drops the session, which sees that it is not the
    // owner, and leaves without running anything else of the test.
    match unsafe { libc::fork() } {
        0 => {
            drop(session);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waits for our own child.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status, 0);
        }
    }
    assert!(SessionView::open(session.path()).is_ok());
}

/// Reads everything a reader can read, and returns how much there was.
fn read_all(path: &Path) -> usize {
    let Ok(view) = SessionView::open(path) else {
        return 0;
    };
    let mut count = view.links().len() + view.maps().len() + view.command().len();
    for (id, _) in view.programs() {
        count += view.program(id).map_or(0, |spec| spec.insns.len());
    }
    for (id, _) in view.maps() {
        count += usize::from(view.map(id).is_some());
    }
    for id in view.perf_rings() {
        count += usize::from(view.perf_ring(id).is_some());
    }
    count += usize::from(view.vcpus().is_some());
    view.forget_removed();
    count
}

#[test]
fn a_corrupted_objects_file_crashes_no_reader() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::create(&dirs(root.path())).unwrap();
    session.create_map(map_spec(2, 4, 0)).unwrap();
    session.create_map(map_spec(6, 16, 0)).unwrap();
    let prog = session.create_program(&program_spec(40)).unwrap();
    session.create_link(&link_spec(prog)).unwrap();
    session.create_perf_ring(1, 1).unwrap();
    let file = session.path().join("objects");
    // The header, six records (the first is unused).
    let used = 4096 + 6 * 512;
    let whole = read_all(session.path());
    assert!(whole > 40);
    use std::os::unix::fs::FileExt;
    let raw = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    let mut original = vec![0u8; used];
    raw.read_exact_at(&mut original, 0).unwrap();
    let offset = prop_oneof![0..64usize, 4096 + 512..used];
    let word = prop_oneof![
        any::<u64>(),
        0..64u64,
        Just(u64::MAX),
        (0..64u32).prop_map(|b| 1 << b)
    ];
    let changes = proptest::collection::vec((offset, word, 1..=8usize), 1..6);
    let config = ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(changes in changes)| {
        for (offset, word, len) in changes {
            let len = len.min(used - offset);
            raw.write_all_at(&word.to_le_bytes()[..len], offset as u64).unwrap();
        }
        read_all(session.path());
        raw.write_all_at(&original, 0).unwrap();
    });
    assert_eq!(read_all(session.path()), whole);
}

#[test]
fn a_reader_sees_whole_records_while_the_tool_changes_them() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::create(&dirs(root.path())).unwrap();
    let progs = [3, 50].map(|n| session.create_program(&program_spec(n)).unwrap());
    let stop = AtomicBool::new(false);
    let view = SessionView::open(session.path()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..20_000usize {
                let prog = progs[round % 2];
                let mut spec = link_spec(prog);
                spec.places[0].cookie = u64::from(prog);
                spec.places[0].offset = u64::from(prog) << 8;
                let id = session.create_link(&spec).unwrap();
                session.remove(id).unwrap();
            }
            stop.store(true, Ordering::Release);
        });
        while !stop.load(Ordering::Acquire) {
            for (_, spec) in view.links() {
                assert_eq!(spec.places[0].cookie, u64::from(spec.prog));
                assert_eq!(spec.places[0].offset, u64::from(spec.prog) << 8);
            }
        }
    });
}

#[test]
fn a_short_or_foreign_file_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let session = Session::create(&dirs(root.path())).unwrap();
    let copy = root.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for content in [&b""[..], b"bpfobj", &[0; 8192]] {
        std::fs::write(copy.join("objects"), content).unwrap();
        std::fs::write(copy.join("data"), [0; 4096]).unwrap();
        assert!(SessionView::open(&copy).is_err());
    }
    let region = view::whole(&session.path().join("objects"), shm::Access::ReadOnly).unwrap();
    assert!(Objects::open(region).is_some());
}
