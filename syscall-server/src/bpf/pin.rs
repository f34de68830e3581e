//! `BPF_OBJ_PIN` and `BPF_OBJ_GET`.

use std::ffi::c_int;
use std::os::fd::AsRawFd;

use runtime::command::Object;
use uapi::attr::ObjPin;
use uapi::map::{BPF_F_RDONLY, BPF_F_WRONLY};
use uapi::{Errno, cmd};

use super::call::{self, Call};
use crate::bpffs::Place;
use crate::fds::Rights;
use crate::{kernel, log, user};

/// `BPF_F_PATH_FD`.
const PATH_FD: u32 = 1 << 14;
/// `BPF_OBJ_FLAG_MASK`.
const ONE_WAY: u32 = BPF_F_RDONLY | BPF_F_WRONLY;

/// The place that a call names; `flags` are its own besides [`PATH_FD`].
fn place(attr: &ObjPin) -> Result<Place, Errno> {
    let from = match attr.file_flags & PATH_FD != 0 {
        true => attr.path_fd as c_int,
        false => libc::AT_FDCWD,
    };
    Place::find(from, &user::read_string(attr.pathname, user::PATH_MAX)?)
}

/// What a command refuses before it looks at anything (`bpf_obj_pin`).
fn check(attr: &ObjPin, flags: u32) -> Result<(), Errno> {
    let known = attr.file_flags & !(flags | PATH_FD) == 0;
    // An fd without the flag.
    let meant = attr.file_flags & PATH_FD != 0 || attr.path_fd == 0;
    (known && meant).then_some(()).ok_or(Errno::EINVAL)
}

/// `BPF_OBJ_PIN`.
pub(super) fn pin(call: &Call) -> Result<i64, Errno> {
    let attr = ObjPin::decode(&call.bytes);
    check(&attr, 0)?;
    let object = call::object(attr.bpf_fd).map_err(|_| Errno::EINVAL)?;
    let place = place(&attr)?;
    place.may_be_made()?;
    let pinned = call
        .server
        .bpf
        .pin(&object, (place.directory.as_raw_fd(), &place.name));
    if pinned == Err(Errno::EOPNOTSUPP) {
        log::problem(format_args!(
            "cannot pin a link on a clock: its program runs in this tool"
        ));
    }
    pinned?;
    // Sees when others unpin it. Without it that is seen at the next chance.
    let _ = call.server.bridge.start();
    Ok(0)
}

/// `BPF_OBJ_GET`.
pub(super) fn get(call: &Call) -> Result<i64, Errno> {
    let attr = ObjPin::decode(&call.bytes);
    if attr.bpf_fd != 0 {
        return Err(Errno::EINVAL);
    }
    check(&attr, ONE_WAY)?;
    let rights = Rights::of(attr.file_flags & ONE_WAY)?;
    let place = place(&attr)?;
    let bpf = &call.server.bpf;
    let pinned = bpf.pinned((place.directory.as_raw_fd(), &place.name));
    if pinned.as_ref().err() == Some(&Errno::ENOENT) {
        place.forget_dead();
        // What goes to the kernel is pinned there.
        let theirs = || kernel::open(call.server, cmd::BPF_OBJ_GET, call.attr, call.size as u32);
        if call.server.kernel.may_host()
            && let Ok(fd) = theirs()
        {
            return Ok(fd);
        }
    }
    let object = pinned?;
    // Programs have no elements, and links are not opened for half.
    if matches!(object, Object::Link(_)) && rights != Rights::ALL {
        return Err(Errno::EINVAL);
    }
    call.new_fd_with(object, rights)
}
