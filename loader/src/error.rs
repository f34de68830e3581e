//! Why an object could not be used.

use std::fmt;
use std::io;

use libbpf_rs::ErrorKind;

use crate::messages;
use crate::open::ProgramInfo;
use crate::reason::{self, Cause};

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
    /// What a user could do about it.
    pub cause: Cause,
    /// What libbpf and the verifier said of it.
    pub messages: Vec<String>,
}

impl Error {
    pub(crate) fn new(who: impl Into<String>, what: impl Into<String>, errno: i32) -> Error {
        Error {
            who: who.into(),
            what: what.into(),
            errno,
            cause: Cause::System,
            messages: messages::take(),
        }
    }

    pub(crate) fn caused(mut self, cause: Cause) -> Error {
        self.cause = cause;
        self
    }

    /// For an object that could not even be read, with why if that is known.
    pub(crate) fn unread(mut self) -> Error {
        self.cause = Cause::File;
        if let Some(text) = reason::of_reading(&self.messages) {
            self.cause = Cause::Form;
            text.clone_into(&mut self.what);
        }
        self
    }

    /// For an object that was not loaded: about the program that is to blame,
    /// if one is, of which `sections` tell the sections.
    pub(crate) fn unloaded(
        name: &str,
        programs: &[ProgramInfo],
        unsized_maps: &[String],
        error: &libbpf_rs::Error,
    ) -> Error {
        let mut told = Error::last(name, "cannot be loaded", error);
        let reason = reason::of_load(&told.messages, unsized_maps);
        let program = reason
            .program
            .as_ref()
            .and_then(|program| programs.iter().find(|known| known.name == *program));
        let reason = match &reason.text {
            None if told.errno == libc::EPERM => reason.or_of_rights(match program {
                Some(program) => vec![program],
                None => programs.iter().collect(),
            }),
            _ => reason,
        };
        if let Some(text) = reason.text {
            told.what = text;
        }
        if let Some(program) = program {
            told.who.clone_from(&program.name);
            told.what = format!("section \"{}\": {}", program.section, told.what);
        }
        told.caused(reason.cause)
    }

    /// What happened, with the system's reason where it says more.
    pub fn happened(&self) -> String {
        match self.cause {
            Cause::KernelOnly
            | Cause::Kernel
            | Cause::Verifier
            | Cause::Target
            | Cause::Elsewhere
            | Cause::Form
            | Cause::Section => self.what.clone(),
            _ => {
                let reason = nix::errno::Errno::from_raw(self.errno).desc();
                format!("{} ({reason})", self.what)
            }
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
        write!(f, "{}: {}", self.who, self.happened())
    }
}

impl std::error::Error for Error {}
