//! Objects of a session: made, frozen, switched, removed. It knows no place in
//! a file; `storage` does.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use uapi::Errno;
use vm::ProgramSpec;

use super::super::link::{
    LinkBody, LinkSpec, MAX_PLACES, ProgramBody, ProgramFacts, RingBody, encode,
};
use super::super::objects::{self, NewRecord, ObjectKind, Place, Pod, Table};
use super::super::{data, file, functions};
use super::storage::no_memory;
use super::{Inner, Session};
use crate::maps::{Map, MapSpec, PerfRing};

impl Session {
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

    pub(super) fn publish_record(
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
            let told = inner.table.set_state(id, objects::FROZEN);
            return told.ok_or(Errno::ENOENT);
        };
        let state = self.store(&mut inner, &contents, record.len)?;
        let told = inner.table.set_state(id, state);
        told.ok_or(Errno::ENOENT)
    }

    /// Puts a map's contents where nobody can write; what its state is then.
    pub(super) fn store(&self, inner: &mut Inner, bytes: &[u8], len: u64) -> Result<u32, Errno> {
        let offset = inner.payload.take(len).ok_or(Errno::ENOMEM)?;
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let stored = file::fallocate(&self.objects_fd, keep, offset, len)
            .map_err(no_memory)
            .and_then(|()| {
                let written = inner.table.write_payload(offset, bytes);
                written.ok_or(Errno::ENOMEM)
            })
            .and_then(|()| u32::try_from(offset).map_err(|_| Errno::ENOMEM));
        stored.inspect_err(|_| inner.payload.give(offset, len))
    }

    /// Stores a program that the caller has verified.
    ///
    /// # Errors
    /// `E2BIG` with too many instructions, `ENOMEM` without space.
    pub fn create_program(&self, spec: &ProgramSpec) -> Result<u32, Errno> {
        self.create_program_with(spec, &ProgramFacts::default())
    }

    /// The same, with what is known of it.
    ///
    /// # Errors
    /// As [`Session::create_program`].
    pub fn create_program_with(
        &self,
        spec: &ProgramSpec,
        facts: &ProgramFacts,
    ) -> Result<u32, Errno> {
        let mut bytes: Vec<u8> = spec.insns.iter().flat_map(|insn| insn.to_bytes()).collect();
        let described = functions::encode(&spec.info);
        if bytes.len() as u64 > objects::MAX_PROGRAM_BYTES
            || described.len() as u64 > functions::MAX_BYTES
        {
            return Err(Errno::E2BIG);
        }
        bytes.extend_from_slice(&described);
        let records = [&facts.functions, &facts.lines];
        let room = records
            .iter()
            .map(|records| records.bytes.len())
            .sum::<usize>() as u64
            <= functions::MAX_BYTES;
        let mut kept = [[0; 2]; 2];
        for (records, kept) in records.into_iter().zip(&mut kept).filter(|_| room) {
            bytes.extend_from_slice(&records.bytes);
            *kept = [records.bytes.len() as u32, records.size];
        }
        let mut body = ProgramBody {
            prog_type: spec.prog_type,
            expected_attach_type: spec.expected_attach_type,
            prog_flags: spec.prog_flags,
            gpl: u32::from(spec.gpl),
            functions: described.len() as u32,
            ctx_bytes: facts.ctx_bytes,
            verified_insns: facts.verified_insns,
            load_time: [facts.load_time as u32, (facts.load_time >> 32) as u32],
            btf: facts.btf,
            func_info: kept[0],
            line_info: kept[1],
            name: [0; 64],
        };
        for (to, from) in body.name.iter_mut().take(63).zip(spec.name.bytes()) {
            *to = from;
        }
        let mut inner = self.lock();
        let id = inner.table.reserve()?;
        self.publish_payload(&mut inner, id, ObjectKind::Program, 0, body.bytes(), &bytes)?;
        Ok(id)
    }

    /// Stores what a tool said of its maps' types, for who looks at them.
    ///
    /// # Errors
    /// `E2BIG` for too long a description, `ENOMEM` without space.
    pub fn create_btf(&self, bytes: &[u8]) -> Result<u32, Errno> {
        if bytes.len() as u64 > objects::MAX_BTF_BYTES {
            return Err(Errno::E2BIG);
        }
        let mut inner = self.lock();
        let id = inner.table.reserve()?;
        self.publish_payload(&mut inner, id, ObjectKind::Btf, 0, &[], bytes)?;
        Ok(id)
    }

    /// Writes a payload and publishes the record of a reserved id that names
    /// it, or gives both back.
    fn publish_payload(
        &self,
        inner: &mut Inner,
        id: u32,
        kind: ObjectKind,
        state: u32,
        body: &[u8],
        bytes: &[u8],
    ) -> Result<(), Errno> {
        let len = bytes.len() as u64;
        let Some(offset) = inner.payload.take(len) else {
            inner.table.release(id);
            return Err(Errno::ENOMEM);
        };
        let record = NewRecord {
            kind,
            offset,
            len,
            place: Place::Objects,
            state,
            body,
        };
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        file::fallocate(&self.objects_fd, keep, offset, len.max(1))
            .map_err(no_memory)
            .and_then(|()| {
                let written = inner.table.write_payload(offset, bytes);
                written.ok_or(Errno::ENOMEM)
            })
            .and_then(|()| self.publish_record(inner, id, &record))
            .inspect_err(|_| {
                inner.payload.give(offset, len);
                inner.table.release(id);
            })
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
    /// `ENOENT` without the program, `E2BIG` with too many places, `ENOMEM`
    /// without space.
    pub fn create_link(&self, link: &LinkSpec) -> Result<u32, Errno> {
        self.create_link_of(0, link)
    }

    /// The same, for a link of bpf(2) of this type.
    ///
    /// # Errors
    /// As [`Session::create_link`].
    pub fn create_link_of(&self, link_type: u32, link: &LinkSpec) -> Result<u32, Errno> {
        self.objects
            .find(link.prog, ObjectKind::Program)
            .ok_or(Errno::ENOENT)?;
        if link.places.len() > MAX_PLACES {
            return Err(Errno::E2BIG);
        }
        let body = LinkBody::new(link, link_type, shm::sys::clock_ns(libc::CLOCK_MONOTONIC));
        let state = u32::from(link.enabled);
        let places = encode(&link.places);
        let mut inner = self.lock();
        let id = inner.table.reserve()?;
        // Targets count there: a full file system must not be their SIGBUS.
        let (offset, len) = data::counters_at(id);
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        file::fallocate(&self.data_fd, keep, offset, len)
            .map_err(no_memory)
            .inspect_err(|_| inner.table.release(id))?;
        if let Some(counters) = self.data.counters(id) {
            counters.reset();
        }
        let kind = ObjectKind::Link;
        self.publish_payload(&mut inner, id, kind, state, body.bytes(), &places)?;
        Ok(id)
    }

    /// Switches a link on or off; targets follow at the next [`Session::publish`].
    pub fn set_link_enabled(&self, id: u32, enabled: bool) {
        if self.objects.find(id, ObjectKind::Link).is_some() {
            // A record that was found lies in the file.
            let _ = self.lock().table.set_state(id, u32::from(enabled));
        }
    }

    /// Removes an object and gives its storage back, at once or, when others
    /// claim it, at a [`Session::collect`]. Whoever still refers to it in this
    /// process is the caller's affair.
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
            ObjectKind::Btf,
        ]
        .into_iter()
        .find_map(|kind| self.objects.find(id, kind))
        .ok_or(Errno::ENOENT)?;
        if !self.part(&record) {
            inner.waiting.push(id);
            return Ok(());
        }
        inner.table.withdraw(id).ok_or(Errno::ENOENT)?;
        inner.table.release(id);
        inner.maps.remove(&id);
        inner.rings.remove(&id);
        self.free_storage(&mut inner, id, record.place, record.offset, record.len);
        if record.kind == ObjectKind::Map && record.state > objects::FROZEN {
            inner.payload.give(u64::from(record.state), record.len);
        }
        Ok(())
    }
}
