//! Until when an object is: as long as a supervised process has an fd of it.
//! A close of the last one that is seen acts before it returns, as the
//! kernel's does; what goes unseen (exec, exit) is found soon. An fd that is
//! on its way through a socket, and nowhere else, is missed. It knows no
//! object.

use std::collections::{BTreeSet, HashSet};
use std::ffi::c_int;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{first, table};
use crate::fds::FDS;
use crate::{caller, raw};

/// Threads of whom calls were heard since there were several processes.
static HEARD: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// A supervised process has made others.
static CHILDREN: AtomicBool = AtomicBool::new(false);
/// Fds may have gone unseen.
static DOUBT: AtomicBool = AtomicBool::new(false);

/// The caller makes a process.
pub fn expect_children() {
    CHILDREN.store(true, Ordering::Release);
    look_soon();
}

/// Whether supervised processes have made others.
pub fn has_children() -> bool {
    CHILDREN.load(Ordering::Acquire)
}

/// A call of this thread was heard.
pub fn heard(tid: i32) {
    if has_children() {
        let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
        heard.insert(tid);
    }
}

/// Something happens that may close fds.
pub fn look_soon() {
    DOUBT.store(true, Ordering::Release);
}

/// The caller closes `theirs`: what nobody else has open goes.
pub fn close(theirs: c_int) {
    let Some(own) = caller::own_fd(theirs) else {
        return;
    };
    if !table::is_held(own, &processes(caller::pid()), Some(theirs)) {
        forget(own);
    }
}

/// Closes a fd here, and lets its object go.
pub fn forget(own: c_int) {
    FDS.remove(own);
    raw::close(own);
}

/// The processes that may share fds with `pid`, that one first.
fn processes(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    if has_children() {
        all.extend(family().into_iter().filter(|other| *other != pid));
    }
    all
}

/// The first process, those that were heard, and all that descend from them.
fn family() -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut left: Vec<i32> = first().into_iter().collect();
    let mut heard = HEARD.lock().unwrap_or_else(PoisonError::into_inner);
    heard.retain(|tid| is_there(*tid));
    left.extend(heard.iter().map(|tid| caller::process_of(*tid)));
    drop(heard);
    while let Some(pid) = left.pop() {
        if !is_there(pid) || !found.insert(pid) {
            continue;
        }
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(task.path().join("children"));
            let text = text.unwrap_or_default();
            left.extend(
                text.split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
    }
    found
}

fn is_there(id: i32) -> bool {
    Path::new(&format!("/proc/{id}/fd")).exists()
}

/// Looks for objects whose fds went unseen.
#[derive(Default)]
pub struct Looks {
    family: BTreeSet<i32>,
    /// Looks that are still to be made.
    left: u32,
    /// Whom nobody had at the last look; it may have been on its way to its
    /// first owner.
    missed: HashSet<c_int>,
}

impl Looks {
    /// A look, if there is reason for one.
    pub fn look(&mut self) {
        let family = match has_children() {
            true => family(),
            false => first().into_iter().collect(),
        };
        if DOUBT.swap(false, Ordering::AcqRel) || family != self.family {
            self.left = 2;
        }
        self.family = family;
        if self.left == 0 {
            self.missed.clear();
            return;
        }
        self.left -= 1;
        let family: Vec<i32> = self.family.iter().copied().collect();
        let is_missed = |own: &c_int| !table::is_held(*own, &family, None);
        let missed: HashSet<c_int> = FDS.of_objects().into_iter().filter(is_missed).collect();
        for own in missed.intersection(&self.missed) {
            forget(*own);
        }
        self.missed = missed.difference(&self.missed).copied().collect();
    }
}
