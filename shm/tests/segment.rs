//! Segments between two mappings of one file.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::Ordering;

use bpftime_shm::{Access, PAGE, Segment};

fn name(dir: &tempfile::TempDir, file: &str) -> CString {
    CString::new(dir.path().join(file).as_os_str().as_bytes()).unwrap()
}

fn errno(result: std::io::Result<Segment>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn what_one_mapping_stores_the_other_loads() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = name(&dir, "segment");
    let (one, _fd) = Segment::create(&path, 1 << 36).unwrap();
    let two = Segment::open(&path, Access::ReadOnly).unwrap();
    let (here, there) = (one.region(8, 64).unwrap(), two.region(8, 64).unwrap());
    here.u64_at(8).unwrap().store(7, Ordering::Release);
    assert_eq!(there.u64_at(8).unwrap().load(Ordering::Acquire), 7);
    here.write(61, b"end").unwrap();
    let mut copy = [0; 3];
    there.read(61, &mut copy).unwrap();
    assert_eq!(&copy, b"end");

    let meta = std::fs::metadata(dir.path().join("segment")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    assert!(meta.blocks() * 512 <= 4 * PAGE, "the file must be sparse");
}

#[test]
fn nothing_outside_is_handed_out() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (segment, _fd) = Segment::create(&name(&dir, "segment"), 4096).unwrap();
    assert!(segment.region(0, 4097).is_none());
    assert!(segment.region(8, 4089).is_none());
    assert!(segment.region(u64::MAX - 7, 16).is_none());
    assert!(segment.region(4, 8).is_none());
    let region = segment.region(8, 16).unwrap();
    assert!(region.u64_at(16).is_none());
    assert!(region.u64_at(12).is_none());
    assert!(region.u32_at(14).is_none());
    assert!(region.u32_at(u64::MAX).is_none());
    assert!(region.read(10, &mut [0; 7]).is_none());
    assert!(region.write(17, &[]).is_none());
    assert!(region.sub(8, 9).is_none());
    assert_eq!(
        region.sub(8, 8).unwrap().as_ptr(),
        region.as_ptr().wrapping_add(8)
    );
}

#[test]
fn names_are_not_squatted() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = name(&dir, "segment");
    drop(Segment::create(&path, 4096).unwrap());
    assert_eq!(
        errno(Segment::create(&path, 4096).map(|(s, _)| s)),
        Some(libc::EEXIST)
    );
    symlink(dir.path().join("segment"), dir.path().join("link")).unwrap();
    assert_eq!(
        errno(Segment::open(&name(&dir, "link"), Access::ReadOnly)),
        Some(libc::ELOOP)
    );
    std::fs::write(dir.path().join("empty"), []).unwrap();
    assert_eq!(
        errno(Segment::open(&name(&dir, "empty"), Access::ReadOnly)),
        Some(libc::EINVAL)
    );
}

#[test]
fn a_double_mapping_wraps() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (segment, _fd) = Segment::create(&name(&dir, "segment"), 4 * PAGE).unwrap();
    let region = segment.region(0, 4 * PAGE).unwrap();
    let double = region.map_double(PAGE, 2 * PAGE).unwrap();
    // SAFETY: offset 2 pages is the second copy of the first byte.
    unsafe { double.as_ptr().add(2 * PAGE as usize).write_volatile(9) };
    let mut first = [0];
    region.read(PAGE, &mut first).unwrap();
    assert_eq!(first, [9]);
    assert!(region.map_double(8, PAGE).is_none());
    assert!(region.map_double(3 * PAGE, 2 * PAGE).is_none());
}
