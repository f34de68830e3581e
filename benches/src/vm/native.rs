//! The same C as machine code of this processor, through dlopen(3).

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use uapi::helper::{BPF_FUNC_MAP_DELETE_ELEM, BPF_FUNC_MAP_LOOKUP_ELEM, BPF_FUNC_MAP_UPDATE_ELEM};

use crate::object::{Object, Program};
use crate::world::World;

/// `run` of every program.
pub type Function = unsafe extern "C" fn(*mut u8, u64) -> u64;

/// A library that was loaded and stays so.
pub struct Library(*mut c_void);

impl Library {
    /// Loads a library.
    pub fn open(path: &Path) -> Result<Library> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: a zero-terminated string; what is loaded has no constructors
        // of ours, and the caller named it.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            // SAFETY: after a failed dlopen it is a zero-terminated string.
            let reason = unsafe { CStr::from_ptr(libc::dlerror()) };
            bail!("{}", reason.to_string_lossy());
        }
        Ok(Library(handle))
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &str) -> Result<*mut c_void> {
        let text = CString::new(name)?;
        // SAFETY: a live handle and a zero-terminated string.
        let symbol = unsafe { libc::dlsym(self.0, text.as_ptr()) };
        (!symbol.is_null())
            .then_some(symbol)
            .with_context(|| format!("no symbol {name}"))
    }

    /// Writes a word to a variable of the library.
    fn set(&self, name: &str, value: u64) -> Result<()> {
        let variable = self.symbol(name)?;
        // SAFETY: `bench.h` gives these variables eight bytes.
        unsafe { variable.cast::<u64>().write(value) };
        Ok(())
    }
}

/// Loads the native `run` and gives it the helpers and maps of `world`.
pub fn load(path: &Path, program: &Program, world: &mut World) -> Result<Function> {
    let library = Library::open(path)?;
    if program.has_maps() {
        for (name, id) in [
            ("bench_lookup", BPF_FUNC_MAP_LOOKUP_ELEM),
            ("bench_update", BPF_FUNC_MAP_UPDATE_ELEM),
            ("bench_delete", BPF_FUNC_MAP_DELETE_ELEM),
        ] {
            let helper = runtime::helpers::lookup(id).context("a helper")?;
            library.set(name, helper.call as *const () as u64)?;
        }
        library.set("bench_run", world.run() as u64)?;
    }
    for (id, object) in (1..).zip(&program.objects) {
        if let Object::Map { .. } = object {
            library.set("bench_handle", world.handle(id)?)?;
            library.set("bench_values", world.values() as u64)?;
        }
    }
    // SAFETY: `run` has this type in every program.
    Ok(unsafe { std::mem::transmute::<*mut c_void, Function>(library.symbol("run")?) })
}
