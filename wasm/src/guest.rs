//! What a guest owns: its objects and the maps it has been given. All of it
//! goes with the guest.

use std::collections::BTreeMap;

use loader::Loaded;
use send_wrapper::SendWrapper;
use wasmtime::StoreLimits;
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::memory::Result;

/// Most objects of a guest at a time.
const MAX_OBJECTS: usize = 256;
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
    /// Host directories that the guest was given, by WASI's fds from 3 on.
    pub directories: Vec<std::path::PathBuf>,
}

/// A map that a guest has asked for.
#[derive(Debug, Clone)]
pub struct MapFd {
    /// The object that it is of.
    pub object: u64,
    /// Its name there.
    pub name: String,
    /// Bytes of a key.
    pub key_size: usize,
    /// Bytes of a value, as programs in C see it: for maps of each processor,
    /// all of theirs.
    pub value_size: usize,
    /// The host's fd, which lives as long as the object.
    pub host: i32,
}

/// A guest's possessions.
#[derive(Default)]
pub struct Guest {
    objects: BTreeMap<u64, Loaded>,
    maps: BTreeMap<i32, MapFd>,
    last_object: u64,
}

impl Guest {
    /// Keeps an object and gives its handle, never 0.
    pub fn keep(&mut self, object: Loaded) -> Result<u64> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(-libc::EMFILE);
        }
        self.last_object += 1;
        self.objects.insert(self.last_object, object);
        Ok(self.last_object)
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
    pub fn fd(&mut self, map: MapFd) -> i32 {
        let same =
            |(_, known): &(&i32, &MapFd)| (known.object, &known.name) == (map.object, &map.name);
        if let Some((fd, _)) = self.maps.iter().find(same) {
            return *fd;
        }
        let fd = self
            .maps
            .keys()
            .next_back()
            .map_or(FIRST_FD, |last| last + 1);
        self.maps.insert(fd, map);
        fd
    }

    /// A map of this guest's.
    pub fn map(&self, fd: i32) -> Result<&MapFd> {
        self.maps.get(&fd).ok_or(-libc::EBADF)
    }
}
