//! Dynptrs and iterators: what programs that use them compute here and in the
//! kernel of this machine.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use bpftime_runtime::command::prog::ProgLoad;
use bpftime_runtime::command::{Bpf, MapObject};
use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::session::{Dirs, Session};
use uapi::insn::{
    BPF_CALL, BPF_DW, BPF_IMM, BPF_JMP, BPF_LD, BPF_PSEUDO_KFUNC_CALL, BPF_PSEUDO_MAP_FD,
    BPF_PSEUDO_MAP_VALUE,
};
use uapi::map::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_RINGBUF};
use uapi::prog::BPF_PROG_TYPE_RAW_TRACEPOINT;
use uapi::{Errno, Insn};
use vm::ProgramSpec;
use vm::asm::assemble;
use vm::helper::kfunc;
use vm::verifier::{Keep, Log};

mod maps;
mod programs;
#[path = "../../../vm/tests/verifier/vmlinux.rs"]
mod vmlinux;

/// Bytes of the array's value.
const BYTES: u32 = 128;

/// In programs: `map[1]` is an array of one value, in which they leave
/// results, the others what they work on, by default `map[2]`, a ring buffer.
fn specs() -> Vec<MapSpec> {
    let ring = MapSpec {
        map_type: BPF_MAP_TYPE_RINGBUF,
        max_entries: 4096,
        ..MapSpec::default()
    };
    vec![results(BYTES), ring]
}

fn results(bytes: u32) -> MapSpec {
    MapSpec {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: bytes,
        max_entries: 1,
        ..MapSpec::default()
    }
}

/// What a run leaves: r0 and the array's value.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    r0: u32,
    value: Vec<u8>,
}

/// `insns` with other names of maps and kfuncs.
fn renamed(
    insns: &[Insn],
    map: impl Fn(u32) -> i32,
    kfunc: impl Fn(&'static str) -> i32,
) -> Vec<Insn> {
    let mut insns = insns.to_vec();
    for insn in &mut insns {
        let number = insn.imm as u32;
        if insn.code == BPF_LD | BPF_IMM | BPF_DW
            && matches!(insn.src(), BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE)
        {
            insn.imm = map(number);
        } else if insn.code == BPF_JMP | BPF_CALL && insn.src() == BPF_PSEUDO_KFUNC_CALL {
            insn.imm = kfunc(kfunc::lookup(number).expect("a kfunc").name);
        }
    }
    insns
}

/// The commands on a session of their own, which ends with the directory.
fn commands() -> (Bpf, tempfile::TempDir) {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let dirs = Dirs {
        state: root.path().join("state"),
        sessions: root.path().join("sessions"),
    };
    (Bpf::new(Session::create(&dirs).unwrap()), root)
}

fn ours(bpf: &Bpf, insns: &[Insn], functions: &HashMap<String, u32>, specs: &[MapSpec]) -> Left {
    let maps: Vec<Arc<MapObject>> = specs
        .iter()
        .map(|spec| bpf.map_create(*spec, None, None).unwrap())
        .collect();
    let id = |name: &str| functions.get(name).map_or(0, |&id| id as i32);
    let insns = renamed(insns, |map| maps[map as usize - 1].id() as i32, id);
    let load = ProgLoad {
        spec: ProgramSpec {
            prog_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
            gpl: true,
            insns,
            ..ProgramSpec::default()
        },
        maps: maps.clone(),
        btf: None,
    };
    let mut log = Log::new(1, Keep::End(1 << 16));
    let prog = bpf.prog_load(load, Some(&mut log));
    let prog = prog.unwrap_or_else(|errno| panic!("{errno}: {}", log.text));
    let r0 = bpf.prog_test_run(&prog, &[]).unwrap();
    let mut value = vec![0; specs[0].value_size as usize];
    bpf.map_lookup(&maps[0], &[0; 4], &mut value, 0).unwrap();
    Left { r0, value }
}

/// bpf(2) with an attribute made of 32-bit words.
fn bpf(command: i64, attr: &mut [u32; 32]) -> Result<i32, Errno> {
    // SAFETY: the addresses in `attr` are of memory that the callers below
    // hold and that fits the command.
    let got = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), 128) };
    if got < 0 {
        return Err(Errno(
            std::io::Error::last_os_error().raw_os_error().unwrap(),
        ));
    }
    Ok(got as i32)
}

