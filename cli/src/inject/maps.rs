//! What is mapped where in a process: /proc/PID/maps. It knows no file's
//! content.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::unistd::Pid;

/// One line of /proc/PID/maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub range: Range<u64>,
    pub executable: bool,
    pub private: bool,
    pub offset: u64,
    pub inode: u64,
    pub path: Option<PathBuf>,
}

impl Mapping {
    /// Last part of the path.
    pub fn file_name(&self) -> Option<&[u8]> {
        Some(self.path.as_deref()?.file_name()?.as_bytes())
    }
}

/// Reads /proc/PID/maps.
pub fn read(pid: Pid) -> io::Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{pid}/maps"))?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(mapping)
        .collect())
}

/// `START-END PERM OFFSET DEV INODE   PATH`
fn mapping(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        let end = rest
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.strip_prefix(b" ").unwrap_or(after);
        std::str::from_utf8(word).ok()
    };
    let (start, end) = word()?.split_once('-')?;
    let permissions = word()?;
    let offset = word()?;
    let _device = word()?;
    let inode = word()?.parse().ok()?;
    let path = rest.trim_ascii_start();
    Some(Mapping {
        range: u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?,
        executable: permissions.as_bytes().get(2) == Some(&b'x'),
        private: permissions.as_bytes().get(3) == Some(&b'p'),
        offset: u64::from_str_radix(offset, 16).ok()?,
        inode,
        path: path
            .starts_with(b"/")
            .then(|| PathBuf::from(OsStr::from_bytes(path))),
    })
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_of_maps() {
        let line =
            b"7f00-7f10 r-xp 00001000 fe:00 42                         /a b/libc.so.6 (deleted)";
        let expected = Mapping {
            range: 0x7f00..0x7f10,
            executable: true,
            private: true,
            offset: 0x1000,
            inode: 42,
            path: Some(PathBuf::from("/a b/libc.so.6 (deleted)")),
        };
        assert_eq!(mapping(line), Some(expected));
        let line = b"7f00-7f10 rw-p 00000000 00:00 0 ";
        let expected = Mapping {
            range: 0x7f00..0x7f10,
            executable: false,
            private: true,
            offset: 0,
            inode: 0,
            path: None,
        };
        assert_eq!(mapping(line), Some(expected));
        assert_eq!(mapping(b""), None);
    }
}
