//! Helpers of which a program may call as many as it likes and still be called
//! where nobody has saved vector registers, where DF is set or the stack not
//! aligned: if their machine code bears it out, which is not known here. What
//! they seldom do they have done aside.

use vm::link::HelperFn;

use super::{task, time};
use crate::arch::aside::bpftime_runtime_aside;
use crate::clock;
use crate::maps;

/// A function that may be such a one.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    /// What programs call.
    pub call: HelperFn,
    /// What it calls by a register.
    pub leads_to: Option<usize>,
}

/// All of them. Call outside of trampolines.
pub fn all() -> impl Iterator<Item = Quiet> {
    clock::init();
    let clock = clock::quick_function();
    let own = [
        (task::get_current_pid_tgid::ROW.call, None),
        (task::get_attach_cookie::ROW.call, None),
        (task::get_func_ip::ROW.call, None),
        (time::ktime_get_ns::ROW.call, clock),
        (time::ktime_get_boot_ns::ROW.call, clock),
    ];
    let maps = maps::DIRECT_CALLS.map(|call| (call, None));
    let all = own.into_iter().chain(maps);
    all.map(|(call, leads_to)| Quiet { call, leads_to })
}

/// Where all of them have done what may change vector registers.
pub fn aside() -> usize {
    bpftime_runtime_aside as *const () as usize
}
