//! The user's own trace events, which all of the user's processes under bpftime
//! share: a file beside the tree of tracefs lists them, and the tree has a
//! directory for each. It knows no line's syntax and no program.
//!
//! Who changes them holds a lock on the tree; who reads them sees a whole list.
//! An event is in use while somebody has a shared lock on its `id` file.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use runtime::command::tracepoint::{self, Tracepoint};
use runtime::session::boot_id;
use uapi::Errno;

use super::command::{self, Command, Removal};
use super::probe::{Kind, Place, Probe};
use super::tree;

/// Above the ids of tracepoints.
const FIRST_ID: u32 = 1 << 17;
/// The list's name, beside the tree.
const LIST: &str = "probe_events";
/// Most bytes of a line, and of what is read of it at once
/// (`WRITE_BUFSIZE`).
const MOST_BYTES: usize = 4096;

/// Events and where they are shown.
pub struct Probes {
    root: PathBuf,
    all: Vec<Probe>,
    /// Held while they are changed.
    _lock: Option<File>,
}

fn to_errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Probes {
    /// Those that there are in a tree.
    pub fn read(root: &Path) -> Probes {
        let list = fs::read_to_string(root.with_file_name(LIST)).unwrap_or_default();
        let mut lines = list.lines();
        // Those of a boot before this one have gone with it.
        let all = match lines.next() == Some(&boot_id()) {
            true => lines.filter_map(Probe::of_kept).collect(),
            false => Vec::new(),
        };
        Probes {
            root: root.to_owned(),
            all,
            _lock: None,
        }
    }

    /// The same, to change them.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn lock(root: &Path) -> Result<Probes, Errno> {
        let lock = File::open(root).map_err(|error| to_errno(&error))?;
        lock.lock().map_err(|error| to_errno(&error))?;
        let probes = Probes {
            _lock: Some(lock),
            ..Probes::read(root)
        };
        Ok(probes)
    }

    /// What a file lists.
    pub fn listed(&self, kind: Kind) -> String {
        let own = self.all.iter().filter(|probe| probe.kind() == kind);
        own.map(|probe| format!("{probe}\n")).collect()
    }

    /// The probes of an event.
    pub fn of_id(&self, id: u32) -> Vec<&Probe> {
        self.all.iter().filter(|probe| probe.id == id).collect()
    }

    /// What write(2) does with bytes for a file: each line is one of
    /// [`command::parse`], and the first that fails ends it.
    ///
    /// # Errors
    /// EINVAL, ENOENT, EEXIST, EBUSY, E2BIG as in the kernel.
    pub fn write(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Errno> {
        let before = self.all.clone();
        let written = self.write_lines(kind, bytes);
        if self.all != before {
            self.store(&before).map_err(|error| to_errno(&error))?;
        }
        written
    }

    fn write_lines(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Errno> {
        for line in bytes
            .strip_suffix(b"\n")
            .unwrap_or(bytes)
            .split(|&b| b == b'\n')
        {
            if line.len() + 2 > MOST_BYTES {
                return Err(Errno::EINVAL);
            }
            let end = line.iter().position(|&byte| byte == b'#' || byte == 0);
            let line = &line[..end.unwrap_or(line.len())];
            match command::parse(kind, &String::from_utf8_lossy(line))? {
                Command::Nothing => {}
                Command::Add(probe) => self.add(*probe)?,
                Command::Remove(removal) => self.remove(kind, &removal)?,
            }
        }
        Ok(())
    }

    /// Takes away all of a file's, as who opens it with `O_TRUNC` does.
    ///
    /// # Errors
    /// EBUSY when one is in use.
    pub fn clear(&mut self, kind: Kind) -> Result<(), Errno> {
        let own = |probe: &&Probe| probe.kind() == kind;
        if self.all.iter().filter(own).any(|probe| self.is_used(probe)) {
            return Err(Errno::EBUSY);
        }
        let before = self.all.clone();
        self.all.retain(|probe| probe.kind() != kind);
        if self.all != before {
            self.store(&before).map_err(|error| to_errno(&error))?;
        }
        Ok(())
    }

    fn add(&mut self, mut probe: Probe) -> Result<(), Errno> {
        let counter = |probe: &Probe| match probe.place {
            Place::File { counter, .. } => counter,
            Place::Function { .. } => 0,
        };
        let same_place = |other: &&Probe| other.is_at_place_of(&probe);
        let mut there = self.all.iter().filter(same_place);
        if there.any(|other| counter(other) != counter(&probe)) {
            return Err(Errno::EINVAL);
        }
        // As the kernel, which has the function: what it cannot be put at is
        // told when the event is opened.
        if let Place::Function { symbol, .. } = &probe.place
            && runtime::command::kprobe::Kprobe::find(symbol, probe.at_return).is_none()
        {
            return Err(Errno::ENOENT);
        }
        let event: Vec<&Probe> = self.all.iter().filter(|p| p.is_of_event(&probe)).collect();
        match event.first() {
            Some(first) => {
                let is_like = first.arguments.len() == probe.arguments.len()
                    && first
                        .arguments
                        .iter()
                        .zip(&probe.arguments)
                        .all(|(a, b)| a.is_like(b));
                let is_there = |other: &&Probe| {
                    other.is_at_place_of(&probe)
                        && other
                            .arguments
                            .iter()
                            .map(|a| &a.body)
                            .eq(probe.arguments.iter().map(|a| &a.body))
                };
                let is_other = first.kind() != probe.kind() || first.at_return != probe.at_return;
                if is_other || !is_like || event.iter().any(is_there) {
                    return Err(Errno::EEXIST);
                }
                probe.id = first.id;
            }
            None => {
                if Tracepoint::find(&probe.group, &probe.name).is_some() {
                    return Err(Errno::EEXIST);
                }
                let used: BTreeSet<u32> = self.all.iter().map(|probe| probe.id).collect();
                probe.id = (FIRST_ID..)
                    .find(|id| !used.contains(id))
                    .ok_or(Errno::ENOMEM)?;
            }
        }
        self.all.push(probe);
        Ok(())
    }

    fn remove(&mut self, kind: Kind, removal: &Removal) -> Result<(), Errno> {
        let goes: Vec<Probe> = self
            .all
            .iter()
            .filter(|probe| probe.kind() == kind && removal.matches(probe))
            .cloned()
            .collect();
        if goes.is_empty() {
            return Err(Errno::ENOENT);
        }
        for probe in goes {
            let others = self
                .all
                .iter()
                .filter(|other| other.is_of_event(&probe))
                .count();
            if others == 1 && self.is_used(&probe) {
                return Err(Errno::EBUSY);
            }
            self.all.retain(|other| *other != probe);
        }
        Ok(())
    }

    fn directory(&self, probe: &Probe) -> PathBuf {
        self.root
            .join("events")
            .join(&probe.group)
            .join(&probe.name)
    }

    /// Whether somebody has the probe's event open.
    fn is_used(&self, probe: &Probe) -> bool {
        let id = File::open(self.directory(probe).join("id"));
        id.is_ok_and(|id| matches!(id.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Says that the event is in use, until the file is closed.
    ///
    /// # Errors
    /// ENOENT when it has gone meanwhile.
    pub fn used(&self, probe: &Probe) -> Result<File, Errno> {
        let id = File::open(self.directory(probe).join("id")).map_err(|_| Errno::ENOENT)?;
        id.lock_shared().map_err(|error| to_errno(&error))?;
        Ok(id)
    }

    /// Has everybody see the list.
    fn store(&self, before: &[Probe]) -> io::Result<()> {
        let event = |probe: &Probe| self.directory(probe);
        let is: BTreeSet<PathBuf> = self.all.iter().map(event).collect();
        let was: BTreeSet<PathBuf> = before.iter().map(event).collect();
        for gone in was.difference(&is) {
            drop(fs::remove_dir_all(gone));
            if let Some(group) = gone.parent() {
                forget_group(group);
            }
        }
        for probe in &self.all {
            let directory = event(probe);
            // A look at each of thousands would take longer than all the rest.
            if !was.contains(&directory) && !directory.join("id").exists() {
                let text = format!(
                    "name: {}\nID: {}\nformat:\n{}{}",
                    probe.name,
                    probe.id,
                    tracepoint::COMMON,
                    probe.format()
                );
                tree::make_event(&self.root, &directory, probe.id, &text)?;
            }
        }
        for kind in [Kind::Uprobe, Kind::Kprobe] {
            tree::replace(&self.root.join(kind.file()), &self.listed(kind))?;
        }
        let mut list = boot_id() + "\n";
        list.extend(self.all.iter().map(|probe| probe.kept() + "\n"));
        tree::replace(&self.root.with_file_name(LIST), &list)
    }
}

/// Removes the directory of a group without events.
fn forget_group(group: &Path) {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let has_events = entries.into_iter().any(|entry| entry.path().is_dir());
    if !has_events {
        drop(fs::remove_dir_all(group));
    }
}
