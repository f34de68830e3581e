//! Maps of programs that go to the kernel: made there, filled, and put behind
//! the tool's fds and mappings. It knows no program.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use runtime::command::moved::Move;
use runtime::command::{BtfObject, MapObject};
use runtime::kernel::{self, Attr};
use runtime::maps::kernel::{fits_relay, is_relayed, relay_program};
use runtime::maps::{KernelObjects, MapSpec};
use uapi::Errno;
use uapi::map::{
    BPF_F_MMAPABLE, BPF_F_RDONLY, BPF_F_RDONLY_PROG, BPF_F_WRONLY, BPF_MAP_TYPE_ARRAY,
    BPF_MAP_TYPE_CGROUP_ARRAY, BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_RINGBUF,
    BPF_MAP_TYPE_STACK_TRACE,
};

use uapi::prog::{BPF_F_SLEEPABLE, BPF_PROG_TYPE_SYSCALL};

use super::program::say_why;
use super::{given, perf};
use crate::fds::{FDS, PrivateFd, Rights};
use crate::mapping::Request;
use crate::server::Server;
use crate::{log, raw};

/// What a map of ours is in the kernel: it, and the program that relays to it.
struct InKernel(
    PrivateFd,
    #[expect(dead_code, reason = "held so that it lives")] Option<PrivateFd>,
);

impl AsFd for InKernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: a private fd is open as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.0.raw()) }
    }
}

fn kernels(map: &MapObject) -> Option<&InKernel> {
    map.extra.get()?.downcast_ref()
}

/// The kernel's fd of a map that was brought there.
pub fn kernel_fd(map: &MapObject) -> Option<c_int> {
    kernels(map).map(|kernel| kernel.0.raw())
}

/// Where a cgroup array in the kernel is filled: only there a fd says which
/// cgroup it is. `None` for another map, and one that no program there uses.
pub fn cgroups(map: &MapObject) -> Option<BorrowedFd<'_>> {
    let is_theirs = map.map().spec().map_type == BPF_MAP_TYPE_CGROUP_ARRAY;
    kernels(map).filter(|_| is_theirs).map(AsFd::as_fd)
}

/// The stacks that programs in the kernel keep: their ids lead there, and those
/// of targets to ours. `None` for another map, and one that no program there
/// uses.
pub fn stacks(map: &MapObject) -> Option<BorrowedFd<'_>> {
    let is_theirs = map.map().spec().map_type == BPF_MAP_TYPE_STACK_TRACE;
    kernels(map).filter(|_| is_theirs).map(AsFd::as_fd)
}

/// A description as the kernel has it, loaded once; `None` if it does not
/// take it.
pub fn btf(btf: &Arc<BtfObject>) -> Option<impl AsFd> {
    struct Borrowed(c_int);
    impl AsFd for Borrowed {
        fn as_fd(&self) -> BorrowedFd<'_> {
            // SAFETY: the description's, which keeps it.
            unsafe { BorrowedFd::borrow_raw(self.0) }
        }
    }
    let load = || -> Option<PrivateFd> {
        let fd = kernel::btf_load(btf.bytes())
            .inspect_err(|errno| log::debug(format_args!("the kernel takes no types: {errno}")));
        PrivateFd::duplicate(fd.ok()?.as_raw_fd()).ok()
    };
    let extra = btf.extra.get_or_init(|| Box::new(load()));
    let fd = extra.downcast_ref::<Option<PrivateFd>>()?.as_ref()?;
    Some(Borrowed(fd.raw()))
}

/// Brings maps to the kernel that are not there yet.
///
/// # Errors
/// The kernel's; ENOTSUPP for a map that cannot go.
pub fn bring(server: &Server, maps: &[Arc<MapObject>]) -> Result<(), Errno> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    bring_some(server, maps)
}

