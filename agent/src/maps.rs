//! The executable file mappings of this process, as /proc lists them. It knows no link. Not dl_iterate_phdr(3): it takes the lock that a
//! thread in dlopen(3) holds while it waits for us.

use std::ffi::{CString, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use runtime::own_stack;
use runtime::session::file;
use uapi::Errno;

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
}

/// Most bytes of the list that are read: some 100,000 mappings.
const LIMIT: usize = 16 << 20;

/// All executable file mappings, by address. `ENOENT` when there are none,
/// which cannot be. Notes how far the first thread's stack has grown.
pub fn executable() -> Result<Vec<Mapping>, Errno> {
    // Not self/maps: that is empty after the first thread has ended.
    let text = file::read_small(c"/proc/thread-self/maps", LIMIT)?;
    if let Some(low) = text.split(|&b| b == b'\n').find_map(first_stack) {
        own_stack::note_first_thread(low);
    }
    let found = joined(
        text.split(|&b| b == b'\n')
            .filter_map(|line| parse(line, is_text)),
    );
    if found.is_empty() {
        Err(Errno::ENOENT)
    } else {
        Ok(found)
    }
}

/// Text that no file vouches for.
pub struct OddText {
    /// Addresses.
    pub range: Range<usize>,
    /// Its bytes may change without a call: it is writable, or shared.
    pub changes: bool,
}

/// Text without a file, or writable, or shared with others; not the kernel's.
pub fn odd_text() -> Result<Vec<OddText>, Errno> {
    let text = file::read_small(c"/proc/thread-self/maps", LIMIT)?;
    Ok(text.split(|&b| b == b'\n').filter_map(odd).collect())
}

fn odd(line: &[u8]) -> Option<OddText> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let perms = fields.next()?.as_bytes();
    let ino = fields.nth(2)?;
    let of_kernel = matches!(fields.next(), Some("[vdso]" | "[vsyscall]"));
    let changes = perms.get(1) == Some(&b'w') || perms.get(3) != Some(&b'p');
    if !is_text(perms) || of_kernel || !changes && ino != "0" {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    Some(OddText { range, changes })
}

/// All private writable file mappings, by address.
pub fn private_data() -> Result<Vec<Mapping>, Errno> {
    let text = file::read_small(c"/proc/thread-self/maps", LIMIT)?;
    let lines = text.split(|&b| b == b'\n');
    Ok(lines.filter_map(|line| parse(line, is_data)).collect())
}

fn is_text(perms: &[u8]) -> bool {
    perms.get(2) == Some(&b'x')
}

fn is_data(perms: &[u8]) -> bool {
    perms.get(1) == Some(&b'w') && perms.get(3) == Some(&b'p')
}

/// Neighbours that map neighbouring parts of one file, as one: changing text
/// splits its mapping, and what is probed stays where it is.
fn joined(mappings: impl Iterator<Item = Mapping>) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for next in mappings {
        match all.last_mut() {
            Some(last) if last.goes_on_in(&next) => last.range.end = next.range.end,
            _ => all.push(next),
        }
    }
    all
}

/// Where the first thread's stack begins, if this is its line.
fn first_stack(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line.strip_suffix(b"[stack]")?).ok()?;
    let (start, _) = line.split_once('-')?;
    u64::from_str_radix(start, 16).ok()
}

/// `START-END PERMS OFFSET MAJOR:MINOR INODE   PATH`, proc_pid_maps(5).
fn parse(line: &[u8], wanted: fn(&[u8]) -> bool) -> Option<Mapping> {
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

/// Device and inode as stat(2) shows them, which is how links name files. On
/// some file systems (btrfs, overlayfs) the mapping shows another device.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    let stat = file::stat(&name).ok()?;
    Some((stat.dev, stat.ino))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn only_the_first_threads_stack_has_a_name() {
        let line = b"7ffc1000-7ffc5000 rw-p 00000000 00:00 0      [stack]";
        assert_eq!(first_stack(line), Some(0x7ffc_1000));
        assert_eq!(first_stack(&line[..line.len() - 7]), None);
        assert_eq!(first_stack(b"[stack]"), None);
    }

    #[test]
    fn finds_this_program() {
        let here = finds_this_program as *const () as usize;
        let mapping = executable()
            .unwrap()
            .into_iter()
            .find(|m| m.range.contains(&here))
            .unwrap();
        let own = std::env::current_exe().unwrap();
        assert_eq!(identity(&mapping.path), identity(&own));
    }
}
