//! Arguments of static probes, as programs read them. libbpf 1.7 describes
//! each in 24 bytes (bit-fields of `struct usdt_arg_spec` do not share a word
//! as was meant), in which programs compiled with another version's headers
//! see 16. So the map of descriptions has room for the longer ones, and what
//! libbpf has written is rewritten when a program has been attached. A hit
//! between these two moments finds a probe without arguments.

use std::collections::HashSet;

use libbpf_rs::{Map, MapCore, MapFlags, OpenMapMut};

/// The map of descriptions (usdt.bpf.h).
pub(crate) const SPECS: &str = "__bpf_usdt_specs";

/// The one version that is different.
const DIFFERENT: (u32, u32) = (1, 7);

/// `BPF_USDT_MAX_ARG_CNT`.
const ARGUMENTS: usize = 12;
/// Bytes of an argument, as programs have it and as libbpf writes it. Both
/// begin alike.
const NARROW: usize = 16;
const WIDE: usize = 24;
/// Behind the arguments: a cookie, the number of arguments in 2 bytes, nothing.
const REST: usize = 16;

/// Makes room for what libbpf writes.
pub(crate) fn make_room(map: &mut OpenMapMut<'_>) {
    // SAFETY: they take and touch nothing.
    let version = unsafe {
        (
            libbpf_sys::libbpf_major_version(),
            libbpf_sys::libbpf_minor_version(),
        )
    };
    let narrow = map.value_size() as usize == ARGUMENTS * NARROW + REST;
    if version == DIFFERENT && map.name() == SPECS && narrow {
        // If it is refused, all is as it would be without us.
        let _ = map.set_value_size((ARGUMENTS * WIDE + REST) as u32);
    }
}

/// Rewrites the descriptions that are not `done` yet.
pub(crate) fn rewrite(map: &Map<'_>, done: &mut HashSet<u32>) {
    if map.value_size() as usize != ARGUMENTS * WIDE + REST {
        return;
    }
    for id in 0..map.max_entries() {
        let key = id.to_ne_bytes();
        let Ok(Some(wide)) = map.lookup(&key, MapFlags::ANY) else {
            return;
        };
        // One without arguments is the same in both forms.
        let count = &wide[ARGUMENTS * WIDE + 8..][..2];
        if count != [0; 2] && done.insert(id) {
            // It is there, and of this size.
            let _ = map.update(&key, &narrowed(&wide), MapFlags::ANY);
        }
    }
}

fn narrowed(wide: &[u8]) -> Vec<u8> {
    let (arguments, rest) = wide.split_at(ARGUMENTS * WIDE);
    // What libbpf puts at 14 and behind are the register, the sign and the shift;
    // programs look for them at 12.
    let narrow = |argument: &[u8]| [&argument[..12], &argument[14..18]].concat();
    let mut bytes: Vec<u8> = arguments.chunks_exact(WIDE).flat_map(narrow).collect();
    bytes.extend_from_slice(rest);
    bytes.resize(wide.len(), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_stand_where_programs_look() {
        let mut wide = vec![0; ARGUMENTS * WIDE + REST];
        // The second: constant, register, sign, shift; the cookie, the count.
        wide[WIDE] = 1;
        wide[WIDE + 8] = 2;
        wide[WIDE + 14..WIDE + 18].copy_from_slice(&[3, 4, 5, 6]);
        wide[ARGUMENTS * WIDE] = 7;
        wide[ARGUMENTS * WIDE + 8] = 8;
        let mut narrow = vec![0; wide.len()];
        narrow[NARROW] = 1;
        narrow[NARROW + 8] = 2;
        narrow[NARROW + 12..NARROW + 16].copy_from_slice(&[3, 4, 5, 6]);
        narrow[ARGUMENTS * NARROW] = 7;
        narrow[ARGUMENTS * NARROW + 8] = 8;
        assert_eq!(narrowed(&wide), narrow);
    }
}
