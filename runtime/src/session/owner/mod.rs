//! A session as its tool sees it: creating objects, announcing them, and
//! taking everything away at the end. It knows no fd of the tool and no
//! bpf(2) command.
//!
//! Reading order: this file (its life), `create` (its objects), `storage` (its
//! files), `numbers` (what tells its ids from those of others), `imports` (from
//! others), `deaths` (of its targets), `moved` (maps that go to the kernel).

mod create;
mod deaths;
mod imports;
mod moved;
mod numbers;
mod storage;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shm::Region;
use uapi::Errno;
use vm::ProgramSpec;

use super::claims::Claims;
use super::data::{self, Data, Extents, LinkCounters};
use super::objects::{self, ObjectKind, Objects, Table};
use super::process::{ProcessId, possible_cpus};
use super::roster::{ACK_TIMEOUT, AgentSlot, Laggards, Role, Roster};
use super::{DATA, Dirs, OBJECTS, SessionError, file, sweep, view};
use crate::maps::{Map, PerfRing};
use crate::tasks::TaskFields;

pub use moved::Left;
use storage::{Made, create_file, make_directory};

/// Fds of ours go above those that tools count on.
const LEAST_FD: i32 = 500;

/// A tool's session. One per tool process.
pub struct Session {
    dirs: Dirs,
    path: PathBuf,
    /// Who made it: a forked child must not take it away.
    owner: ProcessId,
    nr_cpus: u32,
    /// Keeps the lock that is the session's life.
    objects_fd: OwnedFd,
    data_fd: OwnedFd,
    data: Data,
    /// For readers in this process.
    objects: Objects,
    roster: Roster,
    slot: AgentSlot,
    inner: Mutex<Inner>,
    claims: Claims,
    laggards: Mutex<Laggards>,
    agents: Mutex<deaths::Agents>,
}

struct Inner {
    table: Table,
    payload: Extents,
    heap: Extents,
    maps: HashMap<u32, Arc<Map>>,
    rings: HashMap<u32, Arc<PerfRing>>,
    /// What only others use.
    waiting: Vec<u32>,
}

/// Where the storage of a map or perf ring lies, for mmap(2) by the tool.
#[derive(Debug)]
pub struct Storage {
    /// The file; the caller's own.
    pub fd: OwnedFd,
    /// Where the storage begins in it.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

impl Session {
    /// Makes a session, locks it, and joins the roster as a tool.
    ///
    /// # Errors
    /// Directories that are not ours or not writable, no space, no address
    /// space; each is one line for the user.
    pub fn create(dirs: &Dirs) -> Result<Session, SessionError> {
        Session::create_for(dirs, None)
    }

    /// The same, in the name of another process: the tool that this one serves.
    ///
    /// # Errors
    /// As [`Session::create`].
    pub fn create_for(dirs: &Dirs, tool: Option<i32>) -> Result<Session, SessionError> {
        let roster = Roster::open(dirs)?;
        let slot = roster.join(Role::Tool)?;
        let owner = slot.process();
        sweep::sweep(dirs);
        // One that is gone already needs no name.
        let tool = tool
            .and_then(|pid| ProcessId::of(pid).ok())
            .unwrap_or(owner);
        let made = make_directory(dirs, tool.pid)?;
        match Session::fill(dirs, &made, tool, roster, slot) {
            Ok(session) => Ok(session),
            Err(error) => {
                if let Ok(name) = file::c_path(&made.hidden) {
                    sweep::remove(&name);
                }
                sweep::sweep(dirs);
                Err(error)
            }
        }
    }

