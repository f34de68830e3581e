//! One call of bpf(2): its attribute, what it writes back, and the fds it
//! names and makes. It knows no command.

use std::ffi::c_int;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use runtime::command::{BtfObject, LinkObject, MapObject, Object, ProgObject};
use uapi::Errno;
use uapi::attr::{ATTR_BYTES, AttrBytes};
use uapi::map::{BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_USER_RINGBUF};

use crate::bridge::Waker;
use crate::fds::{self, FDS, File, Rights};
use crate::server::{Server, existing};
use crate::{caller, log, raw, user};

/// Most bytes of an attribute, of whatever future kernel (`PAGE_SIZE`).
const MAX_ATTR_BYTES: u32 = 4096;

/// A call of bpf(2).
pub struct Call {
    /// The tool's session.
    pub server: &'static Server,
    /// The attribute, zero-extended.
    pub bytes: AttrBytes,
    /// Where the tool has it.
    pub attr: u64,
    /// How much of it the tool has.
    pub size: usize,
}

/// The attribute of `size` bytes at `attr`, zero-extended
/// (`bpf_check_uarg_tail_zero` and the copy after it).
pub fn copy_attr(attr: u64, size: u32) -> Result<AttrBytes, Errno> {
    if size > MAX_ATTR_BYTES {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; ATTR_BYTES];
    let known = ATTR_BYTES.min(size as usize);
    let unknown = user::read_vec(attr.wrapping_add(known as u64), size as usize - known)?;
    if unknown.iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG);
    }
    user::read(attr, &mut bytes[..known])?;
    Ok(bytes)
}

impl Call {
    /// Writes a field back, as far as the tool's attribute has it.
    pub fn put(&self, at: usize, bytes: &[u8]) -> Result<(), Errno> {
        if at + bytes.len() > self.size {
            return Ok(());
        }
        user::write(self.attr + at as u64, bytes)
    }

    /// Writes a field of four bytes back.
    pub fn put_u32(&self, at: usize, value: u32) -> Result<(), Errno> {
        self.put(at, &value.to_le_bytes())
    }

    /// Makes an fd for an object, of the kind that serves it best: the file of
    /// an array that can be mmapped, a pipe that follows the room in a user
    /// ring, else an eventfd, which follows the data of a ring.
    pub fn new_fd(&self, object: Object) -> Result<i64, Errno> {
        self.new_fd_with(object, Rights::ALL)
    }

    /// The same, with these rights.
    pub fn new_fd_with(&self, object: Object, rights: Rights) -> Result<i64, Errno> {
        let map_type = match &object {
            Object::Map(map) => map.map().spec().map_type,
            _ => 0,
        };
        let hosted = self.server.bpf.session().is_ok();
        if matches!(object, Object::Link(_)) && hosted {
            // Without it what dead targets held comes back when it is missed.
            let _ = self.server.bridge.start();
        }
        if map_type == BPF_MAP_TYPE_USER_RINGBUF && hosted {
            return self.user_ring_fd(object, rights);
        }
        let fd = match &object {
            Object::Map(map) if map.has_file() => match self.server.bpf.session() {
                Ok(_) => map.storage().ok_or(Errno::ENOMEM)?.fd.into_raw_fd(),
                Err(_) => fds::memory_file(map.file_bytes())?,
            },
            _ => fds::eventfd()?,
        };
        let waker = if map_type == BPF_MAP_TYPE_RINGBUF && hosted {
            let waker = Waker::new(object.clone(), fd);
            match waker.and_then(|waker| self.watch(waker)) {
                Ok(waker) => Some(waker),
                Err(errno) => {
                    raw::close(fd);
                    return Err(errno);
                }
            }
        } else {
            None
        };
        let file = File {
            object,
            rights,
            waker,
        };
        FDS.insert(fd, Arc::new(file))?;
        Ok(i64::from(fd))
    }

