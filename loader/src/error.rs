//! Why an object could not be used.

use std::fmt;
use std::io;

use libbpf_rs::ErrorKind;

use crate::messages;

/// `__LIBBPF_ERRNO__START` (libbpf 1.7, src/libbpf.h).
const LIBBPF_ERRNO_START: i32 = 4000;

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The object, program or map.
    pub who: String,
    /// What could not be done.
    pub what: String,
    /// The errno.
    pub errno: i32,
    /// What libbpf and the verifier said of it.
    pub messages: Vec<String>,
}

impl Error {
    pub(crate) fn new(who: impl Into<String>, what: impl Into<String>, errno: i32) -> Error {
        Error {
            who: who.into(),
            what: what.into(),
            errno,
            messages: messages::take(),
        }
    }

    /// For what libbpf has just refused on this thread.
    pub(crate) fn last(
        who: impl Into<String>,
        what: impl Into<String>,
        error: &libbpf_rs::Error,
    ) -> Error {
        // Every function of libbpf that fails leaves its reason in errno; the
        // wrapper's own refusals are of this kind.
        let errno = match (error.kind(), io::Error::last_os_error().raw_os_error()) {
            // Numbers of libbpf's own say that the file is not as it should be.
            (ErrorKind::InvalidData, _) | (_, Some(LIBBPF_ERRNO_START..)) => libc::EINVAL,
            (_, errno) => errno.unwrap_or(libc::EIO),
        };
        Error::new(who, what, errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = nix::errno::Errno::from_raw(self.errno).desc();
        write!(f, "{}: {} ({reason})", self.who, self.what)
    }
}

impl std::error::Error for Error {}
