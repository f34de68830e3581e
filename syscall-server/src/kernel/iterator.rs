//! Iterators of the kernel's over maps of ours, which go there for it. It knows
//! no iterator's text.

use std::os::fd::IntoRawFd;

use runtime::kernel::Attr;
use uapi::attr::AttrBytes;
use uapi::{Errno, cmd};

use super::maps;
use crate::bpf::own_map;
use crate::server::Server;
use crate::user;

/// Where `BPF_LINK_CREATE` has what an iterator goes over (`iter_info`).
const INFO: usize = 16;
const INFO_LEN: usize = 24;
/// Most bytes of it, of whatever future kernel.
const MAX_INFO: usize = 64;

/// Whether a link that the kernel would not make may be over a map of ours: to
/// it our fds are no maps.
pub fn may_be_over_ours(errno: Errno) -> bool {
    errno == Errno::EINVAL || errno == Errno::EBADF
}

/// `BPF_LINK_CREATE` with the kernel's fd in the place of that of a map of
/// ours; `None` if no such map is named.
///
/// # Errors
/// The kernel's, and those of bringing the map there.
pub fn link(server: &Server, bytes: &AttrBytes) -> Option<Result<i64, Errno>> {
    let address = u64::from_le_bytes(*bytes.get(INFO..)?.first_chunk()?);
    let size = u32::from_le_bytes(*bytes.get(INFO_LEN..)?.first_chunk()?) as usize;
    if address == 0 || !(4..=MAX_INFO).contains(&size) {
        return None;
    }
    let mut info = user::read_vec(address, size).ok()?;
    // `map.map_fd` of `union bpf_iter_link_info`.
    let fd = i32::from_le_bytes(*info.first_chunk()?);
    let map = own_map(fd).ok()?;
    let link = maps::bring(server, std::slice::from_ref(&map)).and_then(|()| {
        let fd = maps::kernel_fd(&map).ok_or(Errno::EBADF)?;
        info[..4].copy_from_slice(&fd.to_le_bytes());
        let attr = Attr::of(*bytes).pointer(INFO, info.as_ptr());
        let link = { attr }.open(cmd::BPF_LINK_CREATE)?;
        Ok(i64::from(link.into_raw_fd()))
    });
    Some(link)
}
