//! Helpers on strings.

use core::ptr;

use super::row::{Bytes, Len, Text, helper};

helper! {
    /// bpf_strncmp: compares `a`, of at most `len` bytes, with `b`:
    /// below, equal to or above 0.
    fn strncmp(run, a: Bytes, len: Len, b: Text) -> i64 = BPF_FUNC_STRNCMP {
        for at in 0..len.0 {
            // SAFETY: the verifier proved `len` bytes of `a`, and that `b` is
            // zero-terminated; the loop ends at its zero. Volatile, so that
            // the loop does not become a call of libc's strncmp.
            let (x, y) = unsafe {
                (
                    ptr::read_volatile(a.0.wrapping_add(at)),
                    ptr::read_volatile(b.0.wrapping_add(at)),
                )
            };
            if x != y {
                return if x < y { -1 } else { 1 };
            }
            if x == 0 {
                break;
            }
        }
        0
    }
}
