//! What lives on when a session's tool has ended: what is claimed, and what
//! that needs. The sweeper, which has the session's lock then, takes everything
//! else away, and the rest when the last claim goes.
//!
//! Runs in a forked copy of the tool, where other threads' locks are held for
//! ever: nothing here allocates. It knows no map's contents.

use std::ffi::CStr;
use std::time::Duration;

use uapi::insn::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE};
use uapi::map::{BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS, BPF_MAP_TYPE_PROG_ARRAY};

use super::link::{LinkBody, ProgramBody};
use super::objects::{ObjectKind, Objects, Place, Record, SLOTS, slot_of};
use super::roster::Roster;
use super::{claims, file};
use crate::maps::MapSpec;

/// How often the claims are counted.
const PERIOD: Duration = Duration::from_millis(200);
/// How long agents may take to follow before storage is given back.
const FOLLOW: Duration = Duration::from_secs(1);

/// A session without a tool.
pub(super) struct Kept<'a> {
    /// Its directory.
    pub directory: &'a CStr,
    /// Its `data` file.
    pub data: &'a CStr,
    /// Its objects, to be written.
    pub objects: &'a Objects,
    /// Who has to follow.
    pub roster: &'a Roster,
}

/// A set of indices in the table.
pub(super) struct Slots([u64; SLOTS as usize / 64]);

impl Slots {
    fn insert(&mut self, id: u32) -> bool {
        let slot = slot_of(id) as usize;
        let Some(word) = self.0.get_mut(slot / 64) else {
            return false;
        };
        let before = *word;
        *word |= 1 << (slot % 64);
        *word != before
    }

    pub fn has(&self, id: u32) -> bool {
        let slot = slot_of(id) as usize;
        self.0
            .get(slot / 64)
            .is_some_and(|word| word & 1 << (slot % 64) != 0)
    }
}

impl Kept<'_> {
    /// Keeps what is claimed until nothing is.
    pub fn until_unclaimed(&self) {
        // What the dead tool's fds meant has gone with it; nobody else may
        // have claimed anything.
        self.objects.disown();
        while claims::Claims::any(self.directory) {
            self.let_go();
            file::sleep(PERIOD);
        }
    }

    /// Takes away what nothing claims any more.
    fn let_go(&self) {
        let kept = reached(self.directory, self.objects);
        let gone = |record: &Record| !kept.has(record.id);
        let mut links = false;
        for record in self.objects.all(ObjectKind::Link).filter(gone) {
            links |= self.objects.withdraw(record.id).is_some();
        }
        if links {
            self.roster.bump();
            file::sleep(FOLLOW);
        }
        for kind in [
            ObjectKind::Program,
            ObjectKind::Map,
            ObjectKind::PerfRing,
            ObjectKind::Btf,
        ] {
            for record in self.objects.all(kind).filter(gone) {
                if self.objects.withdraw(record.id).is_some() {
                    self.give_back(&record);
                }
            }
        }
    }

    /// Gives memory back. Targets that have not followed find zeros.
    fn give_back(&self, record: &Record) {
        if record.place != Place::Data {
            return;
        }
        if let Ok(data) = file::open(self.data, libc::O_RDWR | libc::O_NOFOLLOW, 0) {
            let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // Else it stays until the session ends.
            let _ = file::fallocate(&data, punch, record.offset, record.len);
        }
    }
}

/// What is claimed in a session, and what that refers to.
pub(super) fn reached(directory: &CStr, objects: &Objects) -> Slots {
    let mut kept = Slots([0; SLOTS as usize / 64]);
    let _ = claims::for_each(directory, |kind, id| {
        if objects.find(id, kind).is_some() {
            kept.insert(id);
        }
    });
    // Each turn adds something, and there are few kinds of steps.
    while follow(objects, &mut kept) {}
    kept
}

fn follow(objects: &Objects, kept: &mut Slots) -> bool {
    let mut more = false;
    for record in objects.all(ObjectKind::Link) {
        if kept.has(record.id)
            && let Some(body) = record.body::<LinkBody>()
        {
            more |= kept.insert(body.prog);
        }
    }
    for record in objects.all(ObjectKind::Program) {
        if kept.has(record.id) {
            maps_of(objects, &record, |map| more |= kept.insert(map));
            if let Some(body) = record.body::<ProgramBody>().filter(|body| body.btf != 0) {
                more |= kept.insert(body.btf);
            }
        }
    }
    for record in objects.all(ObjectKind::Map) {
        let Some(spec) = record.body::<MapSpec>().filter(|_| kept.has(record.id)) else {
            continue;
        };
        if spec.btf != 0 {
            more |= kept.insert(spec.btf);
        }
        // Which ones are among the elements is up to targets: all may be.
        let elements = match spec.map_type {
            BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_HASH_OF_MAPS => ObjectKind::Map,
            BPF_MAP_TYPE_PROG_ARRAY => ObjectKind::Program,
            _ => continue,
        };
        for element in objects.all(elements) {
            more |= kept.insert(element.id);
        }
    }
    more
}

/// The maps that a program's instructions name.
fn maps_of(objects: &Objects, program: &Record, mut each: impl FnMut(u32)) {
    let body = program.body::<ProgramBody>();
    let ends = body.and_then(|body| body.ends(program.len));
    for at in (0..ends.map_or(0, |(bytecode, _)| bytecode)).step_by(8) {
        let Some(insn) = objects.insn(program, at) else {
            return;
        };
        let of_map = matches!(insn.src(), BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_VALUE);
        if insn.code == BPF_LD | BPF_IMM | BPF_DW && of_map {
            each(insn.imm.cast_unsigned());
        }
    }
}
