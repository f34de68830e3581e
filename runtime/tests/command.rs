//! bpf(2) commands on a real session: what objects do to each other and to
//! the session. What commands answer to wrong arguments is compared with the
//! kernel in syscall-server/tests.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bpftime_runtime::command::elem::{NewValue, value_size};
use bpftime_runtime::command::ids::Kind;
use bpftime_runtime::command::perf::{EventKind, Probe};
use bpftime_runtime::command::prog::{ProgLoad, name_maps};
use bpftime_runtime::command::sampling::Sampling;
use bpftime_runtime::command::{Bpf, MapObject, Object, ProgObject};
use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::session::{Dirs, LinkKind, LinkSpec, Place, Session, SessionView};
use uapi::insn::{
    BPF_ADD, BPF_ALU64, BPF_ATOMIC, BPF_DW, BPF_EXIT, BPF_IMM, BPF_JMP, BPF_K, BPF_LD, BPF_MOV,
    BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_IDX_VALUE, BPF_PSEUDO_MAP_VALUE, BPF_STX,
};
use uapi::map::{
    BPF_ANY, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_PROG_ARRAY,
};
use uapi::perf::{PERF_COUNT_SW_CPU_CLOCK, PERF_TYPE_SOFTWARE};
use uapi::prog::{
    BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_PERF_EVENT, BPF_PROG_TYPE_RAW_TRACEPOINT,
    BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP, BPF_TRACE_UPROBE_MULTI, type_name,
};
use uapi::{Errno, Insn};
use vm::ProgramSpec;
use vm::verifier::{Keep, Log};

struct Tool {
    bpf: Bpf,
    _root: tempfile::TempDir,
}

fn tool() -> Tool {
    let root = tempfile::tempdir().unwrap();
    let dirs = Dirs {
        state: root.path().join("state"),
        sessions: root.path().join("sessions"),
    };
    Tool {
        bpf: Bpf::new(Session::create(&dirs).unwrap()),
        _root: root,
    }
}

impl Tool {
    fn map(&self, map_type: u32, value_size: u32) -> Arc<MapObject> {
        let spec = MapSpec {
            map_type,
            key_size: 4,
            value_size,
            max_entries: if map_type == BPF_MAP_TYPE_ARRAY { 1 } else { 2 },
            ..MapSpec::default()
        };
        self.bpf.map_create(spec, None, None).unwrap()
    }

    fn load(&self, prog_type: u32, insns: Vec<Insn>, maps: Vec<Arc<MapObject>>) -> Arc<ProgObject> {
        self.load_for(prog_type, 0, insns, maps)
    }

    fn load_for(
        &self,
        prog_type: u32,
        expected_attach_type: u32,
        insns: Vec<Insn>,
        maps: Vec<Arc<MapObject>>,
    ) -> Arc<ProgObject> {
        let load = ProgLoad {
            spec: ProgramSpec {
                name: "test".to_owned(),
                prog_type,
                expected_attach_type,
                gpl: true,
                insns,
                ..ProgramSpec::default()
            },
            maps,
            btf: None,
        };
        let mut log = Log::new(1, Keep::End(1 << 16));
        let prog = self.bpf.prog_load(load, Some(&mut log));
        prog.unwrap_or_else(|errno| panic!("{errno}: {}", log.text))
    }

    /// What a target sees of the session.
    fn view(&self) -> SessionView {
        SessionView::open(self.bpf.session().unwrap().path()).unwrap()
    }

    fn value(&self, map: &MapObject, index: u32) -> u64 {
        let mut value = [0; 8];
        let key = index.to_le_bytes();
        self.bpf.map_lookup(map, &key, &mut value, 0).unwrap();
        u64::from_le_bytes(value)
    }
}

const MOV_R0_7: Insn = Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 7);
const EXIT: Insn = Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

fn returns_7() -> Vec<Insn> {
    vec![MOV_R0_7, EXIT]
}

/// Adds 1 to the value at index 0 of `map`, an array of `u64`; returns 7.
fn counts(map: &MapObject) -> Vec<Insn> {
    vec![
        Insn::new(
            BPF_LD | BPF_IMM | BPF_DW,
            1,
            BPF_PSEUDO_MAP_VALUE,
            0,
            map.id() as i32,
        ),
        Insn::default(),
        Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 1),
        Insn::new(BPF_STX | BPF_ATOMIC | BPF_DW, 1, 2, 0, i32::from(BPF_ADD)),
        MOV_R0_7,
        EXIT,
    ]
}

