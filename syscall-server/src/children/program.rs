//! Whether the loader of a program would take our libraries: that of musl ends
//! the program, one for 32 bits complains. It knows the heads of files only.
//! Called between fork and exec: nothing allocates, locks or calls libc.

use std::ffi::CStr;

use crate::raw;

/// Scripts whose interpreters are scripts, at most (`BINPRM_MAX_RECURSION`).
const DEPTH: usize = 5;
/// Bytes that the kernel looks at to know a script (`BINPRM_BUF_SIZE`).
const HEAD: usize = 256;
/// glibc's loader for 64 bits.
const LOADER: &[u8] = b"/ld-linux-x86-64.so.2\0";

const ELFCLASS64: u8 = 2;
const PT_INTERP: u32 = 3;
const PROGRAM_HEADER: usize = 56;
/// More than any program has.
const MAX_HEADERS: u16 = 64;

/// False if it is certain that it would not: for a program of musl or for 32
/// bits, or a script that one runs. Statically linked ones take no notice.
pub fn takes_libraries(directory: i32, path: &CStr) -> bool {
    let mut interpreter;
    let (mut directory, mut path) = (directory, path);
    for _ in 0..DEPTH {
        let Some(file) = File::open(directory, path) else {
            return true;
        };
        let mut head = [0u8; HEAD + 1];
        file.read(&mut head[..HEAD], 0);
        match head.strip_prefix(b"#!") {
            None => return is_ours(&file, &head).unwrap_or(true),
            Some(line) => {
                let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
                let start = line.iter().position(|byte| !is_blank(byte)).unwrap_or(0);
                let line = line.get(start..).unwrap_or_default();
                let is_end = |byte: &u8| is_blank(byte) || matches!(byte, b'\n' | 0);
                let name = line.split(is_end).next().unwrap_or_default();
                interpreter = [0u8; HEAD + 1];
                for (to, from) in interpreter.iter_mut().zip(name) {
                    *to = *from;
                }
                directory = libc::AT_FDCWD;
                path = CStr::from_bytes_until_nul(&interpreter).unwrap_or_default();
            }
        }
    }
    true
}

/// Whether an ELF file names our loader or none; `None` for what is no such file.
fn is_ours(file: &File, head: &[u8]) -> Option<bool> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    if head.get(4) != Some(&ELFCLASS64) {
        return Some(false);
    }
    let headers = number(head, 32, 8)?;
    let count = (number(head, 56, 2)? as u16).min(MAX_HEADERS);
    for index in 0..u64::from(count) {
        let mut header = [0u8; PROGRAM_HEADER];
        let at = headers.checked_add(index * PROGRAM_HEADER as u64)?;
        if file.read(&mut header, at) < PROGRAM_HEADER {
            return None;
        }
        if number(&header, 0, 4)? as u32 == PT_INTERP {
            let mut name = [0u8; HEAD];
            let len = (number(&header, 32, 8)? as usize).min(HEAD);
            let read = file.read(&mut name[..len], number(&header, 8, 8)?);
            return Some(name.get(..read)?.ends_with(LOADER));
        }
    }
    Some(true)
}

/// A little-endian number of a file.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?.iter().rev();
    Some(bytes.fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// An open file.
struct File(usize);

impl File {
    /// An empty path means the directory's own fd.
    fn open(directory: i32, path: &CStr) -> Option<File> {
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK) as usize;
        let path = match path.is_empty() {
            true if directory == libc::AT_FDCWD => return None,
            // Another open file, so that its owner's position stays.
            true => return File::again(directory, flags),
            false => path.as_ptr() as usize,
        };
        let arguments = [directory as usize, path, flags, 0, 0, 0];
        raw::checked(libc::SYS_openat, arguments).ok().map(File)
    }

    fn again(fd: i32, flags: usize) -> Option<File> {
        const DIRECTORY: &[u8] = b"/proc/self/fd/";
        let mut name = [0u8; DIRECTORY.len() + 12];
        let (directory, digits) = name.split_at_mut(DIRECTORY.len());
        directory.copy_from_slice(DIRECTORY);
        let mut rest = u32::try_from(fd).ok()?;
        let count = rest.checked_ilog10().map_or(1, |log| log as usize + 1);
        for digit in digits[..count].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let at = libc::AT_FDCWD as usize;
        let arguments = [at, name.as_ptr() as usize, flags, 0, 0, 0];
        raw::checked(libc::SYS_openat, arguments).ok().map(File)
    }

    /// How much of `to` was filled.
    fn read(&self, to: &mut [u8], at: u64) -> usize {
        let arguments = [
            self.0,
            to.as_mut_ptr() as usize,
            to.len(),
            at as usize,
            0,
            0,
        ];
        raw::checked(libc::SYS_pread64, arguments).unwrap_or(0)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        raw::close(self.0 as i32);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn takes(bytes: &[u8]) -> bool {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let path = CString::new(file.path().as_os_str().as_bytes()).unwrap();
        let by_path = takes_libraries(libc::AT_FDCWD, &path);
        let fd = file.as_file().as_raw_fd();
        assert_eq!(takes_libraries(fd, c""), by_path);
        by_path
    }

    /// A program that names its loader so.
    fn program(class: u8, loader: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 2 * PROGRAM_HEADER];
        bytes[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', class]);
        bytes[32] = 64;
        bytes[56] = 2;
        let second = 64 + PROGRAM_HEADER;
        bytes[second] = PT_INTERP as u8;
        bytes[second + 8] = bytes.len() as u8;
        bytes[second + 32] = loader.len() as u8;
        bytes.extend_from_slice(loader);
        bytes
    }

    #[test]
    fn loaders_are_told_apart() {
        assert!(takes(&program(
            ELFCLASS64,
            b"/lib64/ld-linux-x86-64.so.2\0"
        )));
        assert!(!takes(&program(ELFCLASS64, b"/lib/ld-musl-x86_64.so.1\0")));
        assert!(!takes(&program(1, b"/lib/ld-linux.so.2\0")));
        assert!(takes_libraries(libc::AT_FDCWD, c"/proc/self/exe"));
        assert!(takes_libraries(libc::AT_FDCWD, c"/nonexistent"));
        assert!(takes_libraries(libc::AT_FDCWD, c""));
        assert!(takes(b"echo no head\n"));
        assert!(takes(b"\x7fELF\x02"));
    }

    #[test]
    fn scripts_are_their_interpreters() {
        let mut musl = tempfile::NamedTempFile::new().unwrap();
        musl.write_all(&program(ELFCLASS64, b"/lib/ld-musl-x86_64.so.1\0"))
            .unwrap();
        let name = musl.path().to_str().unwrap();
        assert!(!takes(format!("#! {name} -e\nx").as_bytes()));
        assert!(!takes(format!("#!{name}").as_bytes()));
        assert!(takes(b"#!/bin/sh\n"));
        assert!(takes(b"#!\n"));
    }
}
