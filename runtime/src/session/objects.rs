//! The `objects` file of a session: a table of records, one per map, program,
//! link and perf ring, and an area for bytecode and links' places. The tool writes it, everyone
//! else maps it read-only and believes nothing in it. This module knows the
//! layout, not what the objects do.
//!
//! A record is published last by a store of its id and withdrawn first by a
//! store of 0; a reader copies the record between two loads of the id. An id
//! is the record's index, above it how often the index was used, and above that
//! the session's number: it never comes back, and no two sessions of a user
//! have one in common.

use std::ffi::CStr;

use shm::Region;
use shm::sync::{Ordering, fence};
use uapi::{Errno, Insn};

use super::file;
use crate::maps::MapSpec;
use crate::tasks::{self, TaskFields};

/// First word of the file ("bpfobj\0" and the layout's number).
const MAGIC: u64 = u64::from_le_bytes(*b"bpfobj\0\x09");

/// Where the table begins; before it lies the header.
const TABLE: u64 = 4096;
/// Bytes of a record.
const RECORD: u64 = 512;
/// Bytes of a record that belong to the object's kind.
pub(super) const BODY: usize = 480;
/// Number of records; index 0 is never used, so no id is 0, nor index 1, the id
/// of the kernel's own type description.
pub(super) const SLOTS: u32 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 16;
/// The first index that is used.
const FIRST: u32 = 2;
/// Bits of an id below the session's number.
const NUMBER_SHIFT: u32 = 24;
/// Session numbers; an id is positive as an `i32`.
pub(super) const NUMBERS: u32 = 128;
/// Where the payload area begins.
pub(super) const PAYLOAD: u64 = TABLE + SLOTS as u64 * RECORD;
/// Size of the file; pages cost when touched.
pub(super) const FILE_BYTES: u64 = 256 << 20;

/// Most bytes of bytecode (`BPF_COMPLEXITY_LIMIT_INSNS` instructions).
pub(super) const MAX_PROGRAM_BYTES: u64 = 8 * uapi::insn::BPF_COMPLEXITY_LIMIT_INSNS as u64;
/// State of a map that bpf(2) changes no more; larger ones are also where the
/// copy of its contents lies.
pub(super) const FROZEN: u32 = 1;

/// Most bytes of a type description (`BTF_MAX_SIZE`).
pub(super) const MAX_BTF_BYTES: u64 = 16 << 20;
/// Most bytes of a link's places.
pub(super) const MAX_LINK_BYTES: u64 =
    (super::link::MAX_PLACES * size_of::<super::link::Place>()) as u64;

/// Offsets in the header.
mod header {
    pub const MAGIC: u64 = 0;
    pub const NR_CPUS: u64 = 8;
    /// One above the highest index that was ever used.
    pub const HIGH: u64 = 12;
    /// Changes whenever a record changes.
    pub const CHANGES: u64 = 16;
    /// The tool, as a packed [`super::super::ProcessId`].
    pub const OWNER: u64 = 24;
    /// The session's number.
    pub const NUMBER: u64 = 32;
    /// The tool's command name, for people.
    pub const COMMAND: u64 = 64;
    /// Where the kernel has a task's fields ([`crate::tasks`]); zeros until a
    /// program asks for tasks.
    pub const TASKS: u64 = 1024;
}

/// Offsets in a record.
mod record {
    pub const ID: u64 = 0;
    pub const KIND: u64 = 4;
    pub const OFFSET: u64 = 8;
    pub const LEN: u64 = 16;
    pub const PLACE: u64 = 24;
    pub const STATE: u64 = 28;
    pub const BODY: u64 = 32;
}

/// Plain data that may be copied to and from a shared file.
///
/// # Safety
/// The type has no padding and every bit pattern is a valid value.
pub(super) unsafe trait Pod: Copy + 'static {
    /// The bytes of the value.
    fn bytes(&self) -> &[u8] {
        // SAFETY: without padding every byte of `self` is initialised.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The value at the start of `bytes`.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..size_of::<Self>())?;
        // SAFETY: the length was checked and every bit pattern is a value.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

// SAFETY: the type's own contract (runtime::maps): explicit padding, plain numbers.
unsafe impl Pod for MapSpec {}

/// What a record describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ObjectKind {
    /// A map.
    Map = 1,
    /// A program.
    Program = 2,
    /// A link.
    Link = 3,
    /// A ring of a perf event array.
    PerfRing = 4,
    /// What a tool said of the types of its maps.
    Btf = 5,
}

