//! What happens when gum says that a function was entered or left. Nothing
//! here allocates, locks, panics or calls libc; gum does, for each thread's
//! first hit.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::ffi::c_void;

use frida_gum_sys::GumInvocationContext;
use uapi::PtRegs;

use super::gum::Invocation;
use super::site::{Attached, Site};
use crate::arch::thread;
use crate::guard::{self, Admission, Mark};
use crate::probe::{Hit, Kind};
use crate::shadow::Shadow;

/// Sessions of a function that can go on to its return: the bits of a word.
const MOST_SESSIONS: usize = 64;

/// What the entry of a call leaves to its return.
#[derive(Clone, Copy)]
struct Kept {
    /// Where the return address was; anything else is another call's.
    slot: u64,
    /// The probes there were.
    probes: &'static [Attached],
    /// Bit n: the nth session goes on to the return.
    goes_on: u64,
    cookies: [u64; MOST_SESSIONS],
}

/// Listener of entries.
///
/// # Safety
/// Called by gum only, with the leaked [`Site`] as data.
pub(super) unsafe extern "C" fn on_entry(context: *mut GumInvocationContext, data: *mut c_void) {
    // SAFETY: the caller's contract.
    let (call, site) = unsafe { (Invocation::new(context), &*data.cast::<Site>()) };
    let probes = site.entries.list();
    admitted(site, probes.iter(), |shadow| {
        let mut regs = call.at_entry();
        for attached in probes {
            run(shadow, attached, site, &mut regs, core::ptr::null_mut(), 0);
        }
    });
}

/// Listener of calls, at the entry.
///
/// # Safety
/// As for [`on_entry`].
pub(super) unsafe extern "C" fn on_call(context: *mut GumInvocationContext, data: *mut c_void) {
    // SAFETY: the caller's contract.
    let (call, site) = unsafe { (Invocation::new(context), &*data.cast::<Site>()) };
    let mut kept = Kept {
        slot: 0,
        probes: site.calls.list(),
        goes_on: 0,
        cookies: [0; MOST_SESSIONS],
    };
    admitted(site, kept.probes.iter(), |shadow| {
        kept.slot = call.slot();
        let mut regs = call.at_entry();
        let mut cookies = kept.cookies.iter_mut().enumerate();
        for attached in kept.probes {
            match attached.kind {
                Kind::Return => {}
                Kind::Session => match cookies.next() {
                    Some((nth, cookie)) => {
                        let goes_on = run(shadow, attached, site, &mut regs, cookie, 0) == 0;
                        kept.goes_on |= u64::from(goes_on) << nth;
                    }
                    None => site.miss([attached].into_iter()),
                },
                _ => {
                    run(shadow, attached, site, &mut regs, core::ptr::null_mut(), 0);
                }
            }
        }
    });
    // SAFETY: gum gives as much as `Kept` needs.
    unsafe { call.kept::<Kept>().write(kept) };
}

/// Listener of calls, at the return.
///
/// # Safety
/// As for [`on_entry`].
pub(super) unsafe extern "C" fn on_return(context: *mut GumInvocationContext, data: *mut c_void) {
    // SAFETY: the caller's contract.
    let (call, site) = unsafe { (Invocation::new(context), &*data.cast::<Site>()) };
    let kept = call.kept::<Kept>();
    // SAFETY: memory for a `Kept`. The word is not this call's, whatever it
    // is, if the entry was not heard.
    if unsafe { (&raw const (*kept).slot).read() } != call.slot() {
        return;
    }
    // SAFETY: `on_call` has written it for this call.
    let mut kept = unsafe { *kept };
    let current = site.calls.list();
    let is_current = |attached: &&Attached| current.iter().any(|other| other.id == attached.id);
    let returns = || kept.probes.iter().filter(is_current);
    admitted(
        site,
        returns().filter(|a| a.kind == Kind::Return),
        |shadow| {
            let mut regs = call.at_return();
            let mut cookies = kept.cookies.iter_mut().enumerate();
            for attached in kept.probes {
                let cookie = match attached.kind {
                    Kind::Return => core::ptr::null_mut(),
                    Kind::Session => match cookies.next() {
                        Some((nth, cookie)) if kept.goes_on >> nth & 1 == 1 => &raw mut *cookie,
                        _ => continue,
                    },
                    _ => continue,
                };
                if is_current(&attached) {
                    run(shadow, attached, site, &mut regs, cookie, 1);
                }
            }
        },
    );
}

/// Runs `body` unless a probe of this thread runs already: then it counts a
/// miss for `probes`.
fn admitted<'a>(
    site: &Site,
    probes: impl Iterator<Item = &'a Attached>,
    body: impl FnOnce(&Shadow),
) {
    let mut mark = Mark::new();
    match guard::enter(thread::current(), &mut mark) {
        Admission::Run(shadow) => {
            body(shadow);
            guard::leave(shadow, &mut mark);
        }
        Admission::Nested => site.miss(probes),
        Admission::Exempt => {}
    }
}

fn run(
    shadow: &Shadow,
    attached: &Attached,
    site: &Site,
    regs: &mut PtRegs,
    session_cookie: *mut u64,
    at_return: u32,
) -> u64 {
    let mut hit = Hit::new(site.addr, session_cookie, at_return);
    let probe = attached.probe;
    shadow.count(probe.hits.offset());
    // SAFETY: whoever attached the probe vouches for callback and data.
    unsafe { (probe.callback)(&raw mut *regs, probe.data, &raw mut hit) }
}
