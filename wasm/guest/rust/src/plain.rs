//! Values that are nothing but their bytes.

use std::mem::{MaybeUninit, size_of};
use std::slice;

/// A type of which any bytes are a value, and which has no bytes that are none.
///
/// # Safety
/// Numbers, and arrays and `repr(C)` structures of such without gaps between
/// members. `bpftime gen types --rust` makes such structures.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(
            // SAFETY: a number.
            unsafe impl Plain for $number {}
        )*
    };
}

numbers!(u8 u16 u32 u64 i8 i16 i32 i64 usize isize f32 f64);

// SAFETY: elements lie one behind the other.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A value of zeros.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: any bytes are a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// A value that a record or an element begins with; `None` if it is too short.
pub fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: as many bytes as the type has, and any are a value.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A value's bytes.
pub fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: all bytes of a plain value are initialised.
    unsafe { slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The text up to the first NUL.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}
