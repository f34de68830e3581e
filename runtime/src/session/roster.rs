//! The roster: who of a user's processes runs a tool or an agent, and the
//! generation that tells agents to look again. One file per boot in the state
//! directory, shared by all sessions; it knows no object of any session.
//!
//! Everyone may write it, so nothing in it is believed: loops are bounded by
//! the number of slots, waits by time, and a slot counts only while the
//! process named in it runs.
//!
//! Why nobody is missed: who publishes counts the generation up and then looks
//! who is there; who joins takes its slot and then looks at the generation, with
//! a fence between both on either side: one of them sees the other. An agent
//! notes its wake word before it looks at anything, and says which generation
//! it had seen before it looked. A dead one's slot is freed by a
//! compare-and-swap from its very name (`models.rs`).

mod agent;
mod following;

use shm::sync::{AtomicU32, AtomicU64, Ordering, fence};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shm::{Access, Region, Segment, futex};
use uapi::Errno;

use super::objects::text;
use super::process::ProcessId;
use super::{Dirs, SessionError, file, view};
pub use agent::AgentSlot;
pub use following::{ACK_TIMEOUT, Laggards};

/// Number of slots.
pub const SLOTS: u32 = 4096;

/// First word of the file ("bpfros\0" and the layout's number).
const MAGIC: u64 = u64::from_le_bytes(*b"bpfros\0\x01");
const HEADER_BYTES: u64 = 4096;
const SLOT_BYTES: u64 = 512;
const FILE_BYTES: u64 = HEADER_BYTES + SLOTS as u64 * SLOT_BYTES;
/// Most bytes of [`Member::errors`].
pub const MAX_ERRORS: usize = 440;

mod header {
    pub const MAGIC: u64 = 0;
    /// Futex word; changes when agents shall look again.
    pub const GENERATION: u64 = 64;
    /// Futex word; changes when a slot was acked, left or joined.
    pub const ACKS: u64 = 128;
    /// One above the highest slot that was ever used.
    pub const HIGH: u64 = 192;
}

mod slot {
    /// Packed [`super::ProcessId`], 0 when free.
    pub const OWNER: u64 = 0;
    /// The generation that the agent has followed.
    pub const ACKED: u64 = 8;
    pub const ROLE: u64 = 12;
    pub const FLAGS: u64 = 16;
    /// Hooks in place.
    pub const HOOKS: u64 = 20;
    /// Hooks that were wanted and refused.
    pub const REFUSED: u64 = 24;
    /// Changes before and after `ERRORS` is written.
    pub const ERRORS_VERSION: u64 = 28;
    pub const COMMAND: u64 = 32;
    /// Futex word that its owner sleeps on.
    pub const WAKE: u64 = 48;
    pub const ERRORS: u64 = 64;
}

/// Asks an agent to unhook everything and leave.
const FLAG_DETACH: u32 = 1;

/// What a process is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// Owns a session; never acks.
    Tool = 1,
    /// Runs programs at hooks.
    Agent = 2,
}

/// One process in the roster, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The process.
    pub process: ProcessId,
    /// Tool or agent.
    pub role: Role,
    /// Command name.
    pub command: String,
    /// Generation it has followed.
    pub acked: u32,
    /// Hooks in place.
    pub hooks: u32,
    /// Hooks that were wanted and refused.
    pub refused: u32,
    /// Why, for people.
    pub errors: String,
}

/// The mapped roster.
#[derive(Clone)]
pub struct Roster {
    region: Region,
}

impl Roster {
    /// Opens the roster of this boot, or makes it.
    ///
    /// # Errors
    /// When the state directory or the file is not ours or not writable.
    pub fn open(dirs: &Dirs) -> Result<Roster, SessionError> {
        let (_, path) = Roster::file(dirs)?;
        Roster::over(view::whole(&path, Access::ReadWrite)?, &path)
    }

    /// The file of this boot's roster, made if it is missing, and its path.
    ///
    /// # Errors
    /// As [`Roster::open`].
    pub fn file(dirs: &Dirs) -> Result<(OwnedFd, PathBuf), SessionError> {
        dirs.ensure_state()?;
        let path = dirs.state.join(format!("roster-{}", boot_id()));
        let failed = |errno| SessionError::file("open", &path, errno);
        let name = file::c_path(&path).map_err(failed)?;
        let fd = file::open(
            &name,
            libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK,
            0o600,
        )
        .map_err(failed)?;
        let stat = file::fstat(&fd).map_err(failed)?;
        if stat.uid != file::euid() || stat.mode & libc::S_IFMT != libc::S_IFREG {
            return Err(failed(Errno::EPERM));
        }
        // Two that make it at once do the same.
        if stat.size < FILE_BYTES {
            file::ftruncate(&fd, FILE_BYTES).map_err(failed)?;
        }
        Ok((fd, path))
    }

