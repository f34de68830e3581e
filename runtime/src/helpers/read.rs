//! Helpers that read memory of the process at any address: a bad one is an
//! error, never a fault. What lies on the stack that the thread stands on is
//! there, and is read by plain loads, and so is what is published as readable
//! ([`crate::readable`]); all else the kernel copies (process_vm_writev(2) on the
//! own process, whose source is read with this thread's rights), so signal
//! handlers of the target are not disturbed.

use core::mem::MaybeUninit;

use shm::sys;
use uapi::Errno;

use super::row::{Any, LenOrZero, Room, helper};
use crate::maps::bytes;
use crate::run::RunState;
use crate::sample::Sample;
use crate::{own_stack, readable, tasks, thread};

/// Copies `len` bytes from `from`; all or nothing.
///
/// # Safety
/// `to` is writable for `len` bytes.
#[inline]
pub(crate) unsafe fn read(to: *mut u8, from: u64, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller vouches for `to`.
    match unsafe { at_hand(to, from, len) } {
        true => Ok(()),
        // SAFETY: as above.
        false => unsafe { read_anywhere(to, from, len) },
    }
}

/// Copies what a thread can load by itself: whether it was.
///
/// # Safety
/// As [`read`].
#[inline(always)]
unsafe fn at_hand(to: *mut u8, from: u64, len: usize) -> bool {
    if own_stack::holds(from, len as u64) {
        // SAFETY: the caller vouches for `to`; `from` can be read.
        unsafe { bytes::copy_unaligned(to, from as *const u8, len) };
        return true;
    }
    // SAFETY: the caller vouches for `to`.
    len != 0 && unsafe { readable::copy(to, from, len) }
}

/// Whose memory a helper reads.
#[derive(Clone, Copy)]
pub(super) enum Whose<'a> {
    /// This process's.
    Own,
    /// The same, and fields of tasks.
    Kernel(&'a RunState),
    /// Of the process that was sampled.
    Sampled(&'a Sample<'a>),
}

/// As [`read`], whosever memory it is.
///
/// # Safety
/// As [`read`].
#[inline]
unsafe fn read_for(whose: Whose<'_>, to: *mut u8, from: u64, len: usize) -> Result<(), Errno> {
    if let Whose::Sampled(sample) = whose {
        // SAFETY: the caller vouches for `to`.
        return unsafe { sample.read(to, from, len) };
    }
    // SAFETY: as above.
    match unsafe { at_hand(to, from, len) } {
        true => Ok(()),
        // SAFETY: as above.
        false => unsafe { read_far(whose, to, from, len) },
    }
}

/// # Safety
/// As [`read`].
#[cold]
unsafe fn read_far(whose: Whose<'_>, to: *mut u8, from: u64, len: usize) -> Result<(), Errno> {
    match whose {
        // SAFETY: the caller vouches for `to`.
        Whose::Kernel(run) if len != 0 && tasks::holds(from) => unsafe {
            tasks::read(run.env().tasks(), to, from, len)
        },
        // SAFETY: as above.
        _ => unsafe { read_anywhere(to, from, len) },
    }
}

/// # Safety
/// As [`read`].
#[cold]
unsafe fn read_anywhere(to: *mut u8, from: u64, len: usize) -> Result<(), Errno> {
    if len == 0 {
        return Ok(());
    }
    // SAFETY: the caller vouches for `to`.
    let done = unsafe { sys::copy_own(thread::own_pid(), to, from, len) };
    if done == len as isize {
        readable::note_miss(from);
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

/// Where the first zero byte is.
fn zero_in(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, _) = text.as_chunks::<8>();
    let has_zero = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        word.wrapping_sub(ONES) & !word & TOPS != 0
    };
    let from = 8 * words.iter().position(has_zero).unwrap_or(words.len());
    let rest = text.get(from..)?;
    Some(from + rest.iter().position(|&byte| byte == 0)?)
}

