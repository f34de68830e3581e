//! Every argument of every helper with everything a register can hold, beside
//! the kernel's verdict: whether the prototypes are the kernel's.

use uapi::Insn;
use uapi::helper::*;
use uapi::insn::*;
use uapi::map::*;
use uapi::prog::*;
use vm::helper::kernel::{self, KernelHelper};
use vm::helper::{Arg, Proto, Ret};
use vm::verifier::MapInfo;

use super::contexts::{Both, program};
use super::pack::Pack;

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    Nothing,
    Number(i32),
    Unknown,
    Ctx,
    /// Stack at this distance, never written.
    Stack(i32),
    Map(u32),
    /// A value of the map.
    Value(u32, i32),
    /// 64 bytes of the packet.
    Packet,
    PacketEnd,
    Socket,
    Task,
}

const DATA: u32 = 1;
const RODATA: u32 = 2;
/// The map of the helper's own type.
const OWN: u32 = 3;

/// r6 is the ctx; r7 a packet, r8 its end, where there is one; r9 a socket.
fn put(dst: u8, what: Holds) -> Vec<Insn> {
    let mov = |src| Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
    let add = |n| Insn::new(BPF_ALU64 | BPF_ADD, dst, 0, 0, n);
    let ld = |kind, id, off| {
        vec![
            Insn::new(BPF_LD | BPF_IMM | BPF_DW, dst, kind, 0, id),
            Insn::new(0, 0, 0, 0, off),
        ]
    };
    match what {
        Holds::Nothing => vec![],
        Holds::Number(n) => vec![Insn::new(BPF_ALU64 | BPF_MOV, dst, 0, 0, n)],
        // A word that was never written.
        Holds::Unknown => vec![Insn::new(BPF_LDX | BPF_MEM | BPF_DW, dst, 10, -256, 0)],
        Holds::Ctx => vec![mov(6)],
        Holds::Stack(off) => vec![mov(10), add(off)],
        Holds::Map(id) => ld(BPF_PSEUDO_MAP_FD, id as i32, 0),
        Holds::Value(id, off) => ld(BPF_PSEUDO_MAP_VALUE, id as i32, off),
        Holds::Packet => vec![mov(7)],
        Holds::PacketEnd => vec![mov(8)],
        Holds::Socket | Holds::Task => vec![mov(9)],
    }
}

/// What goes before: r6 to r9.
fn prelude(prog_type: u32, of: Holds) -> Vec<Insn> {
    let mut insns = vec![Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0)];
    let leave = [
        Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ];
    match of {
        Holds::Packet | Holds::PacketEnd => {
            let fields = super::checked::packet_fields(prog_type);
            insns.extend([
                Insn::new(BPF_LDX | BPF_MEM | BPF_W, 7, 1, fields[0], 0),
                Insn::new(BPF_LDX | BPF_MEM | BPF_W, 8, 1, fields[1], 0),
                Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 2, 7, 0, 0),
                Insn::new(BPF_ALU64 | BPF_ADD, 2, 0, 0, 64),
                Insn::new(BPF_JMP | BPF_JLE | BPF_X, 2, 8, 2, 0),
            ]);
            insns.extend(leave);
        }
        Holds::Socket => {
            insns.extend([
                Insn::new(BPF_LDX | BPF_MEM | BPF_DW, 9, 1, 168, 0),
                Insn::new(BPF_JMP | BPF_JNE, 9, 0, 2, 0),
            ]);
            insns.extend(leave);
        }
        Holds::Task => insns.extend([
            Insn::new(
                BPF_JMP | BPF_CALL,
                0,
                0,
                0,
                BPF_FUNC_GET_CURRENT_TASK_BTF as i32,
            ),
            Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, 9, 0, 0, 0),
        ]),
        _ => {}
    }
    insns
}

/// What fits; `None` where more would be needed than one register.
fn fitting(arg: Arg) -> Option<Holds> {
    Some(match arg {
        Arg::Anything | Arg::Scalar => Holds::Number(0),
        Arg::Map => Holds::Map(OWN),
        Arg::MapKey | Arg::MapValue | Arg::MapValueOrNull | Arg::UninitMapValue => {
            Holds::Stack(-64)
        }
        Arg::Mem | Arg::MemOrNull | Arg::UninitMem | Arg::UninitMemOrNull => Holds::Stack(-64),
        Arg::FixedMem(_) | Arg::WrittenMem(_) => Holds::Stack(-64),
        Arg::Size | Arg::SizeOrZero | Arg::ConstAllocSize => Holds::Number(8),
        Arg::Ctx | Arg::CtxOrNull => Holds::Ctx,
        Arg::ConstStr => Holds::Value(RODATA, 0),
        Arg::SockCommon | Arg::BtfSockCommon => Holds::Socket,
        Arg::BtfId("task_struct") | Arg::BtfIdOrNull("task_struct") => Holds::Task,
        _ => return None,
    })
}

