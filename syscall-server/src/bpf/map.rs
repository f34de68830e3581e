//! `BPF_MAP_CREATE` and `BPF_MAP_FREEZE`.

use std::path::Path;

use runtime::command::Object;
use runtime::maps::MapSpec;
use uapi::Errno;
use uapi::attr;
use uapi::map::{BPF_F_NUMA_NODE, BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS};

use super::call::{self, Call};
use crate::{log, mapping, user};

/// `SHA256_DIGEST_SIZE`.
const SHA256_BYTES: u32 = 32;

pub fn create(call: &Call) -> Result<i64, Errno> {
    let attr = attr::MapCreate::decode(&call.bytes);
    check(call, &attr)?;
    let spec = MapSpec {
        map_type: attr.map_type,
        key_size: attr.key_size,
        value_size: attr.value_size,
        max_entries: attr.max_entries,
        map_flags: attr.map_flags,
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
    call.server.bpf.map_check(&spec).inspect_err(refused)?;
    // A map for a network device.
    if attr.map_ifindex != 0 {
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
    let map = call.server.bpf.map_create(spec, btf, inner.as_deref());
    call.new_fd(Object::Map(map.inspect_err(refused)?))
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
    number == 0 || Path::new(&format!("/sys/devices/system/node/node{number}")).exists()
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
