//! The kernel headers that bcc compiles its programs with, at the places where
//! it looks for them: `/lib/modules/RELEASE/build` or `source`. They declare
//! what programs in user space can use, and so little that reading them takes
//! no time. Ours take the place of real ones, whose structures are those of a
//! kernel that our helpers do not have; `BCC_KERNEL_SOURCE` chooses others. It
//! knows no tool.
//!
//! The tree is unpacked beside this library when it is first asked for. In it
//! come first our own files, then those of `linux-libc-dev`, where that is
//! installed, then a few for machines without it.

mod tasks;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{log, server};

/// Where bcc looks; the kernel's release follows.
const MODULES: &[u8] = b"/lib/modules/";

/// bcc's first directory for includes, before any of the system's.
const FIRST: &str = "arch/x86/include";
/// Where it looks for generated files: the system's are linked there.
const SYSTEM: &str = "arch/x86/include/generated/uapi";
/// Its last one.
const LAST: &str = "include/uapi";

/// Our own files: directory, path in it, text.
const FILES: [(&str, &str, &str); 11] = [
    (
        "include",
        "linux/kconfig.h",
        include_str!("../../headers/linux/kconfig.h"),
    ),
    (
        FIRST,
        "asm/page.h",
        include_str!("../../headers/asm/page.h"),
    ),
    (
        FIRST,
        "asm/ptrace.h",
        include_str!("../../headers/asm/ptrace.h"),
    ),
    (
        FIRST,
        "linux/log2.h",
        include_str!("../../headers/linux/log2.h"),
    ),
    (
        FIRST,
        "linux/types.h",
        include_str!("../../headers/linux/types.h"),
    ),
    (
        FIRST,
        "uapi/linux/bpf_perf_event.h",
        include_str!("../../headers/uapi/bpf_perf_event.h"),
    ),
    // bcc includes its own before.
    (FIRST, "uapi/linux/bpf.h", ""),
    (LAST, "linux/bpf_common.h", ""),
    (LAST, "linux/if_ether.h", ""),
    (LAST, "linux/if_packet.h", ""),
    (
        LAST,
        "linux/limits.h",
        "#define NAME_MAX 255\n#define PATH_MAX 4096\n",
    ),
];

/// What else programs include; `linux/sched.h` has all that there is.
const NAMES: [&str; 18] = [
    "blkdev",
    "dcache",
    "fdtable",
    "fs",
    "fs_struct",
    "init_task",
    "mm",
    "mm_types",
    "mount",
    "netdevice",
    "ns_common",
    "nsproxy",
    "pid_namespace",
    "ptrace",
    "security",
    "socket",
    "uio",
    "uprobes",
];
/// As `NAMES`, but for what the system's files declare.
const LAST_NAMES: [&str; 4] = ["errno", "kernel", "signal", "stddef"];

/// Begins `linux/sched.h`; tasks follow.
const SCHED: &str = include_str!("../../headers/linux/sched.h");
const INCLUDE: &str = "#include <linux/sched.h>\n";

const NOTHING_LOADED: &str = "no program was loaded; if the compiler misses headers or structures of the \
    kernel: programs in user space see none, only the kernel runs such a tool (as root, without bpftime)";

/// The path that `path` leads to, if it is one of the kernel's headers.
pub fn redirected(path: &[u8]) -> Option<CString> {
    let below = path.strip_prefix(MODULES)?;
    let release = release()?;
    let below = below.strip_prefix(release)?.strip_prefix(b"/")?;
    let inside = below
        .strip_prefix(b"build")
        .or_else(|| below.strip_prefix(b"source"))?;
    if !inside.is_empty() && !inside.starts_with(b"/") {
        return None;
    }
    static TREE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let unpacked = unpack(release);
        let unpacked =
            unpacked.inspect_err(|error| log::debug(format_args!("no headers: {error}")));
        watch_the_end();
        unpacked.ok()
    });
    CString::new([tree.as_ref()?.as_os_str().as_bytes(), inside].concat()).ok()
}

/// Has a process that ends without having loaded a program say why that may
/// be: its compiler's complaints do not tell that structures are missing on purpose.
fn watch_the_end() {
    static PROCESS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn at_the_end() {
        // Forked children have the same list of what to do.
        if server::existing().is_none() && PROCESS.load(Ordering::Relaxed) == std::process::id() {
            log::problem(format_args!("{NOTHING_LOADED}"));
        }
    }
    PROCESS.store(std::process::id(), Ordering::Relaxed);
    // SAFETY: the function stays where it is, for this library is never unloaded.
    unsafe { libc::atexit(at_the_end) };
}

/// The running kernel's, as uname(2) tells it.
fn release() -> Option<&'static [u8]> {
    static RELEASE: OnceLock<Vec<u8>> = OnceLock::new();
    let release = RELEASE.get_or_init(|| {
        let text = fs::read("/proc/sys/kernel/osrelease").unwrap_or_default();
        text.trim_ascii_end().to_vec()
    });
    let is_name = !release.is_empty() && !release.contains(&b'/');
    is_name.then_some(release)
}