/// What else to try.
fn tries(prog_type: u32) -> Vec<Holds> {
    let mut all = vec![
        Holds::Nothing,
        Holds::Number(0),
        Holds::Number(4),
        Holds::Number(-1),
        Holds::Number(4096),
        Holds::Unknown,
        Holds::Ctx,
        Holds::Stack(-64),
        Holds::Stack(-63),
        Holds::Stack(-4),
        Holds::Stack(0),
        Holds::Map(OWN),
        Holds::Value(DATA, 0),
        Holds::Value(DATA, 60),
        Holds::Value(RODATA, 0),
        Holds::Task,
    ];
    if !super::checked::packet_fields(prog_type).is_empty() {
        all.extend([Holds::Packet, Holds::PacketEnd]);
    }
    if prog_type == BPF_PROG_TYPE_SCHED_CLS {
        all.push(Holds::Socket);
    }
    all
}

fn map(id: u32, map_type: u32, key_size: u32, value_size: u32, max_entries: u32) -> MapInfo {
    MapInfo {
        id,
        map_type,
        key_size,
        value_size,
        max_entries,
        ..MapInfo::default()
    }
}

/// A map for the helper; `None` when the kernel makes such only with BTF.
fn own_map(helper: u32) -> Option<MapInfo> {
    let of = |map_type, key, value| Some(map(OWN, map_type, key, value, 8));
    match helper {
        BPF_FUNC_PERF_EVENT_READ | BPF_FUNC_PERF_EVENT_OUTPUT | BPF_FUNC_PERF_EVENT_READ_VALUE => {
            of(BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4)
        }
        BPF_FUNC_GET_STACKID => of(BPF_MAP_TYPE_STACK_TRACE, 4, 64),
        BPF_FUNC_SKB_UNDER_CGROUP | BPF_FUNC_CURRENT_TASK_UNDER_CGROUP => {
            of(BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4)
        }
        BPF_FUNC_MAP_PUSH_ELEM | BPF_FUNC_MAP_POP_ELEM | BPF_FUNC_MAP_PEEK_ELEM => {
            of(BPF_MAP_TYPE_QUEUE, 0, 16)
        }
        BPF_FUNC_RINGBUF_OUTPUT | BPF_FUNC_RINGBUF_QUERY => {
            Some(map(OWN, BPF_MAP_TYPE_RINGBUF, 0, 0, 4096))
        }
        BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM => of(BPF_MAP_TYPE_PERCPU_HASH, 8, 16),
        BPF_FUNC_REDIRECT_MAP => of(BPF_MAP_TYPE_DEVMAP, 4, 4),
        // The first program makes such a map one of its own type.
        BPF_FUNC_TAIL_CALL
        | BPF_FUNC_SK_STORAGE_GET
        | BPF_FUNC_SK_STORAGE_DELETE
        | BPF_FUNC_TASK_STORAGE_GET
        | BPF_FUNC_TASK_STORAGE_DELETE => None,
        _ => of(BPF_MAP_TYPE_HASH, 8, 16),
    }
}

/// A call whose argument `place` holds something else than what fits.
fn call(prog_type: u32, proto: &Proto, place: usize, holds: Holds, own: &MapInfo) -> Option<Pack> {
    let mut what: Vec<Holds> = proto
        .args
        .iter()
        .map(|&a| fitting(a))
        .collect::<Option<_>>()?;
    // We let nobody look into objects of the kernel, the kernel does.
    let object = matches!(proto.args.get(place), Some(Arg::Anything | Arg::BtfId(_)));
    if holds == Holds::Task && !object {
        return None;
    }
    if let Some(at) = what.get_mut(place) {
        *at = holds;
    }
    let special = |h: &&Holds| {
        matches!(
            h,
            Holds::Packet | Holds::PacketEnd | Holds::Socket | Holds::Task
        )
    };
    let mut special: Vec<Holds> = what.iter().filter(special).copied().collect();
    special.dedup();
    if special.len() > 1 {
        return None;
    }
    let mut insns = prelude(
        prog_type,
        special.first().copied().unwrap_or(Holds::Nothing),
    );
    // r1 last: it is the ctx that others are made from.
    for (index, &holds) in what.iter().enumerate().rev() {
        if holds == Holds::Nothing {
            // No register is without content unless a call took it.
            insns.insert(1, Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 7));
            continue;
        }
        insns.extend(put(index as u8 + 1, holds));
    }
    insns.push(Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, proto.id as i32));
    insns.push(Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0));
    insns.push(Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
    let mut pack = program(prog_type, 0, 0, &insns);
    let mut rodata = map(RODATA, BPF_MAP_TYPE_ARRAY, 4, 64, 1);
    rodata.map_flags = BPF_F_RDONLY_PROG;
    rodata.rodata = Some((0..64).map(|n| if n % 8 == 7 { 0 } else { b'a' }).collect());
    pack.maps = vec![map(DATA, BPF_MAP_TYPE_ARRAY, 4, 64, 1), rodata, own.clone()];
    Some(pack)
}

