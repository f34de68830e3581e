//! The id of the calling thread's control group (version 2): the inode of its
//! directory. Callable from trampolines: no allocation, no lock, no libc, no
//! panic; costs some system calls, for it may change at any time.

use shm::sys;

use super::proc::{self, Who};

/// Where systems mount version 2: alone, or beside version 1.
const ROOTS: [&[u8]; 2] = [b"/sys/fs/cgroup", b"/sys/fs/cgroup/unified"];
/// The longest of them.
const LEAD: usize = 22;
/// With lines of version 1, which come first, and room for a root.
const TEXT: usize = LEAD + 1024;
/// `CGROUP2_SUPER_MAGIC`.
const MAGIC: i64 = 0x6367_7270;

/// The id; `None` where /proc or the directory cannot be seen.
pub(crate) fn id() -> Option<u64> {
    let mut text = [0u8; TEXT];
    let got = proc::file(Who::Current, b"/cgroup", text.get_mut(LEAD..)?)?.len();
    let (from, to) = path(text.get(..LEAD + got)?)?;
    *text.get_mut(to)? = 0;
    ROOTS.iter().find_map(|root| {
        let begin = from.checked_sub(root.len())?;
        text.get_mut(begin..from)?.copy_from_slice(root);
        inode(text.get(begin..=to)?)
    })
}

/// From where to where the path of the line for version 2 goes.
fn path(text: &[u8]) -> Option<(usize, usize)> {
    const WORD: &[u8] = b"0::";
    let mut at = LEAD;
    loop {
        let rest = text.get(at..)?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        if rest.starts_with(WORD) {
            return Some((at + WORD.len(), at + end));
        }
        at += end + 1;
    }
}

/// The inode at a path with its zero, if that is in a tree of version 2.
fn inode(path: &[u8]) -> Option<u64> {
    // SAFETY: structures of numbers.
    let (mut tree, mut found): (libc::statfs, libc::stat) = unsafe { std::mem::zeroed() };
    let at = path.as_ptr() as usize;
    // SAFETY: a path with its zero; both calls write to their structure only.
    let answers = unsafe {
        let to = (&raw mut tree) as usize;
        let tree = sys::syscall6(libc::SYS_statfs as usize, at, to, 0, 0, 0, 0);
        let (here, to) = (libc::AT_FDCWD as usize, (&raw mut found) as usize);
        let look = libc::SYS_newfstatat as usize;
        (tree, sys::syscall6(look, here, at, to, 0, 0, 0))
    };
    (answers == (0, 0) && tree.f_type == MAGIC).then_some(found.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn own_group() {
        let lines = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = lines.lines().find_map(|line| line.strip_prefix("0::"));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let is_mounted = |root: &&&[u8]| {
            let root = std::str::from_utf8(root).unwrap();
            mounts.contains(&format!(" {root} cgroup2 "))
        };
        let expected = own.zip(ROOTS.iter().find(is_mounted)).map(|(own, root)| {
            let path = format!("{}{own}", std::str::from_utf8(root).unwrap());
            std::fs::metadata(path).unwrap().ino()
        });
        assert_eq!(id(), expected);
    }

    #[test]
    fn lines_of_version_one_come_first() {
        let text = [&[0u8; LEAD], b"10:pids:/a\n0::/b/c\n".as_slice()].concat();
        let (from, to) = path(&text).unwrap();
        assert_eq!(&text[from..to], b"/b/c");
        assert_eq!(path(&text[..text.len() - 1]), None);
    }
}
