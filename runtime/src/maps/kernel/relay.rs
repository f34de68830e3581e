//! The program in the kernel that does what programs here ask of a kernel map:
//! looks elements up, changes them, and brings back what was written to a copy
//! of one. It is run by `BPF_PROG_TEST_RUN` with a request as its context.
//!
//! A word of a copy that was changed is stored where it came from if that has
//! not changed since, else the difference is added: so counters of both sides
//! add up, as with atomic instructions.

use std::fmt::Write;

use uapi::map::{
    BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH,
};
use uapi::{Errno, Insn};
use vm::asm::assemble;

use super::super::spec::MapSpec;

/// Most bytes of a value: its words are named one by one in the program.
const MAX_VALUE: u32 = 4096;
/// Most bytes of a key, and of a value of one CPU: the program has them on its
/// stack.
const MAX_KEY: u32 = 128;
const MAX_CPU_VALUE: u32 = 256;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Ask {
    /// Copy the element under `key` to `value`.
    Lookup = 0,
    /// Store `value` under `key`, of maps with a value per CPU: this CPU's.
    Update = 1,
    /// Bring what differs between `base` and `value` to the element.
    Merge = 3,
    /// [`Ask::Lookup`] of the CPU in `flags`.
    LookupCpu = 4,
    /// [`Ask::Merge`] of the CPU in `flags`.
    MergeCpu = 5,
}

/// Where the parts of a request are; all are multiples of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub key: usize,
    pub value: usize,
    /// The value as it was looked up.
    pub base: usize,
    pub len: usize,
}

impl Layout {
    pub const ASK: usize = 0;
    /// 0 or a negative errno.
    pub const RESULT: usize = 8;
    pub const FLAGS: usize = 16;
    /// How a copy is brought back: [`Ask::Merge`] or [`Ask::MergeCpu`].
    pub const BACK: usize = 24;
    const PARTS: usize = 32;

    pub fn new(spec: &MapSpec) -> Layout {
        let room = |bytes: u32| (bytes as usize).next_multiple_of(8);
        let key = Layout::PARTS;
        let value = key + room(spec.key_size);
        let base = value + room(spec.value_size);
        Layout {
            key,
            value,
            base,
            len: base + room(spec.value_size),
        }
    }
}

/// Parts of a value that one instruction moves: offset and bytes.
fn parts(bytes: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let size = [8, 4, 2, 1].into_iter().find(|size| at + size <= bytes)?;
        at += size;
        Some((at - size, size))
    })
}

/// Whether keys and values are not too long for it.
pub fn fits(spec: &MapSpec) -> bool {
    let most = match is_per_cpu(spec) {
        true => MAX_CPU_VALUE,
        false => MAX_VALUE,
    };
    spec.value_size <= most && spec.key_size <= MAX_KEY
}

/// The program for a map, which it names by its fd in the kernel.
///
/// # Errors
/// ENOTSUPP for values that are too long.
pub fn program(spec: &MapSpec, map_fd: i32) -> Result<Vec<Insn>, Errno> {
    if !fits(spec) {
        return Err(Errno::ENOTSUPP);
    }
    assemble(&text(spec, map_fd)).map_err(|_| Errno::ENOTSUPP)
}

/// Whether a map has a value per CPU.
pub(super) fn is_per_cpu(spec: &MapSpec) -> bool {
    let types = [
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_LRU_PERCPU_HASH,
        BPF_MAP_TYPE_PERCPU_ARRAY,
    ];
    types.contains(&spec.map_type)
}

/// Copies bytes of the request to the stack.
fn to_stack(text: &mut String, bytes: u32, from: usize, to: i32) {
    for (at, size) in parts(bytes) {
        let bits = size * 8;
        // Writing to a string does not fail, here and below.
        let _ = writeln!(
            text,
            "r1 = *(u{bits} *)(r6 + {})
             *(u{bits} *)(r10 - {}) = r1",
            from + at as usize,
            to - at as i32,
        );
    }
}

fn text(spec: &MapSpec, map_fd: i32) -> String {
    let Layout {
        key, value, base, ..
    } = Layout::new(spec);
    let key_at = spec.key_size.next_multiple_of(8) as i32;
    let value_at = key_at + spec.value_size.next_multiple_of(8) as i32;
    let mut text = format!(
        "r6 = r1
         r7 = *(u64 *)(r6 + {ask})
         r8 = -22\n",
        ask = Layout::ASK,
    );
    to_stack(&mut text, spec.key_size, key, key_at);
    let _ = writeln!(
        text,
        "r1 = map[{map_fd}]
         r2 = r10
         r2 += -{key_at}
         if r7 == {} goto lookup
         if r7 == {} goto merge",
        Ask::Lookup as u64,
        Ask::Merge as u64,
    );
    if is_per_cpu(spec) {
        let _ = writeln!(
            text,
            "if r7 == {update} goto update
             r3 = *(u64 *)(r6 + {flags})
             call 195
             if r7 == {merge} goto merged
             goto found
             update:",
            flags = Layout::FLAGS,
            update = Ask::Update as u64,
            merge = Ask::MergeCpu as u64,
        );
        to_stack(&mut text, spec.value_size, value, value_at);
        let _ = writeln!(
            text,
            "r1 = map[{map_fd}]
             r2 = r10
             r2 += -{key_at}
             r3 = r10
             r3 += -{value_at}
             r4 = *(u64 *)(r6 + {flags})
             call 2
             r8 = r0",
            flags = Layout::FLAGS,
        );
    }
    text.push_str(
        "goto done
         lookup:
         call 1
         found:
         r8 = -2
         if r0 == 0 goto done
         r8 = 0\n",
    );
    for (at, size) in parts(spec.value_size) {
        let (bits, to) = (size * 8, value as u32 + at);
        let _ = writeln!(
            text,
            "r1 = *(u{bits} *)(r0 + {at})
             *(u{bits} *)(r6 + {to}) = r1"
        );
    }
    text.push_str(
        "goto done
         merge:
         call 1
         merged:
         r8 = -2
         if r0 == 0 goto done
         r8 = 0
         r9 = r0\n",
    );
    for part in parts(spec.value_size) {
        merge_part(&mut text, part, value as u32, base as u32);
    }
    let _ = writeln!(
        text,
        "done:
         *(u64 *)(r6 + {result}) = r8
         r0 = 0
         exit",
        result = Layout::RESULT,
    );
    text
}

fn merge_part(text: &mut String, (at, size): (u32, u32), value: u32, base: u32) {
    let bits = size * 8;
    let _ = writeln!(
        text,
        "r1 = *(u{bits} *)(r6 + {})
         r2 = *(u{bits} *)(r6 + {})
         if r1 == r2 goto same{at}",
        value + at,
        base + at,
    );
    let _ = match size {
        4 | 8 => {
            let register = if size == 8 { "r" } else { "w" };
            writeln!(
                text,
                "r0 = r2
                 {register}0 = atomic{bits}_cmpxchg((u{bits} *)(r9 + {at}), {register}0, {register}1)
                 if r0 == r2 goto same{at}
                 r1 -= r2
                 lock *(u{bits} *)(r9 + {at}) += {register}1
                 same{at}:"
            )
        }
        _ => writeln!(
            text,
            "*(u{bits} *)(r9 + {at}) = r1
             same{at}:"
        ),
    };
}