impl ObjectKind {
    fn from_u32(kind: u32) -> Option<ObjectKind> {
        match kind {
            1 => Some(ObjectKind::Map),
            2 => Some(ObjectKind::Program),
            3 => Some(ObjectKind::Link),
            4 => Some(ObjectKind::PerfRing),
            5 => Some(ObjectKind::Btf),
            _ => None,
        }
    }
}

/// The file that holds an object's storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Place {
    /// No storage, or a payload in this file.
    Objects = 0,
    /// The `data` file.
    Data = 1,
    /// The file `array-ID`, from 0.
    Array = 2,
    /// The kernel; the offset says which of its objects.
    Kernel = 3,
}

/// A copy of one record. Offsets and lengths are claims of the tool.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub id: u32,
    pub kind: ObjectKind,
    pub offset: u64,
    pub len: u64,
    pub place: Place,
    pub state: u32,
    body: [u8; BODY],
}

impl Record {
    /// The kind's own part.
    pub fn body<T: Pod>(&self) -> Option<T> {
        T::from_bytes(&self.body)
    }
}

/// What the tool puts into a new record.
pub(super) struct NewRecord<'a> {
    pub kind: ObjectKind,
    pub offset: u64,
    pub len: u64,
    pub place: Place,
    pub state: u32,
    pub body: &'a [u8],
}

/// Index in the table of an object id: also the index of a link's counters.
pub(super) fn slot_of(id: u32) -> u32 {
    id & (SLOTS - 1)
}

/// Number of the session that an id is of.
pub(super) fn number_of(id: u32) -> u32 {
    id >> NUMBER_SHIFT
}

/// Below all ids of a session.
pub(super) fn first_id(number: u32) -> u32 {
    number << NUMBER_SHIFT
}

/// The number in the header of an `objects` file, if it has one.
pub(super) fn number_in(path: &CStr) -> Option<u32> {
    let header = file::read_small(path, header::NUMBER as usize + 4).ok()?;
    let magic = header.first_chunk().copied().map(u64::from_le_bytes)?;
    let number = header.last_chunk().copied().map(u32::from_le_bytes)?;
    (magic == MAGIC && header.len() == header::NUMBER as usize + 4).then_some(number)
}

/// The `objects` file as anyone reads it.
#[derive(Clone)]
pub(super) struct Objects {
    region: Region,
}

impl Objects {
    /// Writes the header of a new file; the magic last.
    pub fn create(
        region: Region,
        nr_cpus: u32,
        number: u32,
        owner: u64,
        command: &[u8],
    ) -> Option<Objects> {
        let objects = Objects { region };
        let mut name = [0u8; 16];
        for (to, from) in name.iter_mut().zip(command.iter().take(15)) {
            *to = *from;
        }
        objects.region.write(header::COMMAND, &name)?;
        objects
            .u32(header::NR_CPUS)?
            .store(nr_cpus, Ordering::Relaxed);
        objects.u32(header::HIGH)?.store(FIRST, Ordering::Relaxed);
        objects
            .u32(header::NUMBER)?
            .store(number % NUMBERS, Ordering::Relaxed);
        objects.u64(header::OWNER)?.store(owner, Ordering::Relaxed);
        // Pairs with the load in `open`.
        objects.u64(header::MAGIC)?.store(MAGIC, Ordering::Release);
        Some(objects)
    }

    /// Checks the header; `None` when the file is not of this layout.
    pub fn open(region: Region) -> Option<Objects> {
        let objects = Objects { region };
        let magic = objects.u64(header::MAGIC)?.load(Ordering::Acquire);
        let cpus = objects.nr_cpus();
        (magic == MAGIC && (1..=super::data::MAX_CPUS).contains(&cpus)).then_some(objects)
    }

    fn u32(&self, offset: u64) -> Option<&shm::sync::AtomicU32> {
        self.region.u32_at(offset)
    }

    fn u64(&self, offset: u64) -> Option<&shm::sync::AtomicU64> {
        self.region.u64_at(offset)
    }

