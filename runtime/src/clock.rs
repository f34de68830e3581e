//! Clocks through the kernel's vdso, without a system call where it can.
//! Callable from trampolines once [`init`] has run elsewhere.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;

use object::ElfFile;
use shm::sys;

type ClockGettime = unsafe extern "C" fn(clock: libc::clockid_t, time: *mut libc::timespec) -> i32;

static CLOCK_GETTIME: OnceLock<Option<ClockGettime>> = OnceLock::new();

/// Finds the vdso's clock_gettime. Without it every reading is a system call.
/// Call outside of trampolines: it reads a file.
pub fn init() {
    CLOCK_GETTIME.get_or_init(find);
}

/// What readings call, if they make no system call.
pub(crate) fn quick_function() -> Option<usize> {
    let function = CLOCK_GETTIME.get().copied().flatten()?;
    Some(function as *const () as usize)
}

/// Whether readings make no system call.
pub fn is_quick() -> bool {
    CLOCK_GETTIME.get().is_some_and(Option::is_some)
}

fn find() -> Option<ClockGettime> {
    let image = vdso()?;
    let offset = ElfFile::parse(image)
        .ok()?
        .function_address("__vdso_clock_gettime")?;
    let at = image.get(usize::try_from(offset).ok()?..)?.as_ptr();
    // SAFETY: the kernel links its vdso at 0, and this is the symbol's type (vdso(7)).
    Some(unsafe { core::mem::transmute::<*const u8, ClockGettime>(at) })
}

/// The kernel's library as it is mapped; libc calls it as long as the process
/// lives, too.
pub fn vdso() -> Option<&'static [u8]> {
    // SAFETY: reads what the kernel handed to the process.
    let start = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let maps = std::fs::read_to_string("/proc/thread-self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (range, _) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let parse = |hex| usize::from_str_radix(hex, 16).ok();
    let range: Range<usize> = parse(from)?..parse(to)?;
    if range.start as u64 != start {
        return None;
    }
    // SAFETY: the whole mapping, which is readable.
    Some(unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) })
}

/// Nanoseconds of `clock` (`CLOCK_*`); 0 for a clock that does not exist.
#[inline]
pub fn ns(clock: i32) -> u64 {
    quick_ns(clock).unwrap_or_else(|| sys::clock_ns(clock))
}

/// The same without a system call of ours, if the vdso was found.
#[inline(always)]
pub(crate) fn quick_ns(clock: i32) -> Option<u64> {
    let clock_gettime = CLOCK_GETTIME.get().copied().flatten()?;
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the vdso writes one timespec.
    if unsafe { clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return Some(0);
    }
    // SAFETY: written, as there was no error.
    let time = unsafe { time.assume_init_ref() };
    let seconds = (time.tv_sec as u64).wrapping_mul(1_000_000_000);
    Some(seconds.wrapping_add(time.tv_nsec as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vdso_agrees_with_the_kernel() {
        init();
        assert!(is_quick(), "no vdso");
        for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_TAI] {
            let (before, now, after) = (sys::clock_ns(clock), ns(clock), sys::clock_ns(clock));
            assert!(before <= now && now <= after, "{before} {now} {after}");
        }
        assert_eq!(ns(9999), 0);
    }
}
