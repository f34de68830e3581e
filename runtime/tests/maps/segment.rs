//! Maps in a segment of their own.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use bpftime_runtime::maps::{Map, MapSpec};
use shm::{Region, Segment};
use uapi::Errno;

/// CPUs that per-CPU maps are made for: as many as the kernel's, so that
/// values have the same size.
pub fn possible_cpus() -> u32 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let last = text.trim().rsplit(['-', ',']).next().unwrap();
    last.parse::<u32>().unwrap() + 1
}

/// Fresh shared memory without a name.
pub fn segment(bytes: u64) -> Segment {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = CString::new(dir.path().join("segment").as_os_str().as_bytes()).unwrap();
    Segment::create(&path, bytes.next_multiple_of(4096))
        .unwrap()
        .0
}

/// A map in a segment of its own; processes forked from this one share it.
pub fn map(spec: MapSpec) -> Result<Map, Errno> {
    Ok(map_and_storage(spec)?.0)
}

/// As [`map`], with the storage.
pub fn map_and_storage(spec: MapSpec) -> Result<(Map, Region), Errno> {
    let cpus = possible_cpus();
    let bytes = Map::storage_size(&spec, cpus)?
        .max(1)
        .next_multiple_of(4096);
    let storage = segment(bytes).region(0, bytes).unwrap();
    Ok((Map::create(spec, storage.clone(), cpus)?, storage))
}

/// A spec of the usual fields.
pub fn spec(map_type: u32, key: u32, value: u32, entries: u32, flags: u32) -> MapSpec {
    MapSpec {
        map_type,
        key_size: key,
        value_size: value,
        max_entries: entries,
        map_flags: flags,
        seed: 0x5eed,
        ..MapSpec::default()
    }
}
