//! `BPF_MAP_CREATE` and `BPF_MAP_FREEZE`.

use std::path::Path;

use runtime::command::Object;
use runtime::maps::{MapSpec, kernels_only};
use uapi::Errno;
use uapi::attr;
use uapi::map::*;

use super::call::{self, Call};
use crate::fds::Rights;
use crate::{caller, kernel, log, mapping, user};

/// `SHA256_DIGEST_SIZE`.
const SHA256_BYTES: u32 = 32;

/// `NUMA_NO_NODE`.
const NO_NODE: u32 = u32::MAX;

pub fn create(call: &Call) -> Result<i64, Errno> {
    let attr = attr::MapCreate::decode(&call.bytes);
    let hosted = call.server.bpf.session().is_ok();
    let kernels = kernels_only(attr.map_type).filter(|_| hosted);
    // Loaders that look for what there is give no name.
    let tell = |_: &Errno| {
        if let Some(reason) = kernels.filter(|_| attr.map_name[0] != 0) {
            let name = String::from_utf8_lossy(&attr.map_name);
            let name = name.trim_end_matches('\0');
            log::problem(format_args!("map {name} cannot be made: {reason}"));
        }
    };
    check(call, &attr).inspect_err(tell)?;
    let per_cpu = [
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_PERCPU_ARRAY,
        BPF_MAP_TYPE_LRU_PERCPU_HASH,
    ];
    // Values of CPUs are on no node in particular.
    let node_flag = match attr.numa_node == NO_NODE && per_cpu.contains(&attr.map_type) {
        true => BPF_F_NUMA_NODE,
        false => 0,
    };
    let spec = MapSpec {
        map_type: attr.map_type,
        key_size: attr.key_size,
        value_size: attr.value_size,
        max_entries: attr.max_entries,
        map_flags: attr.map_flags & !(BPF_F_TOKEN_FD | node_flag),
        map_extra: attr.map_extra,
        name: attr.map_name,
        btf_key_type_id: attr.btf_key_type_id,
        btf_value_type_id: attr.btf_value_type_id,
        ..MapSpec::default()
    };
    let refused = |errno: &Errno| {
        log::debug(format_args!(
            "map type {} with {} entries of {}+{} bytes, flags {:#x}: {errno}",
            spec.map_type, spec.max_entries, spec.key_size, spec.value_size, spec.map_flags
        ));
    };
    if kernels.is_some() && call.server.kernel.may_host() {
        let is_described = attr.btf_key_type_id != 0
            || attr.btf_value_type_id != 0
            || attr.btf_vmlinux_value_type_id != 0;
        let btf = is_described.then(|| call::btf(attr.btf_fd)).transpose()?;
        return kernel::given::create(call.server, call.bytes, btf.as_ref());
    }
    if kernels.is_some() {
        tell(&Errno::EINVAL);
        return Err(Errno::EINVAL);
    }
    call.server.bpf.map_check(&spec).inspect_err(refused)?;
    // A map for a network device, which are none that take maps.
    if attr.map_ifindex != 0 {
        let offloaded = [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY].contains(&attr.map_type);
        return Err(match offloaded && is_device(attr.map_ifindex) {
            true => Errno::EOPNOTSUPP,
            false => Errno::EINVAL,
        });
    }
    // Nobody hands out tokens.
    if attr.map_flags & BPF_F_TOKEN_FD != 0 {
        caller::is_open(attr.map_token_fd)?;
        return Err(Errno::EINVAL);
    }
    let inner = match attr.map_type {
        BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_HASH_OF_MAPS => {
            Some(call::map(attr.inner_map_fd)?)
        }
        _ => None,
    };
    let is_described = attr.btf_key_type_id != 0 || attr.btf_value_type_id != 0;
    let btf = match is_described {
        true => Some(call::btf(attr.btf_fd)?),
        false => None,
    };
    // Nor for one program, whose hash the kernel makes of what it loads.
    if attr.excl_prog_hash != 0 && attr.excl_prog_hash_size == SHA256_BYTES {
        user::read(attr.excl_prog_hash, &mut [0; SHA256_BYTES as usize])?;
    }
    if attr.excl_prog_hash != 0 || attr.excl_prog_hash_size != 0 {
        return Err(Errno::EINVAL);
    }
    let rights = Rights::of(attr.map_flags & (BPF_F_RDONLY | BPF_F_WRONLY))?;
    let map = call.server.bpf.map_create(spec, btf, inner.as_deref());
    call.new_fd_with(Object::Map(map.inspect_err(refused)?), rights)
}

/// Whether a network device has this index.
fn is_device(index: u32) -> bool {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the name takes as many bytes as the function may write.
    !unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null()
}

/// What `map_create` checks before it knows the type.
fn check(call: &Call, attr: &attr::MapCreate) -> Result<(), Errno> {
    let hosted = call.server.bpf.session().is_ok();
    let kernel_type = attr.btf_vmlinux_value_type_id != 0;
    // Key or value without the other's type, or a value without any: types
    // need a description. Kernel types are for what only kernels have.
    if (hosted && kernel_type) || (attr.btf_key_type_id != 0 && attr.btf_value_type_id == 0) {
        return Err(Errno::EINVAL);
    }
    let on_node = attr.map_flags & BPF_F_NUMA_NODE != 0;
    if on_node && !has_node(attr.numa_node) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Whether the machine has a node with this number; on which memory lies is
/// all the same to us.
fn has_node(number: u32) -> bool {
    // `NUMA_NO_NODE`: any.
    number == 0
        || number == u32::MAX
        || Path::new(&format!("/sys/devices/system/node/node{number}")).exists()
}

pub fn freeze(call: &Call) -> Result<i64, Errno> {
    let attr = attr::MapFreeze::decode(&call.bytes);
    let map = call::map(attr.map_fd)?;
    // A kernel freezes no map whose values are more than bytes.
    if map.map().spec().field_count != 0 {
        return Err(Errno::ENOTSUPP);
    }
    let map = call::map_with(attr.map_fd, call::WRITE)?;
    if !map.is_frozen() && map.has_file() && mapping::is_written(call.server, &map) {
        return Err(Errno::EBUSY);
    }
    call.server.bpf.map_freeze(&map)?;
    Ok(0)
}
