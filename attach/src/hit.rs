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
    let thread = thread::current();
    let mut mark = Mark::new();
    match guard::enter(thread, &mut mark) {
        Admission::Run => {}
        Admission::Nested => {
            missed(site, site.entry_probes());
            missed(site, site.exit_probes());
            return 0;
        }
        Admission::Exempt => return 0,
    }
    if let Some(probes) = site.entry_probes() {
        run(probes, None, regs, site, 0);
    }
    let mut through_stub = 0;
    if let Some(probes) = site.exit_probes() {
        // SAFETY: the thunk's contract: a return address is at `sp`.
        if unsafe { Shadow::push(thread, regs.sp, site, probes) } {
            through_stub = 1;
        } else {
            missed(site, Some(probes));
        }
    }
    guard::leave(thread, &mut mark);
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
    if admission == Admission::Run {
        guard::leave(thread, &mut mark);
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
    if admission == Admission::Run {
        guard::leave(thread, &mut mark);
    }
}

/// What the admission of a return means for its probes.
#[inline]
fn finish(admission: &Admission, frame: &Frame, regs: &mut PtRegs) {
    match admission {
        Admission::Run => run_exit(frame, regs),
        Admission::Nested => missed(frame.site(), Some(frame.probes())),
        Admission::Exempt => {}
    }
}

/// Runs those return probes of a frame that are still attached.
fn run_exit(frame: &Frame, regs: &mut PtRegs) {
    let site = frame.site();
    let Some(current) = site.exit_probes() else {
        return;
    };
    let unchanged = core::ptr::eq(current, frame.probes());
    run(
        frame.probes(),
        (!unchanged).then_some(current),
        regs,
        site,
        1,
    );
}

/// Runs probes in attach order; with `only`, those that it holds too.
#[inline]
fn run(
    probes: &ProbeList,
    only: Option<&ProbeList>,
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
        if only.is_some_and(|only| !only.holds(attached.id)) {
            continue;
        }
        let probe = attached.probe;
        // SAFETY: whoever attached the probe vouches for callback and data.
        unsafe { (probe.callback)(&raw mut *regs, probe.data, &raw mut hit) };
    }
}

#[cold]
fn missed(site: &Site, probes: Option<&ProbeList>) {
    if let Some(probes) = probes {
        site.missed.fetch_add(1, Ordering::Relaxed);
        probes.count_missed();
    }
}