#[test]
fn every_argument_is_checked_as_the_kernel_does() {
    let Some(mut both) = Both::new() else { return };
    let mut left_out = Vec::new();
    for prog_type in [
        BPF_PROG_TYPE_KPROBE,
        BPF_PROG_TYPE_PERF_EVENT,
        BPF_PROG_TYPE_SOCKET_FILTER,
        BPF_PROG_TYPE_SCHED_CLS,
        BPF_PROG_TYPE_XDP,
    ] {
        let may_call = |row: &&KernelHelper| row.types.contains(prog_type) && !row.sleeps;
        for row in kernel::all().filter(may_call) {
            let proto = &row.proto;
            let known = proto.args.iter().all(|&arg| fitting(arg).is_some());
            let has_socket = prog_type == BPF_PROG_TYPE_SCHED_CLS;
            let needs_socket = proto
                .args
                .iter()
                .any(|&a| fitting(a) == Some(Holds::Socket));
            let acquires = matches!(
                proto.ret,
                Ret::SocketOrNull | Ret::SockCommonOrNull | Ret::RingbufRecordOrNull
            );
            let Some(own) = own_map(proto.id).filter(|_| known && !acquires) else {
                left_out.push(proto.name);
                continue;
            };
            if needs_socket && !has_socket {
                continue;
            }
            for place in 0..proto.args.len().max(1) {
                for holds in tries(prog_type) {
                    if let Some(pack) = call(prog_type, proto, place, holds, &own) {
                        both.ask_as(
                            &pack,
                            &format!("{} argument {place}: {holds:?}", proto.name),
                        );
                    }
                }
            }
        }
    }
    left_out.sort_unstable();
    left_out.dedup();
    eprintln!("left out: {}", left_out.join(" "));
    both.finish();
}

/// A map of every type that `Kernel` can make: type, key, value, entries.
const MAPS: [(u32, u32, u32, u32); 22] = [
    (BPF_MAP_TYPE_HASH, 8, 16, 8),
    (BPF_MAP_TYPE_ARRAY, 4, 16, 8),
    (BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 8),
    (BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 8),
    (BPF_MAP_TYPE_PERCPU_HASH, 8, 16, 8),
    (BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 8),
    (BPF_MAP_TYPE_STACK_TRACE, 4, 64, 8),
    (BPF_MAP_TYPE_CGROUP_ARRAY, 4, 4, 8),
    (BPF_MAP_TYPE_LRU_HASH, 8, 16, 8),
    (BPF_MAP_TYPE_LRU_PERCPU_HASH, 8, 16, 8),
    (BPF_MAP_TYPE_LPM_TRIE, 8, 16, 8),
    (BPF_MAP_TYPE_DEVMAP, 4, 4, 8),
    (BPF_MAP_TYPE_SOCKMAP, 4, 4, 8),
    (BPF_MAP_TYPE_CPUMAP, 4, 4, 2),
    (BPF_MAP_TYPE_XSKMAP, 4, 4, 8),
    (BPF_MAP_TYPE_SOCKHASH, 4, 4, 8),
    (BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, 4, 4, 8),
    (BPF_MAP_TYPE_QUEUE, 0, 16, 8),
    (BPF_MAP_TYPE_STACK, 0, 16, 8),
    (BPF_MAP_TYPE_DEVMAP_HASH, 4, 4, 8),
    (BPF_MAP_TYPE_RINGBUF, 0, 0, 4096),
    (BPF_MAP_TYPE_BLOOM_FILTER, 0, 16, 8),
];

#[test]
fn every_helper_takes_the_maps_that_the_kernels_takes() {
    let Some(mut both) = Both::new() else { return };
    for prog_type in [
        BPF_PROG_TYPE_KPROBE,
        BPF_PROG_TYPE_SOCKET_FILTER,
        BPF_PROG_TYPE_SCHED_CLS,
        BPF_PROG_TYPE_XDP,
    ] {
        let takes_map = |row: &&KernelHelper| {
            row.types.contains(prog_type) && row.proto.args.contains(&Arg::Map)
        };
        for row in kernel::all().filter(takes_map) {
            for (map_type, key, value, entries) in MAPS {
                let mut own = map(OWN, map_type, key, value, entries);
                if map_type == BPF_MAP_TYPE_LPM_TRIE {
                    own.map_flags = 1;
                }
                // The first program makes such a map one of its own type.
                let holds_programs = matches!(map_type, BPF_MAP_TYPE_DEVMAP | BPF_MAP_TYPE_CPUMAP);
                let owned = row.proto.id == BPF_FUNC_TAIL_CALL
                    || (holds_programs && prog_type != BPF_PROG_TYPE_XDP);
                if let Some(pack) = call(prog_type, &row.proto, usize::MAX, Holds::Nothing, &own)
                    && !owned
                {
                    both.ask_as(&pack, &format!("{} map type {map_type}", row.proto.name));
                }
            }
        }
    }
    both.finish();
}
