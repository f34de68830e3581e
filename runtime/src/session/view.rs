//! A session as everyone but its tool sees it: targets, `bpftime status`.
//! It reads `objects`, shares `data`, and trusts neither.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use shm::{Access, Region, Segment};
use uapi::map::BPF_MAP_TYPE_PERF_EVENT_ARRAY;
use uapi::{Errno, Insn};
use vm::ProgramSpec;
use vm::program::ProgramInfo;

use super::data::{Data, LinkCounters};
use super::link::{LinkBody, LinkSpec, ProgramBody, ProgramFacts, RingBody};
use super::objects::{
    FROZEN, MAX_BTF_BYTES, MAX_LINK_BYTES, MAX_PROGRAM_BYTES, ObjectKind, Objects, Place, Record,
    number_of, text,
};
use super::process::ProcessId;
use super::{ARRAY_PREFIX, DATA, Dirs, OBJECTS, SessionError, Storage, file, functions, sweep};
use crate::maps::{KernelObjects, Map, MapSpec, PerfRing};
use crate::tasks::TaskFields;
use crate::types::Records;

/// Bytecode, its functions, and the records of functions and lines.
const MAX_PROGRAM_PAYLOAD: u64 = MAX_PROGRAM_BYTES + 2 * functions::MAX_BYTES;

/// A session opened for reading its objects and sharing its data.
pub struct SessionView {
    path: PathBuf,
    /// Device and inode of `objects`: tells this session from a later one of
    /// the same name.
    identity: (u64, u64),
    objects: Objects,
    data: Data,
    maps: Mutex<HashMap<u32, Arc<Map>>>,
}

impl SessionView {
    /// Opens the session in `path`.
    ///
    /// # Errors
    /// When it has ended, belongs to someone else, or is of another version.
    pub fn open(path: &Path) -> Result<SessionView, SessionError> {
        let view = SessionView::open_any(path)?;
        if view.alive() {
            Ok(view)
        } else {
            Err(SessionError::Ended { path: view.path })
        }
    }

    /// Opens the session in `path` even if nobody keeps it: what is pinned can
    /// be had as long as its files are there.
    ///
    /// # Errors
    /// When it belongs to someone else or is of another version.
    pub fn open_any(path: &Path) -> Result<SessionView, SessionError> {
        let objects_path = path.join(OBJECTS);
        let identity = identity(&objects_path)
            .map_err(|errno| SessionError::file("open", &objects_path, errno))?;
        let layout = |what, path: &Path| SessionError::Layout {
            what,
            path: path.to_owned(),
        };
        let region = whole(&objects_path, Access::ReadOnly)?;
        let objects = Objects::open(region).ok_or_else(|| layout("session", &objects_path))?;
        let data_path = path.join(DATA);
        let region = whole(&data_path, Access::ReadWrite)?;
        let data = Data::new(region).ok_or_else(|| layout("session", &data_path))?;
        Ok(SessionView {
            path: path.to_owned(),
            identity,
            objects,
            data,
            maps: Mutex::default(),
        })
    }

    /// Whether the files are still those that were opened.
    pub fn is_there(&self) -> bool {
        identity(&self.path.join(OBJECTS)) == Ok(self.identity)
    }

    /// The session's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the tool still holds its lock. Costs four system calls and
    /// keeps no fd.
    pub fn alive(&self) -> bool {
        is_locked(&self.path.join(OBJECTS)) == Some(self.identity)
    }

    /// Changes with every change of an object.
    pub fn changes(&self) -> u32 {
        self.objects.changes()
    }

    /// Copies of each per-CPU value, and number of vCPUs.
    pub fn nr_cpus(&self) -> u32 {
        self.objects.nr_cpus()
    }

    /// The tool.
    pub fn owner(&self) -> ProcessId {
        ProcessId::unpack(self.objects.owner())
    }

    /// Command name of the tool.
    pub fn command(&self) -> String {
        self.objects.command()
    }

    /// All links, in the order of their table indices.
    pub fn links(&self) -> Vec<(u32, LinkSpec)> {
        self.objects
            .all(ObjectKind::Link)
            .filter_map(|record| Some((record.id, self.spec_of(&record)?)))
            .collect()
    }

    /// Ids of all links, in the order of their table indices, and whether hits
    /// run their programs: all of a link that changes.
    pub fn link_ids(&self) -> Vec<(u32, bool)> {
        self.objects
            .all(ObjectKind::Link)
            .map(|record| (record.id, record.state != 0))
            .collect()
    }

    /// A link, and when it was made: nanoseconds of CLOCK_MONOTONIC.
    pub fn link(&self, id: u32) -> Option<(u64, LinkSpec)> {
        let record = self.objects.find(id, ObjectKind::Link)?;
        Some((record.body::<LinkBody>()?.made, self.spec_of(&record)?))
    }

