//! Removes the libraries of other versions that nobody needs any more. It knows
//! nothing of what is in them.
//!
//! A process needs a library that it has mapped, or has in its environment, for
//! its children preload that. So a directory goes when no process names it, and
//! when nobody has begun to use it for a day: who does so changes its time of
//! modification under a shared lock ([`hold`]), and what goes is locked
//! exclusively when that time is looked at. Of processes that cannot be read,
//! those of the roster count. Where not all are seen, or another machine may use
//! the files, nothing goes.

use std::fs::{self, File, FileTimes};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs;
use runtime::session::{Dirs, LIBRARY_PREFIX, Roster};

use super::create_private_dir;
use crate::log::debug;

/// How long a directory is left alone after its last use: longer than anything
/// takes from unpacking a library to mapping it.
const REST: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a directory of libraries and keeps it from going away while the result
/// lives. `None` where files cannot be locked, and nothing goes.
pub(super) fn hold(dir: &Path) -> io::Result<Option<Flock<File>>> {
    loop {
        create_private_dir(dir)?;
        let opened = match File::open(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let Ok(held) = Flock::lock(opened, FlockArg::LockShared) else {
            return Ok(None);
        };
        let is_same =
            |there: fs::Metadata| held.metadata().is_ok_and(|own| own.ino() == there.ino());
        if fs::metadata(dir).is_ok_and(is_same) {
            // Where this fails nobody else may write either.
            let _ = held.set_times(FileTimes::new().set_modified(SystemTime::now()));
            return Ok(Some(held));
        }
    }
}

/// Removes what can go of the state directory, but nothing of `own`.
pub(super) fn prune(dirs: &Dirs, own: &str) {
    if is_local(&dirs.state) && sees_all() {
        remove_unneeded(dirs, own);
    }
}

fn remove_unneeded(dirs: &Dirs, own: &str) {
    let mut names = candidates(&dirs.state, own);
    if names.is_empty() || !drop_needed(&mut names, dirs) {
        return;
    }
    for name in names {
        match remove(&dirs.state.join(&name)) {
            Ok(()) => debug!("removed {name} of another version"),
            Err(error) => debug!("{name} stays: {error}"),
        }
    }
}

/// Directories of other versions that have rested.
fn candidates(state: &Path, own: &str) -> Vec<String> {
    let entries = fs::read_dir(state).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .metadata()
                .is_ok_and(|meta| meta.is_dir() && has_rested(&meta))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != own && is_ours(name))
        .collect()
}

fn is_ours(name: &str) -> bool {
    let hash = name.strip_prefix(LIBRARY_PREFIX);
    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn has_rested(meta: &fs::Metadata) -> bool {
    let since = meta.modified().ok().and_then(|time| time.elapsed().ok());
    since.is_some_and(|since| since > REST)
}

/// Whether only this machine uses the file system.
fn is_local(path: &Path) -> bool {
    let local = [
        statfs::BTRFS_SUPER_MAGIC,
        statfs::EXT4_SUPER_MAGIC,
        statfs::F2FS_SUPER_MAGIC,
        statfs::OVERLAYFS_SUPER_MAGIC,
        statfs::TMPFS_MAGIC,
        statfs::XFS_SUPER_MAGIC,
    ];
    statfs::statfs(path).is_ok_and(|fs| local.contains(&fs.filesystem_type()))
}

/// Whether /proc shows the processes of all containers: the first namespace of
/// process ids has a number of its own (`PROC_PID_INIT_INO`).
fn sees_all() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new("pid:[4026531836]"))
}

/// Takes out of `names` what a process names; `false` where that cannot be told.
fn drop_needed(names: &mut Vec<String>, dirs: &Dirs) -> bool {
    let (Ok(entries), Ok(roster)) = (fs::read_dir("/proc"), Roster::open(dirs)) else {
        return false;
    };
    let members: Vec<i32> = roster
        .members()
        .iter()
        .map(|member| member.process.pid)
        .collect();
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.flat_map(|pid: i32| ["maps", "environ"].map(|file| (pid, file)))
        .all(
            |(pid, file)| match fs::read(format!("/proc/{pid}/{file}")) {
                Ok(text) => {
                    names.retain(|name| !contains(&text, name.as_bytes()));
                    true
                }
                Err(_) => !members.contains(&pid),
            },
        )
}

