//! The few functions of libubpf that a comparison needs.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use anyhow::Result;

use crate::native::{Function, Library};

type Create = unsafe extern "C" fn() -> *mut c_void;
type Load = unsafe extern "C" fn(*mut c_void, *const u8, u32, *mut *mut c_char) -> c_int;
type Compile = unsafe extern "C" fn(*mut c_void, *mut *mut c_char) -> Option<Function>;

/// libubpf.
pub struct Ubpf {
    create: Create,
    load: Load,
    compile: Compile,
}

impl Ubpf {
    /// The functions of a loaded libubpf.
    pub fn new(library: &Library) -> Result<Ubpf> {
        // SAFETY: ubpf.h declares the functions so.
        unsafe {
            Ok(Ubpf {
                create: std::mem::transmute::<*mut c_void, Create>(library.symbol("ubpf_create")?),
                load: std::mem::transmute::<*mut c_void, Load>(library.symbol("ubpf_load")?),
                compile: std::mem::transmute::<*mut c_void, Compile>(
                    library.symbol("ubpf_compile")?,
                ),
            })
        }
    }

    /// Compiles bytecode, for good; `None` if ubpf refuses it.
    pub fn compile(&self, code: &[u8]) -> Option<Function> {
        let mut reason = ptr::null_mut();
        // SAFETY: a machine from `create`, bytes with their length, a place
        // for the reason.
        unsafe {
            let machine = (self.create)();
            let loaded = (self.load)(machine, code.as_ptr(), code.len() as u32, &raw mut reason);
            if loaded != 0 {
                return None;
            }
            (self.compile)(machine, &raw mut reason)
        }
    }
}
