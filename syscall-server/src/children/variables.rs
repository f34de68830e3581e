//! The process's own environment, which libc's `system` and `popen` hand to
//! their shells. It knows no library.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The C library's `environ`, which the process may exchange at any time.
fn environ() -> &'static AtomicPtr<usize> {
    unsafe extern "C" {
        static environ: AtomicPtr<usize>;
    }
    // SAFETY: libc's variable, which is a pointer and lives for ever.
    unsafe { &environ }
}

/// The array of strings that null ends; null for none.
pub fn now() -> *const usize {
    environ().load(Ordering::Relaxed)
}

/// The value of a variable, whose name ends with `=`.
pub fn get(name: &[u8]) -> Option<&'static [u8]> {
    let mut at = now();
    loop {
        // SAFETY: null, or inside libc's array, which null ends.
        let word = *unsafe { at.as_ref() }?;
        if word == 0 {
            return None;
        }
        // SAFETY: one of libc's strings.
        let text = unsafe { CStr::from_ptr(word as *const c_char) };
        if let Some(value) = text.to_bytes().strip_prefix(name) {
            return Some(value);
        }
        at = at.wrapping_add(1);
    }
}

/// Makes `envp` the environment while `work` runs, unless the process makes
/// another one meanwhile.
///
/// # Safety
/// As [`exchange`].
pub unsafe fn with<R>(envp: *const usize, work: impl FnOnce() -> R) -> R {
    let before = now();
    // SAFETY: the caller's contract.
    let ours = unsafe { exchange(envp) };
    let result = work();
    let order = Ordering::Relaxed;
    // Whoever changed it has made a copy.
    let _ = environ().compare_exchange(ours, before.cast_mut(), order, order);
    result
}

/// Makes a copy of `envp` the environment. It lives for ever, as the one before:
/// other threads may look at either as long as they like.
///
/// # Safety
/// `envp` is an array of strings that null ends. `LD_PRELOAD` is copied; the others live for ever.
pub unsafe fn exchange(envp: *const usize) -> *mut usize {
    let mut copy = Vec::new();
    loop {
        // SAFETY: not behind the null that ends the array.
        let word = unsafe { *envp.add(copy.len()) };
        if word == 0 {
            break;
        }
        // SAFETY: a string, by the caller's contract.
        let text = unsafe { CStr::from_ptr(word as *const c_char) };
        copy.push(match text.to_bytes().starts_with(b"LD_PRELOAD=") {
            true => text.to_owned().into_raw() as usize,
            false => word,
        });
    }
    copy.push(0);
    let copy = copy.leak().as_mut_ptr();
    environ().store(copy, Ordering::Relaxed);
    copy
}
