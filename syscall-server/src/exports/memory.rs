//! `mmap`. munmap(2) needs no help: what we map are ordinary mappings.

use std::ffi::c_int;

use super::guarded;
use crate::fds::FDS;
use crate::mapping::{self, Request};

/// mmap(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn mmap(
    address: usize,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> usize {
    let request = Request {
        address,
        len,
        prot,
        flags,
        fd,
        offset: offset as u64,
    };
    let native = || request.native().map(|address| address as i64);
    if !FDS.may_be_ours(fd) {
        return match native() {
            Ok(address) => address as usize,
            Err(errno) => crate::raw::fail(errno) as usize,
        };
    }
    guarded(|| match mapping::map(request) {
        Some(mapped) => mapped.map(|address| address as i64),
        None => native(),
    }) as usize
}

/// mmap64, the same on 64-bit machines.
#[unsafe(no_mangle)]
extern "C" fn mmap64(
    address: usize,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> usize {
    mmap(address, len, prot, flags, fd, offset)
}
