//! Helpers that read clocks.

use crate::arch::aside::bpftime_runtime_aside;
use crate::clock;

use super::row::helper;

/// A clock's nanoseconds, for helpers that are quiet (`super::quiet`).
#[inline(always)]
fn read(clock: i32) -> u64 {
    match clock::quick_ns(clock) {
        Some(ns) => ns,
        // SAFETY: it looks at its first argument only.
        None => unsafe { bpftime_runtime_aside(clock as u64, 0, 0, 0, 0, read_slowly) },
    }
}

unsafe extern "C" fn read_slowly(clock: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    clock::ns(clock as i32)
}

helper! {
    /// bpf_ktime_get_ns: nanoseconds since boot without suspend (CLOCK_MONOTONIC).
    fn ktime_get_ns(run) -> u64 = BPF_FUNC_KTIME_GET_NS {
        read(libc::CLOCK_MONOTONIC)
    }
}

helper! {
    /// bpf_ktime_get_boot_ns: nanoseconds since boot with suspend (CLOCK_BOOTTIME).
    fn ktime_get_boot_ns(run) -> u64 = BPF_FUNC_KTIME_GET_BOOT_NS {
        read(libc::CLOCK_BOOTTIME)
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