    /// The roster in an open file; `path` is for error messages.
    ///
    /// # Errors
    /// As [`Roster::open`].
    pub fn of_file(fd: RawFd, path: &Path) -> Result<Roster, SessionError> {
        let failed = |errno| SessionError::file("map", path, errno);
        let segment = Segment::of_file(fd, Access::ReadWrite)
            .map_err(|error| failed(Errno(error.raw_os_error().unwrap_or(0))))?;
        let region = segment.region(0, segment.len());
        Roster::over(region.ok_or_else(|| failed(Errno::EINVAL))?, path)
    }

    pub(super) fn over(region: Region, path: &Path) -> Result<Roster, SessionError> {
        let layout = || SessionError::Layout {
            what: "roster",
            path: path.to_owned(),
        };
        if region.len() < FILE_BYTES {
            return Err(layout());
        }
        let magic = region.u64_at(header::MAGIC).ok_or_else(layout)?;
        match magic.compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(MAGIC) => Ok(Roster { region }),
            Err(_) => Err(layout()),
        }
    }

    /// A header or slot word. Offsets are constants inside the checked size,
    /// so the static stands in only for the compiler.
    fn word(&self, offset: u64) -> &AtomicU32 {
        static NOWHERE: AtomicU32 = AtomicU32::new(0);
        self.region.u32_at(offset).unwrap_or(&NOWHERE)
    }

    fn owner_word(&self, index: u32) -> &AtomicU64 {
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.region
            .u64_at(slot_at(index) + slot::OWNER)
            .unwrap_or(&NOWHERE)
    }

    /// The current generation.
    pub fn generation(&self) -> u32 {
        self.word(header::GENERATION).load(Ordering::Acquire)
    }

    /// The generation word, for whoever waits by its own means.
    pub fn generation_word(&self) -> &AtomicU32 {
        self.word(header::GENERATION)
    }

    /// Waits until the generation is not `seen`, or for `timeout`; may also
    /// return early. Returns the generation.
    pub fn wait(&self, seen: u32, timeout: Option<Duration>) -> u32 {
        let word = self.word(header::GENERATION);
        if word.load(Ordering::Acquire) == seen {
            futex::wait(word, seen, timeout);
        }
        word.load(Ordering::Acquire)
    }

    /// Tells all agents to look again. Returns the new generation. Does not
    /// allocate.
    pub fn bump(&self) -> u32 {
        let word = self.word(header::GENERATION);
        let generation = word.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        futex::wake(word, u32::MAX >> 1);
        // Pairs with the fence in `join_as`: either we see who joins, or they
        // see this generation.
        fence(Ordering::SeqCst);
        for index in 0..self.high() {
            if self.owner_word(index).load(Ordering::Acquire) != 0 {
                self.wake(index);
            }
        }
        generation
    }

    fn wake(&self, index: u32) {
        let word = self.word(slot_at(index) + slot::WAKE);
        word.fetch_add(1, Ordering::AcqRel);
        futex::wake(word, u32::MAX >> 1);
    }

    fn high(&self) -> u32 {
        self.word(header::HIGH).load(Ordering::Acquire).min(SLOTS)
    }

    /// Takes a slot for the calling process: the one it had in this role before
    /// it executed another program, else a free one; slots of dead processes
    /// count as free when nothing else is.
    ///
    /// # Errors
    /// [`SessionError::RosterFull`], or when /proc is unreadable.
    pub fn join(&self, role: Role) -> Result<AgentSlot, SessionError> {
        let me = ProcessId::current()
            .map_err(|errno| SessionError::file("read", Path::new("/proc/self/stat"), errno))?;
        self.join_as(me, role)
    }

    fn join_as(&self, me: ProcessId, role: Role) -> Result<AgentSlot, SessionError> {
        let mine = me.pack();
        let index = (0..self.high())
            .find(|&index| self.was_mine(index, mine, role) && self.take(index, mine, mine))
            .or_else(|| (0..self.high()).find(|&index| self.take(index, 0, mine)))
            .or_else(|| {
                (self.high()..SLOTS).find(|&index| {
                    let taken = self.take(index, 0, mine);
                    if taken {
                        self.word(header::HIGH)
                            .fetch_max(index + 1, Ordering::AcqRel);
                    }
                    taken
                })
            })
            .or_else(|| {
                (0..SLOTS).find(|&index| {
                    let owner = self.owner_word(index).load(Ordering::Acquire);
                    !ProcessId::unpack(owner).alive() && self.take(index, owner, mine)
                })
            })
            .ok_or(SessionError::RosterFull { max: SLOTS })?;
        // Pairs with the fence in `bump`.
        fence(Ordering::SeqCst);
        let base = slot_at(index);
        // Nothing is followed yet: one behind makes every tool wait.
        let behind = self.generation().wrapping_sub(1);
        self.word(base + slot::ACKED)
            .store(behind, Ordering::Relaxed);
        self.word(base + slot::FLAGS).store(0, Ordering::Relaxed);
        self.word(base + slot::HOOKS).store(0, Ordering::Relaxed);
        self.word(base + slot::REFUSED).store(0, Ordering::Relaxed);
        self.write_text(base + slot::COMMAND, 16, &own_command());
        self.write_text(base + slot::ERRORS, MAX_ERRORS + 1, b"");
        // Until here the slot has no role and no tool counts it; pairs with
        // the load in `member`.
        self.word(base + slot::ROLE)
            .store(role as u32, Ordering::Release);
        Ok(AgentSlot {
            roster: self.clone(),
            index,
            owner: mine,
        })
    }

    fn was_mine(&self, index: u32, mine: u64, role: Role) -> bool {
        self.owner_word(index).load(Ordering::Acquire) == mine
            && self
                .word(slot_at(index) + slot::ROLE)
                .load(Ordering::Acquire)
                == role as u32
    }

    fn take(&self, index: u32, from: u64, mine: u64) -> bool {
        let taken = self
            .owner_word(index)
            .compare_exchange(from, mine, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if taken {
            self.word(slot_at(index) + slot::ROLE)
                .store(0, Ordering::Release);
        }
        taken
    }

    /// Frees a slot that still belongs to `owner`.
    fn free(&self, index: u32, owner: u64) {
        let freed = self
            .owner_word(index)
            .compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if freed {
            self.acked();
        }
    }

    /// Wakes the tools that wait for acks.
    fn acked(&self) {
        let word = self.word(header::ACKS);
        word.fetch_add(1, Ordering::AcqRel);
        futex::wake(word, u32::MAX >> 1);
    }

    fn write_text(&self, offset: u64, room: usize, bytes: &[u8]) {
        let mut buffer = [0u8; MAX_ERRORS + 1];
        let room = room.min(buffer.len());
        for (to, from) in buffer.iter_mut().take(room - 1).zip(bytes) {
            *to = *from;
        }
        // Inside the slot by the constants above.
        let _ = self
            .region
            .write(offset, buffer.get(..room).unwrap_or_default());
    }

    fn read_text(&self, offset: u64, room: usize) -> String {
        let mut buffer = [0u8; MAX_ERRORS + 1];
        if let Some(buffer) = buffer.get_mut(..room) {
            // Inside the slot by the constants above.
            let _ = self.region.read(offset, buffer);
        }
        text(&buffer)
    }

    fn member(&self, index: u32) -> Option<Member> {
        let owner = self.owner_word(index).load(Ordering::Acquire);
        if owner == 0 {
            return None;
        }
        let base = slot_at(index);
        let role = match self.word(base + slot::ROLE).load(Ordering::Acquire) {
            1 => Role::Tool,
            2 => Role::Agent,
            _ => return None,
        };
        let number = |at| self.word(base + at).load(Ordering::Relaxed);
        let version = self.word(base + slot::ERRORS_VERSION);
        let mut errors = String::new();
        for _ in 0..4 {
            let before = version.load(Ordering::Acquire);
            errors = self.read_text(base + slot::ERRORS, MAX_ERRORS + 1);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && version.load(Ordering::Relaxed) == before {
                break;
            }
        }
        let process = ProcessId::unpack(owner);
        process.alive().then(|| Member {
            process,
            role,
            command: self.read_text(base + slot::COMMAND, 16),
            acked: number(slot::ACKED),
            hooks: number(slot::HOOKS),
            refused: number(slot::REFUSED),
            errors,
        })
    }

    /// Packed ids of the processes with agents, also of those that were killed
    /// and whose place nobody has taken.
    pub fn agents(&self) -> Vec<u64> {
        let owner = |index: u32| {
            let owner = self.owner_word(index).load(Ordering::Acquire);
            let role = self
                .word(slot_at(index) + slot::ROLE)
                .load(Ordering::Acquire);
            (owner != 0 && role == Role::Agent as u32).then_some(owner)
        };
        (0..self.high()).filter_map(owner).collect()
    }

    /// Whether nobody has a slot.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        (0..self.high()).all(|index| self.owner_word(index).load(Ordering::Acquire) == 0)
    }

    /// The processes of [`Roster::agents`].
    pub fn targets(&self) -> impl Iterator<Item = ProcessId> {
        self.agents().into_iter().map(ProcessId::unpack)
    }

    /// All living members.
    pub fn members(&self) -> Vec<Member> {
        (0..self.high())
            .filter_map(|index| self.member(index))
            .collect()
    }
}

fn slot_at(index: u32) -> u64 {
    HEADER_BYTES + u64::from(index.min(SLOTS - 1)) * SLOT_BYTES
}

fn roster_flags(roster: &Roster, index: u32) -> u32 {
    roster
        .word(slot_at(index) + slot::FLAGS)
        .load(Ordering::Acquire)
}

fn own_command() -> Vec<u8> {
    let mut name = file::read_small(c"/proc/self/comm", 16).unwrap_or_default();
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    name
}

/// The boot's name: pids and start times mean nothing in another.
pub fn boot_id() -> String {
    let id = file::read_small(c"/proc/sys/kernel/random/boot_id", 64).unwrap_or_default();
    let id: String = String::from_utf8_lossy(&id)
        .chars()
        .filter(char::is_ascii_hexdigit)
        .collect();
    if id.is_empty() {
        "unknown".to_owned()
    } else {
        id
    }
}
