//! Every helper of Linux 6.18 as the kernel declares it: its number, its
//! `bpf_func_proto`, and which of the program types that we verify may call
//! it. It does not know which of them anybody can run in user space: that is
//! [`crate::verifier::Env`]'s to say.
//!
//! The kernel is the measure: `vm/tests/verifier/catalogue.rs` asks it about
//! every pair of program type and helper.

mod base;
mod net;
mod other;
mod tracing;

use uapi::helper::__BPF_FUNC_MAX_ID;
use uapi::prog::*;

use super::Proto;

/// A set of the program types that the verifier knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgTypes(u16);

impl ProgTypes {
    const SOCKET_FILTER: ProgTypes = ProgTypes(1);
    const PERF_EVENT: ProgTypes = ProgTypes(1 << 1);
    const XDP: ProgTypes = ProgTypes(1 << 2);
    /// Classifiers and actions of traffic control.
    const TC: ProgTypes = ProgTypes(1 << 3 | 1 << 4);
    /// kprobe, tracepoint, raw_tracepoint and its writable form.
    const PROBES: ProgTypes = ProgTypes(1 << 5 | 1 << 6 | 1 << 7 | 1 << 8);
    const TRACING: ProgTypes = Self::PROBES.or(Self::PERF_EVENT);
    /// Types whose ctx is a `struct __sk_buff`.
    const SKB: ProgTypes = Self::TC.or(Self::SOCKET_FILTER);
    /// All types that the verifier knows.
    pub const ALL: ProgTypes = Self::TRACING.or(Self::SKB).or(Self::XDP);
    /// Only types that the verifier does not know.
    const NONE: ProgTypes = ProgTypes(0);

    const fn or(self, other: ProgTypes) -> ProgTypes {
        ProgTypes(self.0 | other.0)
    }

    /// Whether it has none of the types that the verifier knows.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Whether the set has `BPF_PROG_TYPE_*`.
    pub fn contains(self, prog_type: u32) -> bool {
        let bit = match prog_type {
            BPF_PROG_TYPE_SOCKET_FILTER => 0,
            BPF_PROG_TYPE_PERF_EVENT => 1,
            BPF_PROG_TYPE_XDP => 2,
            BPF_PROG_TYPE_SCHED_CLS => 3,
            BPF_PROG_TYPE_SCHED_ACT => 4,
            BPF_PROG_TYPE_KPROBE => 5,
            BPF_PROG_TYPE_TRACEPOINT => 6,
            BPF_PROG_TYPE_RAW_TRACEPOINT => 7,
            BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE => 8,
            _ => return false,
        };
        self.0 & 1 << bit != 0
    }
}

/// A helper of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct KernelHelper {
    /// The prototype.
    pub proto: Proto,
    /// The program types that may call it.
    pub types: ProgTypes,
    /// Only sleepable programs may call it.
    pub sleeps: bool,
    /// Its memory arguments may point into a packet.
    pub packet: bool,
    /// It may move or shrink the packet, so pointers into it end
    /// (kernel: `bpf_helper_changes_pkt_data`).
    pub changes_packet: bool,
}

/// Rows of helpers for one set of program types: number, name, arguments,
/// result, and in brackets the fields that are true.
macro_rules! rows {
    ($types:expr; $($id:literal $name:ident($($arg:expr),*) -> $ret:ident $(($of:literal))? $([$($flag:ident)+])?;)*) => {
        &[$({
            #[allow(unused_mut, reason = "most rows have no flag")]
            let mut row = $crate::helper::kernel::KernelHelper {
                proto: $crate::helper::Proto {
                    id: $id,
                    name: stringify!($name),
                    args: &[$($arg),*],
                    ret: $crate::helper::Ret::$ret $(($of))?,
                    gpl_only: false,
                },
                types: $types,
                sleeps: false,
                packet: false,
                changes_packet: false,
            };
            $($($crate::helper::kernel::rows!(@flag row $flag);)+)?
            row
        }),*]
    };
    (@flag $row:ident gpl) => { $row.proto.gpl_only = true };
    (@flag $row:ident $flag:ident) => { $row.$flag = true };
}
use rows;

const TABLES: &[&[KernelHelper]] = &[
    base::ROWS,
    tracing::ROWS,
    tracing::PROBE_ROWS,
    tracing::PERF_EVENT_ROWS,
    net::SOCKET_ROWS,
    net::SKB_ROWS,
    net::LOOKUP_ROWS,
    net::TC_ROWS,
    net::XDP_ROWS,
    net::CLASSID_ROWS,
    other::ROWS,
];

static BY_ID: [Option<&KernelHelper>; __BPF_FUNC_MAX_ID as usize] = by_id();

/// The first row of each number.
const fn by_id() -> [Option<&'static KernelHelper>; __BPF_FUNC_MAX_ID as usize] {
    let mut all = [None; __BPF_FUNC_MAX_ID as usize];
    let mut table = TABLES.len();
    while table > 0 {
        table -= 1;
        let mut row = TABLES[table].len();
        while row > 0 {
            row -= 1;
            all[TABLES[table][row].proto.id as usize] = Some(&TABLES[table][row]);
        }
    }
    all
}

/// The helper with this number as programs of this type see it; as others see
/// it, when they cannot call it.
pub fn find(id: u32, prog_type: u32) -> Option<&'static KernelHelper> {
    let first = BY_ID.get(id as usize).copied().flatten()?;
    if first.types.contains(prog_type) {
        return Some(first);
    }
    // A few numbers mean different functions to different types.
    let other = all().find(|row| row.proto.id == id && row.types.contains(prog_type));
    Some(other.unwrap_or(first))
}

/// All rows. A number with different prototypes has one row for each.
pub fn all() -> impl Iterator<Item = &'static KernelHelper> {
    TABLES.iter().copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::{Arg, Ret};

    #[test]
    fn every_number_has_its_row() {
        for id in 1..__BPF_FUNC_MAX_ID {
            let row = find(id, 0).expect("a row");
            assert_eq!(row.proto.id, id);
            assert!(row.proto.args.len() <= 5, "{}", row.proto.name);
        }
        assert!(find(0, 0).is_none() && find(__BPF_FUNC_MAX_ID, 0).is_none());
    }

    #[test]
    fn a_number_means_one_function_to_a_type() {
        for row in all() {
            let same = |other: &&KernelHelper| {
                other.proto.id == row.proto.id
                    && (other.types == row.types || other.types.0 & row.types.0 != 0)
            };
            assert_eq!(all().filter(same).count(), 1, "{}", row.proto.name);
        }
    }

    #[test]
    fn classid_of_a_packet_and_of_the_current_task() {
        let of = |prog_type| find(17, prog_type).map(|row| row.proto.args);
        assert_eq!(of(BPF_PROG_TYPE_SCHED_CLS), Some(&[Arg::Ctx][..]));
        assert_eq!(of(BPF_PROG_TYPE_KPROBE), Some(&[][..]));
        assert_eq!(
            find(1, BPF_PROG_TYPE_XDP).map(|row| row.proto.ret),
            Some(Ret::MapValueOrNull)
        );
    }
}
