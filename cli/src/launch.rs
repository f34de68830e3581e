//! Turns this process into a program with one of our libraries preloaded, or
//! beside it. It knows nothing of what the library does there.
//!
//! exec, not spawn: the program has the process id the user sees, receives
//! the user's signals, and its exit status is its own.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::execve;
use runtime::session::Dirs;

use crate::libraries::{self, Library};
use crate::log::debug;
use crate::problem::{CANNOT_RUN, NOT_FOUND, Problem};
use crate::program_file::{self, Reach};
use crate::sessions_dir;
use crate::supervise::supervise;

const LD_PRELOAD: &str = "LD_PRELOAD";

/// A command that passed every check.
pub struct Program {
    path: PathBuf,
    args: Vec<CString>,
    added: Vec<CString>,
    reach: Reach,
}

impl Program {
    /// `command` is the program's name and its arguments, as typed.
    pub fn find(command: &[OsString]) -> Result<Self, Problem> {
        let Some(name) = command.first() else {
            return Err(Problem::new(
                "no command",
                "nothing to run",
                "see bpftime --help",
            ));
        };
        let path = program_file::resolve(name)?;
        let reach = program_file::check(&path)?;
        let args = command
            .iter()
            .map(|arg| c_string(arg.as_bytes()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            path,
            args,
            added: Vec::new(),
            reach,
        })
    }

    /// The same, if a library can be preloaded into it.
    pub fn find_preloadable(command: &[OsString]) -> Result<Self, Problem> {
        let program = Self::find(command)?;
        match program.reach {
            Reach::Preload => Ok(program),
            Reach::Calls { why, .. } => Err(why),
        }
    }

    /// The same program, with a variable more in its environment.
    pub fn with_variable(mut self, name: &str, value: &str) -> Result<Self, Problem> {
        self.added
            .push(variable(OsStr::new(name), value.as_bytes())?);
        Ok(self)
    }

    /// Becomes the program as a tool: with the server preloaded, else with its
    /// system calls answered from outside, as `by_calls` asks for always.
    pub fn exec_tool(self, dirs: &Dirs, by_calls: bool) -> Result<Infallible, Problem> {
        let server = libraries::unpack(dirs, Library::SyscallServer)?;
        sessions_dir::check(&dirs.sessions)?;
        if let (Reach::Preload, false) = (&self.reach, by_calls) {
            return self.exec(&server);
        }
        supervise(&self.path, &server, &self.added)?;
        match self.reach {
            // Its children can be traced.
            Reach::Calls {
                has_loader: false, ..
            } => {
                let agent = server.with_file_name(Library::Agent.file_name());
                self.exec(&agent)
            }
            _ => self.exec_plain(),
        }
    }

    /// Becomes the program, with `library` appended to the user's LD_PRELOAD.
    pub fn exec(self, library: &Path) -> Result<Infallible, Problem> {
        let preload = crate::libraries::preload(std::env::var_os(LD_PRELOAD).as_deref(), library)?;
        self.exec_with(Some(&preload))
    }

    /// Becomes the program, with nothing of ours in it.
    pub fn exec_plain(self) -> Result<Infallible, Problem> {
        let preload = std::env::var_os(LD_PRELOAD);
        self.exec_with(preload.as_deref().map(OsStr::as_bytes))
    }

    fn exec_with(self, preload: Option<&[u8]>) -> Result<Infallible, Problem> {
        let mut environment = self.added.clone();
        let is_added = |name: &OsStr| {
            let start = [name.as_bytes(), b"="].concat();
            self.added.iter().any(|v| v.as_bytes().starts_with(&start))
        };
        for (name, value) in std::env::vars_os() {
            if name != LD_PRELOAD && !is_added(&name) {
                environment.push(variable(&name, value.as_bytes())?);
            }
        }
        if let Some(preload) = preload {
            environment.push(variable(OsStr::new(LD_PRELOAD), preload)?);
        }
        debug!(
            "exec {} with LD_PRELOAD={}",
            self.path.display(),
            String::from_utf8_lossy(preload.unwrap_or_default())
        );
        let path = c_string(self.path.as_os_str().as_bytes())?;
        execve(&path, &self.args, &environment).map_err(|errno| self.refused(errno))
    }

    fn refused(&self, errno: Errno) -> Problem {
        let (advice, status) = match errno {
            Errno::E2BIG => ("pass fewer or shorter arguments and variables", CANNOT_RUN),
            Errno::ENOENT => ("it was removed meanwhile; check the path", NOT_FOUND),
            Errno::ETXTBSY => ("wait until nobody writes it", CANNOT_RUN),
            _ => (
                "start it without bpftime to see whether it runs at all",
                CANNOT_RUN,
            ),
        };
        Problem::new(
            self.path.display(),
            format_args!("cannot be started ({})", errno.desc()),
            advice,
        )
        .with_status(status)
    }
}

fn variable(name: &OsStr, value: &[u8]) -> Result<CString, Problem> {
    c_string(&[name.as_bytes(), b"=", value].concat())
}

fn c_string(bytes: &[u8]) -> Result<CString, Problem> {
    CString::new(bytes).map_err(|_| {
        Problem::new(
            String::from_utf8_lossy(bytes),
            "contains a NUL byte",
            "remove it",
        )
    })
}
