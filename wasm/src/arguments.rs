//! WASI's `args_get`: arguments of any bytes, as processes have them. Not
//! wasmtime's, for which they are UTF-8.

use wasmtime::Caller;

use crate::guest::State;
use crate::memory::{self, Result};
use crate::sleep::{EFAULT, SUCCESS};

/// `args_sizes_get`: how many there are, and bytes of all with their ends.
pub(crate) fn sizes(mut caller: Caller<'_, State>, count: i32, bytes: i32) -> i32 {
    let arguments = &caller.data().arguments;
    let words = [
        arguments.len(),
        arguments.iter().map(|word| word.len() + 1).sum(),
    ];
    let told = [count, bytes].into_iter().zip(words);
    status(told.into_iter().try_for_each(|(at, word)| {
        let word = u32::try_from(word).map_err(|_| -libc::E2BIG)?;
        memory::write(&mut caller, address(at, 0), &word.to_le_bytes())
    }))
}

/// `args_get`: where each begins, and they.
pub(crate) fn get(mut caller: Caller<'_, State>, pointers: i32, bytes: i32) -> i32 {
    let arguments = caller.data().arguments.clone();
    let mut next = 0;
    status(arguments.iter().enumerate().try_for_each(|(index, word)| {
        let at = address(bytes, next);
        let pointer = u32::try_from(at).map_err(|_| -libc::EFAULT)?;
        next += word.len() + 1;
        let place = address(pointers, index * size_of::<u32>());
        memory::write(&mut caller, place, &pointer.to_le_bytes())?;
        memory::write(&mut caller, at, word)?;
        memory::write(&mut caller, at + word.len() as u64, &[0])
    }))
}

fn address(base: i32, offset: usize) -> u64 {
    u64::from(base.cast_unsigned()) + offset as u64
}

fn status(told: Result<()>) -> i32 {
    match told {
        Ok(()) => SUCCESS,
        Err(_) => EFAULT,
    }
}
