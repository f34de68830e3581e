//! Clocks through the kernel's vdso, without a system call where it can.
//! Callable from trampolines once [`init`] has run elsewhere.

use std::sync::OnceLock;

use shm::sys;

type ClockGettime = unsafe extern "C" fn(clock: libc::clockid_t, time: *mut libc::timespec) -> i32;

static VDSO: OnceLock<Option<ClockGettime>> = OnceLock::new();

/// Finds the vdso's clock_gettime. Without it every reading is a system call.
/// Call outside of trampolines: it takes the dynamic linker's lock.
pub fn init() {
    VDSO.get_or_init(|| {
        // SAFETY: RTLD_NOLOAD only looks up what the kernel mapped at exec;
        // the vdso is never unloaded, so the handle may be left open.
        let function = unsafe {
            let vdso = libc::dlopen(
                c"linux-vdso.so.1".as_ptr(),
                libc::RTLD_NOLOAD | libc::RTLD_LAZY,
            );
            if vdso.is_null() {
                return None;
            }
            libc::dlsym(vdso, c"__vdso_clock_gettime".as_ptr())
        };
        // SAFETY: this is the symbol's type (vdso(7)); null becomes None.
        unsafe { core::mem::transmute::<*mut libc::c_void, Option<ClockGettime>>(function) }
    });
}

/// Nanoseconds of `clock` (`CLOCK_*`); 0 for a clock that does not exist.
#[inline]
pub fn ns(clock: i32) -> u64 {
    let Some(Some(clock_gettime)) = VDSO.get() else {
        return sys::clock_ns(clock);
    };
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the vdso writes one timespec.
    if unsafe { clock_gettime(clock, &raw mut time) } != 0 {
        return 0;
    }
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vdso_agrees_with_the_kernel() {
        init();
        assert!(VDSO.get().is_some_and(Option::is_some), "no vdso");
        for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_TAI] {
            let (before, now, after) = (sys::clock_ns(clock), ns(clock), sys::clock_ns(clock));
            assert!(before <= now && now <= after, "{before} {now} {after}");
        }
        assert_eq!(ns(9999), 0);
    }
}
