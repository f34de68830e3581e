//! What can go wrong with directories, sessions and the roster. Each message
//! is one line that says what happened and what to do.

use std::path::{Path, PathBuf};

use uapi::Errno;

/// Why a directory, a session or the roster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A directory cannot be made or written.
    #[error("cannot write {}: {errno}; set {variable} to a directory you own", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// Environment variable that moves it.
        variable: &'static str,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// A path in our place is not a directory of ours.
    #[error("{} is not a directory owned by user {uid}; remove it or set {variable} to another", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Environment variable that moves it.
        variable: &'static str,
        /// Who must own it.
        uid: u32,
    },
    /// The file system of the session has no room.
    #[error("no space left in {}; free some or set BPFTIME_SESSION_DIR to another tmpfs", path.display())]
    Full {
        /// The session directory.
        path: PathBuf,
    },
    /// A system call on a file of ours failed.
    #[error("cannot {what} {}: {errno}", path.display())]
    File {
        /// The verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// A file has another layout: written by another version, or damaged.
    #[error("{} is not a {what} of this version of bpftime", path.display())]
    Layout {
        /// What it should have been.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// No roster slot is free.
    #[error("{max} processes are traced already; no more can join")]
    RosterFull {
        /// Number of slots.
        max: u32,
    },
    /// The session is gone: its tool has ended.
    #[error("the session in {} has ended", path.display())]
    Ended {
        /// The session directory.
        path: PathBuf,
    },
    /// A process could not be started.
    #[error("cannot start the sweeper: {0}")]
    Sweeper(#[source] Errno),
}

impl SessionError {
    /// A failed system call on `path`; out of space gets its own message.
    pub(crate) fn file(what: &'static str, path: &Path, errno: Errno) -> SessionError {
        if errno == Errno::ENOSPC {
            return SessionError::Full {
                path: path.to_owned(),
            };
        }
        SessionError::File {
            what,
            path: path.to_owned(),
            errno,
        }
    }
}