fn probe(offset: u64) -> Probe {
    Probe {
        kind: LinkKind::Uprobe,
        dev: 1,
        ino: 2,
        path: "/bin/true".to_owned(),
        offset,
        pid: -1,
        ref_ctr_offset: 0,
        others: Vec::new(),
    }
}

#[test]
fn a_map_lives_while_a_program_uses_it() {
    let tool = tool();
    let map = tool.map(BPF_MAP_TYPE_ARRAY, 8);
    let id = map.id();
    let mut insns = counts(&map);
    insns[0].imm = 55;
    let by_fd = |fd| (fd == 55).then(|| Arc::clone(&map)).ok_or(Errno::EBADF);
    let maps = name_maps(&mut insns, by_fd, |_| Err(Errno::EBADF)).unwrap();
    assert_eq!(insns[0].imm, id as i32);
    let prog = tool.load(BPF_PROG_TYPE_KPROBE, insns, maps);
    assert_eq!(prog.map_ids(), [id]);
    drop(map);
    assert_eq!(tool.bpf.next_id(Kind::Map, 0), Ok(id));
    assert!(tool.view().map(id).is_some());
    drop(prog);
    assert_eq!(tool.bpf.next_id(Kind::Map, 0), Err(Errno::ENOENT));
    assert!(tool.view().map(id).is_none());
}

#[test]
fn fds_in_bytecode_become_ids() {
    let tool = tool();
    let map = tool.map(BPF_MAP_TYPE_ARRAY, 8);
    let mut insns = vec![
        Insn::new(BPF_LD | BPF_IMM | BPF_DW, 3, BPF_PSEUDO_MAP_IDX_VALUE, 0, 2),
        Insn::new(0, 0, 0, 0, 4),
        Insn::new(BPF_LD | BPF_IMM | BPF_DW, 4, 0, 0, 2),
        Insn::default(),
    ];
    let before = insns.clone();
    let maps = name_maps(
        &mut insns,
        |_| Err(Errno::EBADF),
        |index| (index == 2).then(|| Arc::clone(&map)).ok_or(Errno::EBADF),
    )
    .unwrap();
    assert_eq!(maps.len(), 1);
    let plain = Insn::new(
        BPF_LD | BPF_IMM | BPF_DW,
        3,
        BPF_PSEUDO_MAP_VALUE,
        0,
        map.id() as i32,
    );
    assert_eq!(insns, [&[plain], &before[1..]].concat());
    insns[0] = Insn::new(BPF_LD | BPF_IMM | BPF_DW, 3, BPF_PSEUDO_MAP_FD, 0, 9);
    let failed = name_maps(&mut insns, |_| Err(Errno::EBADF), |_| Err(Errno::EPROTO));
    assert_eq!(failed.err(), Some(Errno::EBADF));
}

#[test]
fn a_probe_is_in_the_session_while_its_link_lives() {
    let tool = tool();
    let prog = tool.load(BPF_PROG_TYPE_KPROBE, returns_7(), vec![]);
    let event = tool
        .bpf
        .perf_event(EventKind::Probe(probe(0x10)), false)
        .unwrap();
    assert_eq!(tool.view().links(), []);
    let link = tool.bpf.link_perf_event(&prog, &event, 9).unwrap();
    let [(_, spec)] = tool.view().links().try_into().unwrap();
    assert_eq!((spec.prog, spec.places), (prog.id(), vec![place(0x10, 9)]));
    assert!(spec.enabled);
    let second = tool.bpf.link_perf_event(&prog, &event, 9);
    assert_eq!(second.err(), Some(Errno::EEXIST));
    drop((event, prog));
    assert_eq!(tool.view().links().len(), 1);
    drop(link);
    assert_eq!(tool.view().links(), []);
    assert_eq!(tool.bpf.next_id(Kind::Prog, 0), Err(Errno::ENOENT));
}

#[test]
fn a_program_on_an_event_goes_with_the_event() {
    let tool = tool();
    let prog = tool.load(BPF_PROG_TYPE_KPROBE, returns_7(), vec![]);
    let event = tool
        .bpf
        .perf_event(EventKind::Probe(probe(0x10)), false)
        .unwrap();
    event.attach(&prog, 0).unwrap();
    assert_eq!(event.attach(&prog, 0), Err(Errno::EEXIST));
    assert_eq!(tool.view().links().len(), 1);
    drop(event);
    assert_eq!(tool.view().links(), []);
}

fn place(offset: u64, cookie: u64) -> Place {
    Place {
        offset,
        cookie,
        ref_ctr_offset: 0,
    }
}

