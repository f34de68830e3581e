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

use crate::arch::stub;
use crate::arch::thread::{self, Thread};
use crate::guard::{self, Admission, Mark};
use crate::probe::Hit;
use crate::session::{Cookie, Kept};
use crate::shadow::{Frame, Shadow};
use crate::site::{Attached, ProbeList, Site};

/// What [`on_entry`] gives: the function is entered through the return stub.
pub(crate) const THROUGH_STUB: u64 = 1;
/// What [`on_entry`] gives: the function is not run; `ax` is its value.
pub(crate) const OVERRIDDEN: u64 = 2;

/// A hit at a function's entry. Gives how to go on: [`THROUGH_STUB`],
/// [`OVERRIDDEN`], both or neither.
///
/// # Safety
/// Called by the entry thunk only: `regs` describes the calling thread,
/// stopped at `site`, with the return address at `regs.sp`.
pub(crate) unsafe extern "C" fn on_entry(regs: &mut PtRegs, site: &Site) -> u64 {
    let mut mark = Mark::new();
    let shadow = match guard::enter(thread::current(), &mut mark) {
        Admission::Run(shadow) => shadow,
        Admission::Nested => {
            missed(site, site.entry_probes(), |_| true);
            missed(site, site.exit_probes(), |attached| !attached.is_session);
            return 0;
        }
        Admission::Exempt => return 0,
    };
    let entry = site.entry_probes();
    let mut value = None;
    let through_stub = if entry.has_sessions {
        // SAFETY: as here.
        unsafe { enter_sessions(shadow, regs, site, &mut value) }
    } else {
        for attached in entry.iter() {
            let hit = call(shadow, attached, regs, site, core::ptr::null_mut(), 0).1;
            value = overriding(attached, &hit).or(value);
        }
        let exit = site.exit_probes();
        // SAFETY: as here.
        !exit.is_empty() && unsafe { hijack(shadow, regs, site, exit, &[]) }
    };
    guard::leave(shadow, &mut mark);
    let how = if through_stub { THROUGH_STUB } else { 0 };
    match value {
        Some(value) => {
            regs.ax = value;
            how | OVERRIDDEN
        }
        None => how,
    }
}

/// What the function is to return instead of being run, if a callback said so.
#[inline]
fn overriding(attached: &Attached, hit: &Hit) -> Option<u64> {
    (attached.may_override && hit.overrides == 1).then_some(hit.value)
}

/// Runs entry probes of which some are sessions, and sees to the return where
/// one goes on to it.
///
/// # Safety
/// As for [`on_entry`].
#[cold]
unsafe fn enter_sessions(
    shadow: &Shadow,
    regs: &mut PtRegs,
    site: &Site,
    value: &mut Option<u64>,
) -> bool {
    let exit = site.exit_probes();
    let mut kept = Kept::new();
    for attached in site.entry_probes().iter() {
        let mut cookie = 0;
        let place = match attached.is_session {
            true => &raw mut cookie,
            false => core::ptr::null_mut(),
        };
        let (result, hit) = call(shadow, attached, regs, site, place, 0);
        *value = overriding(attached, &hit).or(*value);
        if attached.is_session && result == 0 && !kept.keep(attached.id, cookie) {
            missed(site, exit, |other| other.id == attached.id);
        }
    }
    if kept.cookies().is_empty() && !exit.wants_every_return() {
        return false;
    }
    // SAFETY: the caller's contract.
    unsafe { hijack(shadow, regs, site, exit, kept.cookies()) }
}

/// Sees to it that `exit` and the sessions of `kept` run at the return.
///
/// # Safety
/// As for [`on_entry`].
#[inline]
unsafe fn hijack(
    shadow: &Shadow,
    regs: &PtRegs,
    site: &Site,
    exit: &ProbeList,
    kept: &[Cookie],
) -> bool {
    // SAFETY: the caller's contract: a return address is at `sp`.
    let hijacked = unsafe { shadow.push(regs.sp, site, exit.newest(), kept) };
    if !hijacked {
        missed(site, exit, |attached| {
            !attached.is_session || kept.iter().any(|cookie| cookie.id == attached.id)
        });
    }
    hijacked
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
    finish(thread, &admission, &frame, regs);
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
        finish(thread, &admission, &frame, regs);
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
fn finish(thread: &Thread, admission: &Admission, frame: &Frame, regs: &mut PtRegs) {
    let site = frame.site();
    let exit = site.exit_probes();
    // A session that was content with the entry has left nothing.
    let cookie = |attached: &Attached| Shadow::cookie(thread, frame.key, attached.id);
    match admission {
        Admission::Run(shadow) => {
            for attached in exit.iter().filter(|attached| attached.id <= frame.newest) {
                let place = match attached.is_session {
                    true => cookie(attached),
                    false => Some(core::ptr::null_mut()),
                };
                if let Some(place) = place {
                    call(shadow, attached, regs, site, place, 1);
                }
            }
        }
        Admission::Nested => missed(site, exit, |attached| {
            !attached.is_session || cookie(attached).is_some()
        }),
        Admission::Exempt => {}
    }
}

/// Runs one probe and counts it. Gives what its callback gave and left.
#[inline]
fn call(
    shadow: &Shadow,
    attached: &Attached,
    regs: &mut PtRegs,
    site: &Site,
    session_cookie: *mut u64,
    at_return: u32,
) -> (u64, Hit) {
    let mut hit = Hit::new(site.addr, session_cookie, at_return);
    shadow.count(attached.hits());
    let probe = attached.probe;
    // SAFETY: whoever attached the probe vouches for callback and data.
    let result = unsafe { (probe.callback)(&raw mut *regs, probe.data, &raw mut hit) };
    (result, hit)
}

#[cold]
fn missed(site: &Site, probes: &ProbeList, concerned: impl Fn(&Attached) -> bool) {
    if !probes.is_empty() {
        site.missed.fetch_add(1, Ordering::Relaxed);
        probes.count_missed(concerned);
    }
}
