//! A session as its tool sees it: creating objects, announcing them, and
//! taking everything away at the end. It knows no fd of the tool and no
//! bpf(2) command.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shm::{Region, Segment};
use uapi::Errno;
use vm::ProgramSpec;

use super::data::{self, Data, Extents, LinkCounters};
use super::link::{LinkBody, LinkSpec, ProgramBody, RingBody};
use super::objects::{self, NewRecord, ObjectKind, Objects, Place, Pod, Table};
use super::process::{ProcessId, possible_cpus};
use super::roster::{ACK_TIMEOUT, AgentSlot, Laggards, Role, Roster};
use super::{ARRAY_PREFIX, DATA, Dirs, NEW_PREFIX, OBJECTS, SessionError, file, sweep, view};
use crate::maps::{Map, MapSpec, PerfRing};

/// Fds of ours go above those that tools count on.
const LEAST_FD: i32 = 500;
/// Storage up to this size is allocated when it is created, so that a full
/// file system is an error of the creation and not a SIGBUS of the use.
const EAGER_BYTES: u64 = 1 << 20;
/// Larger storage stays sparse, but is refused when less than this is free.
const RESERVE_BYTES: u64 = 4 << 20;

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
    laggards: Mutex<Laggards>,
}

struct Inner {
    table: Table,
    payload: Extents,
    heap: Extents,
    maps: HashMap<u32, Arc<Map>>,
    rings: HashMap<u32, Arc<PerfRing>>,
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
        let roster = Roster::open(dirs)?;
        let slot = roster.join(Role::Tool)?;
        let owner = slot.process();
        sweep::sweep(dirs);
        let made = make_directory(dirs, owner.pid)?;
        match Session::fill(dirs, &made, owner, roster, slot) {
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
        owner: ProcessId,
        roster: Roster,
        slot: AgentSlot,
    ) -> Result<Session, SessionError> {
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
        let command = file::read_small(c"/proc/self/comm", 15).unwrap_or_default();
        let command = command.strip_suffix(b"\n").unwrap_or(&command);
        let objects = Objects::create(objects_region, nr_cpus, owner.pack(), command)
            .ok_or_else(too_short)?;
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
            }),
            data,
            objects,
            roster,
            slot,
            laggards: Mutex::default(),
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

    /// Hit and miss counts of a link.
    pub fn counters(&self, link: u32) -> Option<LinkCounters> {
        self.data.counters(link)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a map. The fd is the file of a `BPF_F_MMAPABLE` array, to be
    /// given to the tool as the map's fd.
    ///
    /// # Errors
    /// As `BPF_MAP_CREATE`: `EINVAL` and `E2BIG` for the spec, `ENOMEM`
    /// without space, `EMFILE` without fds.
    pub fn create_map(&self, mut spec: MapSpec) -> Result<(u32, Arc<Map>, Option<OwnedFd>), Errno> {
        if spec.seed == 0 && !spec.has(uapi::map::BPF_F_ZERO_SEED) {
            spec.seed = file::random()?;
        }
        let len = Map::storage_size(&spec, self.nr_cpus)?
            .max(1)
            .checked_next_multiple_of(data::PAGE)
            .ok_or(Errno::E2BIG)?;
        let mut inner = self.lock();
        let id = inner.table.reserve()?;
        let mut made = self.map_storage_for(&mut inner, id, &spec, len);
        if let Ok((region, place, offset, _)) = &made {
            let published = Map::create(spec, region.clone(), self.nr_cpus).and_then(|map| {
                let record = NewRecord {
                    kind: ObjectKind::Map,
                    offset: *offset,
                    len,
                    place: *place,
                    state: 0,
                    body: spec.bytes(),
                };
                self.publish_record(&mut inner, id, &record)?;
                Ok(map)
            });
            match published {
                Ok(map) => {
                    let map = Arc::new(map);
                    inner.maps.insert(id, map.clone());
                    let fd = made.ok().and_then(|(.., fd)| fd);
                    return Ok((id, map, fd));
                }
                Err(errno) => {
                    self.free_storage(&mut inner, id, *place, *offset, len);
                    made = Err(errno);
                }
            }
        }
        inner.table.release(id);
        Err(made.err().unwrap_or(Errno::ENOMEM))
    }

    fn map_storage_for(
        &self,
        inner: &mut Inner,
        id: u32,
        spec: &MapSpec,
        len: u64,
    ) -> Result<(Region, Place, u64, Option<OwnedFd>), Errno> {
        if spec.map_type == uapi::map::BPF_MAP_TYPE_ARRAY
            && spec.map_flags & uapi::map::BPF_F_MMAPABLE != 0
        {
            let path = self.array_path(id);
            let (region, fd) = create_file(&path, len).map_err(|error| match error {
                SessionError::File {
                    errno: Errno::EMFILE,
                    ..
                } => Errno::EMFILE,
                _ => Errno::ENOMEM,
            })?;
            if let Err(errno) = make_room(&fd, 0, len) {
                let _ = file::unlink(&file::c_path(&path)?);
                return Err(errno);
            }
            return Ok((region, Place::Array, 0, Some(fd)));
        }
        let (region, offset) = self.take_heap(inner, len)?;
        Ok((region, Place::Data, offset, None))
    }

    fn array_path(&self, id: u32) -> PathBuf {
        self.path.join(format!("{ARRAY_PREFIX}{id}"))
    }

    fn take_heap(&self, inner: &mut Inner, len: u64) -> Result<(Region, u64), Errno> {
        let offset = inner.heap.take(len).ok_or(Errno::ENOMEM)?;
        let region = self.data.storage(offset, len);
        match make_room(&self.data_fd, offset, len).and(region.ok_or(Errno::ENOMEM)) {
            Ok(region) => Ok((region, offset)),
            Err(errno) => {
                inner.heap.give(offset, len);
                Err(errno)
            }
        }
    }

    fn free_storage(&self, inner: &mut Inner, id: u32, place: Place, offset: u64, len: u64) {
        match place {
            Place::Data => {
                // Gives the pages back and leaves zeros for the next owner.
                let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                if file::fallocate(&self.data_fd, punch, offset, len).is_ok() {
                    inner.heap.give(offset, len);
                }
            }
            Place::Array => {
                if let Ok(name) = file::c_path(&self.array_path(id)) {
                    // The tool's fd and the targets' mappings keep the pages.
                    let _ = file::unlink(&name);
                }
            }
            Place::Objects => inner.payload.give(offset, len),
        }
    }

    fn publish_record(
        &self,
        inner: &mut Inner,
        id: u32,
        record: &NewRecord<'_>,
    ) -> Result<(), Errno> {
        let (offset, len) = Table::range(id);
        file::fallocate(&self.objects_fd, libc::FALLOC_FL_KEEP_SIZE, offset, len)
            .map_err(no_memory)?;
        inner.table.publish_record(id, record).ok_or(Errno::ENOMEM)
    }

    /// Reserves an id, publishes the record under it, or gives both back.
    fn insert(&self, inner: &mut Inner, record: &NewRecord<'_>) -> Result<u32, Errno> {
        let id = inner.table.reserve()?;
        self.publish_record(inner, id, record)
            .inspect_err(|_| inner.table.release(id))?;
        Ok(id)
    }

    /// `BPF_MAP_FREEZE`. The contents of an array that programs only read are
    /// copied to `objects`, which no target can write: programs are verified
    /// with these bytes as constants, and read them from there.
    ///
    /// # Errors
    /// `ENOENT` without such a map, `EPERM` if frozen already, `ENOMEM`
    /// without space.
    pub fn freeze_map(&self, id: u32) -> Result<(), Errno> {
        let mut inner = self.lock();
        let map = inner.maps.get(&id).cloned().ok_or(Errno::ENOENT)?;
        let record = self
            .objects
            .find(id, ObjectKind::Map)
            .ok_or(Errno::ENOENT)?;
        map.freeze()?;
        let Some(contents) = map.rodata() else {
            return Ok(());
        };
        let offset = inner.payload.take(record.len).ok_or(Errno::ENOMEM)?;
        let state = u32::try_from(offset).map_err(|_| Errno::ENOMEM)?;
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        file::fallocate(&self.objects_fd, keep, offset, record.len)
            .map_err(no_memory)
            .and_then(|()| {
                let table = &mut inner.table;
                table
                    .write_payload(offset, &contents)
                    .and_then(|()| table.set_state(id, state))
                    .ok_or(Errno::ENOMEM)
            })
            .inspect_err(|_| inner.payload.give(offset, record.len))
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

    /// A program, as agents read it.
    pub fn program(&self, id: u32) -> Option<ProgramSpec> {
        view::program(&self.objects, id)
    }

    /// Where the storage of a map or perf ring lies, for an mmap(2) of it.
    pub fn map_storage(&self, id: u32) -> Option<Storage> {
        let record = self
            .objects
            .find(id, ObjectKind::Map)
            .or_else(|| self.objects.find(id, ObjectKind::PerfRing))?;
        let fd = match record.place {
            Place::Data => self.data_fd.try_clone().ok()?,
            Place::Array => {
                let name = file::c_path(&self.array_path(id)).ok()?;
                file::open(&name, libc::O_RDWR | libc::O_NOFOLLOW, 0).ok()?
            }
            Place::Objects => return None,
        };
        Some(Storage {
            fd,
            offset: record.offset,
            len: record.len,
        })
    }

    /// Stores a program that the caller has verified.
    ///
    /// # Errors
    /// `E2BIG` with too many instructions, `ENOMEM` without space.
    pub fn create_program(&self, spec: &ProgramSpec) -> Result<u32, Errno> {
        let bytes: Vec<u8> = spec.insns.iter().flat_map(|insn| insn.to_bytes()).collect();
        let len = bytes.len() as u64;
        if len > objects::MAX_PROGRAM_BYTES {
            return Err(Errno::E2BIG);
        }
        let mut body = ProgramBody {
            prog_type: spec.prog_type,
            expected_attach_type: spec.expected_attach_type,
            prog_flags: spec.prog_flags,
            gpl: u32::from(spec.gpl),
            name: [0; 64],
        };
        for (to, from) in body.name.iter_mut().take(63).zip(spec.name.bytes()) {
            *to = from;
        }
        let mut inner = self.lock();
        let offset = inner.payload.take(len).ok_or(Errno::ENOMEM)?;
        let record = NewRecord {
            kind: ObjectKind::Program,
            offset,
            len,
            place: Place::Objects,
            state: 0,
            body: body.bytes(),
        };
        file::fallocate(
            &self.objects_fd,
            libc::FALLOC_FL_KEEP_SIZE,
            offset,
            len.max(1),
        )
        .map_err(no_memory)
        .and_then(|()| {
            inner
                .table
                .write_payload(offset, &bytes)
                .ok_or(Errno::ENOMEM)
        })
        .and_then(|()| self.insert(&mut inner, &record))
        .inspect_err(|_| inner.payload.give(offset, len))
    }

    /// Makes a ring of `data_pages` pages (a power of two) for a slot of a
    /// perf event array.
    ///
    /// # Errors
    /// `EINVAL` for the page count, `ENOMEM` without space.
    pub fn create_perf_ring(
        &self,
        data_pages: u32,
        wakeup_events: u32,
    ) -> Result<(u32, Arc<PerfRing>), Errno> {
        if !data_pages.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        let len = PerfRing::storage_size(data_pages)
            .checked_next_multiple_of(data::PAGE)
            .ok_or(Errno::ENOMEM)?;
        let body = RingBody {
            data_pages,
            wakeup_events,
        };
        let mut inner = self.lock();
        let (region, offset) = self.take_heap(&mut inner, len)?;
        let ring = Arc::new(PerfRing::create(region, wakeup_events));
        let record = NewRecord {
            kind: ObjectKind::PerfRing,
            offset,
            len,
            place: Place::Data,
            state: 0,
            body: body.bytes(),
        };
        match self.insert(&mut inner, &record) {
            Ok(id) => {
                inner.rings.insert(id, ring.clone());
                Ok((id, ring))
            }
            Err(errno) => {
                self.free_storage(&mut inner, 0, Place::Data, offset, len);
                Err(errno)
            }
        }
    }

    /// Stores a link; targets follow at the next [`Session::publish`].
    ///
    /// # Errors
    /// `ENOENT` without the program, `ENOMEM` without space.
    pub fn create_link(&self, link: LinkSpec) -> Result<u32, Errno> {
        self.objects
            .find(link.prog, ObjectKind::Program)
            .ok_or(Errno::ENOENT)?;
        let body = LinkBody::new(&link);
        let record = NewRecord {
            kind: ObjectKind::Link,
            offset: 0,
            len: 0,
            place: Place::Objects,
            state: u32::from(link.enabled),
            body: body.bytes(),
        };
        let mut inner = self.lock();
        let id = inner.table.reserve()?;
        if let Some(counters) = self.data.counters(id) {
            counters.reset();
        }
        self.publish_record(&mut inner, id, &record)
            .inspect_err(|_| inner.table.release(id))?;
        Ok(id)
    }

    /// Switches a link on or off; targets follow at the next [`Session::publish`].
    pub fn set_link_enabled(&self, id: u32, enabled: bool) {
        if self.objects.find(id, ObjectKind::Link).is_some() {
            // A record that was found lies in the file.
            let _ = self.lock().table.set_state(id, u32::from(enabled));
        }
    }

    /// Removes an object and gives its storage back. Whoever still refers to
    /// it is the caller's affair.
    ///
    /// # Errors
    /// `ENOENT` without such an object.
    pub fn remove(&self, id: u32) -> Result<(), Errno> {
        let mut inner = self.lock();
        let record = [
            ObjectKind::Map,
            ObjectKind::Program,
            ObjectKind::Link,
            ObjectKind::PerfRing,
        ]
        .into_iter()
        .find_map(|kind| self.objects.find(id, kind))
        .ok_or(Errno::ENOENT)?;
        inner.table.withdraw(id).ok_or(Errno::ENOENT)?;
        inner.table.release(id);
        inner.maps.remove(&id);
        inner.rings.remove(&id);
        if record.kind != ObjectKind::Link {
            self.free_storage(&mut inner, id, record.place, record.offset, record.len);
        }
        if record.kind == ObjectKind::Map && record.state != 0 {
            inner.payload.give(u64::from(record.state), record.len);
        }
        Ok(())
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
            // Fails while another session is there.
            let _ = file::rmdir(&name);
        }
        self.slot.give_back();
        self.roster.bump();
    }
}

