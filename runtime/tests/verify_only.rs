//! bpf(2) without a session: programs are verified with all that the kernel
//! has, and nothing can come of them.

use std::sync::Arc;

use bpftime_runtime::command::elem::NewValue;
use bpftime_runtime::command::perf::{EventKind, Probe};
use bpftime_runtime::command::prog::ProgLoad;
use bpftime_runtime::command::{Bpf, MapObject, ProgObject};
use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::session::{Dirs, LinkKind, Session};
use uapi::helper::BPF_FUNC_GET_CURRENT_ANCESTOR_CGROUP_ID;
use uapi::insn::{BPF_ALU64, BPF_CALL, BPF_EXIT, BPF_JMP, BPF_MOV};
use uapi::map::*;
use uapi::prog::{
    BPF_PROG_TYPE_KPROBE, BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_XDP, BPF_TRACE_UPROBE_MULTI,
};
use uapi::{Errno, Insn};
use vm::ProgramSpec;

/// User space cannot answer it.
const KERNEL_ONLY_HELPER: i32 = BPF_FUNC_GET_CURRENT_ANCESTOR_CGROUP_ID as i32;

fn load(bpf: &Bpf, prog_type: u32, attach: u32, insns: &[Insn]) -> Result<Arc<ProgObject>, Errno> {
    let load = ProgLoad {
        spec: ProgramSpec {
            name: "test".to_owned(),
            prog_type,
            expected_attach_type: attach,
            gpl: true,
            insns: insns.to_vec(),
            ..ProgramSpec::default()
        },
        maps: Vec::new(),
        btf: None,
    };
    bpf.prog_load(load, None)
}

fn calls_kernel_helper() -> [Insn; 3] {
    [
        Insn::new(BPF_ALU64 | BPF_MOV, 1, 0, 0, 0),
        Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, KERNEL_ONLY_HELPER),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ]
}

fn probe() -> Probe {
    Probe {
        kind: LinkKind::Uprobe,
        dev: 1,
        ino: 2,
        path: "/bin/true".to_owned(),
        offset: 64,
        pid: -1,
        ref_ctr_offset: 0,
        others: Vec::new(),
    }
}

#[test]
fn what_only_kernels_have_is_verified_and_never_attached() {
    let root = tempfile::tempdir().unwrap();
    let dirs = Dirs {
        state: root.path().join("state"),
        sessions: root.path().join("sessions"),
    };
    let hosted = Bpf::new(Session::create(&dirs).unwrap());
    let bpf = Bpf::verify_only();
    assert_eq!(bpf.session().map(|_| ()).unwrap_err(), Errno::EPERM);

    let kprobe =
        |bpf: &Bpf, attach| load(bpf, BPF_PROG_TYPE_KPROBE, attach, &calls_kernel_helper());
    assert_eq!(kprobe(&hosted, 0).map(|_| ()), Err(Errno::EINVAL));
    let prog = kprobe(&bpf, 0).unwrap();
    let event = bpf.perf_event(EventKind::Probe(probe()), true).unwrap();
    let link = bpf.link_perf_event(&prog, &event, 0);
    assert_eq!(link.map(|_| ()), Err(Errno::EPERM));
    let prog = kprobe(&bpf, BPF_TRACE_UPROBE_MULTI).unwrap();
    let link = bpf.link_uprobe_multi(&prog, probe().link(prog.id(), 0));
    assert_eq!(link.map(|_| ()), Err(Errno::EPERM));

    let exit = [
        Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 2),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ];
    let xdp = |bpf: &Bpf| load(bpf, BPF_PROG_TYPE_XDP, 0, &exit).map(|_| ());
    assert_eq!((xdp(&hosted), xdp(&bpf)), (Err(Errno::EINVAL), Ok(())));
    let prog = load(&bpf, BPF_PROG_TYPE_RAW_TRACEPOINT, 0, &exit).unwrap();
    assert_eq!(bpf.prog_test_run(&prog, &[]), Err(Errno::EPERM));
}

fn map(bpf: &Bpf, map_type: u32, sizes: (u32, u32, u32)) -> Result<Arc<MapObject>, Errno> {
    let (key_size, value_size, max_entries) = sizes;
    let spec = MapSpec {
        map_type,
        key_size,
        value_size,
        max_entries,
        ..MapSpec::default()
    };
    bpf.map_create(spec, None, None)
}

#[test]
fn maps_are_specs_and_global_data() {
    let bpf = Bpf::verify_only();
    let is_made = |map_type, sizes| map(&bpf, map_type, sizes).map(|_| ());
    // A size that no memory holds costs nothing.
    assert_eq!(is_made(BPF_MAP_TYPE_HASH, (8, 1 << 20, 1 << 20)), Ok(()));
    assert_eq!(is_made(BPF_MAP_TYPE_LRU_HASH, (4, 8, 16)), Ok(()));
    assert_eq!(is_made(BPF_MAP_TYPE_QUEUE, (0, 8, 16)), Ok(()));
    for (map_type, sizes) in [
        (BPF_MAP_TYPE_ARRAY, (8, 8, 1)),
        (BPF_MAP_TYPE_LRU_HASH, (0, 8, 16)),
        (BPF_MAP_TYPE_QUEUE, (4, 8, 16)),
        (BPF_MAP_TYPE_TASK_STORAGE, (4, 8, 1)),
        (1000, (4, 4, 1)),
    ] {
        assert_eq!(is_made(map_type, sizes), Err(Errno::EINVAL), "{map_type}");
    }
    let data = map(&bpf, BPF_MAP_TYPE_ARRAY, (4, 8, 1)).unwrap();
    let key = 0u32.to_le_bytes();
    bpf.map_update(&data, &key, NewValue::Bytes(b"constant"), BPF_ANY)
        .unwrap();
    let mut value = [0; 8];
    bpf.map_lookup(&data, &key, &mut value, 0).unwrap();
    assert_eq!(&value, b"constant");
    bpf.map_freeze(&data).unwrap();
    let again = bpf.map_update(&data, &key, NewValue::Bytes(b"changed!"), BPF_ANY);
    assert_eq!(again, Err(Errno::EPERM));
}
