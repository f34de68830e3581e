//! Records of ring buffers and perf buffers, handed to a guest's function.

use std::io::Write;
use std::time::{Duration, Instant};

use loader::Record;
use wasmtime::{Caller, Extern, Func, Ref, TypedFunc};

use crate::guest::{MapFd, State};
use crate::memory::{self, Result};
use crate::stop::LOOK;

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
/// function returned a negative number, that. What came behind that record is
/// handed over next time.
pub fn poll(
    caller: &mut Caller<'_, State>,
    arguments: Arguments,
    callback: &Callback,
) -> std::result::Result<i32, Ended> {
    let size = usize::try_from(arguments.size).map_err(|_| -libc::EINVAL)?;
    let data = u32::try_from(arguments.data).map_err(|_| -libc::EFAULT)?;
    memory::check(caller, arguments.data, size)?;
    if of_object(caller.data(), arguments)?.pending.is_empty() {
        take(caller, arguments)?;
    }
    let mut count = 0;
    // What the function does with its object, or by polling, is seen at the next record.
    while let Some(length) = hand_over(caller, arguments, size)? {
        let words = (arguments.context, data.cast_signed(), length as i32);
        let returned = callback.call(&mut *caller, words).map_err(Ended::Trap)?;
        if returned < 0 {
            return Ok(returned);
        }
        count += 1;
    }
    Ok(count)
}

/// The buffer that is meant, if it is one of the object's.
fn of_object(state: &State, arguments: Arguments) -> Result<&MapFd> {
    let map = state.guest.map(arguments.fd)?;
    match map.object == arguments.object {
        true => Ok(map),
        false => Err(-libc::ENOENT),
    }
}

/// Puts the next record where the guest wants it, at most `size` bytes of it,
/// and returns how many they are.
fn hand_over(
    caller: &mut Caller<'_, State>,
    arguments: Arguments,
    size: usize,
) -> Result<Option<usize>> {
    let (memory, state) = memory::all(caller)?;
    // The function may have closed its object.
    let Ok(map) = state.guest.map_mut(arguments.fd) else {
        return Ok(None);
    };
    while let Some(record) = map.pending.next() {
        match record {
            Record::Bytes { bytes, .. } => {
                let bytes = &bytes[..bytes.len().min(size)];
                memory::range(memory, arguments.data, bytes.len())?.copy_from_slice(bytes);
                return Ok(Some(bytes.len()));
            }
            Record::Lost { count, .. } => lost(&map.name, count),
        }
    }
    Ok(None)
}

/// Waits for records and keeps all that are there, before any is in the
/// guest's hands: what it does then cannot disturb the reading.
fn take(caller: &mut Caller<'_, State>, arguments: Arguments) -> std::result::Result<(), Ended> {
    let due = u64::try_from(arguments.timeout)
        .ok()
        .map(|milliseconds| Instant::now() + Duration::from_millis(milliseconds));
    let guest = &mut caller.data_mut().guest;
    let mut batch = std::mem::take(&mut guest.map_mut(arguments.fd)?.pending);
    loop {
        caller.data().stop.check().map_err(Ended::Trap)?;
        let left = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()));
        let guest = &mut caller.data_mut().guest;
        let name = guest.map(arguments.fd)?.name.clone();
        let buffer = guest.object(arguments.object)?.buffer(&name);
        let buffer = buffer.map_err(|error| -error.errno)?;
        let filled = buffer.fill(left.min(LOOK), &mut batch);
        let failed = filled.err().filter(|error| error.errno != libc::EINTR);
        let over = due.is_some_and(|due| due <= Instant::now());
        if over || failed.is_some() || !batch.is_empty() {
            guest.map_mut(arguments.fd)?.pending = batch;
            return failed.map_or(Ok(()), |error| Err(Ended::Errno(-error.errno)));
        }
    }
}

/// A guest cannot be told; its user can.
fn lost(map: &str, count: u64) {
    // Nobody is left to tell if stderr is gone.
    let _ = writeln!(
        std::io::stderr(),
        "bpftime: {map}: {count} records were lost, for the module did not read them in time"
    );
}