fn contains(text: &[u8], name: &[u8]) -> bool {
    text.windows(name.len()).any(|at| at == name)
}

fn remove(dir: &Path) -> io::Result<()> {
    let locked = Flock::lock(File::open(dir)?, FlockArg::LockExclusiveNonblock);
    let locked = locked.map_err(|(_, errno)| errno)?;
    if !has_rested(&locked.metadata()?) {
        return Err(ErrorKind::ResourceBusy.into());
    }
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    if !entries.iter().all(is_unpacked) {
        return Err(ErrorKind::DirectoryNotEmpty.into());
    }
    for entry in entries {
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir(dir)
}

/// A library, or a tool's headers; what a killed process left begins with a dot.
fn is_unpacked(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    let name = name.trim_start_matches('.');
    ["libbpftime-", "headers"]
        .iter()
        .any(|ours| name.starts_with(ours))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const OWN: &str = "lib-0000000000000001";

    /// A state directory with libraries that were last used two days ago.
    fn state(names: &[&str]) -> (tempfile::TempDir, Dirs) {
        let root = tempfile::tempdir().expect("a directory");
        let dirs = Dirs {
            state: root.path().join("state"),
            sessions: root.path().join("sessions"),
        };
        for name in names {
            let dir = dirs.state.join(name);
            create_private_dir(&dir).expect("mkdir");
            fs::write(dir.join("libbpftime-agent.so"), "").expect("write");
            fs::write(dir.join(".libbpftime-agent.so.1"), "").expect("write");
            create_private_dir(&dir.join("headers-6.1/include")).expect("mkdir");
            age(&dir);
        }
        (root, dirs)
    }

    fn age(dir: &Path) {
        let times = FileTimes::new().set_modified(SystemTime::now() - 2 * REST);
        let dir = File::open(dir).expect("a directory");
        dir.set_times(times).expect("it is ours");
    }

    fn left(dirs: &Dirs) -> Vec<String> {
        let entries = fs::read_dir(&dirs.state).expect("a directory").flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("lib-")).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_has_rested_and_is_ours_goes() {
        let (foreign, young) = ("lib-000000000000000a", "lib-000000000000000b");
        let other = "lib-000000000000000c";
        let (_root, dirs) = state(&[OWN, foreign, young, other, "lib-of-the-user"]);
        fs::write(dirs.state.join(foreign).join("notes"), "").expect("write");
        age(&dirs.state.join(foreign));
        drop(hold(&dirs.state.join(young)).expect("held"));
        remove_unneeded(&dirs, OWN);
        assert_eq!(left(&dirs), [OWN, foreign, young, "lib-of-the-user"]);
    }

    #[test]
    fn what_is_held_stays_though_its_time_is_past() {
        let held = "lib-000000000000000e";
        let (_root, dirs) = state(&[held]);
        let holder = hold(&dirs.state.join(held)).expect("held");
        assert!(holder.is_some());
        age(&dirs.state.join(held));
        remove_unneeded(&dirs, OWN);
        assert_eq!(left(&dirs), [held]);
        drop(holder);
        remove_unneeded(&dirs, OWN);
        assert_eq!(left(&dirs), [""; 0]);
        // Who comes now makes it anew.
        drop(hold(&dirs.state.join(held)).expect("held"));
        assert_eq!(left(&dirs), [held]);
    }

    #[test]
    fn what_a_process_would_preload_stays() {
        let named = "lib-000000000000000f";
        let (_root, dirs) = state(&[named]);
        let mut process = Command::new("cat")
            .env("OF_A_TEST", dirs.state.join(named))
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat is there");
        remove_unneeded(&dirs, OWN);
        assert_eq!(left(&dirs), [named]);
        drop(process.stdin.take());
        process.wait().expect("it ends");
        remove_unneeded(&dirs, OWN);
        assert_eq!(left(&dirs), [""; 0]);
    }
}
