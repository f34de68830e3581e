//! eBPF for Wasm guests: an object of eBPF programs is loaded, attached and
//! polled by the host, which is `bpftime run` or another runtime of wasm-bpf.
//!
//! ```ignore
//! let mut open = Open::new(include_bytes!("tool.bpf.o"));
//! open.set("least", &5i64)?;
//! let object = open.load()?;
//! object.program("on_call").attach_to("/usr/bin/app:function")?;
//! let mut events = object.map("events")?.buffer();
//! loop {
//!     events.poll(Duration::from_millis(100), |record| println!("{} bytes", record.len()))?;
//! }
//! ```
//!
//! Reading order: this file (objects and programs), [`map`], [`buffer`],
//! [`variables`] (global variables before the load), [`plain`] (values as bytes),
//! [`bits`], [`errno`], `host` (what the host does).

pub mod bits;
pub mod buffer;
pub mod errno;
mod host;
pub mod map;
pub mod plain;
pub mod variables;

use std::ffi::CString;

pub use buffer::Buffer;
pub use errno::Errno;
pub use map::Map;
pub use plain::{Plain, zeroed};
pub use variables::Open;

/// An object that the host has loaded. Dropping it detaches its programs and
/// takes its maps away.
#[derive(Debug)]
pub struct Object {
    handle: u64,
}

impl Object {
    /// Loads an object file as it is.
    ///
    /// # Errors
    /// EINVAL; the host has told its user why.
    pub fn load(bytes: &[u8]) -> Result<Object, Errno> {
        let length = i32::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
        // SAFETY: the range is that of a slice, which the host copies.
        match unsafe { host::wasm_load_bpf_object(bytes.as_ptr().cast(), length) } {
            0 => Err(Errno::EINVAL),
            handle => Ok(Object { handle }),
        }
    }

    /// A program by its function's name. Whether there is one is found out when
    /// it is attached.
    pub fn program<'a>(&'a self, name: &'a str) -> Program<'a> {
        Program { object: self, name }
    }

    /// A map by its name; `.bss` and `.data` are maps of one element with the
    /// number 0.
    ///
    /// # Errors
    /// ENOENT if there is none.
    pub fn map(&self, name: &str) -> Result<Map<'_>, Errno> {
        let name = text(name)?;
        // SAFETY: a terminated string, which the host copies.
        let fd = unsafe { host::wasm_bpf_map_fd_by_name(self.handle, name.as_ptr()) };
        Errno::check(fd).map(|fd| Map::new(self, fd))
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the handle is the host's; nothing borrowed from it is left.
        unsafe { host::wasm_close_bpf_object(self.handle) };
    }
}

/// A program of an object.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    object: &'a Object,
    name: &'a str,
}

impl Program<'_> {
    /// Attaches it where its section says, until its object is dropped.
    ///
    /// # Errors
    /// ENOENT for an unknown program, else what the host says.
    pub fn attach(&self) -> Result<(), Errno> {
        self.attach_to("")
    }

    /// Attaches it to an interface, a control group's directory,
    /// `PATH:FUNCTION`, `CATEGORY:NAME`; see docs/guests.md. No words stand for
    /// the section.
    ///
    /// # Errors
    /// As [`Program::attach`], and EINVAL for what makes no sense.
    pub fn attach_to(&self, target: &str) -> Result<(), Errno> {
        let (name, target) = (text(self.name)?, text(target)?);
        let target = match target.is_empty() {
            true => std::ptr::null(),
            false => target.as_ptr(),
        };
        // SAFETY: terminated strings that outlive the call, or null.
        let result =
            unsafe { host::wasm_attach_bpf_program(self.object.handle, name.as_ptr(), target) };
        Errno::check(result).map(|_| ())
    }

    /// Attaches it to the control group that a directory is which the guest was
    /// given (`--dir`), by its WASI fd.
    ///
    /// # Errors
    /// As [`Program::attach`], and EBADF for an fd that is none.
    pub fn attach_to_directory(&self, fd: i32) -> Result<(), Errno> {
        let name = text(self.name)?;
        // SAFETY: a terminated string that outlives the call.
        let result =
            unsafe { host::wasm_attach_bpf_program_fd(self.object.handle, name.as_ptr(), fd) };
        Errno::check(result).map(|_| ())
    }
}

fn text(words: &str) -> Result<CString, Errno> {
    CString::new(words).map_err(|_| Errno::EINVAL)
}
