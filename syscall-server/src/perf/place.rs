//! Who and what a probe is about: paths and thread ids of the tool, resolved
//! as the kernel would in its place. It knows no event.

use std::ffi::CString;

use runtime::command::perf::Probe;
use runtime::session::LinkKind;
use uapi::Errno;

use crate::raw;

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
}

/// The file that `path` leads to.
///
/// # Errors
/// As stat(2): ENOENT, EACCES, ENOTDIR, ELOOP.
pub fn file(path: &[u8]) -> Result<ProbedFile, Errno> {
    let name = CString::new(path).map_err(|_| Errno::EINVAL)?;
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
    })
}

impl ProbedFile {
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
