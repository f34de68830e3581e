//! The ring for what programs print (`bpf_trace_printk`): one in a session,
//! made with the first program that prints. Agents find it by its name. It
//! knows no reader.

use std::sync::Arc;

use uapi::Errno;
use uapi::helper::{BPF_FUNC_TRACE_PRINTK, BPF_FUNC_TRACE_VPRINTK};
use uapi::map::{BPF_MAP_TYPE_RINGBUF, BPF_OBJ_NAME_LEN};

use super::{Bpf, MapObject};
use crate::maps::MapSpec;
use crate::session::Session;

/// Helpers that print.
pub(super) const PRINTS: [u32; 2] = [BPF_FUNC_TRACE_PRINTK, BPF_FUNC_TRACE_VPRINTK];

/// Bytes that are printed before someone has to read.
const BYTES: u32 = 1 << 18;

/// The map's name: none that a tool would give.
const NAME: &[u8] = b"bpftime.trace";

/// Whether a session's map is the ring.
pub fn is_trace_ring(spec: &MapSpec) -> bool {
    let name = spec.name.iter().take_while(|&&byte| byte != 0);
    spec.map_type == BPF_MAP_TYPE_RINGBUF && name.eq(NAME)
}

impl Bpf {
    /// The ring, once a program prints.
    pub fn trace_ring(&self) -> Option<&Arc<MapObject>> {
        self.trace.get()
    }

    /// Makes the ring unless it is there.
    pub(super) fn make_trace_ring(&self, session: &Session) -> Result<(), Errno> {
        if self.trace.get().is_some() {
            return Ok(());
        }
        let mut name = [0; BPF_OBJ_NAME_LEN];
        for (to, from) in name.iter_mut().zip(NAME) {
            *to = *from;
        }
        let spec = MapSpec {
            map_type: BPF_MAP_TYPE_RINGBUF,
            max_entries: BYTES,
            name,
            ..MapSpec::default()
        };
        let (id, map, _) = session.create_map(spec)?;
        if let Ok(here) = self.home.here() {
            here.set_trace_ring(Arc::clone(&map));
        }
        // Who was slower has made one that nobody uses.
        let _ = self
            .trace
            .set(Arc::new(MapObject::with(&self.home, id, map, None)));
        Ok(())
    }
}
