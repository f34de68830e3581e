//! Programs: verify, and if accepted, link and compile.

use std::ptr;

use uapi::Insn;
use uapi::map::*;
use uapi::prog::*;
use vm::ProgramSpec;
use vm::helper::{Proto, kernel};
use vm::interp::Interpreter;
use vm::jit::CompiledProgram;
use vm::link::{HelperFn, Linker, Run, TailCallFn};
use vm::verifier::{Env, Keep, Log, MapInfo, verify};

/// Most instructions of one input: larger ones are slower, not stranger.
const MAX_INSNS: usize = 2048;

const TYPES: [u32; 8] = [
    BPF_PROG_TYPE_KPROBE,
    BPF_PROG_TYPE_TRACEPOINT,
    BPF_PROG_TYPE_RAW_TRACEPOINT,
    BPF_PROG_TYPE_PERF_EVENT,
    BPF_PROG_TYPE_SOCKET_FILTER,
    BPF_PROG_TYPE_SCHED_CLS,
    BPF_PROG_TYPE_XDP,
    u32::MAX,
];

const MAPS: [u32; 7] = [
    BPF_MAP_TYPE_HASH,
    BPF_MAP_TYPE_ARRAY,
    BPF_MAP_TYPE_PERCPU_ARRAY,
    BPF_MAP_TYPE_RINGBUF,
    BPF_MAP_TYPE_PROG_ARRAY,
    BPF_MAP_TYPE_STACK_TRACE,
    BPF_MAP_TYPE_HASH_OF_MAPS,
];

/// A program's surroundings: maps 1 to 7, and the helpers of its type.
struct Surroundings {
    prog_type: u32,
}

impl Env for Surroundings {
    fn map(&self, id: u32) -> Option<MapInfo> {
        let map_type = *MAPS.get((id as usize).checked_sub(1)?)?;
        let plain = MapInfo {
            id,
            map_type,
            key_size: 4,
            value_size: 16,
            max_entries: 4096,
            ..MapInfo::default()
        };
        let inner = (map_type == BPF_MAP_TYPE_HASH_OF_MAPS).then(|| {
            Box::new(MapInfo {
                map_type: BPF_MAP_TYPE_ARRAY,
                ..plain.clone()
            })
        });
        Some(MapInfo { inner, ..plain })
    }

    fn helper(&self, id: u32) -> Option<&Proto> {
        kernel::find(id, self.prog_type).map(|row| &row.proto)
    }
}

unsafe extern "C" fn nothing(_: u64, _: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    0
}

unsafe extern "C" fn no_target(_: u64, _: u64, _: *mut Run) -> *const u8 {
    ptr::null()
}

impl Linker for Surroundings {
    fn map(&self, id: u32) -> Option<u64> {
        Some(id.into())
    }

    fn map_value(&self, _: u32, offset: u32) -> Option<u64> {
        Some(offset.into())
    }

    fn helper(&self, _: u32) -> Option<HelperFn> {
        Some(nothing)
    }

    fn kfunc(&self, _: u32) -> Option<HelperFn> {
        Some(nothing)
    }

    fn tail_call(&self) -> TailCallFn {
        no_target
    }
}

/// A program: the first byte picks type and log level, the rest are
/// instructions of eight bytes.
pub fn bytecode(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let surroundings = Surroundings {
        prog_type: TYPES[usize::from(first & 7)],
    };
    let (slots, _) = rest.as_chunks::<8>();
    let insns = slots.iter().take(MAX_INSNS).map(|s| Insn::from_bytes(*s));
    let spec = ProgramSpec {
        prog_type: surroundings.prog_type,
        gpl: first & 8 != 0,
        insns: insns.collect(),
        ..ProgramSpec::default()
    };
    let mut log = Log::new(u32::from(first >> 4 & 7), Keep::End(1 << 12));
    let Ok(verified) = verify(spec, &surroundings, Some(&mut log)) else {
        return;
    };
    // What was proven must also be understood by both engines.
    let interpreter = Interpreter::new(&verified, &surroundings);
    let compiled = CompiledProgram::compile(&verified, &surroundings);
    assert_eq!(interpreter.is_ok(), compiled.is_ok());
}
