//! What the main job needs: memory to share, libraries to load, text to
//! patch, processes to attach to. Each is tried, not guessed.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::{ForkResult, Pid, close, fork, pipe, read, write};
use runtime::session::{Dirs, Roster};

use super::finding::Finding;
use crate::inject::can_trace;
use crate::libraries::{self, Library};
use crate::sessions_dir;

/// The first kernel with every system call that is used.
const OLDEST_KERNEL: (u32, u32) = (4, 18);

/// Everything in the order of a tool's and a target's life.
pub fn all(dirs: &Dirs) -> Vec<Finding> {
    vec![
        processor(),
        kernel_version(),
        shared_memory(dirs),
        state(dirs),
        roster(dirs),
        attach(),
        patch_text(),
        membarrier(),
        read_memory(),
    ]
}

fn processor() -> Finding {
    const WHAT: &str = "processor";
    if cfg!(target_arch = "x86_64") {
        Finding::ok(WHAT, "x86-64")
    } else {
        Finding::missing(WHAT, std::env::consts::ARCH, "only x86-64 is supported")
    }
}

fn kernel_version() -> Finding {
    const WHAT: &str = "kernel";
    let Ok(name) = nix::sys::utsname::uname() else {
        return Finding::limited(
            WHAT,
            "unknown version",
            "bpftime was tried on Linux 5.10 and later",
        );
    };
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST_KERNEL {
        return Finding::missing(WHAT, release, "Linux 4.18 or later is needed");
    }
    Finding::ok(WHAT, release)
}

fn shared_memory(dirs: &Dirs) -> Finding {
    const WHAT: &str = "sessions";
    let place = dirs.sessions.display();
    if let Err(problem) = sessions_dir::check(&dirs.sessions) {
        return Finding::missing(
            WHAT,
            problem.happened().to_owned(),
            &format!("{place}: {}", problem.advice()),
        );
    }
    let existing = dirs.sessions.ancestors().find(|dir| dir.exists());
    let free = existing
        .and_then(|dir| statvfs(dir).ok())
        .map(|fs| fs.blocks_available() * fs.fragment_size());
    match free {
        Some(free) if free < 64 << 20 => Finding::limited(
            WHAT,
            format!("{place} has {} MiB free", free >> 20),
            "large maps may not fit; free some, or set BPFTIME_SESSION_DIR",
        ),
        Some(free) => Finding::ok(WHAT, format!("{place} is usable, {} MiB free", free >> 20)),
        None => Finding::ok(WHAT, format!("{place} is usable")),
    }
}

fn state(dirs: &Dirs) -> Finding {
    const WHAT: &str = "libraries";
    match libraries::unpack(dirs, Library::Agent) {
        Ok(path) => Finding::ok(WHAT, path.parent().unwrap_or(&path).display().to_string()),
        Err(problem) => Finding::missing(
            WHAT,
            format!("{} {}", dirs.state.display(), problem.happened()),
            problem.advice(),
        ),
    }
}

fn roster(dirs: &Dirs) -> Finding {
    const WHAT: &str = "roster";
    match Roster::open(dirs) {
        Ok(roster) => Finding::ok(
            WHAT,
            format!("{} processes take part", roster.members().len()),
        ),
        Err(error) => Finding::missing(
            WHAT,
            error.to_string(),
            "set BPFTIME_STATE_DIR to a directory of your own",
        ),
    }
}

fn attach() -> Finding {
    const WHAT: &str = "attach";
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let scope = scope.as_deref().map(str::trim);
    match try_attach() {
        Ok(()) => Finding::ok(
            WHAT,
            match scope {
                Some(scope) => {
                    format!("to your running processes (kernel.yama.ptrace_scope is {scope})")
                }
                None => "to your running processes".to_owned(),
            },
        ),
        Err(_) if scope == Some("1") => Finding::limited(
            WHAT,
            "kernel.yama.ptrace_scope is 1, so running processes cannot be attached to",
            "use bpftime start, or sudo sysctl kernel.yama.ptrace_scope=0",
        ),
        Err(errno) => Finding::limited(
            WHAT,
            format!("running processes cannot be attached to ({})", errno.desc()),
            "use bpftime start",
        ),
    }
}

/// Traces a process of our own that is no descendant, as `attach` would.
fn try_attach() -> Result<(), Errno> {
    let (reader, writer) = pipe()?;
    // SAFETY: this process has one thread, so the children may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: as above.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    // Ends by itself, should we be killed before we end it.
                    nix::unistd::alarm::set(10);
                    loop {
                        nix::unistd::pause();
                    }
                }
                Ok(ForkResult::Parent { child }) => {
                    let _ = write(&writer, &child.as_raw().to_ne_bytes());
                }
                Err(_) => {}
            }
            // SAFETY: ends the process without running what our parent will run.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            close(writer)?;
            let mut pid = [0; 4];
            let got = read(&reader, &mut pid)?;
            nix::sys::wait::waitpid(child, None)?;
            if got != pid.len() {
                return Err(Errno::EAGAIN);
            }
            let pid = Pid::from_raw(i32::from_ne_bytes(pid));
            let result = can_trace(pid, Instant::now() + Duration::from_secs(2));
            kill(pid, Signal::SIGKILL)?;
            result
        }
    }
}

fn patch_text() -> Finding {
    const WHAT: &str = "patching";
    static BYTE: u8 = 1;
    let own = OpenOptions::new().write(true).open("/proc/self/mem");
    // Read-only memory, as text is: written back what is there.
    match own.and_then(|memory| memory.write_all_at(&[BYTE], (&raw const BYTE) as u64)) {
        Ok(()) => Finding::ok(WHAT, "program text can be written through /proc/self/mem"),
        Err(error) => Finding::limited(
            WHAT,
            format!(
                "/proc/self/mem cannot be written ({})",
                libraries::reason(&error)
            ),
            "mprotect(2) is used instead; mount /proc to change that",
        ),
    }
}

fn membarrier() -> Finding {
    const WHAT: &str = "membarrier";
    const REGISTER_SYNC_CORE: libc::c_int = 1 << 6;
    // SAFETY: takes numbers only, and registers this process for a command it will not make.
    match unsafe { libc::syscall(libc::SYS_membarrier, REGISTER_SYNC_CORE, 0, 0) } {
        0 => Finding::ok(WHAT, "SYNC_CORE: text can change under running threads"),
        _ => Finding::limited(
            WHAT,
            format!("no SYNC_CORE ({})", Errno::last().desc()),
            "functions that need more than one store to patch are refused",
        ),
    }
}

fn read_memory() -> Finding {
    const WHAT: &str = "probe_read";
    let value = 42_u64;
    let mut copy = 0_u64;
    let local = libc::iovec {
        iov_base: (&raw mut copy).cast(),
        iov_len: 8,
    };
    let remote = libc::iovec {
        iov_base: (&raw const value).cast_mut().cast(),
        iov_len: 8,
    };
    // SAFETY: copies 8 bytes from one live value of ours to another.
    let read = unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    if read == 8 && copy == value {
        return Finding::ok(WHAT, "process_vm_readv works on the own process");
    }
    Finding::limited(
        WHAT,
        format!("process_vm_readv is refused ({})", Errno::last().desc()),
        "bpf_probe_read fails in programs; allow it in the container's seccomp profile",
    )
}
