//! libc's definitions of the functions that this library interposes.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The next definition of a libc function after ours, looked up once.
pub struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    /// The function with this name.
    pub const fn new(name: &'static CStr) -> Next {
        Next {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Its address; None when no other library defines it.
    pub fn address(&self) -> Option<*mut c_void> {
        let mut address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            let name: *const c_char = self.name.as_ptr();
            // SAFETY: the name is a terminated string.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, name) };
            self.address.store(address, Ordering::Relaxed);
        }
        (!address.is_null()).then_some(address)
    }
}

/// Defines a module `own` with `fn $name(args) -> ret`, which calls libc's
/// function of that name, or gives `$missing` when there is none.
macro_rules! next_function {
    ($(#[$doc:meta])* unsafe fn $name:ident($($arg:ident: $t:ty),*) -> $ret:ty, else $missing:expr) => {
        mod own {
            #[allow(unused_imports, reason = "which types a signature needs differs")]
            use super::*;

            $(#[$doc])*
            ///
            /// # Safety
            /// As the C function.
            pub(super) unsafe fn $name($($arg: $t),*) -> $ret {
                static NEXT: $crate::exports::next::Next = $crate::exports::next::Next::new(
                    match std::ffi::CStr::from_bytes_with_nul(
                        concat!(stringify!($name), "\0").as_bytes(),
                    ) {
                        Ok(name) => name,
                        // A name of a function has no zero inside.
                        Err(_) => c"",
                    },
                );
                let Some(address) = NEXT.address() else {
                    return $missing;
                };
                // SAFETY: libc defines the function with this signature.
                let function = unsafe {
                    std::mem::transmute::<
                        *mut std::ffi::c_void,
                        unsafe extern "C" fn($($t),*) -> $ret,
                    >(address)
                };
                // SAFETY: the caller's contract is the C function's.
                unsafe { function($($arg),*) }
            }
        }
    };
}
pub(crate) use next_function;
