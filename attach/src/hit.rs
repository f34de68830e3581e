//! What happens at a hit: admit it, run the probes, take or give back the
//! return address. Reachable from trampolines: no allocation, no lock, no
//! libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::Ordering;

use uapi::PtRegs;

use crate::arch::{stub, thread};
use crate::guard::{self, Admission, Mark};
use crate::probe::Hit;
use crate::shadow::{Frame, Shadow};
use crate::site::{ProbeList, Site};

/// A hit at a function's entry. Gives 1 if the function is to be entered
/// through the return stub, else 0.
///
/// # Safety
/// Called by the entry thunk only: `regs` describes the calling thread,
/// stopped at `site`, with the return address at `regs.sp`.
pub(crate) unsafe extern "C" fn on_entry(regs: &mut PtRegs, site: &Site) -> u64 {
    let mut mark = Mark::new();
    let shadow = match guard::enter(thread::current(), &mut mark) {
        Admission::Run(shadow) => shadow,
        Admission::Nested => {
            missed(site, site.entry_probes());
            missed(site, site.exit_probes());
            return 0;
        }
        Admission::Exempt => return 0,
    };
    run(shadow, site.entry_probes(), u64::MAX, regs, site, 0);
    let mut through_stub = 0;
    let probes = site.exit_probes();
    if !probes.is_empty() {
        // SAFETY: the thunk's contract: a return address is at `sp`.
        if unsafe { shadow.push(regs.sp, site, probes.newest()) } {
            through_stub = 1;
        } else {
            missed(site, probes);
        }
    }
    guard::leave(shadow, &mut mark);
    through_stub
}

/// A hijacked function has returned. Runs its probes and writes the true
/// return address to `slot`.
///
/// # Safety
/// Called by the return stub only: `regs` describes the calling thread after
/// the return, `slot` is where the return address was.
pub(crate) unsafe extern "C" fn on_return(regs: &mut PtRegs, slot: *mut u64) {
    let thread = thread::current();
    let key = slot as u64 + 8;
    let mut mark = Mark::new();
    let Some(newest) = Shadow::newest(thread, key) else {
        // SAFETY: as here.
        return unsafe { on_odd_return(regs, slot) };
    };
    let frame = newest.frame();
    regs.ip = frame.return_address;
    let admission = guard::enter(thread, &mut mark);
    finish(&admission, &frame, regs);
    // SAFETY: the stub's contract. Written before the entry goes, so that an
    // unwinder always finds the address in one of them.
    unsafe { slot.write_volatile(frame.return_address) };
    newest.pop();
    if let Admission::Run(shadow) = admission {
        guard::leave(shadow, &mut mark);
    }
}

/// The return of a frame that is not the thread's newest, or is a tail call's.
///
/// # Safety
/// As for [`on_return`].
#[cold]
unsafe fn on_odd_return(regs: &mut PtRegs, slot: *mut u64) {
    let thread = thread::current();
    let key = slot as u64 + 8;
    let label = stub::label();
    let mut mark = Mark::new();
    // A tail call leaves several frames with one slot; the last has the address.
    let return_address = Shadow::return_address(thread, key);
    regs.ip = return_address;
    let admission = guard::enter(thread, &mut mark);
    loop {
        let frame = Shadow::last(thread, key);
        finish(&admission, &frame, regs);
        let is_outermost = frame.return_address != label;
        if is_outermost {
            // SAFETY: as in `on_return`.
            unsafe { slot.write_volatile(return_address) };
        }
        Shadow::pop(thread, key);
        if is_outermost {
            break;
        }
    }
    if let Admission::Run(shadow) = admission {
        guard::leave(shadow, &mut mark);
    }
}

/// What the admission of a return means for its probes: those that were there
/// when the function was entered, and are still.
#[inline]
fn finish(admission: &Admission, frame: &Frame, regs: &mut PtRegs) {
    let site = frame.site();
    match admission {
        Admission::Run(shadow) => {
            run(shadow, site.exit_probes(), frame.newest, regs, site, 1);
        }
        Admission::Nested => missed(site, site.exit_probes()),
        Admission::Exempt => {}
    }
}

/// Runs probes in attach order, up to the one with id `newest`.
#[inline]
fn run(
    shadow: &Shadow,
    probes: &ProbeList,
    newest: u64,
    regs: &mut PtRegs,
    site: &Site,
    at_return: u32,
) {
    let mut hit = Hit {
        func_ip: site.addr,
        session_cookie: core::ptr::null_mut(),
        at_return,
    };
    for attached in probes.iter() {
        if attached.id > newest {
            break;
        }
        shadow.count(attached.hits());
        let probe = attached.probe;
        // SAFETY: whoever attached the probe vouches for callback and data.
        unsafe { (probe.callback)(&raw mut *regs, probe.data, &raw mut hit) };
    }
}

#[cold]
fn missed(site: &Site, probes: &ProbeList) {
    if !probes.is_empty() {
        site.missed.fetch_add(1, Ordering::Relaxed);
        probes.count_missed();
    }
}