/// The same, one at a time already.
pub(super) fn bring_some(server: &Server, maps: &[Arc<MapObject>]) -> Result<(), Errno> {
    let missing: Vec<&Arc<MapObject>> = maps.iter().filter(|map| kernels(map).is_none()).collect();
    let mut made = Vec::new();
    let mut going = Vec::new();
    for map in missing {
        let is_shared = kernel_spec(map.map().spec()).is_some();
        let created = match is_shared {
            true => create(map),
            false => given::give(server, map),
        };
        let fd = created.inspect_err(|errno| {
            let name = String::from_utf8_lossy(&map.map().spec().name).into_owned();
            let name = name.trim_end_matches('\0');
            let kind = map.map().spec().map_type;
            log::problem(format_args!(
                "map \"{name}\" of type {kind} cannot go to the kernel with a program that uses it \
                 ({errno}); try --runtime kernel"
            ));
        })?;
        let mut relay = None;
        let spec = map.map().spec();
        if !is_shared {
            // There is no other one.
        } else if spec.map_type == BPF_MAP_TYPE_PERF_EVENT_ARRAY {
            for event in perf::fill(&fd, spec.max_entries)? {
                server.kernel.drain.add_event(event, map)?;
            }
        } else if spec.map_type == BPF_MAP_TYPE_CGROUP_ARRAY {
            // Ours is empty and stays so: user space cannot look at cgroups.
        } else if spec.map_type == BPF_MAP_TYPE_STACK_TRACE {
            // Each side keeps its own; the tool looks in both.
        } else if is_beside(spec) {
            server.kernel.drain.add(&fd, map)?;
        } else if is_constant(map) {
            fill_constant(map, &fd)?;
        } else {
            relay = relay_for(map.map().spec(), &fd)?;
            let to = KernelObjects {
                map: kernel::id(fd.as_fd())?,
                relay: match &relay {
                    Some(relay) => kernel::id(relay.as_fd())?,
                    None => 0,
                },
            };
            let map = Arc::clone(map);
            going.push(Move { map, to });
        }
        let private = |fd: &OwnedFd| PrivateFd::duplicate(fd.as_raw_fd());
        let relay = relay.as_ref().map(private).transpose()?;
        made.push((map, InKernel(private(&fd)?, relay)));
    }
    if !going.is_empty() {
        let moved = |map: &&(&Arc<MapObject>, InKernel)| map.0.map().in_kernel();
        server.bpf.move_maps(&going, || {
            let mut moved = made.iter().filter(moved);
            moved.try_for_each(|(map, kernel)| put_behind(server, map, kernel))
        })?;
    }
    for (map, kernel) in made {
        // It had none, under the lock.
        let _ = map.extra.set(Box::new(kernel));
    }
    Ok(())
}

/// Whether nobody writes the map any more: both sides have their own.
fn is_constant(map: &MapObject) -> bool {
    map.map().frozen() && map.map().spec().has(BPF_F_RDONLY_PROG)
}

fn fill_constant(map: &MapObject, fd: &OwnedFd) -> Result<(), Errno> {
    let spec = map.map().spec();
    for index in 0..spec.max_entries {
        let mut value = vec![0; map.map().syscall_value_size()];
        map.map().lookup(&index.to_ne_bytes(), &mut value, 0)?;
        kernel::update(fd.as_fd(), &index.to_ne_bytes(), &value, 0)?;
    }
    kernel::freeze(fd.as_fd())
}

/// The kernel's map for one of ours that both worlds use, empty.
fn create(map: &MapObject) -> Result<OwnedFd, Errno> {
    let spec = kernel_spec(map.map().spec()).ok_or(Errno::ENOTSUPP)?;
    if map.map().frozen() && !is_constant(map) {
        // The kernel would let no target write it.
        return Err(Errno::ENOTSUPP);
    }
    create_as(map, &spec, None)
}

