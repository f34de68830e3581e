//! The headers that sources of programs include, on a machine that may have
//! none: libbpf's, which this binary carries, `vmlinux.h`, and for what is not
//! installed files that lead there. They lie beside the unpacked libraries and
//! go with them. It knows no compiler.

use std::fs;
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use runtime::session::Dirs;

use super::vmlinux;
use crate::libraries::{self, HEADERS, Own};
use crate::problem::Problem;

/// `linux/bpf.h` and its like where linux-libc-dev is not installed. What C's
/// headers define as macros `vmlinux.h` declares.
const STAND_IN: &str = "\
#pragma push_macro(\"bool\")
#pragma push_macro(\"true\")
#pragma push_macro(\"false\")
#undef bool
#undef true
#undef false
#include <vmlinux.h>
#pragma pop_macro(\"false\")
#pragma pop_macro(\"true\")
#pragma pop_macro(\"bool\")
";

/// The first numbers of errors, which programs return.
const ERRORS: &str = "\
#ifndef _LINUX_ERRNO_H
#define _LINUX_ERRNO_H
#define EPERM 1
#define ENOENT 2
#define ESRCH 3
#define EINTR 4
#define EIO 5
#define ENXIO 6
#define E2BIG 7
#define EBADF 9
#define EAGAIN 11
#define ENOMEM 12
#define EACCES 13
#define EFAULT 14
#define EBUSY 16
#define EEXIST 17
#define ENODEV 19
#define ENOTDIR 20
#define EINVAL 22
#define ENOSPC 28
#define ERANGE 34
#endif
";

/// Files that are found only when nothing else of that name is.
const LAST: [(&str, &str); 10] = [
    ("asm/errno.h", ERRORS),
    ("asm/ptrace.h", STAND_IN),
    ("asm/types.h", STAND_IN),
    ("linux/bpf.h", STAND_IN),
    ("linux/errno.h", ERRORS),
    ("linux/perf_event.h", STAND_IN),
    ("linux/ptrace.h", STAND_IN),
    ("linux/sched.h", STAND_IN),
    ("linux/types.h", STAND_IN),
    // libc's headers ask for it on behalf of a processor that they do not know.
    ("gnu/stubs-32.h", ""),
];

/// Directories of headers.
pub struct Headers {
    /// Holds `bpf/` and comes before the system's.
    pub first: PathBuf,
    /// Holds `vmlinux.h`.
    pub vmlinux: PathBuf,
    /// Comes behind the system's.
    pub last: PathBuf,
    /// All of them are in it.
    pub root: PathBuf,
    _held: Option<Flock<fs::File>>,
}

impl Headers {
    /// Unpacks what is not there yet; `btf` names a file of types in place of
    /// the running kernel's.
    pub fn unpack(btf: Option<&Path>) -> Result<Headers, Problem> {
        let dirs = Dirs::for_cli();
        let types = vmlinux::types(btf)?;
        let Own { dir, held } = libraries::own(&dirs)?;
        let headers = Headers {
            first: dir.join("headers-bpf"),
            vmlinux: dir.join(format!("headers-vmlinux-{:016x}", hash(&types))),
            last: dir.join("headers-last"),
            root: dir,
            _held: held,
        };
        let failed = |error: io::Error| libraries::cannot_write(&dirs.state, &error);
        for (name, text) in HEADERS {
            unpack(&headers.first, &format!("bpf/{name}"), text).map_err(failed)?;
        }
        for (name, text) in LAST {
            unpack(&headers.last, name, text).map_err(failed)?;
        }
        // Complete if it is there; made at the first use only.
        if !headers.vmlinux.join(vmlinux::NAME).exists() {
            let text = vmlinux::header(&types, btf)?;
            unpack(&headers.vmlinux, vmlinux::NAME, &text).map_err(failed)?;
        }
        Ok(headers)
    }
}

fn unpack(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = dir.join(name);
    if libraries::holds(&path, text.as_bytes()) {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(dir);
    libraries::create_private_dir(parent)?;
    let name = name.rsplit('/').next().unwrap_or(name);
    libraries::replace(parent, name, text.as_bytes())
}

fn hash(bytes: &[u8]) -> u64 {
    // The same in every process of this version; other versions have other directories.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
