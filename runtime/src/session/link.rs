//! What a link asks: which program runs at which places of a file, in which
//! processes. It knows no process that answers.

use super::objects::{Pod, text};
use crate::types::Records;

/// Where in a function's life a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LinkKind {
    /// Before the instruction at the offset.
    Uprobe = 0,
    /// When the function at the offset returns.
    Uretprobe = 1,
    /// At both: the return only if the program gave 0 at the entry.
    Session = 2,
    /// Instead of the function at the offset: what the program gives is what
    /// the function returns.
    Replace = 3,
    /// At a system call, with the record of `syscalls:sys_enter_NAME`; the
    /// place's offset is its number.
    SyscallEnter = 32,
    /// As `SyscallEnter`, when it has returned.
    SyscallExit = 33,
    /// At every system call, with the record of `raw_syscalls:sys_enter`.
    AnySyscallEnter = 34,
    /// As `AnySyscallEnter`, when it has returned.
    AnySyscallExit = 35,
    /// At every system call, with the arguments of the raw tracepoint.
    RawSyscallEnter = 36,
    /// As `RawSyscallEnter`, when it has returned.
    RawSyscallExit = 37,
    /// At a system call, with the registers of the kernel's function for it,
    /// whose argument is the address of the caller's registers; the place's
    /// offset is its number.
    SyscallKprobe = 38,
    /// As `SyscallKprobe`, with the registers when the function returns.
    SyscallKretprobe = 39,
    /// When a program was executed, with the record of `sched_process_exec`.
    TaskExec = 40,
    /// When a task was made, in the one that made it, with the record of
    /// `sched_process_fork`.
    TaskFork = 41,
    /// When a task ends by itself, with the record of `sched_process_exit`.
    TaskExit = 42,
}

/// Where the kernel's function for a system call would be: what kprobes there
/// have as their function's address.
pub fn syscall_function(nr: u64) -> u64 {
    const TEXT: u64 = 0xffff_ffff_8100_0000;
    const ROOM: u64 = 64;
    TEXT + nr * ROOM
}

impl LinkKind {
    /// Whether it is about system calls, or what a task does by them, and so
    /// about no file.
    pub fn is_of_syscalls(self) -> bool {
        self as u32 >= LinkKind::SyscallEnter as u32
    }
}

/// A link as a tool asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// Entry, return or both.
    pub kind: LinkKind,
    /// Object id of the program.
    pub prog: u32,
    /// Device of the probed file, as stat(2) gives it.
    pub dev: u64,
    /// Inode of the probed file.
    pub ino: u64,
    /// Path the tool gave, for people; cut to [`MAX_PATH`] bytes.
    pub path: String,
    /// Only this process (tgid); -1 means all.
    pub pid: i32,
    /// Whether hits run the program.
    pub enabled: bool,
    /// Where in the file; one place, or those of a multi link in its order.
    pub places: Vec<Place>,
}

/// One place of a link.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Offset in the file.
    pub offset: u64,
    /// What `bpf_get_attach_cookie` returns.
    pub cookie: u64,
    /// File offset of a USDT semaphore, or 0.
    pub ref_ctr_offset: u64,
}

// SAFETY: repr(C), three 8-byte numbers: no padding.
unsafe impl Pod for Place {}

/// Most places of one link (`MAX_UPROBE_MULTI_CNT`).
pub const MAX_PLACES: usize = 1 << 20;

/// Most bytes of [`LinkSpec::path`] that reach a target.
pub const MAX_PATH: usize = 255;

/// Places as the payload of a link's record.
pub(super) fn encode(places: &[Place]) -> Vec<u8> {
    places
        .iter()
        .flat_map(|place| place.bytes())
        .copied()
        .collect()
}

/// The places of a payload, if it is one.
fn decode(payload: &[u8]) -> Option<Vec<Place>> {
    let (places, rest) = payload.as_chunks::<{ size_of::<Place>() }>();
    let sane = !places.is_empty() && places.len() <= MAX_PLACES && rest.is_empty();
    sane.then(|| {
        places
            .iter()
            .map(|bytes| Place::from_bytes(bytes))
            .collect()
    })?
}

/// A link's head in the `objects` file; its places are the payload, whether it
/// is enabled the record's state.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LinkBody {
    kind: u32,
    pub prog: u32,
    dev: u64,
    ino: u64,
    /// When: nanoseconds of CLOCK_MONOTONIC.
    pub made: u64,
    pid: i32,
    path_len: u32,
    /// `BPF_LINK_TYPE_*`; 0 for a perf event with a program.
    pub link_type: u32,
    reserved: u32,
    path: [u8; MAX_PATH + 1],
}

