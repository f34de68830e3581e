//! What the agent's library needs of the libraries of a process, before it is
//! loaded there: a container may have others than we. It knows no mapping.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::unistd::Pid;

use super::maps::Mapping;
use super::target::in_its_root;
use crate::libraries::Library;
use crate::problem::Problem;

/// The unwinder, the one library besides the C library.
const UNWINDER: &str = "libgcc_s.so.1";
/// Where distributions have it.
const PLACES: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
/// The loader's list of all libraries.
const CACHE: &str = "/etc/ld.so.cache";

/// Says so if the process, whose C library is the file `libc`, lacks something.
pub fn check(pid: Pid, libc: &[u8], mappings: &[Mapping]) -> Result<(), Problem> {
    let has: BTreeSet<&[u8]> = versions(libc).collect();
    if let Some(missing) = versions(Library::Agent.bytes()).find(|wanted| !has.contains(wanted)) {
        let missing = String::from_utf8_lossy(missing).replace('_', " ");
        return Err(Problem::new(
            pid,
            format_args!("its C library is too old for the agent ({missing} is needed)"),
            "use a newer system in its container",
        ));
    }
    let name = UNWINDER.as_bytes();
    let is_mapped = mappings.iter().any(|map| map.file_name() == Some(name));
    let is_there = |place: &str| in_its_root(pid, &Path::new(place).join(UNWINDER)).exists();
    let is_listed = || {
        let cache = fs::read(in_its_root(pid, Path::new(CACHE))).unwrap_or_default();
        cache.windows(name.len()).any(|text| text == name)
    };
    if is_mapped || PLACES.iter().any(|place| is_there(place)) || is_listed() {
        return Ok(());
    }
    Err(Problem::new(
        pid,
        format_args!("its root directory has no {UNWINDER}, which the agent needs"),
        "install it there",
    ))
}

/// Versions of the C library that an ELF file names, as needed or as its own.
fn versions(elf: &[u8]) -> impl Iterator<Item = &[u8]> {
    const PREFIX: &[u8] = b"GLIBC_2.";
    let texts = elf.split(|byte| *byte == 0);
    texts.filter(|text| {
        let rest = text.strip_prefix(PREFIX).unwrap_or_default();
        !rest.is_empty()
            && rest
                .iter()
                .all(|byte| byte.is_ascii_digit() || *byte == b'.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stand_alone_in_a_string() {
        let elf = b"\x7fELF\0GLIBC_2.34\0xGLIBC_2.2\0GLIBC_2.2.5\0GLIBC_2.\0GLIBC_2.3x\0";
        let found: Vec<&[u8]> = versions(elf).collect();
        assert_eq!(found, [&b"GLIBC_2.34"[..], b"GLIBC_2.2.5"]);
    }

    #[test]
    fn the_agent_names_what_it_needs() {
        let mut needed = versions(Library::Agent.bytes());
        assert!(needed.any(|version| version == b"GLIBC_2.2.5"));
        let libc = fs::read("/lib/x86_64-linux-gnu/libc.so.6").expect("the C library");
        check(Pid::this(), &libc, &[])
            .map_err(|problem| problem.to_string())
            .expect("fits");
        let old: Vec<u8> = libc
            .split(|byte| *byte == b'4')
            .flatten()
            .copied()
            .collect();
        assert!(check(Pid::this(), &old, &[]).is_err());
    }
}