/// Zeroes the destination; the errno.
fn failed(to: Room, len: LenOrZero, errno: Errno) -> i64 {
    // SAFETY: the verifier proved that `to` has `len` bytes.
    unsafe { bytes::zero(to.0, len.0) };
    errno.ret()
}

/// The kernel's `copy_from_user_nofault` and its kin: on failure the
/// destination is zeroed.
#[inline]
pub(super) fn probe_read_bytes(whose: Whose<'_>, to: Room, len: LenOrZero, from: Any) -> i64 {
    // SAFETY: the verifier proved that `to` has `len` bytes.
    match unsafe { read_for(whose, to.0, from.0, len.0) } {
        Ok(()) => 0,
        Err(errno) => failed(to, len, errno),
    }
}

/// `TASK_SIZE_MAX`.
const USER_END: u64 = (1 << 47) - 4096;

/// What the helpers that tell user and kernel by the address find beyond user
/// space, where there is nothing for them here (arch/x86/mm/maccess.c,
/// `copy_from_kernel_nofault_allowed`; what is not canonical depends on the
/// processor and counts as bad).
fn kernel_errno(from: u64) -> Option<Errno> {
    const GUARD_END: u64 = USER_END + shm::PAGE;
    const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
    const VSYSCALL_END: u64 = VSYSCALL + shm::PAGE;
    match from {
        0..USER_END => None,
        USER_END..GUARD_END | VSYSCALL..VSYSCALL_END => Some(Errno::ERANGE),
        _ => Some(Errno::EFAULT),
    }
}

/// The kernel's `strncpy_from_user_nofault`: copies up to the zero byte or
/// `len - 1` bytes and ends with a zero; returns the length with the zero.
/// Nothing that follows the zero in memory reaches the destination, so that
/// equal strings make equal keys.
pub(super) fn probe_read_text(whose: Whose<'_>, to: Room, len: LenOrZero, from: Any) -> i64 {
    /// Bytes read at a time.
    const STEP: usize = 256;
    if len.0 == 0 {
        return 0;
    }
    let mut bounce = MaybeUninit::<[u8; STEP]>::uninit();
    let bounce = bounce.as_mut_ptr().cast::<u8>();
    let mut done = 0;
    while done < len.0 {
        let address = from.0.wrapping_add(done as u64);
        // Up to the end of the page, so that a string that ends just before
        // an unmapped one is read whole.
        let page = (shm::PAGE - address % shm::PAGE) as usize;
        let step = STEP.min(page).min(len.0 - done);
        // SAFETY: `bounce` has STEP bytes.
        if let Err(errno) = unsafe { read_for(whose, bounce, address, step) } {
            return failed(to, len, errno);
        }
        // SAFETY: `step` bytes were just read into what is ours alone.
        let zero = zero_in(unsafe { core::slice::from_raw_parts(bounce, step) });
        let copied = zero.map_or(step, |at| at + 1);
        // SAFETY: `done + copied` is at most `len`.
        unsafe { bytes::copy(to.0.wrapping_add(done), bounce, copied) };
        done += copied;
        if zero.is_some() {
            // The kernel (lib/strncpy_from_user.c) takes whole words as long as
            // they fit and can be read, and clears what follows the zero.
            let word = done.next_multiple_of(8);
            let seen = address.wrapping_sub(from.0) as usize + step;
            let beyond = word.saturating_sub(seen);
            let next = from.0.wrapping_add(seen as u64);
            // SAFETY: `bounce` has more than a word; the `word` bytes are at
            // most `len`.
            unsafe {
                if word <= len.0 && (beyond == 0 || read_for(whose, bounce, next, beyond).is_ok()) {
                    bytes::zero(to.0.wrapping_add(done), word - done);
                }
            }
            return done as i64;
        }
    }
    // SAFETY: the last of the `len` bytes.
    unsafe { bytes::zero(to.0.wrapping_add(len.0 - 1), 1) };
    len.0 as i64
}

