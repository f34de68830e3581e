//! What lies in the mapping that a borrowed thread makes for its errand.

use std::mem::offset_of;

/// Where things are in the thread's own mapping, which starts with the vector
/// state; its end is the stack's.
pub const ANSWERS: u64 = 16 * 1024;
pub(super) const PATH: u64 = ANSWERS + size_of::<Answers>() as u64;
pub(super) const SESSIONS: u64 = PATH + STRING;
/// Room for each string, with its zero.
pub const STRING: u64 = 4096 + 256;
/// Where a guest's message is.
pub const MESSAGE: u64 = SESSIONS + STRING;
/// Size of the mapping; its pages cost when touched.
pub const LENGTH: u64 = 512 * 1024;

/// Addresses of strings in the mapping.
pub fn strings(mapping: u64) -> [u64; 2] {
    [mapping + PATH, mapping + SESSIONS]
}

/// What became of the errand: in the mapping, at [`ANSWERS`].
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Answers {
    /// What dlopen(3) returned.
    pub handle: u64,
    /// What dlerror(3) returned, if that was null.
    pub error: u64,
    /// What the agent's start returned.
    pub status: i64,
}

impl Answers {
    /// As they lie in the mapping.
    pub fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        // SAFETY: every bit pattern is a value of all three fields.
        unsafe { std::mem::transmute(bytes) }
    }
}

/// What a thread of a guest receives its fds by, and the fds.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Message {
    name: [u64; 2],
    /// None: the message is its fds.
    vectors: [u64; 2],
    pub(super) control: u64,
    control_length: u64,
    flags: u64,
    length: u64,
    level: i32,
    kind: i32,
    /// What was received.
    pub fds: [i32; HANDED],
    /// A pair; what is sent to the second arrives at the first.
    pub sockets: [i32; 2],
}

/// Number of fds that are handed over.
pub const HANDED: usize = 4;

impl Message {
    /// Before anything has arrived, for this mapping.
    pub fn empty(mapping: u64) -> Self {
        let control = size_of::<libc::cmsghdr>() + size_of::<[i32; HANDED]>();
        Self {
            name: [0; 2],
            vectors: [0; 2],
            control: mapping + MESSAGE + offset_of!(Self, length) as u64,
            control_length: control as u64,
            flags: 0,
            length: 0,
            level: 0,
            kind: 0,
            fds: [-1; HANDED],
            sockets: [-1; 2],
        }
    }

    /// As it lies in the mapping.
    pub fn bytes(&self) -> [u8; size_of::<Self>()] {
        // SAFETY: no padding.
        unsafe { std::mem::transmute(*self) }
    }

    /// As [`Answers::from_bytes`].
    pub fn from_bytes(bytes: [u8; size_of::<Self>()]) -> Self {
        // SAFETY: every bit pattern is a value of all fields.
        unsafe { std::mem::transmute(bytes) }
    }
}
