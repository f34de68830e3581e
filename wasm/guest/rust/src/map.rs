//! Elements of maps.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;

use crate::{Buffer, Errno, Object, Plain, host, plain, zeroed};

/// Commands, numbered as those of bpf(2).
const LOOKUP: c_int = 1;
const UPDATE: c_int = 2;
const DELETE: c_int = 3;
const NEXT_KEY: c_int = 4;

/// When an element may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Always.
    Any = 0,
    /// If there is none with its key.
    New = 1,
    /// If there is one with its key.
    Existing = 2,
}

/// A map of an object.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    object: &'a Object,
    fd: c_int,
}

impl<'a> Map<'a> {
    pub(crate) fn new(object: &'a Object, fd: c_int) -> Map<'a> {
        Map { object, fd }
    }

    pub(crate) fn object(&self) -> u64 {
        self.object.handle
    }

    pub(crate) fn fd(&self) -> c_int {
        self.fd
    }

    /// What reads its records, if it is a ring buffer or perf event array.
    pub fn buffer(&self) -> Buffer<'a> {
        Buffer::new(*self)
    }

    /// This map with types for its keys and values.
    ///
    /// # Safety
    /// They have as many bytes as the map's keys and values, which the host
    /// reads and writes. A map of each processor has as many values of a
    /// multiple of 8 bytes as there are processors.
    pub unsafe fn typed<K: Plain, V: Plain>(&self) -> TypedMap<'a, K, V> {
        TypedMap {
            map: *self,
            types: PhantomData,
        }
    }

    fn operate(
        &self,
        command: c_int,
        key: *const u8,
        value: *mut u8,
        next: *mut u8,
        flags: u64,
    ) -> Result<(), Errno> {
        let [key, value, next] = [key.cast_mut(), value, next].map(<*mut u8>::cast::<c_void>);
        // SAFETY: who made the typed map said that keys and values are as long
        // as the host takes them to be; what is only read is not written to.
        let result =
            unsafe { host::wasm_bpf_map_operate(self.fd, command, key, value, next, flags) };
        Errno::check(result).map(|_| ())
    }
}

/// A map whose keys and values have types.
#[derive(Debug, Clone, Copy)]
pub struct TypedMap<'a, K, V> {
    map: Map<'a>,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> TypedMap<'_, K, V> {
    /// The value of a key; `None` if there is none.
    ///
    /// # Errors
    /// What the host says.
    pub fn lookup(&self, key: &K) -> Result<Option<V>, Errno> {
        let mut value: V = zeroed();
        let to = (&raw mut value).cast();
        let key = plain::bytes(key).as_ptr();
        match self.map.operate(LOOKUP, key, to, std::ptr::null_mut(), 0) {
            Ok(()) => Ok(Some(value)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Stores a value under a key.
    ///
    /// # Errors
    /// E2BIG for a full map, EEXIST and ENOENT as `when` says, else what the
    /// host says.
    pub fn update(&self, key: &K, value: &V, when: Update) -> Result<(), Errno> {
        let key = plain::bytes(key).as_ptr();
        let value = plain::bytes(value).as_ptr().cast_mut();
        let none = std::ptr::null_mut();
        self.map.operate(UPDATE, key, value, none, when as u64)
    }

    /// Takes a key and its value away. Whether there was one.
    ///
    /// # Errors
    /// What the host says.
    pub fn delete(&self, key: &K) -> Result<bool, Errno> {
        let key = plain::bytes(key).as_ptr();
        let none = std::ptr::null_mut();
        match self.map.operate(DELETE, key, none, none, 0) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// The key behind another, or the first one.
    ///
    /// # Errors
    /// What the host says.
    pub fn next_key(&self, key: Option<&K>) -> Result<Option<K>, Errno> {
        let key = key.map_or(std::ptr::null(), |key| plain::bytes(key).as_ptr());
        let mut next: K = zeroed();
        let to = (&raw mut next).cast();
        match self.map.operate(NEXT_KEY, key, std::ptr::null_mut(), to, 0) {
            Ok(()) => Ok(Some(next)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// All keys. Those that programs take away meanwhile may be among them.
    ///
    /// # Errors
    /// What the host says; it ends the keys.
    pub fn keys(&self) -> impl Iterator<Item = Result<K, Errno>> + '_ {
        let mut last = None;
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next = self.next_key(last.as_ref()).transpose();
            match &next {
                Some(Ok(key)) => last = Some(*key),
                _ => ended = true,
            }
            next
        })
    }
}
