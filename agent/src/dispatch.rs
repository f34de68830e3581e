//! System calls of text that is writable, too, by Syscall User Dispatch: where
//! signal handlers are allowed, programs trace calls, and all other text is
//! hooked. It knows no link; how it works is the engine's.

use std::ops::Range;
use std::time::{Duration, Instant};

use attach::breakpoints as signals;
use attach::syscalls::dispatch;

use crate::breakpoints::{self, Leaving};
use crate::log::debug;
use crate::syscalls::observers::{self, Observer};

/// That its calls are hooked is what it is for, as breakpoints have one.
static OBSERVER: Observer = Observer {
    numbers: signals::OBSERVED,
    before: None,
    after: None,
    blind: None,
};

/// How long leaving waits for threads that are about to run the handler.
const LAST: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// What has been done for it.
#[derive(Default)]
pub struct Dispatch {
    is_prepared: bool,
    is_armed: bool,
    /// How often it did not begin in a row.
    tries: u32,
    leaving: Leaving,
}

/// Tries until it is given up.
const TRIES: u32 = 10;

/// Why it would do harm.
fn doubt() -> Option<&'static str> {
    if dispatch::is_forbidden() {
        return Some("the process restricts or dispatches its own calls");
    }
    if breakpoints::is_traced() {
        return Some("it is being debugged");
    }
    breakpoints::is_filtered().then_some("its calls are filtered")
}

/// Whether it is under way.
pub fn is_on() -> bool {
    dispatch::is_on()
}

impl Dispatch {
    /// Whether it is to begin, or go on, where somebody `wants` it.
    pub fn is_tried(&mut self, wants: bool) -> bool {
        if !wants {
            self.tries = 0;
        }
        wants
            && self.tries < TRIES
            && doubt()
                .inspect(|why| debug!("calls are not dispatched: {why}"))
                .is_none()
    }

    /// Whether anything was done for it.
    pub fn is_prepared(&self) -> bool {
        self.is_prepared
    }

    /// Has all calls hooked; to be called before the rounds that do.
    pub fn prepare(&mut self) -> bool {
        self.tries += 1;
        self.is_prepared = observers::add(&OBSERVER);
        self.is_prepared
    }

    /// All text that does not change is hooked.
    pub fn arm(&mut self) -> Result<(), String> {
        let own = own_text().ok_or("this library is not found")?;
        dispatch::start(&own).map_err(|error| format!("SIGSYS cannot be handled: {error}"))?;
        signals::enter_thread();
        self.is_armed = true;
        self.tries = 0;
        self.leaving = Leaving::default();
        debug!("SIGSYS is ours");
        Ok(())
    }

    /// Whether what it rests on is still so.
    pub fn is_sound(&self) -> bool {
        !signals::has_escaped() && dispatch::is_sound()
    }

    /// Calls pass. Whether all that was done for it is undone.
    pub fn leave(&mut self) -> bool {
        dispatch::stop();
        if self.is_armed {
            if !self.leaving.is_over() {
                return false;
            }
            signals::disarm();
            signals::leave_thread();
            debug!("SIGSYS is the program's own again");
        }
        self.is_armed = false;
        if std::mem::take(&mut self.is_prepared) {
            observers::remove(&OBSERVER);
        }
        true
    }

    /// As [`Dispatch::leave`], by when the agent goes.
    pub fn leave_now(&mut self) {
        let deadline = Instant::now() + LAST;
        while !self.leave() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
    }
}

/// Where this library's code lies.
fn own_text() -> Option<Range<usize>> {
    unsafe extern "C" fn look(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        found: *mut libc::c_void,
    ) -> i32 {
        let at = own_text as fn() -> Option<Range<usize>> as usize;
        // SAFETY: the loader's structure, and what `own_text` passed.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<Option<Range<usize>>>()) };
        // SAFETY: the loader's program headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        for header in headers {
            let start = (info.dlpi_addr + header.p_vaddr) as usize;
            let range = start..start + header.p_memsz as usize;
            if header.p_type == libc::PT_LOAD && range.contains(&at) {
                *found = Some(range);
            }
        }
        0
    }
    let mut found: Option<Range<usize>> = None;
    // SAFETY: `look` gets what it expects.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}