    /// An fd that is writable while a user ring has room.
    fn user_ring_fd(&self, object: Object, rights: Rights) -> Result<i64, Errno> {
        let [from, to] = fds::pipe()?;
        let waker = Waker::of_room(object.clone(), from, to);
        raw::close(from);
        match waker.and_then(|waker| self.watch(waker)) {
            Ok(waker) => {
                let file = File {
                    object,
                    rights,
                    waker: Some(waker),
                };
                FDS.insert(to, Arc::new(file))?;
                Ok(i64::from(to))
            }
            Err(errno) => {
                raw::close(to);
                Err(errno)
            }
        }
    }

    fn watch(&self, waker: Arc<Waker>) -> Result<Arc<Waker>, Errno> {
        self.server.bridge.watch(&waker)?;
        Ok(waker)
    }
}

/// What an fd stands for, or EBADF.
pub fn object(fd: c_int) -> Result<Object, Errno> {
    FDS.get(fd)
        .map(|file| file.object.clone())
        .ok_or(Errno::EBADF)
}

/// The fd is open, but is not what the command needs: EINVAL; it is not open:
/// EBADF (`__bpf_map_get` and its kin).
fn wrong(fd: c_int) -> Errno {
    caller::is_open(fd).err().unwrap_or(Errno::EINVAL)
}

/// The map that an fd stands for.
pub fn map(fd: c_int) -> Result<Arc<MapObject>, Errno> {
    map_and_rights(fd).map(|(map, _)| map)
}

fn map_and_rights(fd: c_int) -> Result<(Arc<MapObject>, Rights), Errno> {
    let found = FDS.look(fd, |file| match &file.object {
        Object::Map(map) => Some((Arc::clone(map), file.rights)),
        _ => None,
    });
    found.flatten().ok_or_else(|| wrong(fd))
}

/// The map that an fd stands for, if the fd has these rights to it
/// (`map_get_sys_perms`).
pub fn map_with(fd: c_int, needed: Rights) -> Result<Arc<MapObject>, Errno> {
    let (map, rights) = map_and_rights(fd)?;
    let writable = rights.write && !map.is_frozen();
    let lacks = (needed.read && !rights.read) || (needed.write && !writable);
    match lacks {
        true => Err(Errno::EPERM),
        false => Ok(map),
    }
}

/// To read elements.
pub const READ: Rights = Rights {
    read: true,
    write: false,
};
/// To change elements.
pub const WRITE: Rights = Rights {
    read: false,
    write: true,
};

/// The map that an fd stands for, as programs of this tool may use it.
pub fn own_map(fd: c_int) -> Result<Arc<MapObject>, Errno> {
    let map = map(fd)?;
    let own = existing().ok_or(Errno::EPERM)?.bpf.own_map(&map);
    own.inspect_err(|errno| {
        if *errno == Errno::EOPNOTSUPP {
            log::problem(format_args!(
                "a map of programs, events or maps that another tool pinned can be looked at, \
                 but not used by programs of this one"
            ));
        }
    })
}

/// The program that an fd stands for, as this tool may run it.
pub fn own_prog(fd: c_int) -> Result<Arc<ProgObject>, Errno> {
    let prog = prog(fd)?;
    existing().ok_or(Errno::EPERM)?.bpf.own_prog(&prog)
}

/// The program that an fd stands for.
pub fn prog(fd: c_int) -> Result<Arc<ProgObject>, Errno> {
    match object(fd) {
        Ok(Object::Prog(prog)) => Ok(prog),
        _ => Err(wrong(fd)),
    }
}

/// The type description that an fd stands for.
pub fn btf(fd: c_int) -> Result<Arc<BtfObject>, Errno> {
    match object(fd) {
        Ok(Object::Btf(btf)) => Ok(btf),
        _ => Err(wrong(fd)),
    }
}

/// The link that an fd stands for.
pub fn link(fd: c_int) -> Result<Arc<LinkObject>, Errno> {
    match object(fd) {
        Ok(Object::Link(link)) => Ok(link),
        _ => Err(wrong(fd)),
    }
}
