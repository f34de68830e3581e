//! Files of /proc, read where nothing may be allocated: opened, read once and
//! closed. It knows no field.

use shm::sys;

/// Longest path: `/proc/self/task/4194304/ns/cgroup`.
const PATH: usize = 48;

/// Whose directory below /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The calling thread.
    Current,
    /// Another thread of this process.
    Own(i32),
    /// A thread of another process.
    Other(i32),
}

/// Bytes that are put together on the stack.
struct Text {
    bytes: [u8; PATH],
    len: usize,
}

impl Text {
    fn push(&mut self, part: &[u8]) -> Option<()> {
        let to = self.bytes.get_mut(self.len..self.len + part.len())?;
        for (to, from) in to.iter_mut().zip(part) {
            *to = *from;
        }
        self.len += part.len();
        Some(())
    }

    fn push_number(&mut self, number: i32) -> Option<()> {
        let mut digits = [b'0'; 10];
        let mut left = u32::try_from(number).ok()?;
        let mut at = digits.len();
        loop {
            at -= 1;
            *digits.get_mut(at)? = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.push(digits.get(at..)?)
    }
}

/// The path of a file of a thread, with its zero.
fn path(who: Who, file: &[u8]) -> Option<Text> {
    let mut text = Text {
        bytes: [0; PATH],
        len: 0,
    };
    text.push(b"/proc/")?;
    match who {
        Who::Current => text.push(b"thread-self")?,
        Who::Own(tid) => {
            text.push(b"self/task/")?;
            text.push_number(tid)?;
        }
        Who::Other(tid) => text.push_number(tid)?,
    }
    text.push(file)?;
    text.push(b"\0")?;
    Some(text)
}

/// The first bytes of a file of a thread, as many as fit.
pub(super) fn file<'a>(who: Who, name: &[u8], to: &'a mut [u8]) -> Option<&'a [u8]> {
    open(&path(who, name)?, to)
}

/// What the system says of an fd of this process.
pub(super) fn fdinfo(fd: i32, to: &mut [u8]) -> Option<&[u8]> {
    let mut path = Text {
        bytes: [0; PATH],
        len: 0,
    };
    path.push(b"/proc/self/fdinfo/")?;
    path.push_number(fd)?;
    path.push(b"\0")?;
    open(&path, to)
}

fn open<'a>(path: &Text, to: &'a mut [u8]) -> Option<&'a [u8]> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a path with its zero, a buffer with its length, and an fd that
    // was just made here.
    let got = unsafe {
        let at = path.bytes.as_ptr() as usize;
        let here = libc::AT_FDCWD as usize;
        let open = libc::SYS_openat as usize;
        let fd = sys::syscall6(open, here, at, flags as usize, 0, 0, 0);
        let fd = usize::try_from(fd).ok()?;
        let buffer = to.as_mut_ptr() as usize;
        let got = sys::syscall6(libc::SYS_read as usize, fd, buffer, to.len(), 0, 0, 0);
        sys::syscall6(libc::SYS_close as usize, fd, 0, 0, 0, 0, 0);
        got
    };
    to.get(..usize::try_from(got).ok()?)
}

/// The number of a namespace: what the link `ns/NAME` says in brackets.
pub(super) fn namespace(who: Who, name: &str) -> Option<u32> {
    let mut file = Text {
        bytes: [0; PATH],
        len: 0,
    };
    file.push(b"/ns/")?;
    file.push(name.as_bytes())?;
    let path = path(who, file.bytes.get(..file.len)?)?;
    let mut link = [0u8; PATH];
    // SAFETY: a path with its zero and a buffer with its length.
    let got = unsafe {
        let (at, to) = (path.bytes.as_ptr() as usize, link.as_mut_ptr() as usize);
        let here = libc::AT_FDCWD as usize;
        sys::syscall6(
            libc::SYS_readlinkat as usize,
            here,
            at,
            to,
            link.len(),
            0,
            0,
        )
    };
    let link = link.get(..usize::try_from(got).ok()?)?;
    let from = link.iter().position(|&byte| byte == b'[')? + 1;
    number(link.get(from..)?).and_then(|number| u32::try_from(number).ok())
}

/// The decimal number that a text begins with.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let mut count = 0;
    let value = digits.fold(0u64, |value, digit| {
        count += 1;
        value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
    });
    (count > 0).then_some(value)
}

/// What stands behind a word at the start of a line.
pub(super) fn line<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let mut lines = text.split(|&byte| byte == b'\n');
    lines.find_map(|line| line.strip_prefix(word))
}

/// The same of `status`, from the first digit on.
pub(super) fn entry<'a>(status: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let line = line(status, word)?;
    let from = line.iter().position(u8::is_ascii_digit)?;
    line.get(from..)
}

/// Command name of `stat`, and what follows it.
pub(super) fn stat(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    Some((text.get(open + 1..close)?, text.get(close + 2..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_threads() {
        let text = |who, file| {
            let text = path(who, file).unwrap();
            String::from_utf8(text.bytes[..text.len].to_vec()).unwrap()
        };
        assert_eq!(text(Who::Current, b"/stat"), "/proc/thread-self/stat\0");
        let longest = text(Who::Own(4_194_304), b"/ns/cgroup");
        assert_eq!(longest, "/proc/self/task/4194304/ns/cgroup\0");
        assert_eq!(text(Who::Other(10), b"/stat"), "/proc/10/stat\0");
        assert!(path(Who::Other(-1), b"/stat").is_none());
    }

    #[test]
    fn files_are_taken_apart() {
        let stat_text = b"12 (a) b (c)) S 7 12";
        let (comm, rest) = stat(stat_text).unwrap();
        assert_eq!((comm, rest), (&b"a) b (c)"[..], &b"S 7 12"[..]));
        let status = b"Name:\tTgid: 7\nTgid:\t12\nPid:\t13\nUid:\t1\t2\t3\t4\n";
        assert_eq!(entry(status, b"Tgid:").and_then(number), Some(12));
        assert_eq!(entry(status, b"Uid:"), Some(&b"1\t2\t3\t4"[..]));
        assert_eq!(entry(status, b"PPid:"), None);
        assert_eq!(number(b"x"), None);
    }

    #[test]
    fn namespaces_have_the_numbers_that_proc_shows() {
        let link = std::fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let text = link.to_str().unwrap();
        let inum = namespace(Who::Current, "mnt").unwrap();
        assert_eq!(text, format!("mnt:[{inum}]"));
        assert_eq!(namespace(Who::Current, "none"), None);
    }
}