#[test]
fn a_multi_link_is_one_link_of_many_places() {
    let tool = tool();
    let places = |prog: &ProgObject| LinkSpec {
        places: (1..=20_000).map(|i| place(i, i + 10)).collect(),
        ..probe(0).link(prog.id(), 0)
    };
    let plain = tool.load(BPF_PROG_TYPE_KPROBE, returns_7(), vec![]);
    let refused = tool.bpf.link_uprobe_multi(&plain, places(&plain));
    assert_eq!(refused.err(), Some(Errno::EINVAL));
    let prog = tool.load_for(
        BPF_PROG_TYPE_KPROBE,
        BPF_TRACE_UPROBE_MULTI,
        returns_7(),
        vec![],
    );
    let link = tool.bpf.link_uprobe_multi(&prog, places(&prog)).unwrap();
    let [(_, seen)] = tool.view().links().try_into().unwrap();
    assert_eq!(seen, places(&prog));
    drop(link);
    assert_eq!(tool.view().links(), []);
}

#[test]
fn a_ring_enters_its_slot_when_it_is_made() {
    let tool = tool();
    let array = tool.map(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4);
    let kind = EventKind::Output { wakeup_events: 1 };
    let event = tool.bpf.perf_event(kind, true).unwrap();
    let key = 1u32.to_le_bytes();
    let value = NewValue::Event(Arc::clone(&event));
    tool.bpf.map_update(&array, &key, value, BPF_ANY).unwrap();
    assert_eq!(array.map().slot(1), None);
    assert_eq!(tool.bpf.perf_ring(&event, 3).err(), Some(Errno::EINVAL));
    let (id, _) = tool.bpf.perf_ring(&event, 2).unwrap();
    assert_eq!(array.map().slot(1), Some(id));
    let (again, _) = tool.bpf.perf_ring(&event, 2).unwrap();
    assert_eq!(again, id);
    // The slot keeps the event.
    drop(event);
    assert!(tool.view().perf_ring(id).is_some());
    tool.bpf.map_delete(&array, &key).unwrap();
    assert_eq!(array.map().slot(1), None);
    assert!(tool.view().perf_ring(id).is_none());
}

#[test]
fn a_program_slot_shows_the_programs_id() {
    let tool = tool();
    let array = tool.map(BPF_MAP_TYPE_PROG_ARRAY, 4);
    let prog = tool.load(BPF_PROG_TYPE_KPROBE, returns_7(), vec![]);
    let (id, key) = (prog.id(), 1u32.to_le_bytes());
    tool.bpf
        .map_update(&array, &key, NewValue::Prog(prog), BPF_ANY)
        .unwrap();
    let mut value = vec![0; value_size(&array)];
    tool.bpf.map_lookup(&array, &key, &mut value, 0).unwrap();
    assert_eq!(value, id.to_le_bytes());
    assert!(tool.bpf.prog_by_id(id).is_ok(), "the slot keeps it");
    tool.bpf.map_delete(&array, &key).unwrap();
    assert_eq!(tool.bpf.prog_by_id(id).err(), Some(Errno::ENOENT));
}

/// What programs in targets reach through a slot, targets must have met.
#[test]
fn targets_are_told_of_new_slots() {
    let tool = tool();
    let told = || tool.bpf.session().unwrap().roster().generation();
    let prog = tool.load(BPF_PROG_TYPE_KPROBE, returns_7(), Vec::new());
    let array = tool.map(BPF_MAP_TYPE_PROG_ARRAY, 4);
    let before = told();
    tool.bpf
        .map_update(&array, &[0; 4], NewValue::Prog(prog), BPF_ANY)
        .unwrap();
    assert_eq!(told(), before + 1);

    let events = tool.map(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4);
    let event = tool
        .bpf
        .perf_event(EventKind::Output { wakeup_events: 1 }, true)
        .unwrap();
    let value = NewValue::Event(Arc::clone(&event));
    tool.bpf
        .map_update(&events, &[0; 4], value, BPF_ANY)
        .unwrap();
    assert_eq!(told(), before + 1, "there is no ring yet");
    tool.bpf.perf_ring(&event, 2).unwrap();
    assert_eq!(told(), before + 2);
    let value = NewValue::Event(event);
    let key = 1u32.to_ne_bytes();
    tool.bpf.map_update(&events, &key, value, BPF_ANY).unwrap();
    assert_eq!(told(), before + 3);
}