/// A session's directory while it is filled, and its final name.
struct Made {
    hidden: PathBuf,
    path: PathBuf,
}

/// Makes `.new-PID-N` for the first free N. The sessions directory may vanish
/// under us with another tool's last session: then again.
fn make_directory(dirs: &Dirs, pid: i32) -> Result<Made, SessionError> {
    const ATTEMPTS: u32 = 1000;
    let mut last = Errno::EEXIST;
    for number in 0..ATTEMPTS {
        dirs.ensure_sessions()?;
        let made = Made {
            hidden: dirs.sessions.join(format!("{NEW_PREFIX}{pid}-{number}")),
            path: dirs.sessions.join(format!("{pid}-{number}")),
        };
        let failed = |errno| SessionError::file("make", &made.hidden, errno);
        let taken = file::lstat(&file::c_path(&made.path).map_err(failed)?).is_ok();
        if taken {
            continue;
        }
        let name = file::c_path(&made.hidden).map_err(failed)?;
        match file::mkdir(&name, 0o700) {
            Ok(()) => return Ok(made),
            Err(errno @ (Errno::EEXIST | Errno::ENOENT)) => last = errno,
            Err(errno) => return Err(failed(errno)),
        }
    }
    Err(SessionError::file(
        "make a session in",
        &dirs.sessions,
        last,
    ))
}

fn create_file(path: &Path, bytes: u64) -> Result<(Region, OwnedFd), SessionError> {
    let failed = |errno| SessionError::file("create", path, errno);
    let name = file::c_path(path).map_err(failed)?;
    let (segment, fd) = Segment::create(&name, bytes)
        .map_err(|error| failed(Errno(error.raw_os_error().unwrap_or(libc::EIO))))?;
    let region = segment
        .region(0, bytes)
        .ok_or_else(|| failed(Errno::EINVAL))?;
    Ok((region, fd))
}

/// Sees to it that storage can be written: small storage is allocated now,
/// large storage needs some room to begin with.
fn make_room(fd: &OwnedFd, offset: u64, len: u64) -> Result<(), Errno> {
    if len <= EAGER_BYTES {
        return file::fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, offset, len).map_err(no_memory);
    }
    if file::free_bytes(fd)? < RESERVE_BYTES {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

/// What bpf(2) says when memory is short.
fn no_memory(errno: Errno) -> Errno {
    match errno {
        Errno::ENOSPC => Errno::ENOMEM,
        other => other,
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
