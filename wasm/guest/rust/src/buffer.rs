//! Records of ring buffers and perf buffers.

use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

use crate::{Errno, Map, host};

/// Most bytes of a record; longer ones are cut off.
const MAX_RECORD: usize = 64 << 10;

/// What reads a map's records. An object may have several.
#[derive(Debug)]
pub struct Buffer<'a> {
    map: Map<'a>,
    record: Box<[u8]>,
}

/// What the host hands back to [`sample`].
struct Call<'f> {
    function: &'f mut dyn FnMut(&[u8]),
    record: *const u8,
}

/// Called by the host for every record, through the guest's table.
extern "C" fn sample(context: *mut c_void, _: *mut c_char, size: c_int) -> c_int {
    // SAFETY: `Buffer::poll` gave a `Call` of its own, and waits for the host.
    let call = unsafe { &mut *context.cast::<Call<'_>>() };
    let size = usize::try_from(size).unwrap_or(0).min(MAX_RECORD);
    // SAFETY: the host has written the record to the buffer of `poll`, which
    // nobody writes to before this returns.
    let record = unsafe { std::slice::from_raw_parts(call.record, size) };
    (call.function)(record);
    0
}

impl<'a> Buffer<'a> {
    pub(crate) fn new(map: Map<'a>) -> Buffer<'a> {
        Buffer {
            map,
            record: vec![0; MAX_RECORD].into_boxed_slice(),
        }
    }

    /// Hands all records that are there to a function; if there are none, waits
    /// for the first. Gives their number.
    ///
    /// # Errors
    /// EINVAL for a map that reports nothing; ENOENT for a guest that was linked
    /// without `--export-table`.
    pub fn poll(
        &mut self,
        timeout: Duration,
        mut function: impl FnMut(&[u8]),
    ) -> Result<usize, Errno> {
        let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        let mut call = Call {
            function: &mut function,
            record: self.record.as_ptr(),
        };
        // SAFETY: `sample` has the type that the host calls; the call's context
        // and memory are this function's until the host returns.
        let result = unsafe {
            host::wasm_bpf_buffer_poll(
                self.map.object(),
                self.map.fd(),
                sample as extern "C" fn(*mut c_void, *mut c_char, c_int) -> c_int as usize,
                (&raw mut call).cast(),
                self.record.as_mut_ptr().cast(),
                MAX_RECORD as c_int,
                milliseconds,
            )
        };
        Errno::check(result).map(|count| count as usize)
    }
}
