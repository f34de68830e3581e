//! Records of ring buffers and perf buffers, handed to a guest's function.

use std::time::Duration;

use loader::Record;
use wasmtime::{Caller, Extern, Func, Ref, TypedFunc};

use crate::guest::State;
use crate::memory::{self, Result};

/// The guest's function: context, where the record lies, its bytes.
type Callback = TypedFunc<(i32, i32, i32), i32>;

/// Why polling ended early.
pub enum Ended {
    /// By an error that the guest is told.
    Errno(i32),
    /// By what the guest's function did; it ends the guest.
    Trap(wasmtime::Error),
}

impl From<i32> for Ended {
    fn from(errno: i32) -> Ended {
        Ended::Errno(errno)
    }
}

/// What a guest asks for.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// The object.
    pub object: u64,
    /// One of its maps.
    pub fd: i32,
    /// Handed to the function.
    pub context: i32,
    /// Where records are put.
    pub data: u64,
    /// Most bytes of a record; longer ones are cut off.
    pub size: i32,
    /// Milliseconds; negative for no end.
    pub timeout: i32,
}

/// The function at an index of the guest's table.
pub fn in_table(caller: &mut Caller<'_, State>, index: i32) -> Result<Callback> {
    let Some(Extern::Table(table)) = caller.get_export("__indirect_function_table") else {
        return Err(-libc::ENOENT);
    };
    let index = u64::from(index.cast_unsigned());
    match table.get(&mut *caller, index) {
        Some(Ref::Func(Some(function))) => typed(caller, function),
        _ => Err(-libc::EINVAL),
    }
}

/// A function that the guest exports.
pub fn exported(caller: &mut Caller<'_, State>, name: &str) -> Result<Callback> {
    match caller.get_export(name) {
        Some(Extern::Func(function)) => typed(caller, function),
        _ => Err(-libc::ENOENT),
    }
}

fn typed(caller: &mut Caller<'_, State>, function: Func) -> Result<Callback> {
    function.typed(&*caller).map_err(|_| -libc::EINVAL)
}

/// `wasm_bpf_buffer_poll`: how many records were handed over, or, if the
/// function returned a negative number for the last one, that.
pub fn poll(
    caller: &mut Caller<'_, State>,
    arguments: Arguments,
    callback: &Callback,
) -> std::result::Result<i32, Ended> {
    let size = usize::try_from(arguments.size).map_err(|_| -libc::EINVAL)?;
    memory::check(caller, arguments.data, size)?;
    let (bytes, ends) = take(caller, arguments, size)?;
    let mut start = 0;
    let mut last = 0;
    for end in &ends {
        let record = &bytes[start..*end];
        start = *end;
        memory::write(caller, arguments.data, record)?;
        let data = (arguments.data as u32).cast_signed();
        let length = record.len() as i32;
        last = callback
            .call(&mut *caller, (arguments.context, data, length))
            .map_err(Ended::Trap)?;
    }
    let count = i32::try_from(ends.len()).unwrap_or(i32::MAX);
    Ok(if last < 0 { last } else { count })
}

/// The records that are there, cut to `size`, one behind the other, and where
/// each ends. None is in the guest's hands yet: what it does with the object
/// in its function cannot disturb the reading.
fn take(
    caller: &mut Caller<'_, State>,
    arguments: Arguments,
    size: usize,
) -> Result<(Vec<u8>, Vec<usize>)> {
    let guest = &mut caller.data_mut().guest;
    let map = guest.map(arguments.fd)?.clone();
    if map.object != arguments.object {
        return Err(-libc::ENOENT);
    }
    let buffer = guest.object(arguments.object)?.buffer(&map.name);
    let buffer = buffer.map_err(|error| -error.errno)?;
    let timeout = match u64::try_from(arguments.timeout) {
        Ok(milliseconds) => Duration::from_millis(milliseconds),
        Err(_) => Duration::MAX,
    };
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    let polled = buffer.poll(timeout, |record| {
        if let Record::Bytes { bytes: record, .. } = record {
            bytes.extend_from_slice(&record[..record.len().min(size)]);
            ends.push(bytes.len());
        }
    });
    match polled {
        Ok(_) => Ok((bytes, ends)),
        Err(error) => Err(-error.errno),
    }
}
