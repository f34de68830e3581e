//! The places of a file at which this session has probes, as the kernel's tree
//! of uprobes has them: one reference counter for each. It knows no program.

use std::collections::BTreeMap;
use std::sync::Arc;

use uapi::Errno;

use super::object::Home;

/// Device, inode and offset of a probed byte.
type Key = (u64, u64, u64);

/// What is registered.
#[derive(Default)]
pub(super) struct Places(BTreeMap<Key, Registered>);

struct Registered {
    ref_ctr_offset: u64,
    /// How many hold it.
    holders: usize,
}

/// Places that are held as long as this is.
pub(super) struct Held {
    home: Arc<Home>,
    keys: Vec<Key>,
}

impl Held {
    /// Registers places {offset, offset of the counter} of a file.
    ///
    /// # Errors
    /// EINVAL for a place that has another counter already (`uprobe_register`).
    pub(super) fn new(
        home: &Arc<Home>,
        file: (u64, u64),
        places: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<Held, Errno> {
        let mut held = Held {
            home: Arc::clone(home),
            keys: Vec::new(),
        };
        for (offset, ref_ctr_offset) in places {
            let key = (file.0, file.1, offset);
            {
                let mut registered = home.places();
                let place = registered.0.entry(key).or_insert(Registered {
                    ref_ctr_offset,
                    holders: 0,
                });
                if place.ref_ctr_offset != ref_ctr_offset {
                    return Err(Errno::EINVAL);
                }
                place.holders += 1;
            }
            held.keys.push(key);
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut registered = self.home.places();
        for key in &self.keys {
            if let Some(place) = registered.0.get_mut(key) {
                place.holders -= 1;
                if place.holders == 0 {
                    registered.0.remove(key);
                }
            }
        }
    }
}

/// Whether the kernel puts no uprobe on an instruction that begins with these
/// bytes (ENOTSUPP where a process has it mapped).
pub fn is_refused(bytes: &[u8]) -> bool {
    object::uprobe::is_refused(bytes)
}