    /// Copies of each per-CPU value.
    pub fn nr_cpus(&self) -> u32 {
        self.u32(header::NR_CPUS)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The session's number, which its ids carry.
    pub fn number(&self) -> u32 {
        self.u32(header::NUMBER)
            .map_or(0, |word| word.load(Ordering::Relaxed))
            % NUMBERS
    }

    /// The tool's packed process id; 0 when it is gone and others keep what it
    /// pinned.
    pub fn owner(&self) -> u64 {
        self.u64(header::OWNER)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The tool's command name.
    pub fn command(&self) -> String {
        let mut name = [0u8; 16];
        // A header was checked to be there.
        let _ = self.region.read(header::COMMAND, &mut name);
        text(&name)
    }

    /// Where the kernel has a task's fields.
    pub fn tasks(&self) -> Option<TaskFields> {
        TaskFields::new(self.region.sub(header::TASKS, tasks::NOTE)?)
    }

    /// A number that changes whenever a record changes.
    pub fn changes(&self) -> u32 {
        self.u32(header::CHANGES)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// A consistent copy of the record at `slot`, if one is published.
    fn at(&self, slot: u32) -> Option<Record> {
        if slot == 0 || slot >= SLOTS {
            return None;
        }
        let base = TABLE + u64::from(slot) * RECORD;
        let id_word = self.u32(base + record::ID)?;
        // Pairs with the release store in `publish_record`.
        let id = id_word.load(Ordering::Acquire);
        if id == 0 || slot_of(id) != slot {
            return None;
        }
        let load32 = |at| Some(self.u32(base + at)?.load(Ordering::Relaxed));
        let load64 = |at| Some(self.u64(base + at)?.load(Ordering::Relaxed));
        let kind = load32(record::KIND)?;
        let place = load32(record::PLACE)?;
        let mut copy = Record {
            id,
            kind: ObjectKind::from_u32(kind)?,
            offset: load64(record::OFFSET)?,
            len: load64(record::LEN)?,
            place: match place {
                0 => Place::Objects,
                1 => Place::Data,
                2 => Place::Array,
                3 => Place::Kernel,
                _ => return None,
            },
            state: load32(record::STATE)?,
            body: [0; BODY],
        };
        self.region.read(base + record::BODY, &mut copy.body)?;
        // Pairs with the fence in `withdraw`: a copy that mixes two records
        // sees the id change.
        fence(Ordering::Acquire);
        (id_word.load(Ordering::Relaxed) == id).then_some(copy)
    }

    /// The record of an object.
    pub fn find(&self, id: u32, kind: ObjectKind) -> Option<Record> {
        self.at(slot_of(id))
            .filter(|record| record.id == id && record.kind == kind)
    }

    /// Whether a map, which is there, was frozen.
    pub fn is_frozen(&self, id: u32) -> bool {
        let (base, _) = Table::range(id);
        let state = self.u32(base + record::STATE);
        state.is_some_and(|state| state.load(Ordering::Relaxed) != 0)
    }

    /// All published records of a kind, by index.
    pub fn all(&self, kind: ObjectKind) -> impl Iterator<Item = Record> {
        let high = self
            .u32(header::HIGH)
            .map_or(0, |word| word.load(Ordering::Acquire));
        (FIRST..high.min(SLOTS))
            .filter_map(|slot| self.at(slot))
            .filter(move |record| record.kind == kind)
    }

    /// The copy that freezing a map of constants made of its contents.
    pub fn contents(&self, map: &Record) -> Option<Region> {
        let offset = u64::from(map.state);
        (map.kind == ObjectKind::Map && offset >= PAYLOAD)
            .then(|| self.region.sub(offset, map.len))?
    }

    /// A copy of what belongs to a record of this file, of at most `most` bytes.
    pub fn payload(&self, record: &Record, most: u64) -> Option<Vec<u8>> {
        if record.place != Place::Objects || record.offset < PAYLOAD || record.len > most {
            return None;
        }
        let mut bytes = vec![0u8; usize::try_from(record.len).ok()?];
        self.region.read(record.offset, &mut bytes)?;
        // The bytes are the object's only if it was not withdrawn meanwhile.
        fence(Ordering::Acquire);
        self.find(record.id, record.kind).map(|_| bytes)
    }
}

/// What others than the tool do, who mapped the file for writing: who keeps the
/// session without one and has its lock, and who freezes a map. Does not
/// allocate.
impl Objects {
    /// The tool is gone.
    pub fn disown(&self) {
        if let Some(owner) = self.u64(header::OWNER) {
            owner.store(0, Ordering::Relaxed);
        }
    }

    /// Makes a record invisible; its bytes may be reused afterwards.
    pub fn withdraw(&self, id: u32) -> Option<()> {
        let (base, _) = Table::range(id);
        self.u32(base + record::ID)?.store(0, Ordering::Release);
        // Pairs with the fence in `at`.
        fence(Ordering::Release);
        self.changed()
    }

    fn changed(&self) -> Option<()> {
        self.u32(header::CHANGES)?.fetch_add(1, Ordering::AcqRel);
        Some(())
    }

    /// Marks a map as one that bpf(2) changes no more; `None` if it was.
    pub fn freeze(&self, id: u32) -> Option<()> {
        let (base, _) = Table::range(id);
        let state = self.u32(base + record::STATE)?;
        let relaxed = Ordering::Relaxed;
        state
            .compare_exchange(0, FROZEN, Ordering::Release, relaxed)
            .ok()?;
        self.changed()
    }

    /// One instruction of a program.
    pub fn insn(&self, program: &Record, at: u64) -> Option<Insn> {
        let mut bytes = [0; 8];
        let offset = program.offset.checked_add(at)?;
        self.region.read(offset, &mut bytes)?;
        Some(Insn::from_bytes(bytes))
    }
}

/// The `objects` file as its only writer sees it.
pub(super) struct Table {
    objects: Objects,
    /// Number of the session.
    number: u32,
    /// How often each index was used.
    rounds: Vec<u8>,
    /// Indices to use again, oldest first.
    free: std::collections::VecDeque<u32>,
    high: u32,
}

/// Withdrawn indices rest until this many wait, so that an id a slow reader
/// still holds is not looked up in a busy record.
const REST: usize = 64;

impl Table {
    /// The writer of a new file.
    pub fn new(objects: Objects) -> Table {
        Table {
            number: objects.number(),
            objects,
            rounds: vec![0; FIRST as usize],
            free: std::collections::VecDeque::new(),
            high: FIRST,
        }
    }

    /// Takes an id. `E2BIG` when a session has 65,535 objects.
    pub fn reserve(&mut self) -> Result<u32, Errno> {
        let slot = if self.high < SLOTS && self.free.len() < REST {
            let slot = self.high;
            self.high += 1;
            self.rounds.push(0);
            slot
        } else {
            self.free.pop_front().ok_or(Errno::E2BIG)?
        };
        let round = self.rounds.get(slot as usize).copied().unwrap_or(0);
        Ok(self.number << NUMBER_SHIFT | u32::from(round) << SLOT_BITS | slot)
    }

    /// Gives back an id that was reserved and not published, or withdrawn.
    pub fn release(&mut self, id: u32) {
        let slot = slot_of(id);
        if let Some(round) = self.rounds.get_mut(slot as usize)
            && let Some(next) = round.checked_add(1)
        {
            *round = next;
            self.free.push_back(slot);
        }
        // An index used 256 times retires.
    }

    /// Byte range of a record, for whoever must have its pages allocated.
    pub fn range(id: u32) -> (u64, u64) {
        (TABLE + u64::from(slot_of(id)) * RECORD, RECORD)
    }

    /// Notes where the kernel has a task's fields, before the first program
    /// that asks is published.
    pub fn note_tasks(&self, note: &[u8]) -> Option<()> {
        let fits = note.len() as u64 <= TABLE - header::TASKS;
        fits.then(|| self.objects.region.write(header::TASKS, note))?
    }

    /// Writes bytes that no record names yet.
    pub fn write_payload(&self, offset: u64, bytes: &[u8]) -> Option<()> {
        self.objects.region.write(offset, bytes)
    }

    /// Fills the record of a reserved id and makes it visible.
    pub fn publish_record(&mut self, id: u32, new: &NewRecord<'_>) -> Option<()> {
        let (base, _) = Table::range(id);
        let objects = &self.objects;
        let mut body = [0u8; BODY];
        body.get_mut(..new.body.len())?.copy_from_slice(new.body);
        objects
            .u32(base + record::KIND)?
            .store(new.kind as u32, Ordering::Relaxed);
        objects
            .u64(base + record::OFFSET)?
            .store(new.offset, Ordering::Relaxed);
        objects
            .u64(base + record::LEN)?
            .store(new.len, Ordering::Relaxed);
        objects
            .u32(base + record::PLACE)?
            .store(new.place as u32, Ordering::Relaxed);
        objects
            .u32(base + record::STATE)?
            .store(new.state, Ordering::Relaxed);
        objects.region.write(base + record::BODY, &body)?;
        // Pairs with the first load in `at`.
        objects.u32(base + record::ID)?.store(id, Ordering::Release);
        objects
            .u32(header::HIGH)?
            .store(self.high, Ordering::Release);
        objects.changed()
    }

    /// Changes the state word of a published record.
    pub fn set_state(&mut self, id: u32, state: u32) -> Option<()> {
        let (base, _) = Table::range(id);
        let objects = &self.objects;
        objects
            .u32(base + record::STATE)?
            .store(state, Ordering::Release);
        objects.changed()
    }

    /// Makes a record invisible; its bytes may be reused afterwards.
    pub fn withdraw(&mut self, id: u32) -> Option<()> {
        self.objects.withdraw(id)
    }
}

/// Bytes up to the first zero, as text for people.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