    fn spec_of(&self, record: &Record) -> Option<LinkSpec> {
        let places = self.objects.payload(record, MAX_LINK_BYTES)?;
        record.body::<LinkBody>()?.spec(record.state != 0, &places)
    }

    /// All programs, without their instructions.
    pub fn programs(&self) -> Vec<(u32, ProgramSpec)> {
        self.objects
            .all(ObjectKind::Program)
            .filter_map(|record| Some((record.id, program_head(&record)?)))
            .collect()
    }

    /// All maps' specs.
    pub fn maps(&self) -> Vec<(u32, MapSpec)> {
        self.objects
            .all(ObjectKind::Map)
            .filter_map(|record| Some((record.id, record.body()?)))
            .collect()
    }

    pub(super) fn record(&self, id: u32, kind: ObjectKind) -> Option<Record> {
        self.objects.find(id, kind)
    }

    /// The file of a map whose storage is not in `data`.
    pub(super) fn array_path(&self, id: u32) -> PathBuf {
        self.path.join(format!("{ARRAY_PREFIX}{id}"))
    }

    /// Whether an object is there.
    pub fn has(&self, id: u32, kind: ObjectKind) -> bool {
        self.objects.find(id, kind).is_some()
    }

    /// Whether the tool has not removed a program.
    pub fn has_program(&self, id: u32) -> bool {
        self.objects.find(id, ObjectKind::Program).is_some()
    }

    /// A program.
    pub fn program(&self, id: u32) -> Option<ProgramSpec> {
        program(&self.objects, id)
    }

    /// What the tool knew of a program.
    pub fn program_facts(&self, id: u32) -> Option<ProgramFacts> {
        let record = self.record(id, ObjectKind::Program)?;
        let body: ProgramBody = record.body()?;
        let [low, high] = body.load_time.map(u64::from);
        let payload = self.objects.payload(&record, MAX_PROGRAM_PAYLOAD)?;
        let (_, end) = body.ends(payload.len() as u64)?;
        let records = payload.get(end as usize..)?;
        let (functions, lines) = records.split_at_checked(body.func_info[0] as usize)?;
        let records = |bytes: &[u8], size| Records {
            bytes: bytes.to_vec(),
            size,
        };
        Some(ProgramFacts {
            ctx_bytes: body.ctx_bytes,
            verified_insns: body.verified_insns,
            load_time: high << 32 | low,
            btf: body.btf,
            functions: records(functions, body.func_info[1]),
            lines: records(lines, body.line_info[1]),
        })
    }

    /// `BPF_LINK_TYPE_*` of a link; `None` for a perf event with a program.
    pub fn link_type(&self, id: u32) -> Option<u32> {
        let body: LinkBody = self.record(id, ObjectKind::Link)?.body()?;
        (body.link_type != 0).then_some(body.link_type)
    }

    /// The smallest id above `id` of an object of this kind, as bpf(2) sees it.
    pub fn next_id(&self, kind: ObjectKind, id: u32) -> Option<u32> {
        let counts = |record: &Record| match kind {
            ObjectKind::Link => record
                .body()
                .is_some_and(|body: LinkBody| body.link_type != 0),
            _ => true,
        };
        let later = self.objects.all(kind).filter(|record| record.id > id);
        later.filter(counts).map(|record| record.id).min()
    }

    /// Whether an id is one of this session's.
    pub fn is_home_of(&self, id: u32) -> bool {
        number_of(id) == self.objects.number()
    }

