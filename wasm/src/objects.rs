//! Objects: load, attach, close.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use libbpf_rs::{MapCore, MapType};
use loader::{Batch, Opened, Options, Target};
use wasmtime::Caller;

use crate::guest::{MapFd, State};
use crate::memory::{self, Result};

/// Most bytes of an object; the largest of tools have one hundredth of that.
const MAX_OBJECT: usize = 64 << 20;

/// `wasm_load_bpf_object`: a handle, or 0.
pub fn load(caller: &mut Caller<'_, State>, at: u64, length: u64) -> u64 {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_OBJECT {
        return 0;
    }
    if caller.data().guest.is_full() {
        tell(&"a module has as many objects as it may have");
        return 0;
    }
    let Ok(bytes) = memory::read(caller, at, length) else {
        return 0;
    };
    let options = Options {
        name: "guest".to_owned(),
        btf: caller.data().wishes.btf.clone(),
    };
    let loaded = Opened::read(&bytes, &options).and_then(Opened::load);
    match loaded {
        Ok(object) => caller.data_mut().guest.keep(object),
        Err(error) => {
            tell(&error);
            0
        }
    }
}

/// `wasm_close_bpf_object`.
pub fn close(caller: &mut Caller<'_, State>, object: u64) -> Result<i32> {
    caller.data_mut().guest.close(object).map(|()| 0)
}

/// `wasm_attach_bpf_program`: where the section says, or to `target`: a
/// control group's directory, an interface, or what `loader::Target` knows.
pub fn attach(caller: &mut Caller<'_, State>, object: u64, name: u64, target: u64) -> Result<i32> {
    let name = memory::text(caller, name)?.ok_or(-libc::EFAULT)?;
    let words = memory::text(caller, target)?.unwrap_or_default();
    attach_to(caller, object, &name, &words)
}

/// `wasm_attach_bpf_program_fd`: to the control group that a directory of the
/// guest's is; with a negative fd where the section says.
pub fn attach_fd(caller: &mut Caller<'_, State>, object: u64, name: u64, fd: i32) -> Result<i32> {
    let name = memory::text(caller, name)?.ok_or(-libc::EFAULT)?;
    let loaded = caller.data_mut().guest.object(object)?;
    let program = loaded
        .programs()
        .into_iter()
        .find(|program| program.name == name);
    let section = program.ok_or(-libc::ENOENT)?.section;
    // An interface is no directory.
    if section == "xdp" {
        return Err(-libc::EINVAL);
    }
    if section != "sockops" || fd < 0 {
        return attach_to(caller, object, &name, "");
    }
    let directory = directory(caller.data(), fd)?;
    let words = directory.to_str().ok_or(-libc::EINVAL)?.to_owned();
    attach_to(caller, object, &name, &words)
}

/// The directory of the host that the guest was given as this fd.
pub fn directory(state: &State, fd: i32) -> Result<&Path> {
    /// WASI's fd of the first directory that a guest is given.
    const FIRST_DIRECTORY: i32 = 3;

    let index = fd.checked_sub(FIRST_DIRECTORY).ok_or(-libc::EBADF)?;
    let index = usize::try_from(index).map_err(|_| -libc::EBADF)?;
    let directory = state.directories.get(index).ok_or(-libc::EBADF)?;
    Ok(directory)
}

fn attach_to(caller: &mut Caller<'_, State>, object: u64, name: &str, words: &str) -> Result<i32> {
    let State { guest, wishes, .. } = caller.data_mut();
    let loaded = guest.object(object)?;
    let words = wishes.target(name).unwrap_or(words);
    let attached = loaded.attach(name, &Target::from(words), wishes.pid);
    attached.map(|()| 0).map_err(|error| {
        tell(&error);
        -error.errno
    })
}

/// `wasm_bpf_map_fd_by_name`.
pub fn map_fd(caller: &mut Caller<'_, State>, object: u64, name: u64) -> Result<i32> {
    use std::os::fd::{AsFd, AsRawFd};

    let name = memory::text(caller, name)?.ok_or(-libc::EFAULT)?;
    let guest = &mut caller.data_mut().guest;
    let loaded = guest.object(object)?;
    let map = loaded.map(&name).ok_or(-libc::ENOENT)?;
    let value = map.value_size() as usize;
    let per_cpu = matches!(
        map.map_type(),
        MapType::PercpuArray
            | MapType::PercpuHash
            | MapType::LruPercpuHash
            | MapType::PercpuCgroupStorage
    );
    let value_size = match per_cpu {
        true => {
            value.next_multiple_of(8) * libbpf_rs::num_possible_cpus().map_err(|_| -libc::EIO)?
        }
        false => value,
    };
    let fd = MapFd {
        object,
        key_size: map.key_size() as usize,
        value_size,
        host: map.as_fd().as_raw_fd(),
        name,
        kind: map.map_type(),
        pending: Batch::default(),
    };
    // Opened at the first poll, a buffer would lack what programs that are
    // attached before it report; a failure is told there.
    if matches!(fd.kind, MapType::RingBuf | MapType::PerfEventArray) {
        let _ = loaded.buffer(&fd.name);
    }
    guest.fd(fd)
}

/// A guest learns a number; its user learns why.
pub fn tell(error: &dyn Display) {
    // Nobody is left to tell if stderr is gone.
    let line = format!("bpftime: {error}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}
