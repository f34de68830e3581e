//! The executable file mappings of a process, as /proc lists them, and what
//! stack walks need of the files. It knows no link and no program. Not
//! dl_iterate_phdr(3): it takes the lock that a thread in dlopen(3) holds while
//! it waits for us.

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

use object::ElfFile;
use object::unwind::{self, Row};

use crate::session::file;
use crate::unwind::{BUILD_ID, Module};

/// One executable mapping of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Addresses.
    pub range: Range<usize>,
    /// File offset of the first byte.
    pub offset: u64,
    /// Device as the mapping shows it.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Path when it was mapped.
    pub path: PathBuf,
}

impl Mapping {
    /// Address at which a byte of the file lies, if it lies in this mapping.
    pub fn address_of(&self, offset: u64) -> Option<usize> {
        let inside = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let address = self.range.start.checked_add(inside)?;
        self.range.contains(&address).then_some(address)
    }

    /// Whether `next` maps what follows, right behind.
    fn goes_on_in(&self, next: &Mapping) -> bool {
        let same = (self.dev, self.ino) == (next.dev, next.ino) && self.path == next.path;
        let bytes = (self.range.end - self.range.start) as u64;
        same && self.range.end == next.range.start && self.offset + bytes == next.offset
    }

    /// What has to be added to the file's addresses to get the process's.
    pub fn bias(&self, elf: &ElfFile<'_>) -> Option<u64> {
        // The mapping begins on a page, the segment perhaps later in that page.
        let (start, end) = (self.offset, self.offset + self.range.len() as u64);
        elf.segments()
            .filter(|segment| segment.executable)
            .find_map(|segment| {
                let first = segment.file.start.max(start);
                (first < segment.file.end.min(end)).then_some(())?;
                let address = elf.address_of_offset(first)?;
                Some((self.range.start as u64 + (first - start)).wrapping_sub(address))
            })
    }

    /// The bytes of the very file that is mapped in the process that /proc has
    /// as `process`: by its path when that still names it, else through /proc,
    /// which finds a deleted executable.
    pub fn open(&self, process: &str) -> Option<Vec<u8>> {
        let path = self.path.as_os_str().as_bytes();
        let (start, end) = (self.range.start, self.range.end);
        let below = |name: &str| format!("/proc/{process}/{name}").into_bytes();
        let paths = [
            path.to_vec(),
            below("exe"),
            below(&format!("map_files/{start:x}-{end:x}")),
            // A process in a container has other files by that name.
            [&below("root"), path].concat(),
        ];
        paths.into_iter().find_map(|path| {
            let name = CString::new(path).ok()?;
            let stat = file::stat(&name).ok()?;
            (stat.ino == self.ino).then(|| file::read_all(&name).ok())?
        })
    }

    /// What walks need of it; `None` for a file that was replaced. Tables of
    /// files that are known are not made again.
    pub fn module(&self, process: &str, known: &mut Files) -> Option<Module> {
        let bytes = self.open(process)?;
        let elf = ElfFile::parse(&bytes).ok()?;
        let rows = known
            .0
            .entry((self.dev, self.ino))
            .or_insert_with(|| unwind::rows(&elf).into());
        let build_id = elf.build_id().and_then(|id| {
            let mut padded = [0; BUILD_ID];
            padded.get_mut(..id.len())?.copy_from_slice(id);
            Some(padded)
        });
        Some(Module {
            text: self.range.start as u64..self.range.end as u64,
            offset: self.offset,
            bias: self.bias(&elf)?,
            rows: Arc::clone(rows),
            build_id,
        })
    }
}

/// Unwind tables by device and inode.
#[derive(Default)]
pub struct Files(HashMap<(u64, u64), Arc<[Row]>>);

/// The executable mappings in a process's `maps`, by address.
pub fn executable(maps: &[u8]) -> Vec<Mapping> {
    let lines = maps.split(|&byte| byte == b'\n');
    joined(lines.filter_map(|line| parse(line, |perms| perms.get(2) == Some(&b'x'))))
}

/// Neighbours that map neighbouring parts of one file, as one: changing text
/// splits its mapping, and what is probed stays where it is.
pub fn joined(mappings: impl Iterator<Item = Mapping>) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for next in mappings {
        match all.last_mut() {
            Some(last) if last.goes_on_in(&next) => last.range.end = next.range.end,
            _ => all.push(next),
        }
    }
    all
}

/// `START-END PERMS OFFSET MAJOR:MINOR INODE   PATH`, proc_pid_maps(5), if it
/// is of a file and its permissions are `wanted`.
pub fn parse(line: &[u8], wanted: fn(&[u8]) -> bool) -> Option<Mapping> {
    let mut fields = line.splitn(6, |&b| b == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = field()?.split_once('-')?;
    let perms = field()?;
    let offset = field()?;
    let (major, minor) = field()?.split_once(':')?;
    let ino = field()?.parse().ok()?;
    if !wanted(perms.as_bytes()) || ino == 0 {
        return None;
    }
    let path = fields.next()?.trim_ascii_start();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let address = |text| usize::from_str_radix(text, 16).ok();
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some(Mapping {
        range: address(start)?..address(end)?,
        offset: hex(offset)?,
        dev: libc::makedev(number(major)?, number(minor)?),
        ino,
        path: unescape(path),
    })
}

/// The kernel writes a newline in a path as `\012`.
fn unescape(path: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(br"\012") {
            bytes.push(b'\n');
            rest = after;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn is_text(perms: &[u8]) -> bool {
        perms.get(2) == Some(&b'x')
    }

    #[test]
    fn pieces_of_one_mapping_are_one() {
        let lines = [
            "1000-3000 r-xp 00001000 fd:01 7 /a",
            "3000-4000 r-xp 00003000 fd:01 7 /a",
            "4000-5000 r-xp 00009000 fd:01 7 /a",
            "5000-6000 r-xp 0000a000 fd:01 8 /a",
            "7000-8000 r-xp 0000b000 fd:01 8 /a",
        ];
        let found = joined(
            lines
                .iter()
                .filter_map(|line| parse(line.as_bytes(), is_text)),
        );
        let ranges: Vec<_> = found.into_iter().map(|mapping| mapping.range).collect();
        assert_eq!(
            ranges,
            [
                0x1000..0x4000,
                0x4000..0x5000,
                0x5000..0x6000,
                0x7000..0x8000
            ]
        );
    }

    #[test]
    fn executable_files_only() {
        let line = b"7f0000001000-7f0000003000 r-xp 00028000 fd:01 1234    /usr/lib/a b\\012c.so";
        let mapping = parse(line, is_text).unwrap();
        assert_eq!(mapping.range, 0x7f00_0000_1000..0x7f00_0000_3000);
        assert_eq!(mapping.dev, libc::makedev(0xfd, 1));
        assert_eq!(mapping.path, Path::new("/usr/lib/a b\nc.so"));
        assert_eq!(mapping.address_of(0x28010), Some(0x7f00_0000_1010));
        assert_eq!(mapping.address_of(0x27fff), None);
        assert_eq!(mapping.address_of(0x2a000), None);
        for line in [
            &b"7f00-7f10 rw-p 00000000 fd:01 1234 /lib/a.so"[..],
            b"7f00-7f10 r-xp 00000000 00:00 0 [vdso]",
            b"7f00-7f10 r-xp",
            b"",
        ] {
            assert_eq!(parse(line, is_text), None);
        }
    }
}
