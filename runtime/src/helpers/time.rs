//! Helpers that read clocks.

use crate::clock;

use super::row::helper;

helper! {
    /// bpf_ktime_get_ns: nanoseconds since boot without suspend (CLOCK_MONOTONIC).
    fn ktime_get_ns(run) -> u64 = BPF_FUNC_KTIME_GET_NS {
        clock::ns(libc::CLOCK_MONOTONIC)
    }
}

helper! {
    /// bpf_ktime_get_boot_ns: nanoseconds since boot with suspend (CLOCK_BOOTTIME).
    fn ktime_get_boot_ns(run) -> u64 = BPF_FUNC_KTIME_GET_BOOT_NS {
        clock::ns(libc::CLOCK_BOOTTIME)
    }
}

helper! {
    /// bpf_ktime_get_coarse_ns: as ktime_get_ns, of the last tick.
    fn ktime_get_coarse_ns(run) -> u64 = BPF_FUNC_KTIME_GET_COARSE_NS {
        clock::ns(libc::CLOCK_MONOTONIC_COARSE)
    }
}

helper! {
    /// bpf_ktime_get_tai_ns: nanoseconds of international atomic time (CLOCK_TAI).
    fn ktime_get_tai_ns(run) -> u64 = BPF_FUNC_KTIME_GET_TAI_NS {
        clock::ns(libc::CLOCK_TAI)
    }
}