fn descriptor(command: i64, attr: &mut [u32; 32]) -> Result<OwnedFd, Errno> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel just gave us this fd.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn words<T: ?Sized>(at: *const T) -> [u32; 2] {
    let address = at.cast::<u8>() as u64;
    [address as u32, (address >> 32) as u32]
}

fn their_maps(specs: &[MapSpec]) -> Result<Vec<OwnedFd>, Errno> {
    let make = |spec: &MapSpec| {
        let mut attr = [0; 32];
        attr[..5].copy_from_slice(&[
            spec.map_type,
            spec.key_size,
            spec.value_size,
            spec.max_entries,
            spec.map_flags,
        ]);
        attr[16] = spec.map_extra as u32;
        descriptor(0, &mut attr)
    };
    specs.iter().map(make).collect()
}

fn their_program(prog_type: u32, prog_flags: u32, insns: &[Insn]) -> Result<OwnedFd, Errno> {
    let mut attr = [0; 32];
    attr[..2].copy_from_slice(&[prog_type, insns.len() as u32]);
    attr[2..4].copy_from_slice(&words(insns.as_ptr()));
    attr[4..6].copy_from_slice(&words(c"GPL".as_ptr()));
    attr[11] = prog_flags;
    descriptor(5, &mut attr)
}

/// The same in the kernel; EPERM where programs cannot be loaded.
fn kernels(
    insns: &[Insn],
    functions: &HashMap<String, u32>,
    specs: &[MapSpec],
) -> Result<Left, Errno> {
    let maps = their_maps(specs)?;
    let id = |name: &str| functions.get(name).map_or(-1, |&id| id as i32);
    let insns = renamed(insns, |map| maps[map as usize - 1].as_raw_fd(), id);
    let prog = their_program(BPF_PROG_TYPE_RAW_TRACEPOINT, 0, &insns)?;
    let mut attr = [0; 32];
    attr[0] = prog.as_raw_fd() as u32;
    bpf(10, &mut attr)?;
    let r0 = attr[1];
    let (key, mut value) = ([0u8; 4], vec![0u8; specs[0].value_size as usize]);
    let mut attr = [0; 32];
    attr[0] = maps[0].as_raw_fd() as u32;
    attr[2..4].copy_from_slice(&words(key.as_ptr()));
    attr[4..6].copy_from_slice(&words(value.as_mut_ptr()));
    bpf(1, &mut attr)?;
    Ok(Left { r0, value })
}

/// A program's text, in which a kfunc has its name.
fn program(text: &str) -> Vec<Insn> {
    let mut numbered = String::new();
    for line in text.lines() {
        let kfunc = line.strip_prefix("call ").and_then(kfunc::by_name);
        match kfunc {
            Some(row) => numbered.push_str(&format!("call kfunc[{}]", row.number)),
            None => numbered.push_str(line),
        }
        numbered.push('\n');
    }
    assemble(&numbered).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn programs_compute_what_they_do_in_the_kernel() {
    let functions = vmlinux::functions();
    if functions.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "in CI the kernel has BTF");
        return;
    }
    let (mut compared, mut wrong) = (0, Vec::new());
    let (commands, _root) = commands();
    for (name, text) in programs::all() {
        let insns = program(&text);
        let ours = ours(&commands, &insns, &functions, &specs());
        match kernels(&insns, &functions, &specs()) {
            Ok(kernels) if kernels == ours => compared += 1,
            Ok(kernels) => wrong.push(format!("{name}\nours    {ours:x?}\nkernel  {kernels:x?}")),
            // Without the right to load programs, or without such kfuncs.
            Err(errno) => assert!(
                std::env::var_os("CI").is_none() && errno == Errno::EPERM,
                "{name}: the kernel says {errno}"
            ),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 50 || std::env::var_os("CI").is_none());
}
