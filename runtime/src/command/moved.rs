//! Maps that go to the kernel, because a program there uses them. It knows no
//! kernel program.
//!
//! Elements are copied while no target runs a program. What somebody still
//! writes to the memory of an array meanwhile (the tool, through a mapping; a
//! run that had begun) is brought after it.

use std::sync::Arc;

use uapi::Errno;
use uapi::map::BPF_MAP_TYPE_ARRAY;

use super::{Bpf, MapObject};
use crate::maps::{KernelObjects, Map};
use crate::session::Left;

/// Most bytes of an array that are looked at again.
const LOOKED_AT_AGAIN: u64 = 64 << 20;

/// A map that is to go, and where to.
pub struct Move {
    /// The map.
    pub map: Arc<MapObject>,
    /// The kernel's.
    pub to: KernelObjects,
}

/// One that went.
struct Moved {
    old: Arc<Map>,
    new: Arc<Map>,
    left: Left,
    /// What was copied.
    copied: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Bpf {
    /// Moves maps to the kernel. `meanwhile` has the tool see the kernel's
    /// maps; no target runs a program before it returns.
    ///
    /// # Errors
    /// Those of opening and filling the kernel's maps. Some may have gone.
    pub fn move_maps(
        &self,
        moves: &[Move],
        meanwhile: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let session = self.session()?;
        let paused = session.pause_links();
        let mut moved = Vec::new();
        let went = moves
            .iter()
            .try_for_each(|to| {
                moved.push(self.move_map(to)?);
                Ok(())
            })
            .and_then(|()| meanwhile());
        session.resume_links(&paused);
        for one in moved {
            one.bring_after();
            session.free_left(&one.left);
        }
        went
    }

    fn move_map(&self, Move { map, to }: &Move) -> Result<Moved, Errno> {
        let old = Arc::clone(map.map());
        let (new, left) = self.session()?.move_map(map.id(), *to)?;
        let mut copied = Vec::new();
        let is_memory = old.spec().map_type == BPF_MAP_TYPE_ARRAY;
        let bytes = u64::from(old.spec().max_entries) * old.syscall_value_size() as u64;
        let keeps = is_memory && bytes <= LOOKED_AT_AGAIN;
        for (key, value) in elements(&old) {
            new.update(&key, &value, 0)?;
            if keeps {
                copied.push((key, value));
            }
        }
        // The first one to go stays the map; there is no second.
        let _ = map.moved.set(Arc::clone(&new));
        Ok(Moved {
            old,
            new,
            left,
            copied,
        })
    }
}

/// Keys and values of a map.
fn elements(map: &Map) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let mut last: Option<Vec<u8>> = None;
    std::iter::from_fn(move || {
        loop {
            let mut key = vec![0; map.spec().key_size as usize];
            map.next_key(last.as_deref(), &mut key).ok()?;
            last = Some(key.clone());
            let mut value = vec![0; map.syscall_value_size()];
            // One that went meanwhile is none.
            if map.lookup(&key, &mut value, 0).is_ok() {
                return Some((key, value));
            }
        }
    })
}

impl Moved {
    /// Adds what was written to the old memory after it was copied.
    fn bring_after(&self) {
        for (key, copied) in &self.copied {
            let mut late = vec![0; copied.len()];
            if self.old.lookup(key, &mut late, 0).is_err() || late == *copied {
                continue;
            }
            self.new.add_difference(key, copied, &late);
        }
    }
}
