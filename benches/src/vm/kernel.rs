//! The kernel's own JIT, through BPF_PROG_TEST_RUN: the program as a socket
//! filter whose memory is the value of an array map. Programs that the
//! kernel's verifier does not accept with that memory are left out.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use uapi::Insn;
use uapi::insn::*;
use uapi::map::BPF_MAP_TYPE_ARRAY;
use uapi::prog::BPF_PROG_TYPE_SOCKET_FILTER;

use crate::object::{Object, Program};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// The attributes of one bpf(2) call, by byte offset (include/uapi/linux/bpf.h).
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Attr {
        Attr([0; 128])
    }

    fn u32(mut self, at: usize, n: u32) -> Attr {
        self.0[at..at + 4].copy_from_slice(&n.to_le_bytes());
        self
    }

    fn pointer<T>(mut self, at: usize, to: &[T]) -> Attr {
        let address = to.as_ptr() as u64;
        self.0[at..at + 8].copy_from_slice(&address.to_le_bytes());
        self
    }

    /// Makes the call; `None` when the kernel refuses.
    fn call(&mut self, command: libc::c_long) -> Option<i32> {
        let (attr, len) = (self.0.as_mut_ptr(), self.0.len());
        // SAFETY: bpf(2) reads and writes the attributes and reads the buffers
        // in them, which the caller borrows for the call.
        let got = unsafe { libc::syscall(libc::SYS_bpf, command, attr, len) };
        i32::try_from(got).ok().filter(|got| *got >= 0)
    }

    /// Makes a call that returns a file descriptor.
    fn open(mut self, command: libc::c_long) -> Option<OwnedFd> {
        // SAFETY: the kernel just gave us this descriptor.
        Some(unsafe { OwnedFd::from_raw_fd(self.call(command)?) })
    }
}

/// A map with `max_entries` entries; the first holds `value` if that is given.
fn map(sizes: [u32; 4], value: Option<&[u8]>) -> Option<OwnedFd> {
    let [map_type, key_size, value_size, max_entries] = sizes;
    let attr = Attr::new().u32(0, map_type).u32(4, key_size);
    let attr = attr.u32(8, value_size).u32(12, max_entries);
    let fd = attr.open(BPF_MAP_CREATE)?;
    if let Some(value) = value {
        let key = [0u8; 4];
        let attr = Attr::new().u32(0, fd.as_raw_fd() as u32);
        attr.pointer(8, &key)
            .pointer(16, value)
            .call(BPF_MAP_UPDATE_ELEM)?;
    }
    Some(fd)
}

/// A map with one value.
fn value(bytes: &[u8]) -> Option<OwnedFd> {
    let sizes = [BPF_MAP_TYPE_ARRAY, 4, bytes.len() as u32, 1];
    map(sizes, Some(bytes))
}

/// A loaded program.
pub struct Loaded {
    program: OwnedFd,
    _maps: Vec<OwnedFd>,
}

/// Loads a program that gets a copy of `memory`.
pub fn load(program: &Program, memory: &[u8]) -> Option<Loaded> {
    let memory_map = value(memory)?;
    let mut maps = Vec::new();
    for object in &program.objects {
        maps.push(match object {
            Object::Constants(bytes) => value(bytes)?,
            &Object::Map {
                map_type,
                key_size,
                value_size,
                max_entries,
                ..
            } => map([map_type, key_size, value_size, max_entries], None)?,
        });
    }
    let mut insns = program.without_prologue().to_vec();
    for insn in &mut insns {
        let wide = insn.code == BPF_LD | BPF_IMM | BPF_DW;
        if wide && matches!(insn.src(), BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE) {
            insn.imm = maps.get(insn.imm as usize - 1)?.as_raw_fd();
        }
    }
    let prologue = [
        Insn::new(
            BPF_LD | BPF_IMM | BPF_DW,
            1,
            BPF_PSEUDO_MAP_VALUE,
            0,
            memory_map.as_raw_fd(),
        ),
        Insn::new(0, 0, 0, 0, 0),
        Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, memory.len() as i32),
    ];
    let insns = [&prologue, &insns[..]].concat();
    let attr = Attr::new()
        .u32(0, BPF_PROG_TYPE_SOCKET_FILTER)
        .u32(4, insns.len() as u32)
        .pointer(8, &insns)
        .pointer(16, c"GPL".to_bytes_with_nul());
    let program = attr.open(BPF_PROG_LOAD)?;
    maps.push(memory_map);
    Some(Loaded {
        program,
        _maps: maps,
    })
}

impl Loaded {
    /// Runs so many times; the low half of the last r0.
    pub fn run(&self, times: u64) -> Option<u32> {
        /// What a socket filter is given: an Ethernet header's bytes at least.
        const PACKET: [u8; 64] = [0; 64];
        let mut attr = Attr::new()
            .u32(0, self.program.as_raw_fd() as u32)
            .u32(8, PACKET.len() as u32)
            .pointer(16, &PACKET)
            .u32(32, u32::try_from(times).ok()?);
        attr.call(BPF_PROG_TEST_RUN)?;
        let r0 = attr.0[4..8].try_into().ok()?;
        Some(u32::from_le_bytes(r0))
    }
}