    /// The bytes of a type description.
    pub fn btf_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let record = self.objects.find(id, ObjectKind::Btf)?;
        self.objects.payload(&record, MAX_BTF_BYTES)
    }

    /// Freezes a map of a tool that may be gone.
    ///
    /// # Errors
    /// ENOENT without the map; EPERM when it is frozen.
    pub fn freeze_map(&self, id: u32) -> Result<(), Errno> {
        let path = self.path.join(OBJECTS);
        let objects = Objects::open(whole(&path, Access::ReadWrite).map_err(|_| Errno::ENOENT)?);
        let objects = objects.ok_or(Errno::ENOENT)?;
        objects.find(id, ObjectKind::Map).ok_or(Errno::ENOENT)?;
        objects.freeze(id).ok_or(Errno::EPERM)
    }

    /// A map's spec, without opening it.
    pub fn map_spec(&self, id: u32) -> Option<MapSpec> {
        self.objects.find(id, ObjectKind::Map)?.body()
    }

    /// Has the tool frozen a map?
    pub fn is_frozen(&self, id: u32) -> bool {
        let record = self.objects.find(id, ObjectKind::Map);
        record.is_some_and(|record| record.state != 0)
    }

    /// What the tool said of a map's types, if it did.
    pub fn btf(&self, map: &MapSpec) -> Option<Vec<u8>> {
        self.btf_bytes(map.btf)
    }

    /// A map; opened once and kept until [`SessionView::forget_removed`]. One
    /// of maps knows those that are there already.
    pub fn map(&self, id: u32) -> Option<Arc<Map>> {
        let record = self.objects.find(id, ObjectKind::Map)?;
        let map = self.open_map(&record)?;
        if map.spec().template().is_some() {
            self.meet_inner_of(&map);
        }
        Some(map)
    }

    fn open_map(&self, record: &Record) -> Option<Arc<Map>> {
        let id = record.id;
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let frozen = record.state != 0;
        let moved = record.place == Place::Kernel;
        if let Some(map) = maps.get(&id)
            && map.frozen() == frozen
            && map.in_kernel() == moved
        {
            return Some(map.clone());
        }
        if moved {
            let objects = KernelObjects::unpack(record.offset);
            let map = Map::of_kernel(record.body()?, objects, self.nr_cpus()).ok()?;
            let map = Arc::new(map);
            maps.insert(id, map.clone());
            return Some(map);
        }
        let storage = match record.place {
            // Read-only for us: what was verified is what programs read.
            _ if record.state > FROZEN => self.objects.contents(record)?,
            Place::Data => self.data.storage(record.offset, record.len)?,
            Place::Array => {
                // Of an array that is mapped, or in the `data` of another session.
                part(&self.array_path(id), record.offset, record.len)?
            }
            Place::Objects | Place::Kernel => return None,
        };
        let map = Map::open(record.body()?, storage, self.nr_cpus()).ok()?;
        if frozen {
            map.freeze().ok()?;
        }
        let map = Arc::new(map);
        maps.insert(id, map.clone());
        Some(map)
    }

    /// Where the storage of a map lies, for an mmap(2) of it.
    pub fn map_storage(&self, id: u32) -> Option<Storage> {
        let record = self.record(id, ObjectKind::Map)?;
        let path = match record.place {
            Place::Data => self.path.join(DATA),
            Place::Array => self.array_path(id),
            Place::Objects | Place::Kernel => return None,
        };
        let name = file::c_path(&path).ok()?;
        Some(Storage {
            fd: file::open(&name, libc::O_RDWR | libc::O_NOFOLLOW, 0).ok()?,
            offset: record.offset,
            len: record.len,
        })
    }

    /// A perf ring.
    pub fn perf_ring(&self, id: u32) -> Option<PerfRing> {
        perf_ring(&self.objects, &self.data, id)
    }

    /// Ids of all perf rings.
    pub fn perf_rings(&self) -> Vec<u32> {
        self.objects
            .all(ObjectKind::PerfRing)
            .map(|record| record.id)
            .collect()
    }

    /// Records that a ring buffer, or the rings of a perf event array, had no
    /// room for; `None` for other maps.
    pub fn dropped(&self, id: u32) -> Option<u64> {
        let map = self.map(id)?;
        if let Some(ring) = map.ring() {
            return Some(ring.dropped());
        }
        let spec = map.spec();
        (spec.map_type == BPF_MAP_TYPE_PERF_EVENT_ARRAY).then(|| {
            (0..spec.max_entries)
                .filter_map(|index| self.perf_ring(map.slot(index)?))
                .map(|ring| ring.dropped())
                .sum()
        })
    }

    /// Opens what came since for the maps of maps that are open.
    pub fn meet_inner_maps(&self) {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let of_maps = |map: &&Arc<Map>| map.spec().template().is_some();
        let outer: Vec<Arc<Map>> = maps.values().filter(of_maps).cloned().collect();
        drop(maps);
        outer.iter().for_each(|map| self.meet_inner_of(map));
    }

    fn meet_inner_of(&self, outer: &Map) {
        for record in self.objects.all(ObjectKind::Map) {
            let fits = record.body().is_some_and(|spec| outer.may_hold(&spec));
            if fits
                && !outer.has_inner(record.id)
                && let Some(map) = self.open_map(&record)
            {
                outer.add_inner(record.id, &map);
            }
        }
    }

    /// Whether a map of this session went to the kernel after it was opened.
    pub fn has_moved(&self, id: u32, map: &Map) -> bool {
        let record = self.objects.find(id, ObjectKind::Map);
        record.is_some_and(|record| record.place == Place::Kernel && !map.in_kernel())
    }

    /// Drops views of maps that the tool has removed. Programs that run may
    /// still use those returned: keep them for a while.
    pub fn forget_removed(&self) -> Vec<Arc<Map>> {
        let stays = |id| self.objects.find(id, ObjectKind::Map).is_some();
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.retain(|&id, _| stays(id));
        let outer = maps.values();
        outer.flat_map(|map| map.part_from_inner(&stays)).collect()
    }

    /// Hit and miss counts of a link.
    pub fn counters(&self, link: u32) -> Option<LinkCounters> {
        self.data.counters(link)
    }

    /// The vCPU claims.
    pub fn vcpus(&self) -> Option<Region> {
        self.data.vcpus(self.nr_cpus())
    }

    /// Where the kernel has a task's fields.
    pub fn tasks(&self) -> Option<TaskFields> {
        self.objects.tasks()
    }

    /// The doorbell's page.
    pub fn doorbell(&self) -> Option<Region> {
        self.data.doorbell()
    }
}