    fn fill(
        dirs: &Dirs,
        made: &Made,
        tool: ProcessId,
        roster: Roster,
        slot: AgentSlot,
    ) -> Result<Session, SessionError> {
        let owner = slot.process();
        let nr_cpus = possible_cpus();
        let objects_path = made.hidden.join(OBJECTS);
        let data_path = made.hidden.join(DATA);
        let (objects_region, mapped_fd) = create_file(&objects_path, objects::FILE_BYTES)?;
        drop(mapped_fd);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |errno| SessionError::file("write", &path, errno)
        };
        // A file of its own for the lock: a mapping keeps the open file it was
        // made from, and a forked child's copy of it the lock.
        let objects_fd = file::c_path(&objects_path)
            .and_then(|name| file::open(&name, libc::O_RDWR | libc::O_NOFOLLOW, 0))
            .map_err(failed(&objects_path))?;
        file::fallocate(&objects_fd, 0, 0, 2 * data::PAGE).map_err(failed(&objects_path))?;
        file::flock(&objects_fd, libc::LOCK_EX | libc::LOCK_NB).map_err(failed(&objects_path))?;
        let mut bytes = data::FILE_BYTES;
        let (data_region, data_fd) = loop {
            match create_file(&data_path, bytes) {
                Ok(file) => break file,
                Err(_) if bytes > data::LEAST_BYTES => {
                    bytes /= 2;
                    if let Ok(name) = file::c_path(&data_path) {
                        // Absent when the creation itself failed.
                        let _ = file::unlink(&name);
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let fixed = 2 * data::PAGE + u64::from(nr_cpus) * data::VCPU_BYTES;
        file::fallocate(&data_fd, 0, 0, fixed).map_err(failed(&data_path))?;
        let too_short = || failed(&data_path)(Errno::EINVAL);
        let data = Data::new(data_region).ok_or_else(too_short)?;
        let command = CString::new(format!("/proc/{}/comm", tool.pid));
        let command = command
            .ok()
            .and_then(|path| file::read_small(&path, 15).ok());
        let command = command.unwrap_or_default();
        let command = command.strip_suffix(b"\n").unwrap_or(&command);
        // Until others see the number.
        let choosing = numbers::Choosing::begin(&dirs.sessions);
        let number = numbers::free(&dirs.sessions);
        let objects = Objects::create(objects_region, nr_cpus, number, tool.pack(), command)
            .ok_or_else(too_short)?;
        drop(choosing);
        let rename =
            |from: &Path, to: &Path| file::rename(&file::c_path(from)?, &file::c_path(to)?);
        rename(&made.hidden, &made.path).map_err(failed(&made.path))?;
        Ok(Session {
            dirs: dirs.clone(),
            path: made.path.clone(),
            owner,
            nr_cpus,
            objects_fd: file::move_up(objects_fd, LEAST_FD),
            data_fd: file::move_up(data_fd, LEAST_FD),
            inner: Mutex::new(Inner {
                table: Table::new(objects.clone()),
                payload: Extents::new(objects::PAYLOAD, objects::FILE_BYTES - objects::PAYLOAD, 64),
                heap: Extents::new(data::HEAP, data.heap_bytes(), data::PAGE),
                maps: HashMap::new(),
                rings: HashMap::new(),
                waiting: Vec::new(),
            }),
            claims: Claims::of(&made.path),
            data,
            objects,
            roster,
            slot,
            laggards: Mutex::default(),
            agents: Mutex::default(),
        })
    }

    /// The session's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directories it was made in.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// The roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The tool's place in it.
    pub(super) fn slot(&self) -> &AgentSlot {
        &self.slot
    }

    /// Copies of each per-CPU value, and number of vCPUs.
    pub fn nr_cpus(&self) -> u32 {
        self.nr_cpus
    }

    /// The vCPU claims.
    pub fn vcpus(&self) -> Option<Region> {
        self.data.vcpus(self.nr_cpus)
    }

    /// The doorbell's page.
    pub fn doorbell(&self) -> Option<Region> {
        self.data.doorbell()
    }

    /// Where the kernel has a task's fields.
    pub fn tasks(&self) -> Option<TaskFields> {
        self.objects.tasks()
    }

    /// Notes where that is, for programs that are about to be made.
    pub fn note_tasks(&self, note: &[u8]) {
        // Fits: a test of `tasks` says so.
        let _ = self.lock().table.note_tasks(note);
    }

    /// Hit and miss counts of a link.
    pub fn counters(&self, link: u32) -> Option<LinkCounters> {
        self.data.counters(link)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A map.
    pub fn map(&self, id: u32) -> Option<Arc<Map>> {
        self.lock().maps.get(&id).cloned()
    }

    /// A perf ring.
    pub fn perf_ring(&self, id: u32) -> Option<Arc<PerfRing>> {
        self.lock().rings.get(&id).cloned()
    }

    /// A view of its own of a perf ring, for programs that run in the tool.
    pub fn open_perf_ring(&self, id: u32) -> Option<PerfRing> {
        view::perf_ring(&self.objects, &self.data, id)
    }

    /// Ids of all perf rings.
    pub fn perf_rings(&self) -> Vec<u32> {
        self.lock().rings.keys().copied().collect()
    }

    /// Whether a map of this session was frozen, by whomever.
    pub fn is_frozen(&self, id: u32) -> bool {
        self.objects.is_frozen(id)
    }

    /// The first id that an object of this session may have.
    pub fn first_id(&self) -> u32 {
        objects::first_id(self.objects.number())
    }

    /// A program, as agents read it.
    pub fn program(&self, id: u32) -> Option<ProgramSpec> {
        view::program(&self.objects, id)
    }

    /// Tells all targets to follow the links, and waits until they have: at
    /// most a second, and not again for one that did not answer. Make all
    /// changes of a batch first.
    pub fn publish(&self) {
        let mut laggards = self.laggards.lock().unwrap_or_else(PoisonError::into_inner);
        self.roster.publish(ACK_TIMEOUT, &mut laggards);
    }

    /// Orderly end: links go, targets follow, files are removed. In a forked
    /// child it does nothing. A tool that just exits need not call it: the
    /// kernel drops the lock and the sweeper cleans up.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if file::pid() != self.owner.pid {
            return;
        }
        if self.has_claims() {
            // The sweeper gets the lock and keeps what is claimed.
            self.slot.give_back();
            self.roster.bump();
            return;
        }
        let links: Vec<u32> = self
            .objects
            .all(ObjectKind::Link)
            .map(|record| record.id)
            .collect();
        let hooked = !links.is_empty();
        for id in links {
            // Each was just seen there.
            let _ = self.remove(id);
        }
        if hooked {
            self.publish();
        }
        if let Ok(name) = file::c_path(&self.path) {
            sweep::remove(&name);
        }
        if let Ok(name) = file::c_path(&self.dirs.sessions) {
            sweep::remove_empty(&name);
        }
        self.slot.give_back();
        self.roster.bump();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("path", &self.path)
            .field("lock", &self.objects_fd.as_raw_fd())
            .finish_non_exhaustive()
    }
}
