//! /proc/kallsyms as tools see it: they look there for the functions that make
//! system calls, and for what the kernel can do with programs. It knows no fd.

use std::ffi::{CString, c_int};
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::sync::OnceLock;

use runtime::command::kprobe;

use crate::raw;

/// Where it is.
pub const PATH: &[u8] = b"/proc/kallsyms";

/// What bcc takes for a sign of programs at the entry and exit of kernel
/// functions, which user space does not have.
const TRAMPOLINES: &str = "bpf_trampoline_link_prog";

/// The address that is told to who may know none.
const HIDDEN: &str = "0000000000000000";

/// The text for a tool, made once: the kernel's where it tells addresses, for
/// then all functions can be found there.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| of_kernel().unwrap_or_else(own))
}

/// The kernel's, unless it hides addresses or does not have calls where ours are.
fn of_kernel() -> Option<String> {
    let text = read().ok()?;
    let is_told = |line: &str| line.ends_with(" T __x64_sys_bpf") && !line.starts_with(HIDDEN);
    let is_other = |line: &&str| !line.trim_end().ends_with(TRAMPOLINES);
    let kept = text.split_inclusive('\n').filter(is_other);
    text.lines().any(is_told).then(|| kept.collect())
}

/// The file, past our own open(2), which answers with the text.
fn read() -> io::Result<String> {
    let path = CString::new(PATH)?;
    let (at, flags) = (libc::AT_FDCWD as usize, libc::O_RDONLY | libc::O_CLOEXEC);
    let arguments = [at, path.as_ptr() as usize, flags as usize, 0, 0, 0];
    let fd = raw::checked(libc::SYS_openat, arguments)
        .map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
    // SAFETY: a new fd, ours alone.
    io::read_to_string(unsafe { File::from_raw_fd(fd as c_int) })
}

fn own() -> String {
    let mut text = String::new();
    for (address, name) in kprobe::functions() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{address:016x} T {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_addresses() {
        let own = own();
        assert!(own.starts_with("ffffffff81000000 T __x64_sys_read\n"));
        assert!(own.contains(" T __x64_sys_execve\n"));
        for text in [own.as_str(), text()] {
            let is_read = |line: &&str| line.ends_with(" T __x64_sys_read");
            let line = text.lines().find(is_read).unwrap();
            assert!(!line.starts_with(HIDDEN));
            assert!(!text.contains(TRAMPOLINES));
        }
    }
}
