//! Who and what a probe is about: paths and thread ids of the tool, resolved
//! as the kernel would in its place. It knows no event.

use std::ffi::{CString, OsStr};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use runtime::command::perf::Probe;
use runtime::command::places;
use runtime::session::LinkKind;
use uapi::Errno;

use crate::{caller, raw};

/// Bytes of the longest instruction.
const LONGEST_INSTRUCTION: usize = 15;

/// A file that a path leads to, symbolic links and `/proc/PID/root` followed.
pub struct ProbedFile {
    /// Whether it is a regular file.
    pub is_regular: bool,
    /// Its bytes.
    pub size: u64,
    /// Device of its inode.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// The path, for people.
    pub path: String,
    /// The path as this process names it.
    name: CString,
}

/// The file that `path` leads to.
///
/// # Errors
/// As stat(2): ENOENT, EACCES, ENOTDIR, ELOOP.
pub fn file(path: &[u8]) -> Result<ProbedFile, Errno> {
    let name = caller::path(path)?;
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    raw::checked(
        libc::SYS_newfstatat,
        [
            libc::AT_FDCWD as usize,
            name.as_ptr() as usize,
            stat.as_mut_ptr() as usize,
            0,
            0,
            0,
        ],
    )?;
    // SAFETY: all its fields are numbers, for which zeros are values, and the
    // kernel has filled them.
    let stat = unsafe { stat.assume_init() };
    Ok(ProbedFile {
        is_regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        size: stat.st_size as u64,
        dev: stat.st_dev,
        ino: stat.st_ino,
        path: String::from_utf8_lossy(path).into_owned(),
        name,
    })
}

impl ProbedFile {
    /// Whether the kernel would put uprobes at these offsets: it looks at the
    /// instruction when a process that they are for has mapped it.
    ///
    /// # Errors
    /// ENOTSUPP if not.
    pub fn check(&self, offsets: impl IntoIterator<Item = u64>, pid: i32) -> Result<(), Errno> {
        let path = OsStr::from_bytes(self.name.to_bytes());
        // What the tool cannot read, it cannot look at.
        let Ok(file) = std::fs::File::open(path) else {
            return Ok(());
        };
        let is_refused = |offset: &u64| {
            let mut bytes = [0; LONGEST_INSTRUCTION];
            let len = file.read_at(&mut bytes, *offset).unwrap_or(0);
            places::is_refused(&bytes[..len])
        };
        let refused: Vec<u64> = offsets.into_iter().filter(is_refused).collect();
        if refused.is_empty() || !self.is_mapped_at(&refused, pid) {
            return Ok(());
        }
        Err(Errno::ENOTSUPP)
    }

    /// Whether a process, or the one with this id, has one of the offsets mapped
    /// as the kernel expects of text.
    fn is_mapped_at(&self, offsets: &[u64], pid: i32) -> bool {
        let in_maps = |path: &Path| {
            let maps = std::fs::read_to_string(path.join("maps")).unwrap_or_default();
            let ranges: Vec<_> = maps.lines().filter_map(|line| self.mapped(line)).collect();
            offsets
                .iter()
                .any(|offset| ranges.iter().any(|range| range.contains(offset)))
        };
        if pid != -1 {
            return in_maps(Path::new(&format!("/proc/{pid}")));
        }
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let is_process = |name: &OsStr| name.as_bytes().iter().all(u8::is_ascii_digit);
        processes
            .filter(|entry| is_process(&entry.file_name()))
            .any(|entry| in_maps(&entry.path()))
    }

    /// The bytes of this file that a line of /proc/PID/maps has as text.
    fn mapped(&self, line: &str) -> Option<Range<u64>> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let perms = fields.next()?.as_bytes();
        // What could be made executable counts (`valid_vma`).
        let is_text = perms.get(1) != Some(&b'w') && perms.get(3) == Some(&b'p');
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let offset = hex(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        let dev = libc::makedev(number(major)?, number(minor)?);
        let ino: u64 = fields.next()?.parse().ok()?;
        let is_it = is_text && (dev, ino) == (self.dev, self.ino);
        is_it.then_some(offset..offset + (hex(end)? - hex(start)?))
    }

    /// A probe in this file.
    pub fn probe(&self, kind: LinkKind, offset: u64, pid: i32, ref_ctr_offset: u64) -> Probe {
        Probe {
            kind,
            dev: self.dev,
            ino: self.ino,
            path: self.path.clone(),
            offset,
            pid,
            ref_ctr_offset,
            others: Vec::new(),
        }
    }
}

/// The process that a thread belongs to. Probes of one thread are probes of
/// its process, as in the kernel: BPF programs on uprobes filter by memory.
///
/// # Errors
/// ESRCH without such a thread.
pub fn tgid(tid: i32) -> Result<i32, Errno> {
    let status =
        std::fs::read_to_string(format!("/proc/{tid}/status")).map_err(|_| Errno::ESRCH)?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))
        .and_then(|tgid| tgid.trim().parse().ok())
        .ok_or(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_inodes() {
        let direct = file(b"/proc/self/exe").unwrap();
        let by_root = format!("/proc/{}/root/proc/self/exe", std::process::id());
        let through_root = file(by_root.as_bytes()).unwrap();
        assert_eq!(
            (direct.dev, direct.ino),
            (through_root.dev, through_root.ino)
        );
        assert!(direct.is_regular && direct.size > 0);
        assert!(!file(b"/").unwrap().is_regular);
        assert_eq!(file(b"/nonexistent").err(), Some(Errno::ENOENT));
    }

    #[test]
    fn threads_belong_to_processes() {
        let own = std::process::id() as i32;
        assert_eq!(tgid(own), Ok(own));
        let tid = std::thread::spawn(|| shm::sys::gettid() as i32)
            .join()
            .unwrap();
        // The thread has ended; this one has not.
        assert_ne!(tid, own);
        assert_eq!(tgid(i32::MAX), Err(Errno::ESRCH));
    }
}
