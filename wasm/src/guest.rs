//! What a guest owns: its objects and the maps it has been given. All of it
//! goes with the guest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use libbpf_rs::MapType;
use loader::{Batch, Loaded};
use send_wrapper::SendWrapper;
use wasmtime::{Memory, StoreLimits};
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::memory::Result;
use crate::packages::Held;
use crate::stop::Stop;

/// Most objects of a guest at a time.
const MAX_OBJECTS: usize = 64;
/// The first fd of a map. Those of WASI are small; a guest that mixes them up
/// shall not hit.
const FIRST_FD: i32 = 1 << 16;

/// A store's data.
pub struct State {
    /// WASI's.
    pub wasi: WasiP1Ctx,
    /// What the guest may take.
    pub limits: StoreLimits,
    /// What it owns. wasmtime wants data that may change threads; ours never does.
    pub guest: SendWrapper<Guest>,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Host directories that the guest was given, by WASI's fds from 3 on.
    pub directories: Vec<std::path::PathBuf>,
    /// Its memory, once it was looked for.
    pub memory: Option<Memory>,
    /// Whether it is to end.
    pub stop: Arc<Stop>,
    /// What its user said of the programs.
    pub wishes: Wishes,
    /// Where records of packages are put.
    pub record: u32,
}

/// What a user may say of the programs that a guest loads.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Probes are those of this process only.
    pub pid: Option<i32>,
    /// Where programs are put, by their names, whatever the guest says.
    pub targets: Vec<(String, String)>,
    /// Types of the kernel to relocate against.
    pub btf: Option<PathBuf>,
}

impl Wishes {
    /// Where a program is to be put.
    pub fn target(&self, program: &str) -> Option<&str> {
        let wish = self.targets.iter().rev().find(|(name, _)| name == program);
        wish.map(|(_, words)| words.as_str())
    }
}

/// A map that a guest has asked for.
#[derive(Debug, Clone)]
pub struct MapFd {
    /// The object that it is of.
    pub object: u64,
    /// Its name there.
    pub name: String,
    /// What kind of map it is.
    pub kind: MapType,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value, as programs in C see it: for maps of each processor,
    /// all of theirs.
    pub value_size: usize,
    /// The host's fd, which lives as long as the object.
    pub host: i32,
    /// Records that were read from it and not handed over yet.
    pub pending: Batch,
}

/// A guest's possessions.
#[derive(Default)]
pub struct Guest {
    objects: BTreeMap<u64, Loaded>,
    /// What it has as packages, by their numbers.
    pub packages: Vec<Held>,
    maps: BTreeMap<i32, MapFd>,
    last_object: u64,
    fds_given: i32,
}

impl Guest {
    /// Whether it can have no further object.
    pub fn is_full(&self) -> bool {
        self.objects.len() >= MAX_OBJECTS
    }

    /// Keeps an object and gives its handle, never 0.
    pub fn keep(&mut self, object: Loaded) -> u64 {
        self.last_object += 1;
        self.objects.insert(self.last_object, object);
        self.last_object
    }

    /// An object of this guest's.
    pub fn object(&mut self, handle: u64) -> Result<&mut Loaded> {
        self.objects.get_mut(&handle).ok_or(-libc::EINVAL)
    }

    /// Detaches an object's programs, and takes it and its maps away.
    pub fn close(&mut self, handle: u64) -> Result<()> {
        self.objects.remove(&handle).ok_or(-libc::EINVAL)?;
        self.maps.retain(|_, map| map.object != handle);
        Ok(())
    }

    /// The fd of a map, the same for each time that it is asked for.
    pub fn fd(&mut self, map: MapFd) -> Result<i32> {
        let same =
            |(_, known): &(&i32, &MapFd)| (known.object, &known.name) == (map.object, &map.name);
        if let Some((fd, _)) = self.maps.iter().find(same) {
            return Ok(*fd);
        }
        // Never given again, so that one of a closed object's stays wrong.
        let fd = FIRST_FD.checked_add(self.fds_given).ok_or(-libc::EMFILE)?;
        self.fds_given += 1;
        self.maps.insert(fd, map);
        Ok(fd)
    }

    /// A map of this guest's.
    pub fn map(&self, fd: i32) -> Result<&MapFd> {
        self.maps.get(&fd).ok_or(-libc::EBADF)
    }

    /// The same, to be changed.
    pub fn map_mut(&mut self, fd: i32) -> Result<&mut MapFd> {
        self.maps.get_mut(&fd).ok_or(-libc::EBADF)
    }
}
