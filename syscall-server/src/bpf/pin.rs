//! `BPF_OBJ_PIN` and `BPF_OBJ_GET`.

use runtime::command::Object;
use uapi::Errno;
use uapi::attr::ObjPin;

use super::call::{self, Call};
use crate::fds::Rights;
use crate::user;

/// The name of a pin; only paths relative to the working directory or
/// absolute ones are known here.
fn path(attr: &ObjPin) -> Result<Vec<u8>, Errno> {
    if attr.path_fd != 0 {
        return Err(Errno::EINVAL);
    }
    user::read_string(attr.pathname, user::PATH_MAX)
}

pub fn pin(call: &Call) -> Result<i64, Errno> {
    let attr = ObjPin::decode(&call.bytes);
    if attr.file_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let object = call::object(attr.bpf_fd)?;
    call.server.bpf.pin(path(&attr)?, object)?;
    Ok(0)
}

pub fn get(call: &Call) -> Result<i64, Errno> {
    let attr = ObjPin::decode(&call.bytes);
    if attr.bpf_fd != 0 {
        return Err(Errno::EINVAL);
    }
    let rights = Rights::of(attr.file_flags)?;
    let object = call.server.bpf.pinned(&path(&attr)?)?;
    // Programs have no elements, and links are not opened for half.
    if matches!(object, Object::Link(_)) && rights != Rights::ALL {
        return Err(Errno::EINVAL);
    }
    call.new_fd_with(object, rights)
}
