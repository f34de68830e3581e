//! A guest's memory: copies in and out, with every range checked.

use wasmtime::{Caller, Extern};

use crate::guest::State;

/// Most bytes of a name, with its end; those of files are not longer.
const MAX_NAME: usize = 4096;

/// A failure as the guest sees it: a negated errno.
pub type Result<T> = std::result::Result<T, i32>;

/// The guest's memory, and all else of it.
pub fn all<'a>(caller: &'a mut Caller<'_, State>) -> Result<(&'a mut [u8], &'a mut State)> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        None => {
            let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
                return Err(-libc::EFAULT);
            };
            *caller.data_mut().memory.insert(memory)
        }
    };
    Ok(memory.data_and_store_mut(caller))
}

/// A part of the guest's memory.
pub fn range(memory: &mut [u8], at: u64, length: usize) -> Result<&mut [u8]> {
    let start = usize::try_from(at).map_err(|_| -libc::EFAULT)?;
    let end = start.checked_add(length).ok_or(-libc::EFAULT)?;
    memory.get_mut(start..end).ok_or(-libc::EFAULT)
}

/// Where `length` bytes lie in the host. They stay there for as long as the
/// guest does not run.
pub fn place(caller: &mut Caller<'_, State>, at: u64, length: usize) -> Result<*mut u8> {
    range(all(caller)?.0, at, length).map(<[u8]>::as_mut_ptr)
}

/// A copy of `length` bytes.
pub fn read(caller: &mut Caller<'_, State>, at: u64, length: usize) -> Result<Vec<u8>> {
    range(all(caller)?.0, at, length).map(|bytes| bytes.to_vec())
}

/// Fills what begins at `at` with `bytes`.
pub fn write(caller: &mut Caller<'_, State>, at: u64, bytes: &[u8]) -> Result<()> {
    range(all(caller)?.0, at, bytes.len()).map(|to| to.copy_from_slice(bytes))
}

/// Whether `length` bytes could be written.
pub fn check(caller: &mut Caller<'_, State>, at: u64, length: usize) -> Result<()> {
    range(all(caller)?.0, at, length).map(|_| ())
}

/// A terminated string; a null pointer is none.
pub fn text(caller: &mut Caller<'_, State>, at: u64) -> Result<Option<String>> {
    if at == 0 {
        return Ok(None);
    }
    let (memory, _) = all(caller)?;
    let start = usize::try_from(at).map_err(|_| -libc::EFAULT)?;
    let tail = memory.get(start..).ok_or(-libc::EFAULT)?;
    let tail = &tail[..tail.len().min(MAX_NAME)];
    let end = tail
        .iter()
        .position(|&byte| byte == 0)
        .ok_or(-libc::EFAULT)?;
    let text = std::str::from_utf8(&tail[..end]).map_err(|_| -libc::EINVAL)?;
    Ok(Some(text.to_owned()))
}