/// A view of a perf ring, if its record is sane.
pub(super) fn perf_ring(objects: &Objects, data: &Data, id: u32) -> Option<PerfRing> {
    let record = objects.find(id, ObjectKind::PerfRing)?;
    let body: RingBody = record.body()?;
    let len = PerfRing::storage_size(body.data_pages);
    if record.place != Place::Data || record.len < len {
        return None;
    }
    Some(PerfRing::open(data.storage(record.offset, len)?))
}

/// A program of an `objects` file, if its record and bytecode are sane.
pub(super) fn program(objects: &Objects, id: u32) -> Option<ProgramSpec> {
    let record = objects.find(id, ObjectKind::Program)?;
    let mut spec = program_head(&record)?;
    let payload = objects.payload(&record, MAX_PROGRAM_PAYLOAD)?;
    let body: ProgramBody = record.body()?;
    let (functions_at, end) = body.ends(payload.len() as u64)?;
    let payload = payload.get(..end as usize)?;
    let (bytecode, described) = payload.split_at_checked(functions_at as usize)?;
    let (insns, rest) = bytecode.as_chunks::<8>();
    if !rest.is_empty() {
        return None;
    }
    spec.insns = insns.iter().map(|insn| Insn::from_bytes(*insn)).collect();
    spec.info = functions::decode(described)?;
    Some(spec)
}

fn program_head(record: &Record) -> Option<ProgramSpec> {
    let body: ProgramBody = record.body()?;
    Some(ProgramSpec {
        name: text(&body.name),
        prog_type: body.prog_type,
        expected_attach_type: body.expected_attach_type,
        prog_flags: body.prog_flags,
        gpl: body.gpl != 0,
        insns: Vec::new(),
        info: ProgramInfo::default(),
    })
}

/// A whole file as one region.
pub(super) fn whole(path: &Path, access: Access) -> Result<Region, SessionError> {
    let failed = |errno| SessionError::file("open", path, errno);
    let name = file::c_path(path).map_err(failed)?;
    let segment = Segment::open(&name, access)
        .map_err(|error| failed(Errno(error.raw_os_error().unwrap_or(0))))?;
    segment
        .region(0, segment.len())
        .ok_or_else(|| failed(Errno::EINVAL))
}

/// Part of a file that everyone writes.
fn part(path: &Path, offset: u64, len: u64) -> Option<Region> {
    let name = file::c_path(path).ok()?;
    let segment = Segment::open_part(&name, Access::ReadWrite, offset, len).ok()?;
    segment.region(0, len)
}

fn identity(path: &Path) -> Result<(u64, u64), Errno> {
    let stat = file::lstat(&file::c_path(path)?)?;
    Ok((stat.dev, stat.ino))
}

/// Device and inode of an `objects` file that its tool holds locked.
pub(super) fn is_locked(path: &Path) -> Option<(u64, u64)> {
    let name: CString = file::c_path(path).ok()?;
    let fd = file::open(&name, libc::O_RDONLY | libc::O_NOFOLLOW, 0).ok()?;
    let stat = file::fstat(&fd).ok()?;
    // Shared, so that two processes that look at once do not see each other.
    let locked = file::flock(&fd, libc::LOCK_SH | libc::LOCK_NB) == Err(Errno::EAGAIN);
    (locked && stat.nlink > 0).then_some((stat.dev, stat.ino))
}

/// Whether the session in a directory has a tool that lives.
pub fn is_alive(path: &Path) -> bool {
    is_locked(&path.join(OBJECTS)).is_some()
}

/// Directories of all sessions whose tool lives, by name; none when they
/// cannot be read.
pub fn list(dirs: &Dirs) -> Vec<PathBuf> {
    try_list(dirs).unwrap_or_default()
}

/// Directories of all sessions whose tool lives, by name.
///
/// # Errors
/// Those of opening the sessions directory, but for its absence: `EACCES` in
/// a process that has changed its user since it joined.
pub fn try_list(dirs: &Dirs) -> Result<Vec<PathBuf>, Errno> {
    let mut found: Vec<PathBuf> = sweep::names(&dirs.sessions)?
        .into_iter()
        .map(|name| dirs.sessions.join(name))
        .filter(|path| is_alive(path))
        .collect();
    found.sort();
    Ok(found)
}