/// Makes the tree unless it is there, complete.
fn unpack(release: &[u8]) -> io::Result<PathBuf> {
    let library = server::own_path().ok_or(io::ErrorKind::NotFound)?;
    let release = String::from_utf8_lossy(release);
    let tree = library.with_file_name(format!("headers-{release}"));
    if tree.exists() {
        return Ok(tree);
    }
    let temporary = library.with_file_name(format!(".headers.{}", std::process::id()));
    let made = fill(&temporary, &release).and_then(|()| fs::rename(&temporary, &tree));
    if let Err(error) = made {
        // Another tool may have been faster.
        drop(fs::remove_dir_all(&temporary));
        return if tree.exists() { Ok(tree) } else { Err(error) };
    }
    Ok(tree)
}

fn fill(tree: &Path, release: &str) -> io::Result<()> {
    let write = |path: String, text: &str| {
        let path = tree.join(path);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)
    };
    for (directory, name, text) in FILES {
        write(format!("{directory}/{name}"), text)?;
    }
    let first = NAMES.iter().map(|name| (FIRST, name));
    let last = LAST_NAMES.iter().map(|name| (LAST, name));
    for (directory, name) in first.chain(last) {
        write(format!("{directory}/linux/{name}.h"), INCLUDE)?;
    }
    // The system's declares other registers.
    write(format!("{FIRST}/uapi/linux/ptrace.h"), INCLUDE)?;
    write(format!("{FIRST}/linux/version.h"), &version(release))?;
    let sched = format!("{SCHED}{}#endif\n", tasks::declarations());
    write(format!("{FIRST}/linux/sched.h"), &sched)?;
    let system = tree.join(SYSTEM);
    fs::create_dir_all(&system)?;
    let multiarch = Path::new("/usr/include/x86_64-linux-gnu/asm");
    let asm = if multiarch.exists() {
        multiarch
    } else {
        Path::new("/usr/include/asm")
    };
    symlink(asm, system.join("asm"))?;
    symlink("/usr/include/asm-generic", system.join("asm-generic"))?;
    symlink("/usr/include/linux", system.join("linux"))
}

/// `linux/version.h` of a release such as `6.1.0-41-amd64`.
fn version(release: &str) -> String {
    let is_other = |c: char| !c.is_ascii_digit();
    let mut numbers = release
        .split(is_other)
        .map(|number| number.parse().unwrap_or(0u32));
    let mut next = || numbers.next().unwrap_or(0).min(255);
    let (major, minor, patch) = (next(), next(), next());
    format!(
        "#define LINUX_VERSION_CODE {}\n\
         #define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))\n",
        major << 16 | minor << 8 | patch
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_running_kernels_headers() {
        let release = String::from_utf8_lossy(release().unwrap()).into_owned();
        for path in [
            "/lib/modules".to_owned(),
            format!("/lib/modules/{release}"),
            format!("/lib/modules/{release}/builder"),
            format!("/lib/modules/{release}/modules.dep"),
            format!("/lib/modules/{release}0/build"),
            "/etc/passwd".to_owned(),
        ] {
            assert_eq!(redirected(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn versions() {
        assert!(version("6.1.0-41-amd64").starts_with("#define LINUX_VERSION_CODE 393472\n"));
        assert!(version("5.10.300+").starts_with("#define LINUX_VERSION_CODE 330495\n"));
    }

    /// A program of bcc's kind, with every file of ours.
    #[test]
    fn all_of_it_compiles() {
        let home = tempfile::tempdir().unwrap();
        fill(home.path(), "6.18.1").unwrap();
        let mut source = "#include <uapi/linux/ptrace.h>\n#include <linux/limits.h>\n".to_owned();
        source += "#include <asm/page.h>\n#include <linux/log2.h>\n#include <linux/version.h>\n";
        source += "#include <uapi/linux/bpf_perf_event.h>\n#include <linux/types.h>\n";
        for name in NAMES.iter().chain(&LAST_NAMES) {
            source += &format!("#include <linux/{name}.h>\n");
        }
        source += "int at(struct pt_regs *ctx, struct task_struct *task) {\n\
                   return min(ctx->di, 7) + max_t(u8, task->real_parent->tgid, 1) + PATH_MAX; }\n";
        fs::write(home.path().join("main.c"), source).unwrap();
        let directories = ["arch/x86/include", "arch/x86/include/generated", "include"];
        let uapi = [SYSTEM, LAST];
        let compiled = std::process::Command::new("cc")
            .args([
                "-nostdinc",
                "-Wall",
                "-Werror",
                "-D__KERNEL__",
                "-fsyntax-only",
            ])
            .args(["-include", "./include/linux/kconfig.h"])
            .args(
                directories
                    .iter()
                    .chain(&uapi)
                    .map(|dir| format!("-I{dir}")),
            )
            .arg("main.c")
            .current_dir(home.path())
            .output()
            .unwrap();
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
    }
}
