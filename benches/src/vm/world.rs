//! What a run of a program touches: its memory, maps, constants. Every engine
//! gets a world of its own, so that none sees what another wrote.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use runtime::maps::{Map, MapSpec};
use runtime::program::Objects;
use runtime::run::{ProcessEnv, RunState};
use runtime::vcpu::CLAIM_BYTES;
use shm::{Region, Segment};
use uapi::Errno;
use uapi::map::BPF_MAP_TYPE_ARRAY;
use vm::{ProgramSpec, Run};

use crate::object::{Object, Program};
use crate::programs::Fill;

/// CPUs that per-CPU maps are made for.
const CPUS: u32 = 2;
/// Most bytes of memory that a program gets.
pub const MOST_BYTES: usize = 1 << 16;

/// Memory that begins a page, in every world alike.
#[repr(C, align(4096))]
struct Memory([u8; MOST_BYTES]);

/// Where a program runs.
pub struct World {
    memory: Box<Memory>,
    bytes: usize,
    /// What r1 points to on entry.
    entry: Box<[u64; 2]>,
    maps: BTreeMap<u32, Arc<Map>>,
    /// What native code has for an array.
    values: Box<[u64; 512]>,
    run: Box<RunState>,
    _env: Box<ProcessEnv>,
}

impl World {
    /// A world with `bytes` bytes of memory.
    pub fn new(program: &Program, fill: Fill, bytes: usize) -> Result<World> {
        let mut memory = Box::new(Memory([0; MOST_BYTES]));
        fill.fill(&mut memory.0[..bytes]);
        let mut maps = BTreeMap::new();
        for (id, object) in (1..).zip(&program.objects) {
            maps.insert(id, Arc::new(map(object)?));
        }
        let claims = region(shm::PAGE)?;
        let claims = claims.sub(0, u64::from(CPUS) * CLAIM_BYTES);
        let env = ProcessEnv::new(claims.context("claims")?, region(shm::PAGE)?);
        let env = Box::new(env.context("an environment")?);
        let mut run = Box::new(RunState::new(&raw const *env, std::ptr::null(), 0, 0));
        run.vcpu = 0;
        let entry = Box::new([memory.0.as_mut_ptr() as u64, bytes as u64]);
        Ok(World {
            memory,
            bytes,
            entry,
            maps,
            values: Box::new([0; 512]),
            run,
            _env: env,
        })
    }

    /// Where memory begins.
    pub fn start(&mut self) -> *mut u8 {
        self.memory.0.as_mut_ptr()
    }

    /// Bytes of memory.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// What r1 of an eBPF program is on entry.
    pub fn entry(&mut self) -> *mut u8 {
        self.entry.as_mut_ptr().cast()
    }

    /// What helpers get.
    pub fn run(&mut self) -> *mut Run {
        self.run.as_run()
    }

    /// The memory after a run.
    pub fn memory(&self) -> &[u8] {
        &self.memory.0[..self.bytes]
    }

    /// What `id` is in a register.
    pub fn handle(&self, id: u32) -> Result<u64> {
        let map = self.maps.get(&id).context("no such map")?;
        Ok(Arc::as_ptr(map) as u64)
    }

    /// Where the values of a native array are.
    pub fn values(&mut self) -> *mut u64 {
        self.values.as_mut_ptr()
    }

    /// Where the constants of `id` are.
    pub fn constants(&self, id: u32, offset: u32) -> Result<u64> {
        let map = self.maps.get(&id).context("no such constants")?;
        Ok(errno(map.direct_value(offset))? as u64)
    }

    /// The addresses of all constants, as ranges.
    pub fn constant_ranges(&self) -> Vec<std::ops::Range<u64>> {
        let range = |map: &Arc<Map>| {
            let start = map.direct_value(0).ok()? as u64;
            Some(start..start + u64::from(map.spec().value_size))
        };
        self.maps.values().filter_map(range).collect()
    }
}

impl Objects for World {
    fn map(&self, id: u32) -> Option<Arc<Map>> {
        self.maps.get(&id).cloned()
    }

    fn program(&self, _: u32) -> Option<ProgramSpec> {
        None
    }
}

fn errno<T>(result: Result<T, Errno>) -> Result<T> {
    result.map_err(|errno| anyhow!("{errno:?}"))
}

fn map(object: &Object) -> Result<Map> {
    let spec = match object {
        Object::Constants(bytes) => MapSpec {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: bytes.len() as u32,
            max_entries: 1,
            ..MapSpec::default()
        },
        &Object::Map {
            map_type,
            key_size,
            value_size,
            max_entries,
            ..
        } => MapSpec {
            map_type,
            key_size,
            value_size,
            max_entries,
            ..MapSpec::default()
        },
    };
    let bytes = errno(Map::storage_size(&spec, CPUS))?;
    let map = errno(Map::create(spec, region(bytes)?, CPUS))?;
    if let Object::Constants(bytes) = object {
        errno(map.update(&[0; 4], bytes, 0))?;
    }
    Ok(map)
}

/// Fresh shared memory without a name.
fn region(bytes: u64) -> Result<Region> {
    let bytes = bytes.max(1).next_multiple_of(shm::PAGE);
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let path = CString::new(dir.path().join("bench").as_os_str().as_bytes())?;
    let (segment, _) = Segment::create(&path, bytes)?;
    segment.region(0, bytes).context("a region")
}
