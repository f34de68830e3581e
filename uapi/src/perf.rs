//! `struct perf_event_attr`, the ioctls of a perf event and the layout of its
//! ring (include/uapi/linux/perf_event.h). It knows no event's meaning.

/// Bytes of the first published `perf_event_attr`; what size 0 stands for.
pub const PERF_ATTR_SIZE_VER0: usize = 64;
/// Bytes of `perf_event_attr` in Linux 6.18 (`PERF_ATTR_SIZE_VER8`).
pub const PERF_ATTR_BYTES: usize = 136;

#[expect(missing_docs, reason = "the names are the kernel's")]
mod numbers {
    pub const PERF_TYPE_HARDWARE: u32 = 0;
    pub const PERF_TYPE_SOFTWARE: u32 = 1;
    pub const PERF_TYPE_TRACEPOINT: u32 = 2;
    pub const PERF_TYPE_HW_CACHE: u32 = 3;
    pub const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
    pub const PERF_COUNT_SW_DUMMY: u64 = 9;
    pub const PERF_COUNT_SW_BPF_OUTPUT: u64 = 10;
    pub const PERF_SAMPLE_RAW: u64 = 1 << 10;

    pub const PERF_EVENT_IOC_ENABLE: u32 = 0x2400;
    pub const PERF_EVENT_IOC_DISABLE: u32 = 0x2401;
    pub const PERF_EVENT_IOC_REFRESH: u32 = 0x2402;
    pub const PERF_EVENT_IOC_RESET: u32 = 0x2403;
    pub const PERF_EVENT_IOC_PERIOD: u32 = 0x4008_2404;
    pub const PERF_EVENT_IOC_SET_OUTPUT: u32 = 0x2405;
    pub const PERF_EVENT_IOC_ID: u32 = 0x8008_2407;
    pub const PERF_EVENT_IOC_SET_BPF: u32 = 0x4004_2408;
    pub const PERF_EVENT_IOC_PAUSE_OUTPUT: u32 = 0x4004_2409;

    pub const PERF_FLAG_FD_NO_GROUP: u64 = 1;
    pub const PERF_FLAG_FD_OUTPUT: u64 = 2;
    pub const PERF_FLAG_PID_CGROUP: u64 = 4;
    pub const PERF_FLAG_FD_CLOEXEC: u64 = 8;
}
pub use numbers::*;

/// The fields of `perf_event_attr` that events of BPF tools use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub struct PerfEventAttr {
    pub kind: u32,
    pub config: u64,
    /// Period in events, or frequency in Hz when `freq`.
    pub sample_period: u64,
    pub sample_type: u64,
    pub disabled: bool,
    pub inherit: bool,
    pub freq: bool,
    pub watermark: bool,
    /// The newest record lies at the start of the ring: who reads may pause
    /// it and look back.
    pub write_backward: bool,
    /// Events, or bytes when `watermark`.
    pub wakeup_events: u32,
    /// Address of the path of an uprobe.
    pub config1: u64,
    /// File offset of an uprobe.
    pub config2: u64,
}

impl PerfEventAttr {
    /// The fields as the bytes hold them.
    pub fn decode(bytes: &[u8; PERF_ATTR_BYTES]) -> PerfEventAttr {
        let u32_at = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let u64_at = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let bits = u64_at(40);
        PerfEventAttr {
            kind: u32_at(0),
            config: u64_at(8),
            sample_period: u64_at(16),
            sample_type: u64_at(24),
            disabled: bits & 1 != 0,
            inherit: bits & (1 << 1) != 0,
            freq: bits & (1 << 10) != 0,
            watermark: bits & (1 << 14) != 0,
            write_backward: bits & (1 << 27) != 0,
            wakeup_events: u32_at(48),
            config1: u64_at(56),
            config2: u64_at(64),
        }
    }
}
