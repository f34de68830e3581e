//! What /proc tells of our fds: the names and texts that bpftool tells maps,
//! programs and links apart by. It knows no command.

use std::ffi::c_int;

use runtime::command::{Object, info};
use runtime::maps::Map;

use crate::caller;
use crate::fds::FDS;
use crate::server::existing;

/// The fd behind `/proc/self/DIRECTORY/N`, if it is ours.
fn fd_of(path: &[u8], directory: &str) -> Option<c_int> {
    let rest = path.strip_prefix(b"/proc/")?;
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    let (process, rest) = rest.split_at(slash);
    let own = process == b"self" || process == caller::pid().to_string().as_bytes();
    let rest = rest
        .strip_prefix(b"/")?
        .strip_prefix(directory.as_bytes())?;
    let number = std::str::from_utf8(rest.strip_prefix(b"/")?).ok()?;
    let fd = number.parse().ok()?;
    (own && caller::own_fd(fd).is_some_and(|fd| FDS.may_be_ours(fd))).then_some(fd)
}

/// Where the link `/proc/self/fd/N` leads.
pub fn link(path: &[u8]) -> Option<&'static str> {
    match FDS.get(fd_of(path, "fd")?)?.object {
        Object::Map(_) => Some("anon_inode:bpf-map"),
        Object::Prog(_) => Some("anon_inode:bpf-prog"),
        Object::Link(_) => Some("anon_inode:bpf-link"),
        Object::Btf(_) => Some("anon_inode:btf"),
        Object::Event(_) => Some("anon_inode:[perf_event]"),
    }
}

/// What `/proc/self/fdinfo/N` says, after what it says of every file.
pub fn text(path: &[u8]) -> Option<String> {
    let file = FDS.get(fd_of(path, "fdinfo")?)?;
    let path = caller::path(path).ok()?;
    let real = runtime::session::file::read_small(&path, 4096).ok()?;
    let real = String::from_utf8_lossy(&real);
    let common = real.lines().take_while(|line| {
        let known = ["pos:", "flags:", "mnt_id:", "ino:"];
        known.iter().any(|name| line.starts_with(name))
    });
    let mut text: String = common.flat_map(|line| [line, "\n"]).collect();
    text.push_str(&of(&file.object)?);
    Some(text)
}

fn of(object: &Object) -> Option<String> {
    Some(match object {
        Object::Map(map) => {
            let spec = map.map().spec();
            let cpus = existing()?
                .bpf
                .session()
                .map_or(1, |session| session.nr_cpus());
            format!(
                "map_type:\t{}\nkey_size:\t{}\nvalue_size:\t{}\nmax_entries:\t{}\nmap_flags:\t{:#x}\n\
                 map_extra:\t{:#x}\nmemlock:\t{}\nmap_id:\t{}\nfrozen:\t{}\n",
                spec.map_type,
                spec.key_size,
                spec.value_size,
                spec.max_entries,
                spec.map_flags,
                spec.map_extra,
                Map::storage_size(spec, cpus).unwrap_or(0),
                map.id(),
                u8::from(map.is_frozen()),
            )
        }
        Object::Prog(prog) => format!(
            "prog_type:\t{}\nprog_jited:\t0\nprog_tag:\t{:016x}\nmemlock:\t{}\nprog_id:\t{}\n\
             run_time_ns:\t0\nrun_cnt:\t0\nrecursion_misses:\t0\nverified_insns:\t{}\n",
            prog.spec().prog_type,
            0,
            (prog.spec().insns.len() as u64 * 8).next_multiple_of(4096),
            prog.id(),
            prog.verified_insns(),
        ),
        Object::Link(link) => format!(
            "link_type:\t{}\nlink_id:\t{}\nprog_id:\t{}\n",
            info::link_type_name(link),
            link.id(),
            link.prog().id(),
        ),
        Object::Btf(_) | Object::Event(_) => return None,
    })
}
