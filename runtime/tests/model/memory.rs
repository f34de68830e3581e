//! Shared memory that is the same in each run of a model.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use shm::sync::model;
use shm::{Region, Segment};

/// `bytes` of it.
pub fn region(bytes: u64) -> Region {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = CString::new(dir.path().join("segment").as_os_str().as_bytes()).unwrap();
    let segment = Segment::create(&path, bytes.next_multiple_of(4096)).unwrap();
    segment.0.region(0, bytes).unwrap()
}

/// Begins a run: all of it is zeros.
pub fn begin(region: &Region) {
    // SAFETY: the whole region, which nobody uses between two runs.
    unsafe { region.as_ptr().write_bytes(0, region.len() as usize) };
    model::share(region.as_ptr(), region.len());
}