/// A map of the kernel's with this spec and the types of one of ours, empty.
///
/// # Errors
/// The kernel's.
pub(super) fn create_as(
    map: &MapObject,
    spec: &MapSpec,
    inner: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Errno> {
    let described = map.btf().and_then(btf);
    let made = kernel::map_create(spec, described.as_ref().map(AsFd::as_fd), inner);
    match made {
        Err(Errno::EINVAL | Errno::ENOTSUPP) if described.is_some() && spec.field_count == 0 => {
            kernel::map_create(spec, None, inner)
        }
        other => other,
    }
}

/// What the kernel is asked for; `None` for what cannot be shared with it.
pub(super) fn kernel_spec(spec: &MapSpec) -> Option<MapSpec> {
    match spec.map_type {
        // Targets use its memory.
        BPF_MAP_TYPE_ARRAY if spec.field_count == 0 => Some(MapSpec {
            map_flags: spec.map_flags | BPF_F_MMAPABLE,
            ..*spec
        }),
        _ if is_relayed(spec) => fits_relay(spec).then_some(*spec),
        _ if is_beside(spec) => Some(*spec),
        _ => None,
    }
}

/// Whether the kernel's map stays beside ours.
fn is_beside(spec: &MapSpec) -> bool {
    let types = [
        BPF_MAP_TYPE_RINGBUF,
        BPF_MAP_TYPE_PERF_EVENT_ARRAY,
        BPF_MAP_TYPE_CGROUP_ARRAY,
        BPF_MAP_TYPE_STACK_TRACE,
    ];
    types.contains(&spec.map_type)
}

/// The program by which targets use a map that is not memory to them.
fn relay_for(spec: &MapSpec, map: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    if !is_relayed(spec) {
        return Ok(None);
    }
    let insns = relay_program(spec, map.as_raw_fd())?;
    let attr = || {
        Attr::new()
            .u32(0, BPF_PROG_TYPE_SYSCALL)
            .pointer(16, c"GPL".as_ptr())
            .u32(44, BPF_F_SLEEPABLE)
            .bytes(48, b"bpftime_relay")
    };
    kernel::prog_load(attr(), &insns)
        .inspect_err(|errno| say_why(attr(), &insns, *errno))
        .map(Some)
}

/// Has the tool's fds and mappings of a map lead to the kernel's.
fn put_behind(server: &Server, map: &Arc<MapObject>, kernel: &InKernel) -> Result<(), Errno> {
    for (fd, rights) in FDS.of_map(map) {
        replace(fd, kernel.as_fd(), rights)?;
    }
    let path = server.bpf.session()?.array_path(map.id());
    let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let old = map.first_memory();
    let mappings = text
        .lines()
        .filter_map(|line| Shown::of(line, path.to_str()?));
    for shown in mappings.filter(|shown| Some(shown.address) != old) {
        shown.request(kernel.0.raw()).native()?;
    }
    Ok(())
}

/// Has an fd of the tool lead to a map of the kernel's.
pub(super) fn replace(fd: c_int, map: BorrowedFd<'_>, rights: Rights) -> Result<(), Errno> {
    let flags = match rights {
        Rights { write: false, .. } => BPF_F_RDONLY,
        Rights { read: false, .. } => BPF_F_WRONLY,
        _ => 0,
    };
    let opened = match flags {
        0 => None,
        flags => Some(kernel::map_by_id(kernel::id(map)?, flags)?),
    };
    let from = opened.as_ref().map_or(map.as_raw_fd(), AsRawFd::as_raw_fd) as usize;
    let own = raw::call(
        libc::SYS_fcntl,
        [fd as usize, libc::F_GETFD as usize, 0, 0, 0, 0],
    );
    let close_on_exec = match own {
        flags if flags >= 0 && flags as c_int & libc::FD_CLOEXEC == 0 => 0,
        _ => libc::O_CLOEXEC,
    };
    let words = [from, fd as usize, close_on_exec as usize, 0, 0, 0];
    raw::checked(libc::SYS_dup3, words).map(drop)
}

/// A shared mapping of a file, as /proc/self/maps shows it.
struct Shown {
    address: usize,
    len: usize,
    prot: c_int,
    offset: u64,
}

impl Shown {
    /// The mapping on this line, if it is one of the file at `path`.
    fn of(line: &str, path: &str) -> Option<Shown> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let perms = fields.next()?.as_bytes();
        let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
        let address = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        if fields.nth(2) != Some(path) {
            return None;
        }
        let may = |at: usize, byte: u8, prot: c_int| match perms.get(at) {
            Some(&found) if found == byte => prot,
            _ => 0,
        };
        Some(Shown {
            address,
            len: end.checked_sub(address)?,
            prot: may(0, b'r', libc::PROT_READ) | may(1, b'w', libc::PROT_WRITE),
            offset,
        })
    }

    /// What puts the kernel's map in its place.
    fn request(&self, fd: c_int) -> Request {
        Request {
            address: self.address,
            len: self.len,
            prot: self.prot,
            flags: libc::MAP_SHARED | libc::MAP_FIXED,
            fd,
            offset: self.offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_one_file() {
        let path = "/dev/shm/bpftime-0/1-0/array-7";
        let line =
            "7f1000000000-7f1000002000 rw-s 00001000 00:17 12      /dev/shm/bpftime-0/1-0/array-7";
        let shown = Shown::of(line, path).unwrap();
        assert_eq!(
            (shown.address, shown.len, shown.offset),
            (0x7f10_0000_0000, 0x2000, 0x1000)
        );
        assert_eq!(shown.prot, libc::PROT_READ | libc::PROT_WRITE);
        assert!(Shown::of(line, "/dev/shm/bpftime-0/1-0/array-70").is_none());
        assert!(Shown::of("7f10-7f20 rw-p 00000000 00:00 0", path).is_none());
    }
}