/// `bpf_probe_read`, where `user` is whose memory user addresses are in.
#[inline]
pub(super) fn probe_read_either(
    run: &RunState,
    user: Whose<'_>,
    to: Room,
    len: LenOrZero,
    from: Any,
) -> i64 {
    match kernel_errno(from.0) {
        None => probe_read_bytes(user, to, len, from),
        Some(Errno::EFAULT) if len.0 == 0 => 0,
        Some(_) if tasks::holds(from.0) => probe_read_bytes(Whose::Kernel(run), to, len, from),
        Some(errno) => failed(to, len, errno),
    }
}

/// The same for a string.
pub(super) fn probe_read_text_either(
    run: &RunState,
    user: Whose<'_>,
    to: Room,
    len: LenOrZero,
    from: Any,
) -> i64 {
    match kernel_errno(from.0) {
        Some(_) if tasks::holds(from.0) => probe_read_text(Whose::Kernel(run), to, len, from),
        Some(errno) if len.0 > 0 => failed(to, len, errno),
        _ => probe_read_text(user, to, len, from),
    }
}

/// `bpf_probe_read_user`.
#[inline]
pub(super) fn probe_read_of_user(user: Whose<'_>, to: Room, len: LenOrZero, from: Any) -> i64 {
    // Also when nothing is asked for.
    if from.0 > USER_END {
        return failed(to, len, Errno::EFAULT);
    }
    probe_read_bytes(user, to, len, from)
}

helper! {
    /// bpf_probe_read: as bpf_probe_read_user; ERANGE for what is neither user
    /// nor kernel space.
    gpl fn probe_read(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ {
        probe_read_either(run, Whose::Own, to, len, from)
    }
}

helper! {
    /// bpf_probe_read_user: `len` bytes at `from`. EFAULT for a bad address,
    /// the destination is zeroed then.
    gpl fn probe_read_user(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ_USER {
        probe_read_of_user(Whose::Own, to, len, from)
    }
}

helper! {
    /// bpf_probe_read_kernel: programs also use it on their own stack and on
    /// map values, which lie in the process here.
    gpl fn probe_read_kernel(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ_KERNEL {
        probe_read_bytes(Whose::Kernel(run), to, len, from)
    }
}

helper! {
    /// bpf_probe_read_str: as bpf_probe_read_user_str.
    gpl fn probe_read_str(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ_STR {
        probe_read_text_either(run, Whose::Own, to, len, from)
    }
}

helper! {
    /// bpf_probe_read_user_str: a string of at most `len` bytes with its zero;
    /// returns its length with the zero, or EFAULT with the destination zeroed.
    gpl fn probe_read_user_str(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ_USER_STR {
        probe_read_text(Whose::Own, to, len, from)
    }
}

helper! {
    /// bpf_probe_read_kernel_str: as bpf_probe_read_user_str.
    gpl fn probe_read_kernel_str(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_PROBE_READ_KERNEL_STR {
        probe_read_text(Whose::Kernel(run), to, len, from)
    }
}

helper! {
    /// bpf_copy_from_user: as bpf_probe_read_user; nothing needs paging in.
    fn copy_from_user(run, to: Room, len: LenOrZero, from: Any) -> i64 = BPF_FUNC_COPY_FROM_USER {
        probe_read_bytes(Whose::Own, to, len, from)
    }
}

#[cfg(test)]
mod tests {
    use super::zero_in;

    #[test]
    fn the_first_zero_is_found() {
        for len in 0..40 {
            let mut text = vec![0x80u8; len];
            assert_eq!(zero_in(&text), None);
            for at in (0..len).rev() {
                text[at] = 0;
                assert_eq!(zero_in(&text), Some(at), "of {len}");
                // What looks like a borrow in the word.
                text[at] = if at % 2 == 0 { 0 } else { 1 };
            }
        }
    }
}