const _: () = assert!(size_of::<LinkBody>() == 48 + MAX_PATH + 1);
const _: () = assert!(size_of::<LinkBody>() <= super::objects::BODY);

// SAFETY: repr(C), numbers only, and the size shows that there is no padding.
unsafe impl Pod for LinkBody {}

impl LinkBody {
    pub fn new(spec: &LinkSpec, link_type: u32, made: u64) -> LinkBody {
        let mut path = [0u8; MAX_PATH + 1];
        let mut end = spec.path.len().min(MAX_PATH);
        while !spec.path.is_char_boundary(end) {
            end -= 1;
        }
        for (to, from) in path.iter_mut().zip(spec.path.bytes().take(end)) {
            *to = from;
        }
        LinkBody {
            kind: spec.kind as u32,
            prog: spec.prog,
            dev: spec.dev,
            ino: spec.ino,
            made,
            pid: spec.pid,
            path_len: end as u32,
            link_type,
            reserved: 0,
            path,
        }
    }

    /// The spec, if head and payload are one.
    pub fn spec(&self, enabled: bool, payload: &[u8]) -> Option<LinkSpec> {
        Some(LinkSpec {
            kind: match self.kind {
                0 => LinkKind::Uprobe,
                1 => LinkKind::Uretprobe,
                2 => LinkKind::Session,
                3 => LinkKind::Replace,
                32 => LinkKind::SyscallEnter,
                33 => LinkKind::SyscallExit,
                34 => LinkKind::AnySyscallEnter,
                35 => LinkKind::AnySyscallExit,
                36 => LinkKind::RawSyscallEnter,
                37 => LinkKind::RawSyscallExit,
                38 => LinkKind::SyscallKprobe,
                39 => LinkKind::SyscallKretprobe,
                40 => LinkKind::TaskExec,
                41 => LinkKind::TaskFork,
                42 => LinkKind::TaskExit,
                _ => return None,
            },
            prog: self.prog,
            dev: self.dev,
            ino: self.ino,
            path: text(&self.path),
            pid: self.pid,
            enabled,
            places: decode(payload)?,
        })
    }
}

/// A program's head in the `objects` file; its bytecode and functions are the
/// payload.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ProgramBody {
    pub prog_type: u32,
    pub expected_attach_type: u32,
    pub prog_flags: u32,
    pub gpl: u32,
    /// Bytes of the payload that describe functions; they follow the bytecode.
    pub functions: u32,
    pub ctx_bytes: u32,
    pub verified_insns: u32,
    /// Time since boot, in nanoseconds, its lower and upper half.
    pub load_time: [u32; 2],
    /// The type description, and what it says of functions and of lines: bytes
    /// at the end of the payload, and bytes of one record.
    pub btf: u32,
    pub func_info: [u32; 2],
    pub line_info: [u32; 2],
    pub name: [u8; 64],
}

/// What a tool found out about a program when it loaded it.
#[derive(Clone, Debug, Default)]
pub struct ProgramFacts {
    /// End of the last byte of its context that it may read.
    pub ctx_bytes: u32,
    /// Instructions the verifier walked through.
    pub verified_insns: u32,
    /// Time since boot, in nanoseconds.
    pub load_time: u64,
    /// Its type description in the session, or 0.
    pub btf: u32,
    /// Which functions are where.
    pub functions: Records,
    /// Which source lines are where.
    pub lines: Records,
}

impl ProgramBody {
    /// Where the bytecode ends and the functions do, in a payload of so many bytes.
    pub fn ends(&self, payload: u64) -> Option<(u64, u64)> {
        let records = u64::from(self.func_info[0]) + u64::from(self.line_info[0]);
        let functions = payload.checked_sub(records)?;
        Some((functions.checked_sub(u64::from(self.functions))?, functions))
    }
}

// SAFETY: repr(C), 4-byte numbers and bytes in a multiple of 4: no padding.
unsafe impl Pod for ProgramBody {}

/// A perf ring in the `objects` file.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RingBody {
    pub data_pages: u32,
    pub wakeup_events: u32,
}

// SAFETY: repr(C), two 4-byte numbers: no padding.
unsafe impl Pod for RingBody {}
