//! User stacks: what walks them is [`crate::unwind`].

use core::mem::MaybeUninit;

use uapi::Errno;
use uapi::map::{BPF_F_SKIP_FIELD_MASK, BPF_F_USER_BUILD_ID, BPF_F_USER_STACK};

use super::row::{Any, Ctx, LenOrZero, Room, helper};
use crate::maps::{Map, bytes};
use crate::run::RunState;
use crate::unwind::{self, FrameOf, StackBuildId};

/// Frames at most (`sysctl kernel.perf_event_max_stack`, its default).
const MAX_FRAMES: usize = 127;

/// Collects up to `frames.len()` instruction pointers, the probe's first.
fn walk(run: &RunState, frames: &mut [MaybeUninit<u64>]) -> usize {
    // SAFETY: whoever built the run keeps the registers for its duration.
    let Some(regs) = (unsafe { run.regs.as_ref() }) else {
        return 0;
    };
    collect(frames, |put| {
        unwind::walk(regs, run.at_entry, run.env().return_address, put)
    })
}

/// Has a walk put its frames there: how many.
#[inline(always)]
pub(super) fn collect(
    frames: &mut [MaybeUninit<u64>],
    walk: impl FnOnce(&mut dyn FnMut(u64) -> bool),
) -> usize {
    let mut count = 0;
    walk(&mut |ip: u64| match frames.get_mut(count) {
        Some(slot) => {
            slot.write(ip);
            count += 1;
            true
        }
        None => false,
    });
    count
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
        stack_id(|frames| walk(run, frames), map, flags.0, &StackBuildId::of)
    }
}

/// `bpf_get_stackid` of the stack that `walk` collects.
#[inline(always)]
pub(super) fn stack_id(
    walk: impl FnOnce(&mut [MaybeUninit<u64>]) -> usize,
    map: &Map,
    flags: u64,
    frame_of: FrameOf<'_>,
) -> i64 {
    if flags & BPF_F_USER_STACK == 0 {
        return Errno::EFAULT.ret();
    }
    let skip = (flags & BPF_F_SKIP_FIELD_MASK) as usize;
    let depth = map.stack_depth();
    let mut frames = [MaybeUninit::uninit(); MAX_FRAMES];
    let room = depth.saturating_add(skip).min(MAX_FRAMES);
    let count = walk(frames.get_mut(..room).unwrap_or_default());
    map.stack_put_as(initialised(&frames, count), flags, frame_of)
}

/// `__bpf_get_stack`: bytes stored.
#[inline(always)]
fn get_user_stack(
    walk: impl FnOnce(&mut [MaybeUninit<u64>]) -> usize,
    to: Room,
    len: usize,
    flags: u64,
    frame_of: FrameOf<'_>,
) -> Result<usize, Errno> {
    let known = BPF_F_SKIP_FIELD_MASK | BPF_F_USER_STACK | BPF_F_USER_BUILD_ID;
    let (user, build_id) = (
        flags & BPF_F_USER_STACK != 0,
        flags & BPF_F_USER_BUILD_ID != 0,
    );
    let element = if build_id {
        size_of::<StackBuildId>()
    } else {
        size_of::<u64>()
    };
    if flags & !known != 0 || (build_id && !user) || !len.is_multiple_of(element) {
        return Err(Errno::EINVAL);
    }
    if !user {
        return Err(Errno::EFAULT);
    }
    let skip = (flags & BPF_F_SKIP_FIELD_MASK) as usize;
    let mut frames = [MaybeUninit::uninit(); MAX_FRAMES];
    let room = (len / element).saturating_add(skip).min(MAX_FRAMES);
    let count = walk(frames.get_mut(..room).unwrap_or_default());
    let frames = initialised(&frames, count);
    let frames = frames.get(skip..).ok_or(Errno::EFAULT)?;
    let copied = frames.len() * element;
    for (index, &ip) in frames.iter().enumerate() {
        let at = to.0.wrapping_add(index * element);
        // SAFETY: `copied` is at most `len`, which the verifier proved.
        let store = |from: *const u8| unsafe { bytes::copy(at, from, element) };
        match build_id {
            true => store(core::ptr::from_ref(&frame_of(ip)).cast()),
            false => store(core::ptr::from_ref(&ip).cast()),
        }
    }
    // SAFETY: as above.
    unsafe { bytes::zero(to.0.wrapping_add(copied), len - copied) };
    Ok(copied)
}

helper! {
    /// bpf_get_stack: the user stack as u64 addresses, or as places in files;
    /// returns bytes written. Errors: EINVAL flags or a size that is no multiple
    /// of an element's, EFAULT kernel stack or fewer frames than are skipped; the
    /// buffer is zeroed then.
    gpl fn get_stack(run, _ctx: Ctx, to: Room, len: LenOrZero, flags: Any) -> i64 = BPF_FUNC_GET_STACK {
        stack_of(|frames| walk(run, frames), to, len.0, flags.0, &StackBuildId::of)
    }
}

/// `bpf_get_stack` of the stack that `walk` collects.
#[inline(always)]
pub(super) fn stack_of(
    walk: impl FnOnce(&mut [MaybeUninit<u64>]) -> usize,
    to: Room,
    len: usize,
    flags: u64,
    frame_of: FrameOf<'_>,
) -> i64 {
    match get_user_stack(walk, to, len, flags, frame_of) {
        Ok(copied) => copied as i64,
        Err(errno) => {
            // SAFETY: the verifier proved that `to` has `len` bytes.
            unsafe { bytes::zero(to.0, len) };
            errno.ret()
        }
    }
}
