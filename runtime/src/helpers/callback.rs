//! Helpers that call a function of the program back. What they pass is what
//! the verifier walked the function with (vm/src/verifier/callback.rs).

use uapi::Errno;

use super::row::{Any, Callback, CallbackCtx, helper};
use crate::maps::Map;

/// Most turns of one call (kernel: `BPF_MAX_LOOPS`).
const MAX_LOOPS: u64 = 8 << 20;

helper! {
    /// bpf_loop: calls back with 0, 1, … until `count` or until the callback
    /// returns 1; returns how often. Errors: EINVAL for flags, E2BIG above
    /// 8,388,608 turns.
    fn r#loop(run, count: Any, callback: Callback, ctx: CallbackCtx, flags: Any) -> i64 = BPF_FUNC_LOOP {
        if flags.0 != 0 {
            return i64::from(-Errno::EINVAL.0);
        }
        // All 64 bits count, as where the kernel inlines the loop.
        if count.0 > MAX_LOOPS {
            return i64::from(-Errno::E2BIG.0);
        }
        for turn in 0..count.0 {
            let args = [turn, ctx.0, 0, 0];
            // SAFETY: any number and the program's own address.
            if !unsafe { callback.call(args, run) } {
                return turn as i64 + 1;
            }
        }
        count.0 as i64
    }
}

helper! {
    /// bpf_for_each_map_elem: calls back with the map, key and value of each
    /// element until the callback returns 1; returns how often. Errors: EINVAL
    /// for flags.
    fn for_each_map_elem(run, map: &'static Map, callback: Callback, ctx: CallbackCtx, flags: Any) -> i64 = BPF_FUNC_FOR_EACH_MAP_ELEM {
        if flags.0 != 0 {
            return i64::from(-Errno::EINVAL.0);
        }
        let mut turns = 0;
        map.for_each(run.vcpu, &mut |key, value| {
            turns += 1;
            let map = core::ptr::from_ref(map) as u64;
            // SAFETY: a key and a value of the map, and the program's own address.
            unsafe { callback.call([map, key as u64, value as u64, ctx.0], run) }
        });
        turns
    }
}
