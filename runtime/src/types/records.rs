//! Arrays of records whose size the tool says: `func_info` and `line_info`.

use uapi::Errno;

use super::TypeError;

/// Records as `BPF_PROG_LOAD` brings them.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// All records.
    pub bytes: Vec<u8>,
    /// Bytes of one.
    pub size: u32,
}

/// Most bytes of a record (`MAX_FUNCINFO_REC_SIZE`, `MAX_LINEINFO_REC_SIZE`).
const MAX: u32 = 252;

impl Records {
    /// Whether a record may have this size: `known` bytes or more of words.
    pub fn is_size(size: u32, known: u32) -> bool {
        (known..=MAX).contains(&size) && size.is_multiple_of(4)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.bytes
            .len()
            .checked_div(self.size as usize)
            .unwrap_or(0) as u32
    }

    /// The first `N` words of each record, none of whose others may be set.
    pub(super) fn words<const N: usize>(&self, what: &str) -> Result<Vec<[u32; N]>, TypeError> {
        if self.bytes.is_empty() {
            return Ok(Vec::new());
        }
        if !Records::is_size(self.size, 4 * N as u32) {
            let text = format!("invalid {} rec size {}", what.replace('_', " "), self.size);
            return Err(TypeError::invalid(text));
        }
        let records = self.bytes.chunks_exact(self.size as usize);
        let read = records.map(|record| {
            let (words, _) = record.as_chunks::<4>();
            if words.iter().skip(N).any(|word| *word != [0; 4]) {
                let text = format!("nonzero tailing record in {what}");
                return Err(TypeError::new(Errno::E2BIG, text));
            }
            let mut known = [0; N];
            for (to, from) in known.iter_mut().zip(words) {
                *to = u32::from_le_bytes(*from);
            }
            Ok(known)
        });
        read.collect()
    }
}
