//! Reference counters of probed places (semaphores of USDT probes): 16-bit
//! words in a file's data by which a program knows that somebody listens. It
//! knows no link and no hook.
//!
//! As in the kernel (kernel/events/uprobes.c, `update_ref_ctr`), a place counts
//! once for however many programs run there, and what is no private writable
//! mapping of the file holds no counter: bcc passes offsets that mean none. A
//! forked child has its parent's counts in its copy of the data, and lowers
//! those of links that are not for it.

use std::collections::BTreeMap;
use std::ops::Range;

use uapi::Errno;

use crate::log::debug;
use crate::maps::{self, Mapping};

/// A place that has a counter.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Address of the probed instruction.
    pub address: usize,
    /// Device and inode, as mappings show them.
    pub file: (u64, u64),
    /// Where in the file the counter lies.
    pub ref_ctr_offset: u64,
}

struct Counted {
    users: u32,
    place: Place,
    /// Where it was counted; `None` while the file's data is not mapped.
    counter: Option<usize>,
}

/// The counters that this process has raised.
#[derive(Default)]
pub struct Semaphores {
    /// By address of the probed instruction.
    raised: BTreeMap<usize, Counted>,
}

impl Semaphores {
    /// Programs were put on these places.
    pub fn raise(&mut self, places: &[Place]) {
        for place in places {
            let counted = self.raised.entry(place.address).or_insert(Counted {
                users: 0,
                place: *place,
                counter: None,
            });
            counted.users += 1;
        }
        self.find_counters();
    }

    /// Raises counters whose data was not mapped before.
    pub fn find_counters(&mut self) {
        let missing = |counted: &&mut Counted| counted.counter.is_none();
        let mut missing = self.raised.values_mut().filter(missing).peekable();
        if missing.peek().is_none() {
            return;
        }
        let Ok(data) = maps::private_data() else {
            return;
        };
        for counted in missing {
            let Some(counter) = find(&data, &counted.place) else {
                continue;
            };
            match add(counter, 1) {
                Ok(()) => counted.counter = Some(counter),
                Err(errno) => debug!("the counter at {counter:#x}: {errno:?}"),
            }
        }
    }

    /// A program was taken off this place.
    pub fn lower(&mut self, address: usize) {
        let Some(counted) = self.raised.get_mut(&address) else {
            return;
        };
        counted.users -= 1;
        if counted.users > 0 {
            return;
        }
        if let Some(counter) = counted.counter
            && let Err(errno) = add(counter, -1)
        {
            debug!("the counter at {counter:#x}: {errno:?}");
        }
        self.raised.remove(&address);
    }

    /// Text was unmapped, and the counters with it.
    pub fn forget_range(&mut self, range: &Range<usize>) {
        self.raised.retain(|address, _| !range.contains(address));
    }
}

/// The counter's address: in the first mapping that has it, as in the kernel.
fn find(data: &[Mapping], place: &Place) -> Option<usize> {
    data.iter()
        .filter(|mapping| (mapping.dev, mapping.ino) == place.file)
        .find_map(|mapping| mapping.address_of(place.ref_ctr_offset))
}

/// Adds to a counter, as the kernel does: not below zero. The kernel copies,
/// so that a library that is just being closed costs an error and no fault.
/// Nobody counts atomically here: neither the kernel nor bcc, which write from
/// outside.
fn add(counter: usize, what: i16) -> Result<(), Errno> {
    let mut value = [0u8; 2];
    copy(libc::SYS_process_vm_readv, counter, &mut value)?;
    let sum = i16::from_le_bytes(value).wrapping_add(what);
    if sum < 0 {
        return Err(Errno::EINVAL);
    }
    value = sum.to_le_bytes();
    copy(libc::SYS_process_vm_writev, counter, &mut value)
}

fn copy(call: libc::c_long, address: usize, bytes: &mut [u8; 2]) -> Result<(), Errno> {
    let here = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let there = libc::iovec {
        iov_base: address as *mut _,
        iov_len: bytes.len(),
    };
    let (local, remote) = (&raw const here, &raw const there);
    let pid = shm::sys::getpid() as usize;
    // SAFETY: `local` is two bytes of ours; `remote` is a counter in a private
    // mapping of the probed file, which exists to be written by tracers, or is
    // found to be unmapped.
    let copied = unsafe { libc::syscall(call, pid, local, 1usize, remote, 1usize, 0usize) };
    match copied {
        2 => Ok(()),
        -1 => Err(Errno(
            std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
        )),
        _ => Err(Errno::EFAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_down_to_zero_and_faults_on_nothing() {
        let value = Box::new(std::sync::atomic::AtomicU16::new(1));
        let at = std::ptr::from_ref(&*value) as usize;
        let now = || value.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!((add(at, 1), now()), (Ok(()), 2));
        assert_eq!((add(at, -1), add(at, -1), now()), (Ok(()), Ok(()), 0));
        assert_eq!((add(at, -1), now()), (Err(Errno::EINVAL), 0));
        assert_eq!(add(8, 1), Err(Errno::EFAULT));
    }
}
