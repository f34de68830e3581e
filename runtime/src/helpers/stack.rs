//! User stacks, walked over frame pointers as the kernel walks them
//! (arch/x86/events/core.c, `perf_callchain_user`, Linux 6.18).

use core::mem::MaybeUninit;

use uapi::Errno;
use uapi::map::{BPF_F_SKIP_FIELD_MASK, BPF_F_USER_BUILD_ID, BPF_F_USER_STACK};

use super::read::read;
use super::row::{Any, Ctx, LenOrZero, Room, helper};
use crate::maps::{Map, bytes};
use crate::run::RunState;

/// Frames at most (`sysctl kernel.perf_event_max_stack`, its default).
const MAX_FRAMES: usize = 127;

/// Where user addresses end (`TASK_SIZE_MAX`).
const USER_END: u64 = (1 << 47) - 4096;

/// Collects up to `frames.len()` instruction pointers, the probe's first.
fn walk(run: &RunState, frames: &mut [MaybeUninit<u64>]) -> usize {
    // SAFETY: whoever built the run keeps the registers for its duration.
    let Some(regs) = (unsafe { run.regs.as_ref() }) else {
        return 0;
    };
    let returns_to = run.env().return_address;
    let mut count = 0;
    let mut put = |ip: u64| match frames.get_mut(count) {
        Some(slot) => {
            slot.write(ip);
            count += 1;
            true
        }
        None => false,
    };
    if !put(regs.ip) {
        return count;
    }
    if run.at_entry && regs.sp.is_multiple_of(8) {
        let mut caller = 0u64;
        if word(regs.sp, &mut caller).is_ok() && !put(returns_to(regs.sp, caller)) {
            return count;
        }
    }
    let mut frame = regs.bp;
    for _ in 0..MAX_FRAMES {
        // A frame is {caller's frame pointer, return address}.
        let (mut next, mut ip) = (0u64, 0u64);
        if !frame.is_multiple_of(8)
            || frame >= USER_END
            || word(frame, &mut next).is_err()
            || word(frame.wrapping_add(8), &mut ip).is_err()
            || !put(returns_to(frame.wrapping_add(8), ip))
        {
            break;
        }
        frame = next;
    }
    count
}

fn word(address: u64, to: &mut u64) -> Result<(), Errno> {
    // SAFETY: `to` has 8 bytes.
    unsafe { read(core::ptr::from_mut(to).cast(), address, 8) }
}

fn initialised(frames: &[MaybeUninit<u64>], count: usize) -> &[u64] {
    let frames = frames.get(..count).unwrap_or(&[]);
    // SAFETY: `walk` wrote the first `count`.
    unsafe { core::slice::from_raw_parts(frames.as_ptr().cast(), frames.len()) }
}

helper! {
    /// bpf_get_stackid: the id of the user stack in a stack trace map.
    /// Errors: EINVAL unknown flags, EFAULT kernel stack or none, EEXIST the
    /// slot has another stack.
    gpl fn get_stackid(run, _ctx: Ctx, map: &'static Map, flags: Any) -> i64 = BPF_FUNC_GET_STACKID {
        if flags.0 & BPF_F_USER_STACK == 0 {
            return Errno::EFAULT.ret();
        }
        let skip = (flags.0 & BPF_F_SKIP_FIELD_MASK) as usize;
        let depth = (map.spec().value_size / 8) as usize;
        let mut frames = [MaybeUninit::uninit(); MAX_FRAMES];
        let room = depth.saturating_add(skip).min(MAX_FRAMES);
        let count = walk(run, frames.get_mut(..room).unwrap_or_default());
        map.stack_put(initialised(&frames, count), flags.0)
    }
}

helper! {
    /// bpf_get_stack: the user stack as u64 addresses; returns bytes written.
    /// Errors: EINVAL flags or a size that is no multiple of 8, EFAULT kernel
    /// stack or none; the buffer is zeroed then.
    gpl fn get_stack(run, _ctx: Ctx, to: Room, len: LenOrZero, flags: Any) -> i64 = BPF_FUNC_GET_STACK {
        let known = BPF_F_SKIP_FIELD_MASK | BPF_F_USER_STACK | BPF_F_USER_BUILD_ID;
        let skip = (flags.0 & BPF_F_SKIP_FIELD_MASK) as usize;
        let failure = if flags.0 & !known != 0 || flags.0 & BPF_F_USER_BUILD_ID != 0 || !len.0.is_multiple_of(8) {
            Some(Errno::EINVAL)
        } else if flags.0 & BPF_F_USER_STACK == 0 {
            Some(Errno::EFAULT)
        } else {
            None
        };
        if let Some(errno) = failure {
            // SAFETY: the verifier proved that `to` has `len` bytes.
            unsafe { bytes::zero(to.0, len.0) };
            return errno.ret();
        }
        let mut frames = [MaybeUninit::uninit(); MAX_FRAMES];
        let room = (len.0 / 8).saturating_add(skip).min(MAX_FRAMES);
        let count = walk(run, frames.get_mut(..room).unwrap_or_default());
        let frames = initialised(&frames, count);
        let frames = frames.get(skip..).unwrap_or(&[]);
        let copied = size_of_val(frames);
        // SAFETY: `copied` is at most `len`, which the verifier proved.
        unsafe {
            bytes::copy(to.0, frames.as_ptr().cast(), copied);
            bytes::zero(to.0.wrapping_add(copied), len.0 - copied);
        }
        if copied == 0 { Errno::EFAULT.ret() } else { copied as i64 }
    }
}
