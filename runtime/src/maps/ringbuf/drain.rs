//! Reading a ring buffer in the process that owns it, for rings that no tool
//! reads. Producers are taken for hostile: bounds at each use. It knows no
//! record's meaning.

use shm::sync::Ordering::{Acquire, Release};
use uapi::map::{BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT};

use super::Ring;
use super::header::{HEADER, Header};
use crate::maps::bytes;

impl Ring {
    /// Gives each record that is complete to `read`, and takes it out.
    pub fn drain(&self, mut read: impl FnMut(&[u8])) {
        let mut record = Vec::new();
        // At most a ring full, whatever producers write.
        let mut left = self.size;
        while left > 0 {
            let at = self.consumer().load(Acquire);
            if at == self.producer().load(Acquire) {
                break;
            }
            let header = Header(self.header(at).load(Acquire));
            if header.is_busy() {
                break;
            }
            let step = header.step();
            let size = header.0 as u32 & !(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
            if step <= left && header.0 as u32 & BPF_RINGBUF_DISCARD_BIT == 0 {
                record.clear();
                record.resize(size as usize, 0);
                let from = (at & (self.size - 1)) + HEADER;
                let from = self.data.as_ptr().wrapping_add(from as usize);
                // SAFETY: the data is mapped twice, and `step` at most its size.
                unsafe { bytes::copy_unaligned(record.as_mut_ptr(), from, record.len()) };
                read(&record);
            }
            let step = step.min(left);
            self.consumer().store(at.wrapping_add(step), Release);
            left -= step;
        }
    }
}
