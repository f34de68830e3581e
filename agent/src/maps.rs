//! The executable file mappings of this process, as /proc lists them. It knows no link. Not dl_iterate_phdr(3): it takes the lock that a
//! thread in dlopen(3) holds while it waits for us.

use std::ffi::CString;
use std::ops::Range;
use std::path::Path;

pub use runtime::mapped::Mapping;
use runtime::session::file;
use runtime::{mapped, own_stack};
use uapi::Errno;

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
    let found = mapped::executable(&text);
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
    Ok(lines
        .filter_map(|line| mapped::parse(line, is_data))
        .collect())
}

fn is_text(perms: &[u8]) -> bool {
    perms.get(2) == Some(&b'x')
}

fn is_data(perms: &[u8]) -> bool {
    perms.get(1) == Some(&b'w') && perms.get(3) == Some(&b'p')
}

/// Where the first thread's stack begins, if this is its line.
fn first_stack(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line.strip_suffix(b"[stack]")?).ok()?;
    let (start, _) = line.split_once('-')?;
    u64::from_str_radix(start, 16).ok()
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
