//! Hooks of the agent's own, and what stands in for jumps while that is safe:
//! breakpoints, and the dispatch of system calls.

use std::time::{Duration, Instant};

use super::State;
use crate::modules::Image;
use crate::{alone, breakpoints, dispatch, exit, loader, sandbox, syscalls};

/// How long breakpoints wait for all system calls to be hooked, and how often
/// they look.
const CALLS_HOOKED: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(10);

impl State {
    /// Hooks the loader, so that dlopen(3) waits for a round: a link's file may
    /// still come. `true` the first time.
    pub(super) fn follow_loader(&mut self) -> bool {
        if self.loader_followed {
            return false;
        }
        let Ok(image) = Image::read() else {
            return false;
        };
        self.loader_followed = true;
        let probe = loader::probe(&image, &mut self.hooks.modules);
        let errors = self.hooks.attach(probe.as_slice());
        let errors = errors
            .iter()
            .map(|error| format!("dlopen is not followed: {error}"));
        self.unfollowed.extend(errors);
        true
    }

    /// Hooks the calls for which the agent's thread goes away, or that it has to
    /// notice, in a process that did not preload this library.
    pub(super) fn follow_calls(&mut self) {
        if !self.injected || self.calls_followed {
            return;
        }
        self.calls_followed = true;
        let Ok(image) = Image::read() else { return };
        let modules = &mut self.hooks.modules;
        let probes = alone::probes(&image, modules).and_then(|mut probes| {
            probes.push(exit::probe(&image, modules)?);
            probes.extend(sandbox::probes(&image, modules)?);
            Ok(probes)
        });
        match probes {
            Ok(probes) => {
                let errors = self.hooks.attach(&probes);
                let errors = errors
                    .iter()
                    .map(|error| format!("a call of libc is not followed: {error}"));
                self.unfollowed.extend(errors);
            }
            Err(reason) => {
                let reason = format!("calls of libc are not followed: {reason}");
                self.unfollowed.push(reason);
            }
        }
    }

    /// Places breakpoints where no jump fits, and takes them away when they are
    /// not safe any more. Whether anything has changed.
    pub(super) fn follow_breakpoints(&mut self) -> bool {
        let has_some = self.hooks.breakpoints().next().is_some();
        if has_some && let Some(why) = self.breakpoints.doubt(self.syscalls.is_whole()) {
            self.hooks.remove_breakpoints(&why);
            self.breakpoints.leave();
            return true;
        }
        if !self.hooks.takes_breakpoints() {
            if !has_some {
                self.breakpoints.leave();
            }
            return false;
        }
        if breakpoints::is_traced() {
            self.hooks.refuse_breakpoints("it is being debugged", true);
            return true;
        }
        match self.allow_breakpoints() {
            Ok(()) => self.hooks.place_breakpoints(),
            Err(why) => {
                // Threads may need longer to get past instructions that are
                // hooked now.
                let for_now = self.syscalls.is_whole() && !syscalls::sees_all();
                self.hooks.refuse_breakpoints(&why, for_now);
                if !has_some && !for_now {
                    self.breakpoints.leave();
                }
            }
        }
        true
    }

    /// Makes breakpoints safe.
    fn allow_breakpoints(&mut self) -> Result<(), String> {
        self.breakpoints.prepare()?;
        // Rounds that hook system calls, until no thread is on its way past one.
        let deadline = Instant::now() + CALLS_HOOKED;
        loop {
            self.follow_links();
            if syscalls::sees_all() {
                return self.breakpoints.arm();
            }
            if Instant::now() >= deadline {
                return Err("not every system call of this process can be seen".to_owned());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Has calls of text that may change dispatched while that is wanted and
    /// safe. Whether anything has changed.
    pub(super) fn follow_dispatch(&mut self) -> bool {
        let is_wanted = self.dispatch.is_tried(self.syscalls.wants_changing());
        if dispatch::is_on() {
            // What is hooked no more, or not yet, raises SIGSYS as well.
            if is_wanted && self.dispatch.is_sound() {
                return false;
            }
        } else if is_wanted && self.allow_dispatch() {
            return true;
        }
        if !self.dispatch.is_prepared() {
            return false;
        }
        let is_over = self.dispatch.leave();
        self.syscalls.is_dispatched = !is_over;
        is_over
    }

    /// Makes it safe, and begins.
    fn allow_dispatch(&mut self) -> bool {
        self.syscalls.is_dispatched = self.dispatch.prepare();
        let deadline = Instant::now() + CALLS_HOOKED;
        while self.syscalls.is_dispatched && Instant::now() < deadline {
            self.follow_links();
            if self.syscalls.is_whole_but_changing() {
                return self.dispatch.arm().is_ok();
            }
            std::thread::sleep(LOOK);
        }
        false
    }
}
