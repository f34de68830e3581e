//! A library to preload into real programs: it probes every function of every
//! module that the program has at its start, and leaves no trace but a line in
//! a file. What the program prints and returns must not change. It knows no
//! eBPF and no session: the hook engine alone is on trial here.
//!
//! Reading order: this file (when), [`settings`] (what is asked), [`modules`]
//! (where), [`torment`] (attach and detach), [`report`] (the line).

mod modules;
mod report;
mod settings;
mod torment;

use std::sync::OnceLock;

use settings::Settings;
use torment::Torment;

/// Runs when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

/// Runs when the process exits.
#[used]
#[unsafe(link_section = ".fini_array")]
static ON_EXIT: extern "C" fn() = on_exit;

static TORMENT: OnceLock<Option<Torment>> = OnceLock::new();

extern "C" fn on_load() {
    let errno = errno();
    TORMENT.get_or_init(|| Torment::begin(Settings::from_environment()?));
    set_errno(errno);
}

extern "C" fn on_exit() {
    let errno = errno();
    if let Some(Some(torment)) = TORMENT.get() {
        torment.end();
    }
    set_errno(errno);
}

fn errno() -> i32 {
    // SAFETY: the location is this thread's.
    unsafe { *libc::__errno_location() }
}

fn set_errno(errno: i32) {
    // SAFETY: the location is this thread's.
    unsafe { *libc::__errno_location() = errno };
}