#[test]
fn a_test_run_really_runs() {
    let tool = tool();
    let map = tool.map(BPF_MAP_TYPE_ARRAY, 8);
    let prog = tool.load(
        BPF_PROG_TYPE_RAW_TRACEPOINT,
        counts(&map),
        vec![Arc::clone(&map)],
    );
    for runs in 1..=3 {
        assert_eq!(tool.bpf.prog_test_run(&prog, &[]), Ok(7));
        assert_eq!(tool.value(&map, 0), runs);
    }
    let kprobe = tool.load(BPF_PROG_TYPE_KPROBE, returns_7(), vec![]);
    assert_eq!(tool.bpf.prog_test_run(&kprobe, &[]), Err(Errno::ENOTSUPP));
}

/// A reading by the kernel costs more than all else that short programs do.
#[test]
fn programs_read_clocks_without_system_calls() {
    let tool = tool();
    let program = vm::asm::assemble("call 5\nexit").unwrap();
    let prog = tool.load(BPF_PROG_TYPE_RAW_TRACEPOINT, program, vec![]);
    tool.bpf.prog_test_run(&prog, &[]).unwrap();
    assert!(bpftime_runtime::clock::is_quick());
}

#[test]
fn a_clock_runs_its_program_while_it_is_enabled() {
    let tool = tool();
    let map = tool.map(BPF_MAP_TYPE_ARRAY, 8);
    let prog = tool.load(
        BPF_PROG_TYPE_PERF_EVENT,
        counts(&map),
        vec![Arc::clone(&map)],
    );
    let clock = Sampling {
        kind: PERF_TYPE_SOFTWARE,
        config: PERF_COUNT_SW_CPU_CLOCK,
        period: 1_000_000,
        freq: false,
        pid: -1,
        cpu: 0,
        inherit: false,
    };
    let event = tool
        .bpf
        .perf_event(EventKind::Samples(clock), false)
        .unwrap();
    event.attach(&prog, 0).unwrap();
    assert_eq!(tool.value(&map, 0), 0, "not enabled yet");
    event.enable(true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while tool.value(&map, 0) < 5 {
        assert!(Instant::now() < deadline, "the clock does not tick");
        std::thread::yield_now();
    }
    event.enable(false).unwrap();
    let stopped = tool.value(&map, 0);
    event.enable(false).unwrap();
    assert_eq!(tool.value(&map, 0), stopped);
}

#[test]
fn pins_keep_objects() {
    let tool = tool();
    let map = tool.map(BPF_MAP_TYPE_ARRAY, 8);
    let id = map.id();
    let session = tool.bpf.session().unwrap();
    let pins = tempfile::tempdir_in(&session.dirs().sessions).unwrap();
    let directory = std::fs::File::open(pins.path()).unwrap();
    let place = (directory.as_raw_fd(), c"map");
    let object = Object::Map(map);
    tool.bpf.pin(&object, place).unwrap();
    assert_eq!(tool.bpf.pin(&object, place), Err(Errno::EEXIST));
    drop(object);
    tool.bpf.collect();
    assert!(matches!(tool.bpf.pinned(place), Ok(Object::Map(map)) if map.id() == id));
    std::fs::remove_file(pins.path().join("map")).unwrap();
    assert_eq!(tool.bpf.pinned(place).err(), Some(Errno::ENOENT));
    tool.bpf.collect();
    assert_eq!(tool.bpf.next_id(Kind::Map, 0), Err(Errno::ENOENT));
}

#[test]
fn packet_programs_are_proven_but_not_loaded() {
    let tool = tool();
    for prog_type in [BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_SCHED_CLS] {
        let spec = ProgramSpec {
            prog_type,
            gpl: true,
            insns: returns_7(),
            ..ProgramSpec::default()
        };
        let load = ProgLoad {
            spec: spec.clone(),
            maps: Vec::new(),
            btf: None,
        };
        let mut log = Log::new(1, Keep::End(1 << 16));
        let errno = tool.bpf.prog_load(load, Some(&mut log)).err();
        assert_eq!(errno, Some(Errno::EINVAL));
        let words = format!("only the kernel hosts {} programs", type_name(prog_type));
        assert!(log.text.contains(&words), "{}", log.text);
        struct Nothing;
        impl vm::verifier::Env for Nothing {
            fn map(&self, _id: u32) -> Option<vm::verifier::MapInfo> {
                None
            }
            fn helper(&self, _id: u32) -> Option<&vm::helper::Proto> {
                None
            }
        }
        assert!(vm::verifier::verify(spec, &Nothing, None).is_ok());
    }
}
