//! `BPF_MAP_CREATE` and `BPF_MAP_FREEZE`.

use runtime::command::Object;
use runtime::maps::MapSpec;
use uapi::Errno;
use uapi::attr;
use uapi::map::{BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS};

use super::call::{self, Call};
use crate::log;

pub fn create(call: &Call) -> Result<i64, Errno> {
    let attr = attr::MapCreate::decode(&call.bytes);
    let hosted = call.server.bpf.session().is_ok();
    // A map for a network device, of a kernel type, or with a signature.
    if attr.map_ifindex != 0
        || (hosted && attr.btf_vmlinux_value_type_id != 0)
        || attr.excl_prog_hash != 0
    {
        return Err(Errno::EINVAL);
    }
    // Key or value without the other's type, or a value without any
    // (`map_create`): types need a description.
    let btf = if attr.btf_key_type_id != 0 || attr.btf_value_type_id != 0 {
        if attr.btf_value_type_id == 0 {
            return Err(Errno::EINVAL);
        }
        Some(call::btf(attr.btf_fd)?)
    } else {
        None
    };
    let inner = match attr.map_type {
        BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_HASH_OF_MAPS if !hosted => {
            Some(call::map(attr.inner_map_fd)?)
        }
        _ => None,
    };
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
    let map = call
        .server
        .bpf
        .map_create(spec, btf, inner)
        .inspect_err(|errno| {
            log::debug(format_args!(
                "map type {} with {} entries of {}+{} bytes, flags {:#x}: {errno}",
                spec.map_type, spec.max_entries, spec.key_size, spec.value_size, spec.map_flags
            ));
        })?;
    call.new_fd(Object::Map(map))
}

pub fn freeze(call: &Call) -> Result<i64, Errno> {
    let attr = attr::MapFreeze::decode(&call.bytes);
    let map = call::map(attr.map_fd)?;
    call.server.bpf.map_freeze(&map)?;
    Ok(0)
}
