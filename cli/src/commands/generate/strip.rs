//! Takes an object's debugging information away, which is many times as long
//! as all that a loader looks at.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use object::ElfFile;

use crate::libraries::reason;
use crate::problem::Problem;

/// The object without it, or as it is if it has none.
pub fn without_debug_info(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let has = ElfFile::parse(bytes).is_ok_and(|elf| elf.section(".debug_info").is_some());
    if !has {
        return Ok(bytes.to_vec());
    }
    link(bytes).map_err(|error| {
        let advice = match error.raw_os_error() {
            Some(libc::EFBIG) => "raise the limit on file sizes (ulimit -f)",
            _ => "take debugging information away by llvm-strip -g",
        };
        let happened = format!("cannot be linked by libbpf ({})", reason(&error));
        Problem::new("the object", happened, advice)
    })
}

/// libbpf's linker copies what loaders need.
fn link(object: &[u8]) -> io::Result<Vec<u8>> {
    // Files in memory have the limit of files, at which a signal would end us.
    if !shm::sys::may_grow_to(object.len() as u64) {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let mut file = File::from(memfd_create(c"object", MFdFlags::MFD_CLOEXEC)?);
    let check = |result: i32| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the linker lives until it is freed; file and bytes outlive it, and
    // libbpf only reads the bytes.
    let linked = unsafe {
        let linker = libbpf_sys::bpf_linker__new_fd(file.as_raw_fd(), std::ptr::null_mut());
        if linker.is_null() {
            return Err(io::Error::last_os_error());
        }
        let bytes = object.as_ptr().cast_mut().cast();
        let size = object.len() as u64;
        let added = libbpf_sys::bpf_linker__add_buf(linker, bytes, size, std::ptr::null_mut());
        let linked = check(added).and_then(|()| check(libbpf_sys::bpf_linker__finalize(linker)));
        libbpf_sys::bpf_linker__free(linker);
        linked
    };
    linked?;
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
